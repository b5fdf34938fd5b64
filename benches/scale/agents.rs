//! Many agents on one hub: how long until all serve, what each tunnel costs, what a hub that comes
//! back goes through, and requests to all clusters at once.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use cluster_proxy::agent::{Agent, AgentConfig, Exposure};
use cluster_proxy::drain::Drain;
use cluster_proxy::egress::Egress;
use cluster_proxy::pki::authorities;
use cluster_proxy::state::{FolderStore, State};

use crate::support::api::FakeApi;
use crate::support::client::{Client, empty, plain_get};
use crate::support::process::{Process, free_port};
use crate::support::processes::{enrol, start_hub};
use crate::support::{PATIENCE, eventually};
use crate::{kib, print_exponent};

/// One hub and its clusters.
struct World {
    hub: Process,
    apis: Vec<FakeApi>,
    user: SocketAddr,
    agents: SocketAddr,
    admin: SocketAddr,
    ca_pem: String,
    directory: TempDir,
}

/// A span of time, and what the hub used in it.
struct Spent {
    time: Duration,
    cpu: Duration,
}

pub(crate) async fn run(counts: &[usize]) {
    let [mut memory, mut connecting] = [const { Vec::new() }; 2];
    for &count in counts {
        let mut world = World::start(count).await;
        let before = world.hub.memory();
        let mut agents = world.start_agents();
        let connected = world.until_all_serve(Instant::now(), Duration::ZERO).await;
        sleep(SETTLING).await;
        let tunnels = world.metric("cluster_proxy_tunnels").await;
        let grown = world.hub.memory().saturating_sub(before) as f64;
        let idle = world.idle().await;
        println!(
            "{count} agents: all serve after {:.1} s and {:.2} s of the hub's CPU; {tunnels} tunnels, \
             {:.1} KiB of the hub each; idle, the hub uses {:.1} % of a core",
            connected.time.as_secs_f64(),
            connected.cpu.as_secs_f64(),
            kib(grown / tunnels),
            100.0 * idle.cpu.div_duration_f64(idle.time),
        );
        memory.push((count as f64, grown));
        connecting.push((count as f64, connected.cpu.as_secs_f64()));
        world.ask_all().await;
        world.storm().await;
        agents.abort_all();
        while agents.join_next().await.is_some() {}
    }
    print_exponent("memory of the hub, with its agents,", &memory);
    print_exponent("CPU of the hub until all serve, with its agents,", &connecting);
}

// === impl World ===

