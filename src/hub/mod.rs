//! The process that clients talk to: build, bind, run, drain. The only place where its parts meet.
//!
//! | step of a request | file |
//! |---|---|
//! | accept, TLS, HTTP | [`front`]: `listener`, `connection` |
//! | how much is taken on | `limits`, `front::gate`, `admission`, `flood`, `unread`, `memory` |
//! | which cluster | `route` |
//! | who is calling | [`authn`] |
//! | whether an identity of the hub may | `policy` |
//! | which services of clusters are exposed | `services` |
//! | what crosses | `hosts`, `via`, `headers`, `verb` |
//! | which tunnel, send, judge | `registry`, `forward` |
//! | what ends it early | [`live`], `forward/ending` |
//! | failure to response | `failure`, `forward/respond` |
//! | end: metrics, access log | `record`, `metrics`, `access_log` |
//!
//! `replicas` follows the state and the other hubs on it, `acceptance` what Open Cluster Management says of
//! clusters; `shutdown` is the way out.
//! Agents arrive at `dock`; `probe` and `spokes` are the hub's own requests through tunnels;
//! `admin` shows all of it; `controllers` write to the hub's own API server.

mod acceptance;
mod access_log;
mod admin;
mod admission;
pub mod authn;
mod config;
mod controllers;
mod dock;
mod error;
mod failure;
mod flood;
pub(crate) mod followed;
mod forward;
mod front;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod headers;
pub mod hosts;
pub mod limits;
mod live;
pub mod memory;
mod metrics;
mod own_api;
mod parts;
pub mod policy;
mod probe;
mod record;
mod registry;
mod replicas;
mod route;
pub(crate) mod services;
mod shutdown;
mod spoke_client;
mod spokes;
#[cfg(test)]
mod testing;
mod token_key;
pub(crate) mod token_review;
mod traffic;
mod unread;
mod verb;
mod via;
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::drain::Drain;
use crate::listen::pages;
use crate::pki::join::JoinService;
use crate::pki::tls::ServingTls;
use crate::tunnel::settings::Settings;
use acceptance::Acceptance;
use admin::Admin;
use admission::Admission;
use authn::Authenticator;
use controllers::{Controllers, HubParts};
use dock::Dock;
use forward::Forwarder;
use front::Front;
use front::gate::Gates;
use front::listener::{SocketOptions, accept, bind};
use live::LiveStreams;
use metrics::Metrics;
use parts::Parts;
use policy::Policies;
use record::Recorder;
use registry::Registry;
use replicas::Replicas;
use services::Services;
use services::reviews::SpokeReviews;
use shutdown::Shutdown;
use spokes::Spokes;
use unread::UnreadBudget;
use via::Pseudonym;
use workers::Workers;

pub use config::{AccessLog, HubConfig};
pub use controllers::{AccountsOptions, ControllersConfig};
pub use error::HubError;
pub use followed::{Source, Unusable};

/// A hub with its listeners bound.
pub struct Hub {
    config: HubConfig,
    addresses: Addresses,
    listeners: Listeners,
    workers: Workers,
    tls: ServingTls,
    registry: Registry,
    live: LiveStreams,
    replicas: Replicas,
    metrics: Metrics,
    collected: prometheus::Registry,
    authenticator: Authenticator,
    policies: Policies,
    services: Services,
    recorder: Arc<Recorder>,
    controllers: Option<Controllers>,
}

/// Where a bound hub listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// User listener (HTTPS).
    pub user: SocketAddr,
    /// Agent listener (mutual TLS, and joining).
    pub agents: SocketAddr,
    /// Admin listener (plain HTTP).
    pub admin: SocketAddr,
}

struct Listeners {
    user: TcpListener,
    agents: TcpListener,
    admin: TcpListener,
    metrics: Option<TcpListener>,
}

// === impl Hub ===

