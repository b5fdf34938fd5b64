//! Values the hub needs, already parsed.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::authn::{AuthnConfig, HubApi};
use super::controllers::ControllersConfig;
use super::followed::Source;
use super::hosts::AllowedHosts;
use super::limits::Limits;
use crate::state::State;

/// Configuration of a hub.
#[derive(Clone)]
pub struct HubConfig {
    /// User listener, HTTPS.
    pub user: SocketAddr,
    /// Agent listener.
    pub agents: SocketAddr,
    /// Admin listener, plain HTTP, loopback.
    pub admin: SocketAddr,
    /// Only health and metrics, for the cluster's scrapers.
    pub metrics: Option<SocketAddr>,
    /// What survives a restart.
    pub state: State,
    /// The hub's own API server, where there is one.
    pub hub_api: Option<Arc<dyn HubApi>>,
    /// What it keeps up to date in its own API server; `None` without one.
    pub controllers: Option<ControllersConfig>,
    /// Authentication.
    pub authn: AuthnConfig,
    /// Which identities of the hub may ask for what; without it, none may.
    pub policy: Source,
    /// Whether the hub's own API server is asked about what no rule of the policy lets through.
    pub delegate_authorization: bool,
    /// Which services of clusters callers may reach.
    pub services: Source,
    /// Where the access log goes.
    pub access_log: AccessLog,
    /// Worker threads, one runtime each; with none, connections are served on the runtime that runs the
    /// hub.
    pub workers: usize,
    /// How long a hub that stops goes on as if nothing had happened, but for its readiness: balancers
    /// need time to notice. Part of `drain_timeout`.
    pub min_drain: Duration,
    /// How long a hub takes to stop at most; streams that run then are cut.
    pub drain_timeout: Duration,
    /// How long an API server may think before its response head, counted from the end of the
    /// request's body. Longer than the API server's own 60 s, so that its answer wins.
    pub head_timeout: Duration,
    /// Life of the certificates that agents get.
    pub certificate_life: Duration,
    /// How long after its end a certificate can still be renewed by proof of the enrolled key.
    pub renewal_grace: Duration,
    /// By what name clients may call it.
    pub allowed_hosts: AllowedHosts,
    /// How much it takes on.
    pub limits: Limits,
}

/// Destination of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Standard output.
    Stdout,
    /// Appended to a file.
    File(PathBuf),
    /// Nowhere.
    Off,
}

/// As `--access-log` takes it.
impl fmt::Display for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("-"),
            Self::File(path) => path.display().fmt(f),
            Self::Off => f.write_str("off"),
        }
    }
}
