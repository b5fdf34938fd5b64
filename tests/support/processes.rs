//! A hub and one agent as processes, beside a fake API server in this one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use cluster_proxy::name::ClusterName;
use cluster_proxy::pki::{authorities, ca, credentials, token};
use cluster_proxy::state::{FolderStore, State};

use super::api::FakeApi;
use super::client::Client;
use super::client::plain_get;
use super::process::{Process, free_port};
use super::{PATIENCE, eventually};

/// Everything ends when this is dropped.
pub(crate) struct Pair {
    pub(crate) hub: Process,
    pub(crate) agent: Process,
    pub(crate) api: FakeApi,
    pub(crate) user: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) ca_pem: String,
    pub(crate) agents: SocketAddr,
    directory: TempDir,
    agent_log: &'static str,
}

// === impl Pair ===

impl Pair {
    /// Starts hub, API server and agent of the cluster `c1`, and waits until it is served.
    pub(crate) async fn start() -> Self {
        Self::start_logging("info,cluster_proxy::agent=debug").await
    }

    /// The same with what the agent logs by itself: a line per request has its price.
    pub(crate) async fn start_quiet() -> Self {
        Self::start_logging("info").await
    }

    async fn start_logging(agent_log: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(Arc::new(FolderStore::open(directory.path().join("hub")).unwrap()));
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        authorities::init(&state, &names).await.unwrap();
        let ca_pem = authorities::bundle(&state, authorities::Role::Serving).await.unwrap();
        let [user, agents, admin] =
            [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let hub = start_hub(directory.path(), user, agents, admin, None, &[]);
        eventually("the hub listens", PATIENCE, || async {
            plain_get(admin, "/livez").await.ok().map(drop)
        })
        .await;

        let api = FakeApi::start("c1").await;
        enrol(&state, &ca_pem, agents, "c1", &directory.path().join("c1")).await;
        api.write_kubeconfig(&directory.path().join("c1/kubeconfig"));
        let agent = start_agent(directory.path(), agents, agent_log);
        let pair = Self { hub, agent, api, user, admin, ca_pem, agents, directory, agent_log };
        pair.wait_serves(PATIENCE).await;
        pair
    }

    /// What the hub's access log holds by now.
    pub(crate) fn access_log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("access.log")).unwrap_or_default()
    }

    /// The sum of the hub's samples of `metric` whose labels contain `label`.
    pub(crate) async fn metric(&self, metric: &str, label: &str) -> f64 {
        let text = plain_get(self.admin, "/metrics").await.unwrap();
        let lines = text.lines().filter(|line| line.starts_with(metric) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// A client with a good token.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.user, self.ca_pem.as_bytes()).token(&self.api.token("test"))
    }

    /// The same API server without hub and agent.
    pub(crate) fn direct(&self) -> Client {
        Client::new(self.api.address, self.api.ca_pem.as_bytes()).token(&self.api.token("test"))
    }

    /// Where both run: `hub` and `c1` are their folders.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the hub again, after it was stopped or killed.
    pub(crate) fn start_hub(&mut self) {
        self.start_hub_with(&[]);
    }

    /// The same with more `flags`.
    pub(crate) fn start_hub_with(&mut self, flags: &[&str]) {
        let directory = self.directory.path();
        self.hub = start_hub(directory, self.user, self.agents, self.admin, None, flags);
    }

    /// The same with at most `files` open files.
    pub(crate) fn start_hub_within(&mut self, files: u32) {
        let directory = self.directory.path();
        self.hub = start_hub(directory, self.user, self.agents, self.admin, Some(files), &[]);
    }

    /// Starts the agent again, after it was stopped or killed.
    pub(crate) fn start_agent(&mut self) {
        self.agent = start_agent(self.directory.path(), self.agents, self.agent_log);
    }

    /// Waits until a request goes through.
    pub(crate) async fn wait_serves(&self, patience: Duration) {
        let client = self.client();
        eventually("c1 is served", patience, || async {
            let answer = client.try_get("/c1/version").await.ok()?;
            answer.status.is_success().then_some(())
        })
        .await;
    }
}

/// A hub on the folder `hub` in `directory`.
pub(crate) fn start_hub(
    directory: &Path,
    user: SocketAddr,
    agents: SocketAddr,
    admin: SocketAddr,
    files: Option<u32>,
    flags: &[&str],
) -> Process {
    let [user, agents, admin] = [user, agents, admin].map(|address| address.to_string());
    let mut args = vec![
        "hub",
        "--dir",
        "hub",
        "--listen",
        &user,
        "--agent-listen",
        &agents,
        "--admin-address",
        &admin,
        "--access-log",
        "access.log",
        "--drain-timeout",
        "2s",
    ];
    args.extend(flags);
    match files {
        Some(files) => Process::start_within("hub", directory, &args, files),
        None => Process::start("hub", directory, &args),
    }
}

fn start_agent(directory: &Path, agents: SocketAddr, log: &str) -> Process {
    let hub = format!("localhost:{}", agents.port());
    Process::start(
        "agent",
        directory,
        &[
            "agent",
            "--log-level",
            log,
            "--dir",
            "c1",
            "--hub",
            &hub,
            "--kubeconfig",
            "c1/kubeconfig",
            "--admin-address",
            "127.0.0.1:0",
            "--drain-timeout",
            "2s",
        ],
    )
}

/// Enrols the cluster `name`, as the two `join` commands do.
pub(crate) async fn enrol(
    state: &State,
    ca_pem: &str,
    agents: SocketAddr,
    name: &str,
    directory: &Path,
) {
    let cluster = ClusterName::parse(name).unwrap();
    let life = token::DEFAULT_LIFE;
    let made = token::Token::create(state, cluster, life, false, SystemTime::now()).await.unwrap();
    let pin = ca::key_hash(&ca::certificates(ca_pem.as_bytes()).unwrap()[0]).unwrap();
    let stream = tokio::net::TcpStream::connect(agents).await.unwrap();
    credentials::enrol("localhost", stream, &made.reveal(), &pin, directory.to_owned())
        .await
        .unwrap();
}
