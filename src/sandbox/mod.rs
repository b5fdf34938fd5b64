//! Hub, spokes and agents in one process, on loopback: for a first try and for tests.
//!
//! Nothing is left out: each spoke is an API server with TLS, keys and RBAC of its own, each agent
//! enrols with a join token and dials the hub, and `ready` is said only when a request went from the
//! user listener through each tunnel. Only the API servers are small ([`crate::miniapi`]), unless
//! real ones are asked for ([`apiserver::real`]).
//!
//! | in the folder | what |
//! |---|---|
//! | `kubeconfig` | contexts of the clusters (through the hub) and `hub` (the hub's own API) |
//! | `ca.crt`, `tokens/NAME`, `urls.json` | the same for curl and scripts |
//! | `tokens/hub`, `policy.yaml` | an account of the hub's own cluster, and what lets it in |
//! | `services.yaml` | services of the clusters that the hub exposes |
//! | `access.log` | the hub's access log |
//! | `data/` | keys, certificates and state: what a second run finds again |

mod accounts;
pub mod apiserver;
mod cluster;
pub mod definitions;
mod demo;
mod folder;
mod guide;
mod hub;
mod inventory;
pub mod provision;
mod visitor;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::{join_all, select_all, try_join, try_join_all};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use self::apiserver::real::RealError;
use self::apiserver::{Api, ApiServers};
use self::cluster::Cluster;
use self::folder::Folder;
use crate::agent::AgentError;
use crate::drain::Drain;
use crate::hub::HubError;
use crate::kubernetes::EndpointError;
use crate::miniapi::MiniApiError;
use crate::name::ClusterName;
use crate::pki::credentials::JoinError;
use crate::pki::tls::TlsError;
use crate::pki::token::TokenError;
use crate::state::StateError;

/// What to run.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// Folder of everything the sandbox keeps and writes. Made, with mode 0700, when missing.
    pub directory: PathBuf,
    /// Port of the user listener on 127.0.0.1; 0 takes any.
    pub port: u16,
    /// Names of the spokes: at least one, no name twice, none called `hub`.
    pub clusters: Vec<ClusterName>,
    /// What answers behind the agents, and as the hub's own cluster.
    pub api_servers: ApiServers,
}

/// Runs a sandbox until `stop` is ready. `print` gets the line that starts with `ready` and what to
/// try, once every cluster has answered through the hub.
///
/// # Errors
/// [`SandboxError`] when a part cannot start, does not answer in time, or ends by itself.
pub async fn run(
    config: SandboxConfig,
    stop: impl Future<Output = ()>,
    print: impl FnOnce(&str) -> io::Result<()>,
) -> Result<(), SandboxError> {
    check_names(&config.clusters)?;
    let folder = Folder::open(&config.directory)?;
    let drains = Drains::default();
    let ended = tokio::select! {
        ended = serve(&config, &folder, &drains, print) => ended,
        () = stop => Ok(()),
    };
    drains.finish(&config.api_servers).await;
    ended
}

/// Starts everything, then returns only with an error.
async fn serve(
    config: &SandboxConfig,
    folder: &Folder,
    drains: &Drains,
    print: impl FnOnce(&str) -> io::Result<()>,
) -> Result<(), SandboxError> {
    let state = hub::state(folder, &config.clusters).await?;
    hub::check_port(config.port)?;
    let start = |name, directory| Api::start(&config.api_servers, name, directory, &drains.apis);
    let apis = config.clusters.iter().map(|name| start(name.as_str(), folder.cluster_api(name)));
    let (hub_api, apis) = try_join(start(HUB, folder.hub_api()), try_join_all(apis)).await?;
    let client = &hub_api.client;
    inventory::seed(client, &config.clusters).await?;
    accounts::seed(client, &config.clusters).await?;
    let visitor = visitor::seed(client).await?;
    for (name, api) in config.clusters.iter().zip(&apis) {
        hub::forget_other(&state, name, api).await?;
    }
    let hub = hub::start(config.port, folder, state.clone(), &hub_api, drains).await?;
    let starting =
        config.clusters.iter().zip(apis).map(|(name, api)| {
            Cluster::start(name.clone(), api, folder, &state, &hub.agents, drains)
        });
    let clusters = try_join_all(starting).await?;
    let tokens = accounts::tokens(client, &config.clusters).await?;
    let clusters: Vec<_> = clusters.into_iter().zip(tokens).collect();
    folder.publish(&hub, &hub_api, &visitor, &clusters)?;
    join_all(clusters.iter().map(|(cluster, token)| cluster.answers(&hub, token)))
        .await
        .into_iter()
        .collect::<Result<(), _>>()?;
    inventory::published(client, &config.clusters).await?;
    print(&guide::text(folder.path(), &config.clusters, &config.api_servers))
        .map_err(SandboxError::Print)?;
    let parts = clusters.into_iter().flat_map(|(cluster, _)| cluster.parts);
    let parts: Vec<Part> = parts.chain([hub.part, hub_api.part]).collect();
    let (ended, _, _) = select_all(parts).await;
    Err(ended.unwrap_or_else(|error| SandboxError::Ended(error.to_string())))
}

