//! Every process replaced in turn, under load.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use cluster_proxy::pki::authorities;
use cluster_proxy::state::{FolderStore, State};

use crate::support::api::FakeApi;
use crate::support::balancer::Balancer;
use crate::support::client::plain_get;
use crate::support::client::{Client, empty};
use crate::support::load::Load;
use crate::support::process::{Process, fails, free_port, run, signal};
use crate::support::processes::enrol;
use crate::support::{PATIENCE, eventually, within};

const WATCH: &str = "/c1/api/v1/configmaps?watch=true";
const POD: &str = "/c1/api/v1/namespaces/default/pods/p";

/// Of each kind.
const STREAMS: usize = 6;

/// Two hubs on one state behind two balancers, two agents of one cluster.
struct World {
    hubs: [Hub; 2],
    agents: [Agent; 2],
    users: Balancer,
    tunnels: Balancer,
    api: FakeApi,
    ca_pem: String,
    directory: TempDir,
}

struct Hub {
    name: &'static str,
    user: SocketAddr,
    agents: SocketAddr,
    admin: SocketAddr,
    process: Option<Process>,
}

struct Agent {
    name: &'static str,
    admin: SocketAddr,
    process: Option<Process>,
}

/// Streams of one client; each says at its end how it ended.
struct Streams {
    client: Client,
    exec: TokioIo<hyper::upgrade::Upgraded>,
    log: Incoming,
    watch: JoinHandle<Result<(), hyper::Error>>,
}

// === impl World ===

impl World {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(Arc::new(FolderStore::open(directory.path().join("hub")).unwrap()));
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        authorities::init(&state, &names).await.unwrap();
        let ca_pem = authorities::bundle(&state, authorities::Role::Serving).await.unwrap();
        let (users, tunnels) = (Balancer::start().await, Balancer::start().await);
        let hubs = ["hub-a", "hub-b"].map(Hub::new);
        for hub in &hubs {
            users.add_checked(hub.user, hub.admin);
            tunnels.add(hub.agents);
        }
        let api = FakeApi::start("c1").await;
        let agents = ["agent-a", "agent-b"].map(Agent::new);
        let mut world = Self { hubs, agents, users, tunnels, api, ca_pem, directory };
        world.start_hub(0);
        eventually("the first hub listens", PATIENCE, || async {
            plain_get(world.hubs[0].admin, "/livez").await.ok().map(drop)
        })
        .await;
        let first = world.directory.path().join(world.agents[0].name);
        enrol(&state, &world.ca_pem, world.hubs[0].agents, "c1", &first).await;
        world.api.write_kubeconfig(&first.join("kubeconfig"));
        copy(&first, &world.directory.path().join(world.agents[1].name));
        world.start_hub(1);
        world.start_agent(0);
        world.start_agent(1);
        world.wait_covered().await;
        world
    }

    fn start_hub(&mut self, number: usize) {
        let hub = &mut self.hubs[number];
        let [user, agents, admin] =
            [hub.user, hub.agents, hub.admin].map(|address| address.to_string());
        #[rustfmt::skip]
        let process = Process::start(hub.name, self.directory.path(), &[
            "hub", "--dir", "hub", "--listen", &user, "--agent-listen", &agents,
            "--admin-address", &admin, "--access-log", "off",
            "--min-drain-duration", "1500ms", "--drain-timeout", "5s",
        ]);
        hub.process = Some(process);
    }

    fn start_agent(&mut self, number: usize) {
        let agent = &mut self.agents[number];
        let (hub, admin) =
            (format!("localhost:{}", self.tunnels.address.port()), agent.admin.to_string());
        let kubeconfig = format!("{}/kubeconfig", agent.name);
        #[rustfmt::skip]
        let process = Process::start(agent.name, self.directory.path(), &[
            "agent", "--hub", &hub, "--dir", agent.name, "--kubeconfig", &kubeconfig,
            "--admin-address", &admin, "--drain-timeout", "8s",
        ]);
        agent.process = Some(process);
    }

    /// Waits until every hub is ready and has two tunnels of each agent.
    async fn wait_covered(&self) {
        for hub in &self.hubs {
            eventually(&format!("{} has everybody", hub.name), PATIENCE, || async {
                let ready = plain_get(hub.admin, "/readyz").await.ok()? == "ok\n";
                let fleet = plain_get(hub.admin, "/fleet").await.ok()?;
                let fleet: serde_json::Value = serde_json::from_str(&fleet).ok()?;
                let tunnels = fleet["c1"]["tunnels"].as_array()?.len();
                (ready && tunnels == 4).then_some(())
            })
            .await;
        }
        // The balancer's turn to notice.
        let client = self.client(self.users.address);
        eventually("the balancer has a backend", PATIENCE, || async {
            client.try_get("/c1/version").await.ok()?.status.is_success().then_some(())
        })
        .await;
    }

    fn client(&self, address: SocketAddr) -> Client {
        Client::new(address, self.ca_pem.as_bytes()).token(&self.api.token("test"))
    }

    async fn replace_hub(&mut self, number: usize) {
        let hub = &mut self.hubs[number];
        let mut process = hub.process.take().unwrap();
        let mut streams = {
            let user = self.hubs[number].user;
            Streams::open(self.client(user)).await
        };
        let start = Instant::now();
        signal(process.id(), "TERM");
        let watch = within("the watch ends", PATIENCE, &mut streams.watch).await.unwrap();
        assert!(watch.is_ok(), "a watch ends cleanly: {watch:?}");
        if start.elapsed() < Duration::from_secs(4) {
            streams.assert_alive().await;
        }
        assert!(streams.ended().await.is_err(), "a log that was cut does not look complete");
        assert!(start.elapsed() >= Duration::from_secs(5), "kept to the limit");
        ended(&mut process).await;
        let log = process.log();
        assert!(log.contains("sessions=1") && log.contains("cutting what still runs"), "{log}");
        self.start_hub(number);
        self.wait_covered().await;
    }

    async fn replace_agent(&mut self, number: usize) {
        // More than there are tunnels on one hub: each agent carries some.
        let mut all = Vec::new();
        for _ in 0..STREAMS {
            all.push(Streams::open(self.client(self.hubs[0].user)).await);
        }
        let mut process = self.agents[number].process.take().unwrap();
        let start = Instant::now();
        signal(process.id(), "TERM");
        let mut moved = 0;
        for streams in &mut all {
            let left = Duration::from_millis(6500).saturating_sub(start.elapsed());
            if let Ok(ended) = tokio::time::timeout(left, &mut streams.watch).await {
                let ended = ended.unwrap();
                assert!(ended.is_ok(), "a watch ends cleanly: {ended:?}");
                moved += 1;
            }
        }
        for streams in &mut all {
            if start.elapsed() < Duration::from_millis(7500) {
                streams.assert_alive().await;
            }
        }
        ended(&mut process).await;
        let mut cut = 0;
        for streams in &mut all {
            cut += usize::from(!streams.is_alive().await);
        }
        let touched = moved + cut;
        assert!((1..2 * STREAMS).contains(&touched), "{moved} watches and {cut} sessions");
        self.start_agent(number);
        self.wait_covered().await;
    }
}

