//! A hub, an agent and an API server for each of two clusters, every one a process of its own, set
//! up by the commands that an operator types.

use std::path::Path;

use futures_util::future::join_all;
use tempfile::TempDir;

use crate::apis::{Apis, RunningApi};
use crate::support::process::{Kubectl, Process, fails, free_port, run};
use crate::support::{PATIENCE, eventually};

/// The clusters of a [`Fleet`].
pub(crate) const CLUSTERS: [&str; 2] = ["c1", "c2"];

/// Everything ends when this is dropped.
pub(crate) struct Fleet {
    pub(crate) hub: Process,
    /// In the order of [`CLUSTERS`].
    agents: Vec<Process>,
    apis: Vec<RunningApi>,
    addresses: Addresses,
    kubectl: [Kubectl; 2],
    directory: TempDir,
}

// === impl Fleet ===

impl Fleet {
    /// Starts all of it and waits until kubectl is served; says that `test` is skipped where there
    /// is no kubectl.
    pub(crate) async fn start(test: &str) -> Option<Self> {
        Self::build(test, false, Apis::Embedded, |_| Vec::new()).await
    }

    /// The same on API servers of a kind, with one for the hub's own cluster, where the hub publishes
    /// itself.
    pub(crate) async fn on(test: &str, apis: Apis) -> Option<Self> {
        Self::with(test, apis, |_| Vec::new()).await
    }

    /// The same, and further flags of the hub, whose files are written into its directory first.
    pub(crate) async fn with(
        test: &str,
        apis: Apis,
        flags: impl FnOnce(&Path) -> Vec<String>,
    ) -> Option<Self> {
        Self::build(test, true, apis, flags).await
    }

    async fn build(
        test: &str,
        hub_api: bool,
        kind: Apis,
        flags: impl FnOnce(&Path) -> Vec<String>,
    ) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        let file = |cluster| directory.join(format!("{cluster}.user.kubeconfig"));
        let first = Kubectl::new(test, &file(CLUSTERS[0]))?;
        let kubectl = [first, Kubectl::new(test, &file(CLUSTERS[1]))?];
        let mut addresses = init_hub(directory);
        let names = hub_api.then_some("hub").into_iter().chain(CLUSTERS);
        let apis = join_all(names.map(|name| kind.start(directory, name))).await;
        addresses.hub_api = hub_api.then_some("hub.api/kubeconfig");
        addresses.flags = flags(directory);
        let mut hub = run_hub(directory, &addresses);
        hub.wait_for("listening", PATIENCE).await;
        let mut agents = Vec::new();
        for (cluster, kubectl) in CLUSTERS.into_iter().zip(&kubectl) {
            join(directory, cluster, &addresses.agents);
            let files = directory.join(format!("{cluster}.api"));
            let kubeconfig = directory.join(format!("{cluster}.kubeconfig"));
            std::fs::copy(files.join("agent.kubeconfig"), kubeconfig).unwrap();
            agents.push(start_agent(directory, cluster, &addresses.agents));
            let token = std::fs::read_to_string(files.join("tokens/test")).unwrap();
            write_kubeconfig(directory, &addresses.user, cluster, &token);
            eventually("kubectl is served", PATIENCE, || {
                let output = kubectl.output(&["get", "--raw", "/version"]);
                async move { output.status.success().then_some(()) }
            })
            .await;
        }
        Some(Self { hub, agents, apis, addresses, kubectl, directory: folder })
    }

    /// Where all of it runs.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// kubectl on one of the [`CLUSTERS`].
    pub(crate) fn kubectl(&self, cluster: &str) -> &Kubectl {
        &self.kubectl[index(cluster)]
    }

    /// kubectl with all rights, straight at an API server: that of one of the [`CLUSTERS`], or `hub`.
    pub(crate) fn admin(&self, name: &str) -> Kubectl {
        let file = self.directory().join(format!("{name}.api/kubeconfig"));
        Kubectl::new("", &file).unwrap()
    }

    /// URL of the hub, without a cluster.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.addresses.user)
    }

    /// Where agents dial, HOST:PORT.
    pub(crate) fn agents(&self) -> String {
        self.addresses.agents.clone()
    }

    /// The hub's admin listener.
    pub(crate) fn admin_address(&self) -> std::net::SocketAddr {
        self.addresses.admin.parse().unwrap()
    }

    /// Starts the hub again, after it was stopped or killed.
    pub(crate) async fn start_hub(&mut self) {
        self.hub = run_hub(self.directory.path(), &self.addresses);
        self.hub.wait_for("listening", PATIENCE).await;
    }

    /// Stops the agent of a cluster kindly.
    pub(crate) async fn stop_agent(&mut self, cluster: &str) {
        assert!(self.agents[index(cluster)].stop(PATIENCE).await.success());
    }

    /// Starts it again.
    pub(crate) fn start_agent(&mut self, cluster: &str) {
        let agent = start_agent(self.directory.path(), cluster, &self.addresses.agents);
        self.agents[index(cluster)] = agent;
    }

    /// Starts it anew, with further flags.
    pub(crate) async fn restart_agent(&mut self, cluster: &str, flags: &[&str]) {
        self.stop_agent(cluster).await;
        let agents = &self.addresses.agents;
        let agent = start_agent_with(self.directory.path(), cluster, agents, flags);
        self.agents[index(cluster)] = agent;
    }

    /// Stops all of it kindly.
    pub(crate) async fn stop(&mut self) {
        for agent in &mut self.agents {
            agent.stop(PATIENCE).await;
        }
        assert!(self.hub.stop(PATIENCE).await.success());
        join_all(self.apis.drain(..).map(RunningApi::stop)).await;
    }
}

