//! The process in each spoke: dials the hub, serves the tunnel, forwards to the local kube-apiserver.

mod access;
mod admin;
mod backoff;
mod config;
mod control;
mod coverage;
mod dial;
mod dialer;
mod headers;
mod hello;
mod impersonation;
mod link;
mod metrics;
mod presence;
mod reload;
mod renewal;
mod serve;
mod services;
#[cfg(test)]
mod testing;
mod upgrade;
mod upstream;

pub use config::AgentConfig;
pub use impersonation::ImpersonationRule;
pub use services::{ExposedService, Exposure, InvalidEntry, TrustError};
pub use upstream::UpstreamConfigError;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::drain::Drain;
use crate::kubernetes::EndpointError;
use crate::listen::pages;
use crate::name::ClusterName;
use crate::pki::credentials::{AgentCredentials, JoinError};
use crate::tunnel::settings::Settings;
use access::Accesses;
use dialer::Dialer;
use hello::Greeter;
use metrics::Metrics;
use presence::Presence;
use serve::Service;

/// An agent that is ready to run, its admin listener bound. Clones share it.
#[derive(Clone)]
pub struct Agent {
    parts: Arc<Parts>,
}

struct Parts {
    config: AgentConfig,
    credentials: AgentCredentials,
    service: Arc<Service>,
    presence: Arc<Presence>,
    metrics: Metrics,
    admin: TcpListener,
    admin_address: SocketAddr,
    /// Everything that can change is to be read again.
    reload: Arc<Notify>,
}

// === impl Agent ===

impl Agent {
    /// Checks the configuration, reads credentials, binds the admin listener; dials nothing yet.
    pub async fn build(config: AgentConfig) -> Result<Self, AgentError> {
        config.check().map_err(AgentError::Config)?;
        let accesses = Accesses::read(config.kubeconfig.clone())?;
        let credentials = AgentCredentials::load(&config.directory)?;
        let metrics = Metrics::new();
        let greeter = Greeter::new(
            uuid::Uuid::new_v4().to_string(),
            config.audiences.clone(),
            config.issuers.clone(),
            accesses.clone(),
        );
        let service = Arc::new(Service::new(
            accesses,
            greeter,
            metrics.clone(),
            config.impersonation.clone(),
            config.services.clone(),
        )?);
        let bind = |source| AgentError::Bind { address: config.admin, source };
        let admin = TcpListener::bind(config.admin).map_err(bind)?;
        admin.set_nonblocking(true).map_err(bind)?;
        let admin_address = admin.local_addr().map_err(bind)?;
        let presence = Presence::new(metrics.tunnels.clone());
        tracing::info!(cluster = %credentials.cluster(), "the agent is ready to dial");
        Ok(Self {
            parts: Arc::new(Parts {
                config,
                credentials,
                service,
                presence,
                metrics,
                admin,
                admin_address,
                reload: Arc::default(),
            }),
        })
    }

    /// Runs until `drain` stops it and its tunnels have said goodbye. Streams that still run then
    /// belong to the drain: finish it with the patience of the configuration.
    pub async fn run(self, drain: Drain) -> Result<(), AgentError> {
        let parts = &self.parts;
        let admin = self.admin()?;
        let stopping = drain.clone();
        let router = admin::router(parts.presence.clone(), parts.metrics.clone());
        drain.spawn(async move {
            tokio::select! {
                () = pages::serve(admin, router) => {}
                () = stopping.stopping() => {}
            }
        });

        let (renewed, renewals) = watch::channel(0);
        let renewal = renewal::keep_valid(
            parts.config.hub.clone(),
            parts.config.egress.clone(),
            parts.credentials.clone(),
            renewed.clone(),
            parts.metrics.clone(),
        );
        let reload = reload::follow(
            parts.service.clone(),
            parts.credentials.clone(),
            renewed,
            parts.reload.clone(),
        );
        let dialer = Arc::new(Dialer {
            hubs: parts.config.hub.clone(),
            egress: parts.config.egress.clone(),
            tunnels: parts.config.tunnels,
            credentials: parts.credentials.clone(),
            settings: Settings::default(),
            service: parts.service.clone(),
            presence: parts.presence.clone(),
            metrics: parts.metrics.clone(),
            drain: drain.clone(),
            renewed: renewals,
        });
        // The first two never end; they go when the last tunnel has said goodbye.
        tokio::select! {
            () = renewal => {}
            () = reload => {}
            () = dialer.run() => {}
        }
        Ok(())
    }

    /// Reads kubeconfig, token, authorities of services and the folder of the agent again, now instead of when their turn
    /// comes. What cannot be used is reported, and the old kept. Streams that run go on.
    pub fn reload(&self) {
        self.parts.reload.notify_one();
    }

    /// Address of the admin listener.
    pub fn admin_address(&self) -> SocketAddr {
        self.parts.admin_address
    }

    /// The cluster that the agent's certificate names.
    pub fn cluster(&self) -> ClusterName {
        self.parts.credentials.cluster()
    }

    fn admin(&self) -> Result<tokio::net::TcpListener, AgentError> {
        let listener = self.parts.admin.try_clone().and_then(tokio::net::TcpListener::from_std);
        listener.map_err(|source| AgentError::Bind { address: self.parts.admin_address, source })
    }
}

/// Why an agent could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A value that cannot work; names the flag.
    #[error("{0}")]
    Config(String),
    /// The local API server.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// TLS to the local API server.
    #[error("the connection to the API server cannot be set up: {0}")]
    Upstream(#[from] UpstreamConfigError),
    /// TLS to services.
    #[error(transparent)]
    Services(#[from] TrustError),
    /// Key and certificate of the tunnel.
    #[error("{0}; `cluster-proxy join` writes the agent's folder (--dir)")]
    Credentials(#[from] JoinError),
    /// The admin listener's address.
    #[error("cannot listen on {address} (--admin-address): {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}
