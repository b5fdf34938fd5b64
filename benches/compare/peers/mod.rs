//! The proxies that are compared with ours: each is processes on two sides, between the same client
//! and the same API server, with the same certificates where a side of ours has one.

mod haproxy;
mod nginx;
mod upstream;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::client::Client;
use crate::support::part::Part;
use crate::support::process::Process;
use crate::support::processes::Pair;
use crate::support::{PATIENCE, eventually};

/// A running peer. Ends when it is dropped.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) hub: Vec<Process>,
    pub(crate) agent: Vec<Process>,
    pub(crate) client: Client,
    /// What comes before the path of the API server.
    pub(crate) prefix: &'static str,
    /// Where the API server is to be found at an address of the peer's.
    _api: Option<Part>,
}

// === impl Peer ===

impl Peer {
    fn of_two(name: &'static str, hub: Process, agent: Process, client: Client) -> Self {
        Self { name, hub: vec![hub], agent: vec![agent], client, prefix: "", _api: None }
    }
}

/// Starts every peer that this machine has, and says which are missing.
pub(crate) async fn start(pair: &Pair) -> Vec<Peer> {
    write_certificates(pair);
    let mut peers = Vec::new();
    match std::env::var_os("HAPROXY") {
        Some(program) => peers.push(haproxy::start(pair, Path::new(&program))),
        None => println!("haproxy: left out, HAPROXY=path names none (2.9 or later is needed)"),
    }
    let nginx = std::env::var_os("NGINX").map_or_else(|| PathBuf::from("nginx"), PathBuf::from);
    let found = Command::new(&nginx).arg("-v").stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        peers.push(nginx::start(pair, &nginx));
    } else {
        println!("nginx: left out, neither NGINX=path nor PATH has one");
    }
    match upstream::find() {
        Ok(programs) => peers.push(upstream::start(pair, &programs).await),
        Err(why) => println!("upstream: left out, {why}"),
    }
    for peer in &peers {
        let path = format!("{}/version", peer.prefix);
        eventually(peer.name, PATIENCE, || async {
            let answer = peer.client.try_get(&path).await.ok()?;
            answer.status.is_success().then_some(())
        })
        .await;
    }
    peers
}

/// Key and chain in one file, as HAProxy wants them, and what the API server is known by.
fn write_certificates(pair: &Pair) {
    let read = |name: &str| std::fs::read_to_string(pair.directory().join(name)).unwrap();
    let write = |name: &str, text: &str| std::fs::write(pair.directory().join(name), text).unwrap();
    write("hub.pem", &(read("hub/serving.crt") + &read("hub/serving.key")));
    write("agent.pem", &(read("c1/agent.crt") + &read("c1/agent.key")));
    write("api-ca.crt", &pair.api.ca_pem);
}

/// What rustls and its peers agree on in ours, so that nobody has a cheaper one.
const CIPHER: &str = "TLS_AES_256_GCM_SHA384";
