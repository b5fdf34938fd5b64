//! Where agents arrive: mutual TLS, identity from the certificate, hello, registration.
//!
//! The certificate alone says whom an agent serves. What it says of itself afterwards is good for
//! its own cluster only.

mod greeting;
mod notices;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;

use super::flood::FloodGuard;
use super::front::gate::Arrived;
use super::limits::Limit;
use super::metrics::Metrics;
use super::probe::probe;
use super::registry::{Registry, Tunnel};
use super::replicas::Replicas;
use super::unread::UnreadBudget;
use crate::drain::Drain;
use crate::fleet::About;
use crate::name::ClusterName;
use crate::pki::identity::AgentCertificate;
use crate::pki::join::JoinService;
use crate::pki::tls::{Arrival, DockTls, ServerStream};
use crate::state::{Enrolment, State};
use crate::tunnel::opener::{Opener, TunnelEnd};
use crate::tunnel::reader::BufferedSocket;
use crate::tunnel::settings::Settings;

pub(crate) use notices::{leave, tell};

/// Everything an arriving connection needs. Clones share it.
#[derive(Clone)]
pub(crate) struct Dock {
    pub(crate) tls: DockTls,
    pub(crate) join: JoinService,
    pub(crate) state: State,
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
    pub(crate) settings: Settings,
    /// Told of what arrives.
    pub(crate) unread: UnreadBudget,
    pub(crate) drain: Drain,
    /// How long TLS may take.
    pub(crate) handshake_timeout: Duration,
    /// How long streams may go on under a key that was replaced.
    pub(crate) drain_timeout: Duration,
    /// Named in hellos.
    pub(crate) replicas: Replicas,
}

/// Why an agent is turned away. The `Display` text is for logs, [`Refused::label`] for metrics.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the cluster is not enrolled, or was removed")]
    NotEnrolled,
    #[error("the cluster's key was revoked: join again with a new token")]
    Revoked,
    #[error("the certificate's key is not the enrolled one")]
    OtherKey,
    #[error(
        "Open Cluster Management does not accept the cluster: its ManagedCluster has no spec.hubAcceptsClient: true, or is not there"
    )]
    NotAccepted,
    #[error("the enrolment could not be read: {0}")]
    State(String),
    #[error("hello failed: {0}")]
    Hello(String),
    #[error("the agent has its tunnels to this hub, and looks for another")]
    Surplus,
    #[error(
        "the agent stands in another cluster than the one that was enrolled: kube-system has uid {seen}, enrolled was {pinned}"
    )]
    OtherCluster { seen: String, pinned: String },
}

// === impl Dock ===

impl Dock {
    /// Serves one connection to its end.
    pub(crate) async fn serve(self, arrived: Arrived) {
        let Arrived { socket, peer, connection: _connection, handshake } = arrived;
        // Fewer reads under TLS: records of one flush arrive together.
        let socket = BufferedSocket::new(socket);
        // What a tunnel does once is boxed: its task lives for weeks, with room for its largest part.
        let accepted = timeout(self.handshake_timeout, Box::pin(self.tls.accept(socket))).await;
        drop(handshake);
        match accepted {
            Ok(Ok(Arrival::Join(stream))) => Box::pin(self.join.serve(stream, peer)).await,
            Ok(Ok(Arrival::Tunnel { stream, certificate })) => {
                self.tunnel(stream, certificate, peer).await;
            }
            Ok(Err(error)) => {
                self.metrics.dock_refusals.with_label_values(&["tls"]).inc();
                tracing::info!(%peer, %error, "an agent's TLS handshake failed");
            }
            Err(_) => {
                self.metrics.limit_hits.hit(Limit::AgentHandshakeTimeout);
                self.metrics.dock_refusals.with_label_values(&["tls"]).inc();
                tracing::info!(%peer, "an agent's TLS handshake took too long");
            }
        }
    }

