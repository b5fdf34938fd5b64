//! Where agents arrive: mutual TLS, identity from the certificate, hello, registration.
//!
//! The certificate alone says whom an agent serves. What it says of itself afterwards is good for
//! its own cluster only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Method, Request};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::flood::FloodGuard;
use super::forward::uri;
use super::front::gate::Arrived;
use super::metrics::Metrics;
use super::probe::probe;
use super::registry::{Registry, Tunnel};
use super::replicas::Replicas;
use super::spokes::{ask, exchange};
use crate::drain::Drain;
use crate::fleet::About;
use crate::name::ClusterName;
use crate::pki::identity::AgentCertificate;
use crate::pki::join::JoinService;
use crate::pki::tls::{Arrival, DockTls, ServerStream};
use crate::state::{Document, Enrolment, State};
use crate::tunnel::headers::{MODE, Mode};
use crate::tunnel::hello::{self, AgentHello, Hello, HubHello, Replicas as Named};
use crate::tunnel::opener::{Opener, TunnelEnd};
use crate::tunnel::settings::Settings;
use crate::tunnel::transport::read_buffered;

/// Everything an arriving connection needs. Clones share it.
#[derive(Clone)]
pub(crate) struct Dock {
    pub(crate) tls: DockTls,
    pub(crate) join: JoinService,
    pub(crate) state: State,
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
    pub(crate) settings: Settings,
    pub(crate) drain: Drain,
    /// How long TLS may take.
    pub(crate) handshake_timeout: Duration,
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
        let socket = read_buffered(socket);
        let accepted = timeout(self.handshake_timeout, self.tls.accept(socket)).await;
        drop(handshake);
        match accepted {
            Ok(Ok(Arrival::Join(stream))) => self.join.serve(stream, peer).await,
            Ok(Ok(Arrival::Tunnel { stream, certificate })) => {
                self.tunnel(stream, certificate, peer).await;
            }
            Ok(Err(error)) => {
                self.metrics.dock_refusals.with_label_values(&["tls"]).inc();
                tracing::info!(%peer, %error, "an agent's TLS handshake failed");
            }
            Err(_) => {
                self.metrics.dock_refusals.with_label_values(&["tls"]).inc();
                tracing::info!(%peer, "an agent's TLS handshake took too long");
            }
        }
    }

    async fn tunnel(
        &self,
        stream: ServerStream<BufReader<TcpStream>>,
        certificate: AgentCertificate,
        peer: SocketAddr,
    ) {
        let cluster = certificate.cluster.clone();
        let refuse = |refused: &Refused| {
            self.metrics.dock_refusals.with_label_values(&[refused.label()]).inc();
            tracing::warn!(%cluster, %peer, reason = %refused, "an agent was turned away");
        };
        // Before HTTP/2: a stolen or removed key gets nothing to talk to.
        let enrolment = match self.check(&certificate).await {
            Ok(enrolment) => enrolment,
            Err(refused) => return refuse(&refused),
        };
        let stream = FloodGuard::of_server(stream, self.metrics.flood_hits("tunnel-flood"));
        let established = timeout(HELLO_TIMEOUT, Opener::handshake(stream, &self.settings)).await;
        let (opener, driver) = match established {
            Ok(Ok(established)) => established,
            Ok(Err(error)) => return refuse(&Refused::Hello(error.to_string())),
            Err(_) => return refuse(&Refused::Hello("no HTTP/2 in time".to_owned())),
        };
        let mut driver = self.drain.spawn(driver);
        match self.register(&opener, certificate, enrolment).await {
            Ok(tunnel) => {
                tracing::info!(%cluster, %peer, tunnel = tunnel.id, agent = tunnel.agent, "tunnel up");
                // Fresh news for whoever waits for this cluster; the driver must run meanwhile.
                self.probe(&cluster);
                let ended = tokio::select! {
                    ended = &mut driver => ended,
                    () = goodbye(opener.clone()) => {
                        tunnel.leaving.cancel();
                        driver.await
                    }
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
            leaving: CancellationToken::new(),
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
            self.registry.sync(&all.map_err(|error| Refused::State(error.to_string()))?);
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

    async fn hello(
        &self,
        opener: &Opener,
        cluster: &ClusterName,
        living: &[String],
    ) -> Result<AgentHello, Refused> {
        let ours = HubHello {
            version: hello::VERSION,
            replica: self.replicas.id().to_owned(),
            replicas: shown(living),
            hub_version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: cluster.to_string(),
        };
        let ours = ours.encode().map_err(|error| Refused::Hello(error.to_string()))?;
        let request = control(hello::PATH, ours);
        let answer = exchange(opener, request, hello::LIMIT, HELLO_TIMEOUT).await;
        let answer = answer.map_err(|error| Refused::Hello(error.to_string()))?;
        if answer.status() == hello::SURPLUS {
            return Err(Refused::Surplus);
        }
        if !answer.status().is_success() {
            return Err(Refused::Hello(format!("the agent answered {}", answer.status())));
        }
        let theirs = AgentHello::decode(answer.body())
            .and_then(|theirs| hello::negotiate(theirs.version).map(|_| theirs))
            .map_err(|error| Refused::Hello(error.to_string()))?;
        // Its SETTINGS have come by now: without extended CONNECT there would be no exec.
        if !opener.takes_upgrades() {
            return Err(Refused::Hello("the agent takes no upgrades".to_owned()));
        }
        Ok(theirs)
    }

    /// Holds the spoke to the cluster that was enrolled: `kube-system` lives as long as its cluster
    /// does, so its uid names it. A spoke that does not let us read it is served, with a warning.
    async fn pin(
        &self,
        opener: &Opener,
        cluster: &ClusterName,
        enrolment: &Enrolment,
    ) -> Result<(), Refused> {
        let answer =
            ask(opener, Method::GET, KUBE_SYSTEM, None, NAMESPACE_LIMIT, PIN_TIMEOUT).await;
        let seen = match answer {
            Ok((code, body)) if code.is_success() => uid(&body),
            Ok((code, _)) => {
                tracing::warn!(%cluster, %code, "the agent may not read namespace kube-system: the cluster's identity is unchecked");
                return Ok(());
            }
            Err(error) => {
                tracing::warn!(%cluster, %error, "the cluster's identity could not be checked");
                return Ok(());
            }
        };
        match (seen, &enrolment.cluster_uid) {
            (None, _) => Ok(()),
            (Some(seen), Some(pinned)) if seen == *pinned => Ok(()),
            (Some(seen), Some(pinned)) => {
                Err(Refused::OtherCluster { seen, pinned: pinned.clone() })
            }
            (Some(seen), None) => {
                let document = Document::Enrolment(cluster.clone());
                let stored =
                    self.state.update(
                        &document,
                        |enrolment: &mut Option<Enrolment>| match enrolment {
                            Some(enrolment) => {
                                enrolment.cluster_uid.get_or_insert_with(|| seen.clone());
                                Ok(())
                            }
                            None => Err(()),
                        },
                    );
                stored.await.map_err(|error| Refused::State(error.to_string()))
            }
        }
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
            Self::State(_) => "state",
            Self::Hello(_) => "hello",
            Self::Surplus => "surplus",
            Self::OtherCluster { .. } => "other-cluster",
        }
    }
}

/// Tells the agent of one tunnel to dial elsewhere, because this hub leaves.
pub(crate) async fn leave(tunnel: &Tunnel) {
    let request = control(hello::LEAVE_PATH, Bytes::new());
    if let Err(error) = exchange(&tunnel.opener, request, hello::LIMIT, TELL_TIMEOUT).await {
        tracing::debug!(cluster = %tunnel.certificate.cluster, %error, "the agent was not told to move on");
    }
}

/// Tells the agent of one tunnel which hubs live now.
pub(crate) async fn tell(tunnel: &Tunnel, living: Vec<String>) {
    let cluster = &tunnel.certificate.cluster;
    let named = Named { replicas: shown(&living) };
    let body = match named.encode() {
        Ok(body) => body,
        Err(error) => return tracing::error!(%error, "the living hubs cannot be named"),
    };
    let request = control(hello::REPLICAS_PATH, body);
    if let Err(error) = exchange(&tunnel.opener, request, hello::LIMIT, TELL_TIMEOUT).await {
        tracing::debug!(%cluster, %error, "the agent was not told of the other hubs");
    }
}

/// As many as a hello holds: an agent that reaches so many has no outage to fear.
fn shown(living: &[String]) -> Vec<String> {
    living.iter().take(hello::MOST_REPLICAS).cloned().collect()
}

fn control(path: &'static str, body: Bytes) -> Request<Bytes> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri(PathAndQuery::from_static(path));
    request.headers_mut().insert(MODE, Mode::Tunnel.into());
    request
}

/// Ready once the agent said goodbye.
async fn goodbye(opener: Opener) {
    while !opener.is_closed() {
        tokio::time::sleep(GOODBYE_LOOK).await;
    }
}

fn uid(namespace: &[u8]) -> Option<String> {
    let namespace: serde_json::Value = serde_json::from_slice(namespace).ok()?;
    let uid = namespace.get("metadata")?.get("uid")?.as_str()?;
    (uid.len() <= LONGEST_UID).then(|| uid.to_owned())
}

fn end_label(end: &TunnelEnd) -> &'static str {
    match end {
        TunnelEnd::Graceful => "graceful",
        TunnelEnd::PingTimeout => "ping-timeout",
        TunnelEnd::Closed(why) => why,
        TunnelEnd::Broken(_) => "broken",
    }
}

/// The first exchange on a new tunnel.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Reading one namespace.
const PIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Telling an agent something that it answers at once.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);
/// How soon a goodbye is noticed. Requests notice at once; this is for streams that run.
const GOODBYE_LOOK: Duration = Duration::from_secs(1);
const KUBE_SYSTEM: &str = "/api/v1/namespaces/kube-system";
/// A namespace with generous annotations.
const NAMESPACE_LIMIT: usize = 256 * 1024;
/// A Kubernetes uid is a UUID.
const LONGEST_UID: usize = 64;