impl World {
    /// A hub that `count` clusters have joined, none of which has dialled yet.
    async fn start(count: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(Arc::new(FolderStore::open(directory.path().join("hub")).unwrap()));
        authorities::init(&state, &["localhost".to_owned()]).await.unwrap();
        let ca_pem = authorities::bundle(&state, authorities::Role::Serving).await.unwrap();
        let [user, agents, admin] =
            [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let hub = start(directory.path(), user, agents, admin).await;
        let mut apis = Vec::with_capacity(count);
        for number in 0..count {
            let name = format!("c{number}");
            let folder = directory.path().join(&name);
            enrol(&state, &ca_pem, agents, &name, &folder).await;
            let api = FakeApi::start(&name).await;
            api.write_kubeconfig(&folder.join("kubeconfig"));
            apis.push(api);
        }
        let mut world = Self { hub, apis, user, agents, admin, ca_pem, directory };
        // What enrolling took is not what serving takes.
        world.restart().await;
        world
    }

    async fn restart(&mut self) {
        self.hub.kill();
        self.hub = start(self.directory.path(), self.user, self.agents, self.admin).await;
    }

    /// Starts every agent at once, in this process.
    fn start_agents(&self) -> JoinSet<()> {
        self.apis
            .iter()
            .map(|api| {
                let directory = self.directory.path().join(&api.name);
                let config = AgentConfig {
                    hub: vec![format!("localhost:{}", self.agents.port())],
                    egress: Egress::default(),
                    kubeconfig: Some(directory.join("kubeconfig")),
                    directory,
                    tunnels: TUNNELS,
                    audiences: Vec::new(),
                    issuers: Vec::new(),
                    impersonation: None,
                    services: Exposure::default(),
                    admin: SocketAddr::from(([127, 0, 0, 1], 0)),
                    drain_timeout: Duration::from_secs(1),
                };
                async move {
                    let agent = Agent::build(config).await.unwrap();
                    agent.run(Drain::new()).await.unwrap();
                }
            })
            .collect()
    }

    /// Waits until the hub has reached the API server of every cluster. `used`: the hub's CPU time
    /// at `start`.
    async fn until_all_serve(&self, start: Instant, used: Duration) -> Spent {
        let all = self.apis.len() as f64;
        eventually("every cluster is served", MOST, || async {
            (self.metric("cluster_proxy_cluster_healthy").await >= all).then_some(())
        })
        .await;
        Spent { time: start.elapsed(), cpu: self.hub.cpu().saturating_sub(used) }
    }

    async fn idle(&self) -> Spent {
        let (start, used) = (Instant::now(), self.hub.cpu());
        sleep(IDLE).await;
        Spent { time: start.elapsed(), cpu: self.hub.cpu() - used }
    }

    /// The hub dies and comes back: everybody dials again.
    async fn storm(&mut self) {
        let asked: u64 = self.apis.iter().map(FakeApi::requests).sum();
        self.restart().await;
        let back = self.until_all_serve(Instant::now(), Duration::ZERO).await;
        let asked = self.apis.iter().map(FakeApi::requests).sum::<u64>() - asked;
        println!(
            "  the hub killed and started: all serve {:.1} s after it listens again, with {:.2} s of \
             its CPU; each API server was asked {:.1} times",
            back.time.as_secs_f64(),
            back.cpu.as_secs_f64(),
            asked as f64 / self.apis.len() as f64,
        );
    }

    /// Ten requests to every cluster, all of them under way at the same time.
    async fn ask_all(&self) {
        let before = self.hub.memory();
        let start = Instant::now();
        let connections = stream::iter(&self.apis)
            .map(|api| {
                let client = Client::new(self.user, self.ca_pem.as_bytes());
                let client = client.token(&api.token("test")).http2();
                connect(client, format!("/{}{SLOW}", api.name))
            })
            .buffer_unordered(CONNECTING)
            .collect::<Vec<_>>()
            .await;
        let mut asking = JoinSet::new();
        for (client, path, sender) in &connections {
            for _ in 0..EACH {
                let request = client.request("GET", path, empty());
                let mut sender = sender.clone();
                asking.spawn(async move { sender.send_request(request).await.unwrap().status() });
            }
        }
        let sent = asking.len();
        let statuses = asking.join_all().await;
        let refused = statuses.iter().filter(|status| !status.is_success()).count();
        println!(
            "  {sent} requests at once, each of {HOLD:?}, on {} connections: {refused} failed, {:.1} s \
             in all; the hub grew by {:.1} KiB for each",
            connections.len(),
            start.elapsed().as_secs_f64(),
            kib(self.hub.peak_memory().saturating_sub(before) as f64 / sent as f64),
        );
    }

    async fn metric(&self, metric: &str) -> f64 {
        let text = plain_get(self.admin, "/metrics").await.unwrap_or_default();
        text.lines()
            .filter(|line| line.starts_with(metric))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

type Sender = hyper::client::conn::http2::SendRequest<crate::support::client::Body>;

async fn connect(client: Client, path: String) -> (Client, String, Sender) {
    let stream = TokioIo::new(client.connect(b"h2").await.unwrap());
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    (client, path, sender)
}

async fn start(
    directory: &Path,
    user: SocketAddr,
    agents: SocketAddr,
    admin: SocketAddr,
) -> Process {
    let hub = start_hub(directory, user, agents, admin, None, &[]);
    eventually("the hub listens", PATIENCE, || async {
        plain_get(admin, "/livez").await.ok().map(drop)
    })
    .await;
    hub
}

/// As the command has it.
const TUNNELS: usize = 2;
/// A path whose answer takes [`HOLD`].
const SLOW: &str = "/api/v1/namespaces/default/services/x/proxy/slow?ms=5000";
const HOLD: Duration = Duration::from_millis(5_000);
const EACH: usize = 10;
/// Handshakes of clients at a time: their speed is another benchmark's.
const CONNECTING: usize = 20;
const SETTLING: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(15);
const MOST: Duration = Duration::from_secs(120);
