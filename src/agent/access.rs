//! The way to the API server, and its changes while the agent runs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::AgentError;
use super::upstream::Upstream;
use crate::kubernetes::{ApiServer, EndpointError, TokenSource};

/// Connections to the API server, and the agent's own token there. What was begun with one goes on
/// with it after a change.
pub(super) struct Access {
    server: ApiServer,
    pub(super) upstream: Upstream,
    pub(super) token: TokenSource,
}

/// The access in use. Clones share it.
#[derive(Clone)]
pub(super) struct Accesses {
    /// Where it is read from; a pod's own files are followed by those who use them.
    kubeconfig: Option<PathBuf>,
    current: Arc<ArcSwap<Access>>,
}

/// What reading it again brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Another server, authority, certificate or token.
    Changed,
    /// What is in use already.
    Same,
}

// === impl Accesses ===

impl Accesses {
    /// Reads `kubeconfig`, or the pod's own files.
    pub(super) fn read(kubeconfig: Option<PathBuf>) -> Result<Self, AgentError> {
        let server = server(kubeconfig.as_ref())?;
        tracing::info!(server = server.authority(), "the API server to serve");
        Ok(Self { kubeconfig, ..Self::to(server)? })
    }

    /// The way to `server`, which never changes.
    pub(super) fn to(server: ApiServer) -> Result<Self, AgentError> {
        let access = Access::new(server)?;
        Ok(Self { kubeconfig: None, current: Arc::new(ArcSwap::from_pointee(access)) })
    }

    /// The access as of now.
    pub(super) fn current(&self) -> Arc<Access> {
        self.current.load_full()
    }

    /// Reads everything again. Where only the token is another, connections stay.
    ///
    /// # Errors
    /// When it cannot be read or used: the old one stays in use.
    pub(super) async fn refresh(&self) -> Result<Reading, AgentError> {
        let kubeconfig = self.kubeconfig.clone();
        let read = tokio::task::spawn_blocking(move || server(kubeconfig.as_ref())).await;
        let server = read.map_err(|error| EndpointError::Unusable(error.to_string()))??;
        let current = self.current();
        if server == current.server {
            // The same file may hold another token by now.
            let token = TokenSource::new(&server.credentials)?;
            if token.header() == current.token.header() {
                return Ok(Reading::Same);
            }
            let upstream = current.upstream.clone();
            self.current.store(Arc::new(Access { server, upstream, token }));
        } else {
            self.current.store(Arc::new(Access::new(server)?));
        }
        Ok(Reading::Changed)
    }
}

// === impl Access ===

impl Access {
    fn new(server: ApiServer) -> Result<Self, AgentError> {
        let token = TokenSource::new(&server.credentials)?;
        let upstream = Upstream::new(&server)?;
        Ok(Self { server, upstream, token })
    }

    /// Those who sign for the API server, PEM.
    pub(super) fn authorities(&self) -> &Bytes {
        &self.server.ca_pem
    }

    /// Where the API server is. None where its name has no address: then it cannot be asked either.
    pub(super) async fn addresses(&self) -> Vec<SocketAddr> {
        let host = (self.server.host.as_str(), self.server.port);
        tokio::net::lookup_host(host).await.map(Iterator::collect).unwrap_or_default()
    }
}

fn server(kubeconfig: Option<&PathBuf>) -> Result<ApiServer, EndpointError> {
    match kubeconfig {
        Some(path) => ApiServer::from_kubeconfig(path, None),
        None => ApiServer::in_cluster(),
    }
}