/// The addresses of one hub, as flags want them.
pub(crate) struct Addresses {
    pub(crate) user: String,
    pub(crate) agents: String,
    pub(crate) admin: String,
    /// Kubeconfig of the hub's own API server.
    hub_api: Option<&'static str>,
    /// Of the hub, beside these.
    flags: Vec<String>,
}

/// Makes the state of a hub and starts it.
pub(crate) fn start_hub(directory: &Path) -> (Process, Addresses) {
    let addresses = init_hub(directory);
    (run_hub(directory, &addresses), addresses)
}

fn init_hub(directory: &Path) -> Addresses {
    let [user, agents, admin] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
    run(directory, &["pki", "init", "--dir", "hub", "--name", "localhost", "--name", "127.0.0.1"]);
    Addresses { user, agents, admin, hub_api: None, flags: Vec::new() }
}

fn run_hub(directory: &Path, addresses: &Addresses) -> Process {
    let Addresses { user, agents, admin, hub_api, flags } = addresses;
    #[rustfmt::skip]
    let mut args = vec![
        "hub", "--dir", "hub", "--listen", user, "--agent-listen", agents,
        "--admin-address", admin, "--access-log", "access.log", "--drain-timeout", "2s",
    ];
    let url = format!("https://{user}");
    if let Some(kubeconfig) = hub_api {
        args.extend(["--hub-kubeconfig", kubeconfig, "--publish-url", &url]);
    }
    args.extend(flags.iter().map(String::as_str));
    Process::start("hub", directory, &args)
}

fn index(cluster: &str) -> usize {
    CLUSTERS.iter().position(|known| *known == cluster).unwrap()
}

/// Both halves of `join`: what the hub prints is run word for word.
pub(crate) fn join(directory: &Path, cluster: &str, agents: &str) {
    let printed = run(directory, &["join", "token", cluster, "--dir", "hub", "--hub", agents]);
    let printed = printed.trim().replace("--dir agent", &format!("--dir {cluster}"));
    let words: Vec<&str> = printed.split_whitespace().skip(1).collect();
    let said = run(directory, &words);
    assert!(said.contains(&format!("enrolled {cluster}")), "{said}");

    // One use: the same words again are refused, and what they would have replaced still works.
    let again = printed.replace(&format!("--dir {cluster}"), "--dir again");
    let words: Vec<&str> = again.split_whitespace().skip(1).collect();
    let refused = fails(directory, &words);
    assert!(refused.contains("join token"), "{refused}");
}

pub(crate) fn start_agent(directory: &Path, cluster: &str, agents: &str) -> Process {
    start_agent_with(directory, cluster, agents, &[])
}

fn start_agent_with(directory: &Path, cluster: &str, agents: &str, flags: &[&str]) -> Process {
    let kubeconfig = format!("{cluster}.kubeconfig");
    #[rustfmt::skip]
    let own = [
        "agent", "--hub", agents, "--dir", cluster, "--kubeconfig", &kubeconfig,
        "--admin-address", "127.0.0.1:0", "--drain-timeout", "2s",
    ];
    Process::start(&format!("agent-{cluster}"), directory, &[&own, flags].concat())
}

/// What the user of one cluster needs: `CLUSTER.user.kubeconfig`.
pub(crate) fn write_kubeconfig(directory: &Path, user: &str, cluster: &str, token: &str) {
    std::fs::write(directory.join("token"), token).unwrap();
    let server = format!("https://{user}");
    let output = format!("{cluster}.user.kubeconfig");
    #[rustfmt::skip]
    run(directory, &[
        "kubeconfig", "--server", &server, "--ca", "hub/serving-ca.crt", "--cluster", cluster,
        "--token-file", "token", "--output", &output, "--force",
    ]);
}