    async fn tunnel(
        &self,
        stream: ServerStream<BufferedSocket<TcpStream>>,
        certificate: AgentCertificate,
        peer: SocketAddr,
    ) {
        let cluster = certificate.cluster.clone();
        let refuse = |refused: &Refused| {
            self.metrics.dock_refusals.with_label_values(&[refused.label()]).inc();
            tracing::warn!(%cluster, %peer, reason = %refused, "an agent was turned away");
        };
        // Before HTTP/2: a stolen or removed key gets nothing to talk to.
        let enrolment = match Box::pin(self.check(&certificate)).await {
            Ok(enrolment) => enrolment,
            Err(refused) => return refuse(&refused),
        };
        let unread = self.unread.clone();
        let stream = InspectReader::new(stream, move |bytes: &[u8]| unread.arrived(bytes.len()));
        let stream = FloodGuard::of_server(stream, self.metrics.flood_hits(Limit::TunnelFlood));
        let established =
            timeout(HANDSHAKE_TIMEOUT, Box::pin(Opener::handshake(stream, &self.settings))).await;
        let (opener, driver) = match established {
            Ok(Ok(established)) => established,
            Ok(Err(error)) => return refuse(&Refused::Hello(error.to_string())),
            Err(_) => return refuse(&Refused::Hello("no HTTP/2 in time".to_owned())),
        };
        let mut driver = self.drain.spawn(driver);
        match Box::pin(self.register(&opener, certificate, enrolment)).await {
            Ok(tunnel) => {
                tracing::info!(%cluster, %peer, tunnel = tunnel.id, agent = tunnel.agent, "tunnel up");
                // Fresh news for whoever waits for this cluster; the driver must run meanwhile.
                self.probe(&cluster);
                let ended = tokio::select! {
                    ended = &mut driver => ended,
                    never = goodbye(&tunnel) => never,
                    () = self.replaced(&tunnel) => driver.await,
                };
                self.registry.remove(&cluster, tunnel.id);
                self.probe(&cluster);
                let end = ended.unwrap_or_else(|error| TunnelEnd::Broken(error.to_string()));
                self.count(&cluster);
                self.lost(&cluster, &end);
                tracing::info!(%cluster, %peer, tunnel = tunnel.id, ?end, "tunnel ended");
            }
            // A draw of an agent behind a balancer: nothing is wrong with it.
            Err(Refused::Surplus) => opener.close("surplus"),
            Err(refused) => {
                refuse(&refused);
                opener.close("refused");
            }
        }
    }

    /// The certificate's key must be the one that was enrolled under its name, and still trusted.
    async fn check(&self, certificate: &AgentCertificate) -> Result<Enrolment, Refused> {
        let enrolment = self.state.enrolment(&certificate.cluster).await;
        match enrolment.map_err(|error| Refused::State(error.to_string()))? {
            None => Err(Refused::NotEnrolled),
            Some(enrolment) if enrolment.revoked => Err(Refused::Revoked),
            Some(enrolment) if enrolment.key_sha256 != certificate.key_sha256 => {
                Err(Refused::OtherKey)
            }
            Some(_) if !self.replicas.acceptance().accepts(&certificate.cluster) => {
                Err(Refused::NotAccepted)
            }
            Some(enrolment) => Ok(enrolment),
        }
    }

