//! Why a hub cannot run.

use std::net::SocketAddr;

use super::{AccessLog, Unusable};
use crate::kubernetes::EndpointError;
use crate::pki::tls::TlsError;
use crate::state::StateError;

/// Why a hub could not start, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A listener's address.
    #[error("cannot listen on {address}: {source}; is another process using it? set {flag}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// State.
    #[error(transparent)]
    State(#[from] StateError),
    /// The hub's own API server.
    #[error("the hub's API server cannot be used: {0}")]
    Endpoint(#[from] EndpointError),
    /// The policy, or the list of exposed services.
    #[error(transparent)]
    Written(#[from] Unusable),
    /// Two metrics of one name: a mistake of ours.
    #[error("metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The access log.
    #[error("the access log {log} cannot be opened: {source}; set --access-log")]
    AccessLog {
        /// Which.
        log: AccessLog,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something that runs for as long as the hub does not.
    #[error("its {0} ended by itself; the log says more")]
    Part(&'static str),
    /// Threads or sockets of the process itself.
    #[error("the system refused a thread or a socket: {0}")]
    Workers(#[source] std::io::Error),
}
