//! Hub, agents and fake API servers in this process, over real sockets and TLS.

mod spoke;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use cluster_proxy::drain::Drain;
use cluster_proxy::hub::authn::oidc::Issuers;
use cluster_proxy::hub::authn::{AuthnConfig, HubApi, UnprefixedNames};
use cluster_proxy::hub::hosts::AllowedHosts;
use cluster_proxy::hub::limits::Limits;
use cluster_proxy::hub::{AccessLog, Addresses, ControllersConfig, Hub, HubConfig, Source};
use cluster_proxy::kubernetes::{ApiReader, ApiServer};
use cluster_proxy::name::ClusterName;
use cluster_proxy::pki::credentials::JoinError;
use cluster_proxy::pki::{authorities, ca, credentials, token};
use cluster_proxy::state::{FolderStore, State};

use super::agent::RunningAgent;
use super::api::FakeApi;
use super::client::{Client, plain_get};
use super::part::Part;
use super::{PATIENCE, eventually};

/// A hub and its spokes. Everything ends when this is dropped.
pub(crate) struct Fleet {
    pub(crate) hub: RunningHub,
    pub(crate) spokes: Vec<Spoke>,
    pub(crate) dir: TempDir,
}

/// A hub on a thread of its own.
pub(crate) struct RunningHub {
    pub(crate) addresses: Addresses,
    pub(crate) state: State,
    pub(crate) ca_pem: String,
    pub(crate) access_log: PathBuf,
    /// Of the next start: what it writes to the API server of its own, which is the hub's API then.
    pub(crate) controllers: Option<ControllersConfig>,
    /// Of the next start: the API server of its own cluster, where `controllers` names none.
    pub(crate) own_api: Option<ApiServer>,
    /// Of the next start: which identities of its own cluster it lets in.
    pub(crate) policy: Source,
    /// Of the next start: whether its own API server is asked about them, too.
    pub(crate) delegate_authorization: bool,
    /// Of the next start: which services it lets callers reach.
    pub(crate) services: Source,
    /// Of the next start: whose users it lets in besides.
    pub(crate) issuers: Issuers,
    /// Of the next start: whether it asks about tokens that are no JSON Web Tokens.
    pub(crate) opaque_tokens: bool,
    /// Of the next start: whom clusters know without a prefix.
    pub(crate) names: Arc<UnprefixedNames>,
    /// Of the next start.
    pub(crate) limits: Limits,
    /// Of the next start.
    pub(crate) allowed_hosts: AllowedHosts,
    /// Of the next start.
    pub(crate) min_drain: Duration,
    /// Of the next start.
    pub(crate) drain_timeout: Duration,
    drain: Drain,
    part: Option<Part>,
}

/// An API server and the agent beside it.
pub(crate) struct Spoke {
    pub(crate) name: String,
    pub(crate) api: FakeApi,
    pub(crate) directory: PathBuf,
    agent: Option<RunningAgent>,
}

// === impl Fleet ===

impl Fleet {
    /// Starts a hub and a spoke per name, and waits until each one's probe came back.
    pub(crate) async fn start(names: &[&str]) -> Self {
        let mut fleet = Self::hub_only().await;
        for name in names {
            fleet.add(name).await;
        }
        for name in names {
            fleet.hub.wait_healthy(name).await;
        }
        fleet
    }

    /// A hub that nobody has joined.
    pub(crate) async fn hub_only() -> Self {
        Self::limited(Limits::default()).await
    }

    /// A hub with these limits that nobody has joined.
    pub(crate) async fn limited(limits: Limits) -> Self {
        let (state, dir) = on_disk();
        Self::of(state, limits, None, dir).await
    }

    /// A hub with an API of its own, which nobody has joined.
    pub(crate) async fn controlling(controllers: ControllersConfig) -> Self {
        let (state, dir) = on_disk();
        Self::of(state, Limits::default(), Some(controllers), dir).await
    }

    /// A hub on this state, which is empty.
    pub(crate) async fn on(state: State) -> Self {
        Self::of(state, Limits::default(), None, tempfile::tempdir().unwrap()).await
    }