    async fn register(
        &self,
        opener: &Opener,
        certificate: AgentCertificate,
        enrolment: Enrolment,
    ) -> Result<Arc<Tunnel>, Refused> {
        let cluster = certificate.cluster.clone();
        let living = self.replicas.living();
        let hello = self.hello(opener, &cluster, &living).await?;
        self.pin(opener, &cluster, &enrolment).await?;
        let tunnel = Arc::new(Tunnel {
            id: self.registry.next_id(),
            agent: hello.agent,
            certificate,
            opener: opener.clone(),
            // This task's, and so that of the connection.
            worker: std::thread::current().id(),
            leaving: CancellationToken::new(),
            replaced: CancellationToken::new(),
        });
        let about = About {
            api_server_version: hello.api_server_version,
            agent_version: hello.agent_version,
            audiences: hello.audiences,
            issuers: hello.issuers,
        };
        // An enrolment younger than the last look at the state is not in the registry yet.
        if !self.registry.is_enrolled(&cluster) {
            let all = self.state.enrolments().await;
            let all = all.map_err(|error| Refused::State(error.to_string()))?;
            let gone = self.registry.sync(&all, self.replicas.acceptance());
            gone.iter().for_each(|name| self.metrics.forget(name));
        }
        if !self.registry.add(Arc::clone(&tunnel), about) {
            return Err(Refused::NotEnrolled);
        }
        self.count(&cluster);
        // A change during the hello was told to those who were registered then.
        let now = self.replicas.living();
        if now != living {
            tell(&tunnel, now).await;
        }
        Ok(tunnel)
    }

    /// Ends a tunnel whose key was replaced: once nothing runs on it, or when that had its time.
    async fn replaced(&self, tunnel: &Tunnel) {
        tunnel.replaced.cancelled().await;
        let cluster = &tunnel.certificate.cluster;
        tracing::info!(%cluster, tunnel = tunnel.id, "the key was replaced: its streams may finish");
        // An agent with both keys dials with the new one.
        leave(tunnel).await;
        let unused = async {
            while tunnel.opener.load() > 0 {
                tokio::time::sleep(UNUSED_LOOK).await;
            }
        };
        // Late or not, this is the end.
        let _ = timeout(self.drain_timeout, unused).await;
        tunnel.opener.close("replaced");
    }

    fn probe(&self, cluster: &ClusterName) {
        let (dock, cluster) = (self.clone(), cluster.clone());
        self.drain.spawn(async move { probe(&dock.registry, &dock.metrics, cluster).await });
    }

    fn lost(&self, cluster: &ClusterName, end: &TunnelEnd) {
        // A name that was removed must not come back as a label.
        let enrolled = self.registry.is_enrolled(cluster);
        let cluster = if enrolled { cluster.as_str() } else { "" };
        self.metrics.tunnels_lost.with_label_values(&[cluster, end_label(end)]).inc();
    }

    fn count(&self, cluster: &ClusterName) {
        if !self.registry.is_enrolled(cluster) {
            return;
        }
        let live = self.registry.tunnels();
        let live = live.iter().filter(|tunnel| tunnel.certificate.cluster == *cluster).count();
        let gauge = self.metrics.tunnels.with_label_values(&[cluster.as_str()]);
        gauge.set(i64::try_from(live).unwrap_or(i64::MAX));
    }
}

// === impl Refused ===

impl Refused {
    fn label(&self) -> &'static str {
        match self {
            Self::NotEnrolled => "not-enrolled",
            Self::Revoked => "revoked",
            Self::OtherKey => "other-key",
            Self::NotAccepted => "not-accepted",
            Self::State(_) => "state",
            Self::Hello(_) => "hello",
            Self::Surplus => "surplus",
            Self::OtherCluster { .. } => "other-cluster",
        }
    }
}

/// Notices when the agent said goodbye; never returns.
async fn goodbye<T>(tunnel: &Tunnel) -> T {
    while !tunnel.opener.is_closed() {
        tokio::time::sleep(GOODBYE_LOOK).await;
    }
    tunnel.leaving.cancel();
    std::future::pending().await
}

fn end_label(end: &TunnelEnd) -> &'static str {
    match end {
        TunnelEnd::Graceful => "graceful",
        TunnelEnd::PingTimeout => "ping-timeout",
        TunnelEnd::Closed(why) => why,
        TunnelEnd::Broken(_) => "broken",
    }
}

/// HTTP/2 itself, on a new tunnel.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon the last stream under a replaced key is missed.
const UNUSED_LOOK: Duration = Duration::from_millis(200);
/// How soon a goodbye is noticed. Requests notice at once; this is for streams that run.
const GOODBYE_LOOK: Duration = Duration::from_secs(1);
