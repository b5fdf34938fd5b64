//! The proxies that are compared with ours: each is two processes between the same client and the
//! same API server, with the same certificates.

mod haproxy;
mod nginx;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::client::Client;
use crate::support::process::Process;
use crate::support::processes::Pair;
use crate::support::{PATIENCE, eventually};

/// A running peer. Ends when it is dropped.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) hub: Process,
    pub(crate) agent: Process,
    pub(crate) client: Client,
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
    for peer in &peers {
        eventually(peer.name, PATIENCE, || async {
            let answer = peer.client.try_get("/version").await.ok()?;
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