// === impl Hub ===

impl Hub {
    fn new(name: &'static str) -> Self {
        let [user, agents, admin] =
            [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        Self { name, user, agents, admin, process: None }
    }
}

// === impl Agent ===

impl Agent {
    fn new(name: &'static str) -> Self {
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self { name, admin, process: None }
    }
}

// === impl Streams ===

impl Streams {
    async fn open(client: Client) -> Self {
        let mut exec = client.request("POST", &format!("{POD}/exec?command=sh"), empty());
        exec.headers_mut().insert("connection", "Upgrade".parse().unwrap());
        exec.headers_mut().insert("upgrade", "SPDY/3.1".parse().unwrap());
        let exec = client.open(exec).await.unwrap();
        let exec = TokioIo::new(hyper::upgrade::on(exec).await.unwrap());
        let log = client.request("GET", &format!("{POD}/log?follow=true"), empty());
        let log = client.open(log).await.unwrap().into_body();
        let watch = client.open(client.request("GET", WATCH, empty())).await.unwrap().into_body();
        let watch = tokio::spawn(async move { watch.collect().await.map(drop) });
        Self { client, exec, log, watch }
    }

    async fn assert_alive(&mut self) {
        assert!(self.is_alive().await, "the session goes on at {}", self.client.address);
        let line = within("a line", PATIENCE, self.log.frame()).await;
        assert!(line.is_some_and(|line| line.is_ok()), "the log goes on");
    }

    async fn is_alive(&mut self) -> bool {
        let mut echo = [0; 5];
        let alive = async {
            self.exec.write_all(b"alive").await?;
            self.exec.read_exact(&mut echo).await
        };
        within("the echo or the end", PATIENCE, alive).await.is_ok()
    }

    /// Waits for the end of session and log; returns how the log ended.
    async fn ended(mut self) -> Result<(), hyper::Error> {
        let mut rest = Vec::new();
        let _ = within("the session ends", PATIENCE, self.exec.read_to_end(&mut rest)).await;
        within("the log ends", PATIENCE, self.log.collect()).await.map(drop)
    }
}

async fn ended(process: &mut Process) {
    eventually("the process ends", PATIENCE, || {
        let ended = process.has_ended();
        async move { ended.then_some(()) }
    })
    .await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_every_process_in_turn_fails_no_get() {
    let mut world = World::start().await;
    let list = || run(world.directory.path(), &["clusters", "list", "--dir", "hub"]);
    eventually("both hubs say that they serve it", PATIENCE, || {
        let listed = list();
        async move { listed.contains("2 of 2").then_some(()) }
    })
    .await;
    let load = Load::start(&world.client(world.users.address), "/c1/version", 200);
    for number in 0..2 {
        world.replace_hub(number).await;
        world.replace_agent(number).await;
    }
    let answered = load.answered();
    let failed = load.stop().await;
    assert!(failed.is_empty(), "{} of {answered} GETs failed: {:#?}", failed.len(), failed);
    assert!(answered > 1000, "{answered}");

    // One that is killed says no goodbye, and is off the list all the same.
    world.hubs[0].process.take().unwrap().kill();
    let listed = run(world.directory.path(), &["clusters", "list", "--dir", "hub"]);
    assert!(listed.contains("1 of 1"), "{listed}");
}

#[test]
fn a_least_time_above_the_most_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("hub")).unwrap();
    let hub = |least: &str| {
        let least = format!("--min-drain-duration={least}");
        fails(directory.path(), &["hub", "--dir", "hub", &least, "--drain-timeout", "5s"])
    };
    assert!(hub("6s").contains("--min-drain-duration"));
    assert!(hub("-1s").contains("--min-drain-duration"));
    // The folder is empty: that is what this one stumbles over.
    assert!(hub("5s").contains("serving.crt"));
}