impl Hub {
    /// Reads state, builds every part, binds every listener.
    pub async fn build(config: HubConfig) -> Result<Self, HubError> {
        let listeners = Listeners::bind(&config)?;
        let addresses = listeners.addresses()?;
        let collected = prometheus::Registry::new();
        let metrics = Metrics::new(&collected)?;
        let tls = ServingTls::load(&config.state).await?;
        let live = LiveStreams::new(&collected, config.limits.live_tokens_per_cluster)?;
        let registry = Registry::new(live.clone());
        let acceptance = Acceptance::start(config.controllers.as_ref()).await?;
        let replicas = Replicas::join(config.state.clone(), registry.clone(), acceptance).await?;
        let authenticator = Authenticator::build(
            config.authn.clone(),
            config.state.clone(),
            registry.subscribe(),
            Arc::new(Spokes { registry: registry.clone() }),
            config.hub_api.clone(),
            &collected,
        )
        .await?;
        let policies = Policies::load(
            config.policy.clone(),
            config.delegate_authorization,
            config.hub_api.clone(),
            &collected,
        )?;
        let services = Services::load(config.services.clone(), config.hub_api.clone(), &collected)?;
        let dropped = metrics.access_lines_dropped.clone();
        let log = access_log::AccessLogger::open(&config.access_log, dropped)
            .map_err(|source| HubError::AccessLog { log: config.access_log.clone(), source })?;
        let workers = Workers::start(config.workers).map_err(HubError::Workers)?;
        let recorder = Recorder { metrics: metrics.clone(), log, registry: registry.clone() };
        let recorder = Arc::new(recorder);
        let controllers = config.controllers.as_ref().map(|config| {
            let parts = HubParts {
                id: replicas.id(),
                port: addresses.user.port(),
                registry: &registry,
                presented: tls.presented(),
                collected: &collected,
            };
            Controllers::build(config, parts)
        });
        let controllers = controllers.transpose()?;
        Ok(Self {
            config,
            addresses,
            listeners,
            workers,
            tls,
            registry,
            live,
            replicas,
            metrics,
            collected,
            authenticator,
            policies,
            services,
            recorder,
            controllers,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What reads certificates and policy again, now instead of when their turn comes, and opens the
    /// access log again. What cannot be used is reported, and the old kept. Connections that run go on.
    pub fn reloader(&self) -> impl Fn() + Send + 'static {
        let (tls, log) = (self.tls.clone(), self.recorder.log.clone());
        let (policies, services) = (self.policies.clone(), self.services.clone());
        move || {
            tls.ask();
            policies.policy().ask();
            services.list().ask();
            log.reopen();
        }
    }

    /// Serves until `drain` stops it and its streams ended or were cut. Dropping the future ends
    /// everything at once.
    pub async fn run(self, drain: Drain) -> Result<(), HubError> {
        // Clients first, tunnels after: what runs when the hub stops still needs its tunnel.
        let limits = Arc::new(self.config.limits.clone());
        let clients = Drain::new();
        let tunnels = Drain::new();
        let unread = UnreadBudget::new(limits.unread_bytes, &self.metrics);
        let front = Arc::new(Front {
            tls: self.tls.front.clone(),
            authenticator: self.authenticator.clone(),
            policies: self.policies.clone(),
            services: self.services.clone(),
            reviews: SpokeReviews::new(
                Arc::new(Spokes { registry: self.registry.clone() }),
                limits.waiting_strangers(),
            ),
            forwarder: Forwarder {
                registry: self.registry.clone(),
                policies: self.policies.clone(),
                services: self.services.clone(),
                live: self.live.clone(),
                drain: clients.clone(),
                head_timeout: self.config.head_timeout,
                max_body: limits.max_body,
                unread: unread.clone(),
            },
            recorder: self.recorder.clone(),
            admission: Admission::new(&limits),
            limits: limits.clone(),
            allowed_hosts: Arc::new(self.config.allowed_hosts.clone()),
            pseudonym: Arc::new(Pseudonym::random()),
            stopping: drain.clone(),
        });
        let gates = Gates::new(&limits, &self.metrics);
        let dock = Dock {
            tls: self.tls.dock.clone(),
            join: JoinService::new(self.config.state.clone(), self.config.renewal_grace)
                .with_certificate_life(self.config.certificate_life)
                .with_acceptance({
                    let acceptance = self.replicas.acceptance().clone();
                    move |cluster| acceptance.accepts(cluster)
                }),
            state: self.config.state.clone(),
            registry: self.registry.clone(),
            metrics: self.metrics.clone(),
            settings: Settings::default(),
            unread: unread.clone(),
            drain: tunnels.clone(),
            handshake_timeout: limits.handshake_timeout,
            drain_timeout: self.config.drain_timeout,
            replicas: self.replicas.clone(),
        };
        let admin = Admin {
            collected: self.collected.clone(),
            metrics: self.metrics.clone(),
            registry: self.registry.clone(),
            fleet: self.registry.subscribe(),
            tls: self.tls.clone(),
            drain: drain.clone(),
        };

        // Owned here: dropping the set ends them.
        let mut parts = Parts::default();
        parts.spawn("authentication", self.authenticator.clone().run());
        let spokes = Arc::new(Spokes { registry: self.registry.clone() });
        let known = Some(self.authenticator.clone());
        parts.spawn("watch of live streams", self.live.clone().run(spokes, known));
        parts.spawn("watch of managed clusters", self.replicas.acceptance().clone().follow());
        parts.spawn("watch of the policy", self.policies.policy().clone().follow());
        parts.spawn("watch of exposed services", self.services.list().clone().follow());
        parts.spawn("watch of certificates", self.tls.clone().watch(self.config.state.clone()));
        parts.spawn("budget of unread bytes", unread.run());
        parts.spawn("probes", probe::run(self.registry.clone(), self.metrics.clone()));
        parts.spawn(
            "watch of the state",
            self.replicas.clone().follow(self.metrics.clone(), tunnels.clone()),
        );
        if let Some(controllers) = self.controllers {
            parts.spawn_until_stop("controllers", controllers.run(drain.clone()));
        }
        if let Some(listener) = self.listeners.metrics {
            parts.spawn("metrics listener", pages::serve(listener, admin.clone().metrics_router()));
        }
        parts.spawn("admin listener", pages::serve(self.listeners.admin, admin.router()));
        parts.spawn_until_stop(
            "agent listener",
            accept(
                self.listeners.agents,
                SocketOptions { buffers: None },
                gates.agents,
                self.workers.apart(),
                // Closed at once: an agent that is told to leave must not come back to us.
                drain.clone(),
                tunnels.clone(),
                move |arrived| dock.clone().serve(arrived),
            ),
        );
        parts.spawn_until_stop(
            "user listener",
            accept(
                self.listeners.user,
                SocketOptions { buffers: Some(USER_SOCKET_BUFFERS) },
                gates.users,
                self.workers.clone(),
                // Open for a while: a refused connection is a failed request until balancers have noticed.
                clients.clone(),
                clients.clone(),
                move |arrived| front::serve(front.clone(), arrived),
            ),
        );

        let shutdown = Shutdown {
            registry: self.registry.clone(),
            replicas: self.replicas.clone(),
            metrics: self.metrics.clone(),
            clients,
            tunnels,
            min_drain: self.config.min_drain,
            drain_timeout: self.config.drain_timeout,
        };
        let failed = tokio::select! {
            () = shutdown.run(drain) => None,
            part = parts.failed() => Some(part),
        };
        self.workers.stop();
        let log = self.recorder.log.clone();
        // A join error means that the runtime is going away as well.
        let _ = tokio::task::spawn_blocking(move || log.flush()).await;
        failed.map_or(Ok(()), |part| Err(HubError::Part(part)))
    }
}

// === impl Listeners ===

impl Listeners {
    fn bind(config: &HubConfig) -> Result<Self, HubError> {
        let bind = |address, flag| {
            bind(address).map_err(|source| HubError::Bind { address, flag, source })
        };
        Ok(Self {
            user: bind(config.user, "--listen")?,
            agents: bind(config.agents, "--agent-listen")?,
            admin: bind(config.admin, "--admin-address")?,
            metrics: config
                .metrics
                .map(|address| bind(address, "--metrics-address"))
                .transpose()?,
        })
    }

    fn addresses(&self) -> Result<Addresses, HubError> {
        let address = |listener: &TcpListener| listener.local_addr().map_err(HubError::Workers);
        Ok(Addresses {
            user: address(&self.user)?,
            agents: address(&self.agents)?,
            admin: address(&self.admin)?,
        })
    }
}

/// Kernel buffers of a user's socket, each way. Autotuned ones let a few hundred stalled readers
/// exhaust the TCP memory of the whole host.
const USER_SOCKET_BUFFERS: usize = 256 * 1024;
