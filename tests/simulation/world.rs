//! A hub, two clusters with their agents and API servers, callers, and the network between them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use cluster_proxy::agent::{Agent, AgentConfig, Exposure, ImpersonationRule};
use cluster_proxy::drain::Drain;
use cluster_proxy::egress::Egress;
use cluster_proxy::hub::authn::AuthnConfig;
use cluster_proxy::hub::hosts::AllowedHosts;
use cluster_proxy::hub::limits::Limits;
use cluster_proxy::hub::{AccessLog, Addresses, Hub, HubConfig, Source};
use cluster_proxy::state::{FolderStore, State};

use super::host::Host;
use super::ledger::{Excuse, Ledger};
use super::load::Caller;
use super::network::Link;
use super::support::api::FakeApi;
use super::support::client::Client;
use super::support::fleet::Fleet;
use super::support::process::free_port;

/// Authorities and two enrolled clusters, made once for all seeds.
pub(crate) struct Template {
    folder: TempDir,
    ca_pem: String,
}

/// One run.
pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) chance: StdRng,
    pub(crate) hub: Option<RunningHub>,
    pub(crate) spokes: Vec<Spoke>,
    pub(crate) to_users: Link,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) excuses: Vec<Excuse>,
    /// What happened, for who reads a failure.
    pub(crate) story: Vec<String>,
    pub(crate) addresses: Addresses,
    clients: Host,
    network: Host,
    folder: TempDir,
    moved: Arc<AtomicU64>,
    moved_before: u64,
    step: Duration,
}

pub(crate) struct RunningHub {
    pub(crate) host: Host,
    pub(crate) drain: Drain,
    pub(crate) running: JoinHandle<()>,
}

/// A cluster.
pub(crate) struct Spoke {
    pub(crate) api: FakeApi,
    pub(crate) api_host: Option<Host>,
    /// Where the API server listens, behind its link.
    api_address: SocketAddr,
    pub(crate) agents: Vec<RunningAgent>,
    pub(crate) to_hub: Link,
    pub(crate) to_api: Link,
}

pub(crate) struct RunningAgent {
    pub(crate) host: Host,
    pub(crate) drain: Drain,
    pub(crate) agent: Arc<OnceLock<Agent>>,
}

// === impl Template ===

impl Template {
    pub(crate) fn make() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut fleet = Fleet::hub_only().await;
            for cluster in 0..CLUSTERS {
                let name = format!("c{cluster}");
                fleet.hub.enrol(&name, &fleet.dir.path().join(&name)).await;
            }
            fleet.hub.stop().await;
            Self { ca_pem: fleet.hub.ca_pem.clone(), folder: fleet.dir }
        })
    }
}

// === impl World ===

impl World {
    /// Everything started, callers too.
    pub(crate) fn start(template: &Template, seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        copy(template.folder.path(), folder.path());
        let (network, clients) = (Host::new(), Host::new());
        let moved = Arc::<AtomicU64>::default();
        let address = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let addresses = Addresses { user: address(), agents: address(), admin: address() };
        let mut link = |target| Link::open(&network, target, chance.random(), Arc::clone(&moved));
        let to_users = link(addresses.user);
        let spokes: Vec<Spoke> = (0..CLUSTERS)
            .map(|cluster| {
                let api_address = address();
                let (to_hub, to_api) = (link(addresses.agents), link(api_address));
                let api = FakeApi::at(&format!("c{cluster}"), to_api.address);
                api.write_kubeconfig(&folder.path().join(format!("c{cluster}/kubeconfig")));
                Spoke { api, api_host: None, api_address, agents: Vec::new(), to_hub, to_api }
            })
            .collect();
        let mut world = Self {
            now: Duration::ZERO,
            chance,
            hub: None,
            spokes,
            to_users,
            ledger: Arc::default(),
            excuses: Vec::new(),
            story: Vec::new(),
            addresses,
            clients,
            network,
            folder,
            moved,
            moved_before: 0,
            step: QUICK,
        };
        world.start_hub();
        for cluster in 0..CLUSTERS {
            world.start_api(cluster);
            world.start_agent(cluster);
        }
        world
    }

    /// Lets callers begin.
    pub(crate) fn call(&mut self, template: &Template) {
        let instant = self.clients.spawn(async { Instant::now() });
        self.step();
        let start = self.clients.take(instant).checked_sub(self.now).unwrap();
        for number in 0..CALLERS {
            let cluster = number % CLUSTERS;
            let name = format!("caller-{number}");
            let client = Client::new(self.to_users.address, template.ca_pem.as_bytes());
            let other = &self.spokes[(cluster + 1) % CLUSTERS].api;
            let caller = Caller {
                cluster,
                stranger: client.token(&other.token(&name)),
                client: client.token(&self.spokes[cluster].api.token(&name)),
                name,
                chance: StdRng::seed_from_u64(self.chance.random()),
                ledger: Arc::clone(&self.ledger),
                start,
            };
            self.clients.spawn(caller.run());
        }
    }