/// A task that has no reason to end, and why it did.
type Part = JoinHandle<SandboxError>;

/// What to stop, in this order.
#[derive(Default)]
struct Drains {
    hub: Drain,
    agents: Drain,
    apis: Drain,
}

// === impl Drains ===

impl Drains {
    async fn finish(&self, apis: &ApiServers) {
        // The hub first: it tells clients and agents in words what a closed socket would not.
        self.hub.finish(PATIENCE).await;
        let patience = match apis {
            ApiServers::Embedded => PATIENCE,
            ApiServers::Real(_) => PROCESSES,
        };
        tokio::join!(self.agents.finish(PATIENCE), self.apis.finish(patience));
    }
}

fn check_names(clusters: &[ClusterName]) -> Result<(), SandboxError> {
    if clusters.is_empty() {
        return Err(SandboxError::Names("name at least one cluster".to_owned()));
    }
    for (index, name) in clusters.iter().enumerate() {
        if name.as_str() == HUB {
            return Err(SandboxError::Names(format!("`{HUB}` is the context of the hub itself")));
        }
        if clusters[..index].contains(name) {
            return Err(SandboxError::Names(format!("`{name}` is there twice")));
        }
    }
    Ok(())
}

/// Asks until the answer is there.
async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut question: impl FnMut() -> F,
) -> Result<T, SandboxError> {
    let deadline = Instant::now() + READY;
    loop {
        if let Some(answer) = question().await {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            return Err(SandboxError::Missing(what.to_owned()));
        }
        sleep(AGAIN).await;
    }
}

/// Why a sandbox could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The list of names.
    #[error("--clusters: {0}")]
    Names(String),
    /// The folder, or something in it.
    #[error("--dir: cannot use {path}: {source}")]
    Folder {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Two sandboxes in one folder would overwrite each other's files.
    #[error("--dir: another sandbox runs in {0}; stop it, or choose another folder")]
    Locked(PathBuf),
    /// A folder of everybody, which a sandbox would close to others and fill with its files.
    #[error("--dir: {0} is not a folder for one program alone; name a new one")]
    Shared(PathBuf),
    /// The user listener's port.
    #[error(
        "--port: cannot listen on port {port}: {source}; stop what uses it, or choose another port"
    )]
    Port {
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// An API server.
    #[error(transparent)]
    Api(#[from] MiniApiError),
    /// A real one.
    #[error("--apiserver real: {0}")]
    Real(#[from] RealError),
    /// What a cluster needs could not be made there.
    #[error("cannot prepare a cluster: {0}")]
    Provision(String),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Enrolments.
    #[error(transparent)]
    State(#[from] StateError),
    /// A join token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The hub.
    #[error("the hub: {0}")]
    Hub(#[from] HubError),
    /// Credentials of the hub at its own API server.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The way to the agent listener.
    #[error("cannot reach the hub at {address}: {source}")]
    Dial {
        /// Where it should listen.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Joining.
    #[error("{cluster} cannot join: {source}")]
    Join {
        /// Who wanted to.
        cluster: ClusterName,
        /// Why not.
        source: JoinError,
    },
    /// An agent.
    #[error("the agent of {cluster}: {source}")]
    Agent {
        /// Of which cluster.
        cluster: ClusterName,
        /// Why not.
        source: AgentError,
    },
    /// Everything runs, and still no request goes through.
    #[error("{cluster} does not answer through the hub after {} s: {why}; run it again with --log-level info", READY.as_secs())]
    NotReady {
        /// Which cluster.
        cluster: ClusterName,
        /// The last answer.
        why: String,
    },
    /// The hub's API server did not take what OCM would have written.
    #[error("the hub's API server: {0}")]
    Seed(#[from] kube::Error),
    /// The hub does not do its part.
    #[error("not within {seconds} s: {0}; run it again with --log-level info", seconds = READY.as_secs())]
    Missing(String),
    /// A part that should run until the end.
    #[error("a part of the sandbox ended by itself: {0}")]
    Ended(String),
    /// Standard output.
    #[error("cannot write to standard output: {0}")]
    Print(io::Error),
}

/// Context and folder name of the hub's own API.
const HUB: &str = "hub";

/// Between two questions.
const AGAIN: Duration = Duration::from_millis(50);

/// Streams that run when the sandbox stops get this long: nobody's work depends on them.
const PATIENCE: Duration = Duration::from_secs(1);

/// Longer than real API servers take to end, or are given before they are killed.
const PROCESSES: Duration = Duration::from_secs(60);

/// Every cluster must answer within this.
const READY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_contexts() {
        let check = |names: &[&str]| {
            let names: Vec<_> =
                names.iter().map(|name| ClusterName::parse(name).unwrap()).collect();
            check_names(&names).is_ok()
        };
        assert!(check(&["cluster1"]) && check(&["cluster1", "cluster2"]));
        assert!(!check(&[]) && !check(&["a", "b", "a"]) && !check(&["hub"]));
    }
}
