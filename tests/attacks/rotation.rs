//! Case 110: both authorities of a hub are replaced while it runs, by the command that an operator
//! types. Old and new are served in the overlap, the old one is refused after it, and what runs
//! goes on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use cluster_proxy::pki::credentials::{AgentCredentials, JoinError};
use cluster_proxy::pki::{authorities, ca};

use crate::support::client::{Client, empty};
use crate::support::fleet::{Fleet, RunningHub};
use crate::support::process::run;
use crate::support::{PATIENCE, eventually, within};

/// A followed log and a session of `c1`.
struct Streams {
    log: Incoming,
    exec: TokioIo<Upgraded>,
}

// === impl Streams ===

impl Streams {
    async fn open(client: &Client) -> Self {
        let pod = "/c1/api/v1/namespaces/default/pods/p";
        let log = client.request("GET", &format!("{pod}/log?follow=true"), empty());
        let log = client.open(log).await.unwrap().into_body();
        let mut exec = client.request("POST", &format!("{pod}/exec?command=sh"), empty());
        exec.headers_mut().insert("connection", "Upgrade".parse().unwrap());
        exec.headers_mut().insert("upgrade", "SPDY/3.1".parse().unwrap());
        let exec = client.open(exec).await.unwrap();
        let exec = TokioIo::new(hyper::upgrade::on(exec).await.unwrap());
        let mut streams = Self { log, exec };
        streams.go_on().await;
        streams
    }

    async fn go_on(&mut self) {
        assert!(within("the log goes on", PATIENCE, self.log.frame()).await.unwrap().is_ok());
        self.exec.write_all(b"still there").await.unwrap();
        let mut echo = [0; 11];
        within("the session goes on", PATIENCE, self.exec.read_exact(&mut echo)).await.unwrap();
    }
}

/// Runs `pki rotate-ca ARGS` on the hub's folder.
fn rotate(fleet: &Fleet, args: &[&str]) {
    let args = [&["pki", "rotate-ca", "--dir", "hub"], args].concat();
    run(fleet.dir.path(), &args);
}

/// Whether the hub lets the agent of this folder in: it speaks first then.
async fn lets_in(hub: &RunningHub, directory: &Path) -> bool {
    let credentials = AgentCredentials::load(directory).unwrap();
    let socket = TcpStream::connect(hub.addresses.agents).await.unwrap();
    let Ok(mut stream) = credentials.connect("localhost", socket).await else { return false };
    within("a word or an end", PATIENCE, stream.read_u8()).await.is_ok()
}

/// Renews the certificate of this folder, as its agent does within a day.
async fn renew(hub: &RunningHub, directory: &Path) -> Result<(), JoinError> {
    let credentials = AgentCredentials::load(directory).unwrap();
    let socket = TcpStream::connect(hub.addresses.agents).await.unwrap();
    credentials.renew("localhost", socket).await
}

/// As the folder is now.
fn copy(fleet: &Fleet, from: &str, to: &str) -> PathBuf {
    let [from, to] = [from, to].map(|name| fleet.dir.path().join(name));
    std::fs::create_dir(&to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    to
}

#[tokio::test]
async fn s110_agents_of_two_authorities() {
    let mut fleet = Fleet::start(&["c1", "asleep"]).await;
    let client = fleet.client("c1");
    let mut streams = Streams::open(&client).await;
    fleet.spoke_mut("asleep").stop_agent().await;
    let old = copy(&fleet, "c1", "c1-before");

    rotate(&fleet, &["agent"]);
    // Signed by the new one, which the hub believes within two seconds; and a new tunnel of the old.
    fleet.add("c2").await;
    fleet.wait_serves("c2", PATIENCE).await;
    let beside = fleet.spoke("c1").agent_beside(fleet.hub.addresses.agents);
    fleet.hub.wait_tunnels("c1", 4, PATIENCE).await;
    assert!(lets_in(&fleet.hub, &old).await);
    beside.stop(Duration::from_secs(1)).await;
    let renewed = fleet.spoke("c1").directory.clone();
    renew(&fleet.hub, &renewed).await.unwrap();

    rotate(&fleet, &["agent", "--finish", "--force"]);
    eventually("the old authority is refused", PATIENCE, || async {
        (!lets_in(&fleet.hub, &old).await).then_some(())
    })
    .await;
    assert!(lets_in(&fleet.hub, &renewed).await);
    // Tunnels of before carry what they carried, and new requests.
    streams.go_on().await;
    assert_eq!(client.get("/c1/version").await.status, 200);
    // Who slept through it is out until it renews, which takes its key and no certificate.
    let asleep = fleet.spoke("asleep").directory.clone();
    assert!(!lets_in(&fleet.hub, &asleep).await);
    renew(&fleet.hub, &asleep).await.unwrap();
    let agents = fleet.hub.addresses.agents;
    fleet.spoke_mut("asleep").start_agent(agents);
    fleet.wait_serves("asleep", PATIENCE).await;
    streams.go_on().await;
}

#[tokio::test]
async fn s110_clients_of_two_authorities() {
    let fleet = Fleet::start(&["c1"]).await;
    let old = fleet.client("c1");
    let mut streams = Streams::open(&old).await;
    let before = copy(&fleet, "c1", "c1-before");

    rotate(&fleet, &["serving"]);
    let bundle = authorities::bundle(&fleet.hub.state, authorities::Role::Serving).await.unwrap();
    let newest = &ca::certificates(bundle.as_bytes()).unwrap()[0];
    let new = Client { ca_pem: ca::pem(newest).into_bytes(), ..old.clone() };
    eventually("the new authority is served", PATIENCE, || async {
        new.try_get("/c1/version").await.ok()
    })
    .await;
    for client in [&old, &old.http2(), &new, &new.http2()] {
        assert_eq!(client.get("/c1/version").await.status, 200);
    }
    assert!(lets_in(&fleet.hub, &before).await, "agents know the old one as well");
    // With its certificate an agent gets the authorities that it shall believe.
    renew(&fleet.hub, &fleet.spoke("c1").directory).await.unwrap();

    rotate(&fleet, &["serving", "--finish", "--force"]);
    eventually("the old authority is not served any more", PATIENCE, || async {
        old.connect(b"h2").await.is_err().then_some(())
    })
    .await;
    assert!(!lets_in(&fleet.hub, &before).await);
    assert_eq!(new.get("/c1/version").await.status, 200);
    let _beside = fleet.spoke("c1").agent_beside(fleet.hub.addresses.agents);
    fleet.hub.wait_tunnels("c1", 4, PATIENCE).await;
    streams.go_on().await;
}