    pub(crate) fn start_hub(&mut self) {
        let host = Host::with_files();
        let drain = Drain::new();
        let state =
            State::new(Arc::new(FolderStore::open(self.folder.path().join("hub")).unwrap()));
        let config = hub_config(self.addresses, state);
        let stopping = drain.clone();
        let running = host.spawn(async move {
            let hub = Hub::build(config).await.unwrap();
            hub.run(stopping).await.unwrap();
        });
        self.hub = Some(RunningHub { host, drain, running });
    }

    pub(crate) fn start_api(&mut self, cluster: usize) {
        let spoke = &mut self.spokes[cluster];
        let (host, serving) = (Host::new(), spoke.api.serving());
        let address = spoke.api_address;
        host.spawn(async move { serving(TcpListener::bind(address).await.unwrap()).await });
        spoke.api_host = Some(host);
    }

    /// One more agent of this cluster.
    pub(crate) fn start_agent(&mut self, cluster: usize) {
        let directory = self.folder.path().join(format!("c{cluster}"));
        let spoke = &mut self.spokes[cluster];
        let (host, drain) = (Host::with_files(), Drain::new());
        let config = AgentConfig {
            hub: vec![spoke.to_hub.address.to_string()],
            egress: Egress::default(),
            kubeconfig: Some(directory.join("kubeconfig")),
            directory,
            tunnels: TUNNELS,
            audiences: Vec::new(),
            issuers: Vec::new(),
            impersonation: Some(ImpersonationRule::default()),
            services: Exposure::default(),
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            drain_timeout: AGENT_DRAIN,
        };
        let agent = Arc::<OnceLock<Agent>>::default();
        let (built, stopping) = (Arc::clone(&agent), drain.clone());
        host.spawn(async move {
            let agent = Agent::build(config).await.unwrap();
            let _ = built.set(agent.clone());
            agent.run(stopping).await.unwrap();
        });
        spoke.agents.push(RunningAgent { host, drain, agent });
    }

    /// A little time passes everywhere: less while bytes move, more while all is quiet.
    pub(crate) fn step(&mut self) {
        let moved = self.moved.load(Ordering::Relaxed);
        self.step = if moved == self.moved_before { (self.step * 2).min(SLOW) } else { QUICK };
        self.moved_before = moved;
        let apis = self.spokes.iter().filter_map(|spoke| spoke.api_host.as_ref());
        let agents = self.spokes.iter().flat_map(|spoke| &spoke.agents).map(|agent| &agent.host);
        let hub = self.hub.as_ref().map(|hub| &hub.host);
        let all = [&self.clients, &self.network].into_iter().chain(hub).chain(agents).chain(apis);
        for host in all {
            host.turn(self.step);
        }
        self.now += self.step;
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Lets time pass until `is_so`; says whether it came to that.
    pub(crate) fn wait(&mut self, patience: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + patience;
        while !is_so(self) {
            if self.now >= end {
                return false;
            }
            self.step();
        }
        true
    }

    /// The result of `question`, asked where callers are.
    pub(crate) fn ask<T: Send + 'static>(
        &mut self,
        question: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let asked = self.clients.spawn(async move { tokio::time::timeout(ANSWER, question).await });
        while !asked.is_finished() {
            self.step();
        }
        self.clients.take(asked).ok()
    }

    pub(crate) fn tell(&mut self, what: String) {
        self.story.push(format!("{:9.3?} {what}", self.now));
    }
}

fn hub_config(addresses: Addresses, state: State) -> HubConfig {
    HubConfig {
        user: addresses.user,
        agents: addresses.agents,
        admin: addresses.admin,
        metrics: None,
        state,
        hub_api: None,
        controllers: None,
        authn: AuthnConfig::default(),
        policy: Source::None,
        delegate_authorization: false,
        services: Source::None,
        access_log: AccessLog::Off,
        workers: 0,
        min_drain: MIN_DRAIN,
        drain_timeout: HUB_DRAIN,
        head_timeout: Duration::from_secs(20),
        certificate_life: Duration::from_secs(86_400),
        renewal_grace: Duration::from_secs(86_400),
        allowed_hosts: AllowedHosts::default(),
        limits: Limits::default(),
    }
}

/// Copies a folder with the rights of its files; the folders are the owner's alone.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            use std::os::unix::fs::DirBuilderExt as _;
            std::fs::DirBuilder::new().mode(0o700).create(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(crate) const CLUSTERS: usize = 2;
/// Of one agent.
pub(crate) const TUNNELS: usize = 2;
pub(crate) const MIN_DRAIN: Duration = Duration::from_secs(2);
pub(crate) const HUB_DRAIN: Duration = Duration::from_secs(12);
pub(crate) const AGENT_DRAIN: Duration = Duration::from_secs(8);
const CALLERS: usize = 4;
const QUICK: Duration = Duration::from_millis(2);
const SLOW: Duration = Duration::from_millis(48);
const ANSWER: Duration = Duration::from_secs(5);