    async fn of(
        state: State,
        limits: Limits,
        controllers: Option<ControllersConfig>,
        dir: TempDir,
    ) -> Self {
        authorities::init(&state, &["localhost".to_owned(), "127.0.0.1".to_owned()]).await.unwrap();
        let ca_pem = authorities::bundle(&state, authorities::Role::Serving).await.unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let access_log = dir.path().join("access.log");
        let addresses = Addresses { user: any, agents: any, admin: any };
        let mut hub = RunningHub {
            addresses,
            state,
            ca_pem,
            access_log,
            controllers,
            own_api: None,
            policy: Source::None,
            delegate_authorization: false,
            services: Source::None,
            issuers: Issuers::default(),
            opaque_tokens: false,
            names: Arc::default(),
            limits,
            allowed_hosts: AllowedHosts::default(),
            min_drain: Duration::ZERO,
            drain_timeout: Duration::from_secs(1),
            drain: Drain::new(),
            part: None,
        };
        hub.start().await;
        Self { hub, spokes: Vec::new(), dir }
    }

    /// Enrols a cluster and starts its agent.
    pub(crate) async fn add(&mut self, name: &str) -> &mut Spoke {
        self.add_at(name, self.hub.addresses.agents).await
    }

    /// As [`Fleet::add`], with an agent that dials `hub`.
    pub(crate) async fn add_at(&mut self, name: &str, hub: SocketAddr) -> &mut Spoke {
        let api = FakeApi::start(name).await;
        let directory = self.dir.path().join(name);
        self.hub.enrol(name, &directory).await;
        api.write_kubeconfig(&directory.join("kubeconfig"));
        let mut spoke = Spoke { name: name.to_owned(), api, directory, agent: None };
        spoke.start_agent(hub);
        self.spokes.push(spoke);
        self.spokes.last_mut().unwrap()
    }

    /// A client of the user listener with a good token of the spoke `name`.
    pub(crate) fn client(&self, name: &str) -> Client {
        self.anonymous().token(&self.spoke(name).api.token("test"))
    }

    /// A client of the user listener without credentials.
    pub(crate) fn anonymous(&self) -> Client {
        Client::new(self.hub.addresses.user, self.hub.ca_pem.as_bytes())
    }

    pub(crate) fn spoke(&self, name: &str) -> &Spoke {
        self.spokes.iter().find(|spoke| spoke.name == name).unwrap()
    }

    pub(crate) fn spoke_mut(&mut self, name: &str) -> &mut Spoke {
        self.spokes.iter_mut().find(|spoke| spoke.name == name).unwrap()
    }

    /// Waits until a request with a good token of `name` goes through.
    pub(crate) async fn wait_serves(&self, name: &str, patience: Duration) {
        let (client, path) = (self.client(name), format!("/{name}/version"));
        eventually(&format!("{name} serves"), patience, || async {
            client.try_get(&path).await.ok()?.status.is_success().then_some(())
        })
        .await;
    }
}

// === impl RunningHub ===

impl RunningHub {
    /// Starts it, on the addresses it had before if it ran before.
    pub(crate) async fn start(&mut self) {
        let drain = Drain::new();
        let config = HubConfig {
            user: self.addresses.user,
            agents: self.addresses.agents,
            admin: self.addresses.admin,
            metrics: None,
            state: self.state.clone(),
            hub_api: self
                .own_api()
                .map(|server| Arc::new(ApiReader::new(server.clone()).unwrap()) as Arc<dyn HubApi>),
            controllers: self.controllers.clone(),
            authn: AuthnConfig {
                issuers: self.issuers.clone(),
                opaque_tokens: self.opaque_tokens,
                names: self.names.clone(),
                ..AuthnConfig::default()
            },
            policy: self.policy.clone(),
            delegate_authorization: self.delegate_authorization,
            services: self.services.clone(),
            access_log: AccessLog::File(self.access_log.clone()),
            workers: 2,
            min_drain: self.min_drain,
            drain_timeout: self.drain_timeout,
            head_timeout: HEAD_TIMEOUT,
            certificate_life: Duration::from_secs(24 * 3600),
            renewal_grace: Duration::from_secs(30 * 86_400),
            allowed_hosts: self.allowed_hosts.clone(),
            limits: self.limits.clone(),
        };
        let (bound, addresses) = oneshot::channel();
        let running = drain.clone();
        self.part = Some(Part::start("hub", move || async move {
            let hub = Hub::build(config).await.unwrap();
            bound.send(hub.addresses()).unwrap();
            // Counted, so that a stop waits for it as the command does.
            running.clone().spawn(hub.run(running)).await.unwrap().unwrap();
        }));
        self.addresses = addresses.await.expect("the hub starts");
        self.drain = drain;
    }

    /// Changes the policy, which is in a file.
    pub(crate) fn set_policy(&self, policy: &str) {
        let Source::File(file) = &self.policy else { panic!("there is no file of a policy") };
        std::fs::write(file, policy).unwrap();
    }

    fn own_api(&self) -> Option<&ApiServer> {
        let controllers = self.controllers.as_ref().map(|controllers| &controllers.server);
        self.own_api.as_ref().or(controllers)
    }

    /// Another hub on the same state, started.
    pub(crate) async fn beside(&self) -> Self {
        self.beside_on(State::new(Arc::clone(self.state.store()))).await
    }

    /// Another hub, started, with a way of its own to the same state.
    pub(crate) async fn beside_on(&self, state: State) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut other = Self {
            addresses: Addresses { user: any, agents: any, admin: any },
            state,
            ca_pem: self.ca_pem.clone(),
            access_log: self.access_log.clone(),
            controllers: self.controllers.clone(),
            own_api: self.own_api.clone(),
            policy: self.policy.clone(),
            delegate_authorization: self.delegate_authorization,
            services: self.services.clone(),
            issuers: self.issuers.clone(),
            opaque_tokens: self.opaque_tokens,
            names: self.names.clone(),
            limits: self.limits.clone(),
            allowed_hosts: self.allowed_hosts.clone(),
            min_drain: self.min_drain,
            drain_timeout: self.drain_timeout,
            drain: Drain::new(),
            part: None,
        };
        other.start().await;
        other
    }

    /// Asks it to stop, as SIGTERM does, and waits for nothing.
    pub(crate) fn ask_to_stop(&self) {
        self.drain.stop();
    }

    /// Ends it without a goodbye.
    pub(crate) fn kill(&mut self) {
        if let Some(part) = self.part.take() {
            part.kill();
        }
    }

    /// Stops it as SIGTERM does.
    pub(crate) async fn stop(&mut self) {
        self.drain.finish(Duration::from_secs(5)).await;
        if let Some(part) = self.part.take() {
            part.kill();
        }
    }

    /// Makes a join token and uses it, as the two `join` commands do.
    pub(crate) async fn enrol(&self, name: &str, directory: &Path) {
        let joined = self.join(&self.join_token(name).await, directory).await.unwrap();
        assert_eq!(joined.as_str(), name);
    }

    /// A new join token.
    pub(crate) async fn join_token(&self, name: &str) -> String {
        let (cluster, now) = (ClusterName::parse(name).unwrap(), SystemTime::now());
        let made = token::Token::create(&self.state, cluster, token::DEFAULT_LIFE, false, now);
        made.await.unwrap().reveal().to_string()
    }

    /// Uses a join token.
    pub(crate) async fn join(
        &self,
        token: &str,
        directory: &Path,
    ) -> Result<ClusterName, JoinError> {
        let authority = ca::certificates(self.ca_pem.as_bytes()).unwrap();
        let pin = ca::key_hash(&authority[0]).unwrap();
        let stream = TcpStream::connect(self.addresses.agents).await.unwrap();
        credentials::enrol("localhost", stream, token, &pin, directory.to_owned()).await
    }

    /// The admin listener's `path`, as text.
    pub(crate) async fn admin(&self, path: &str) -> String {
        plain_get(self.addresses.admin, path).await.unwrap()
    }

    /// What `/fleet` says about one cluster.
    pub(crate) async fn cluster(&self, name: &str) -> Value {
        let fleet: Value = serde_json::from_str(&self.admin("/fleet").await).unwrap();
        fleet[name].clone()
    }

    /// Waits until the hub's own probe of `name` came back with a success.
    pub(crate) async fn wait_healthy(&self, name: &str) {
        eventually(&format!("{name} is healthy"), PATIENCE, || async {
            (self.cluster(name).await["probe"]["healthy"] == true).then_some(())
        })
        .await;
    }

    /// Waits until `name` has `count` tunnels.
    pub(crate) async fn wait_tunnels(&self, name: &str, count: usize, patience: Duration) {
        eventually(&format!("{name} has {count} tunnels"), patience, || async {
            let cluster = self.cluster(name).await;
            let tunnels = cluster["tunnels"].as_array().map_or(0, Vec::len);
            (tunnels == count).then_some(())
        })
        .await;
    }

    /// The sum of the samples of `metric` whose labels contain every one of `labels`.
    pub(crate) async fn metric(&self, metric: &str, labels: &[&str]) -> f64 {
        let text = self.admin("/metrics").await;
        text.lines()
            .filter(|line| line.starts_with(metric) && labels.iter().all(|one| line.contains(one)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for RunningHub {
    fn drop(&mut self) {
        self.drain.stop();
    }
}

/// An empty state in a folder.
fn on_disk() -> (State, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = FolderStore::open(dir.path().join("hub")).unwrap();
    (State::new(Arc::new(store)), dir)
}

/// Short, so that a test can wait for it; far above what loopback needs.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
