//! Keeps tunnels up: so many to each address of the hub, replaced before they end where that can be
//! known.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::dial::{self, Target};
use super::metrics::{Metrics, Reconnect};
use super::presence::{Place, Presence};
use super::renewal;
use super::serve::{Link, Service, TunnelHandler};
use crate::drain::Drain;
use crate::pki::credentials::AgentCredentials;
use crate::tunnel::opener::TunnelEnd;
use crate::tunnel::server;
use crate::tunnel::settings::Settings;

/// What every tunnel of an agent is made with.
pub(super) struct Dialer {
    pub(super) hubs: Vec<String>,
    /// To each address.
    pub(super) tunnels: usize,
    pub(super) credentials: AgentCredentials,
    pub(super) settings: Settings,
    pub(super) service: Arc<Service>,
    pub(super) presence: Arc<Presence>,
    pub(super) metrics: Metrics,
    pub(super) drain: Drain,
    /// Counts renewals of the certificate.
    pub(super) renewed: watch::Receiver<u64>,
}

/// A tunnel that the hub greeted. Dropping it lets go of it, not of its streams: those belong to
/// the drain.
struct Tunnel {
    link: Link,
    place: Arc<Place>,
    goodbye: CancellationToken,
    task: JoinHandle<TunnelEnd>,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot connect: {0}")]
    Unreachable(#[from] io::Error),
    #[error("the hub hung up before its hello: {0}")]
    Refused(TunnelEnd),
    #[error("the hub said nothing")]
    Silent,
    /// The replica behind this address has all its tunnels by another address.
    #[error("the replica {0} has its tunnels")]
    Surplus(String),
}

/// Why a living tunnel is looked at again.
enum Event {
    Ended(TunnelEnd),
    Leave,
    Renewed,
    Stop,
}

// === impl Dialer ===

impl Dialer {
    /// Dials until the drain stops, then says goodbye on every tunnel.
    pub(super) async fn run(self: Arc<Self>) {
        let mut slots = JoinSet::new();
        let mut known: HashMap<Target, CancellationToken> = HashMap::new();
        let mut backoff = Backoff::new();
        while !self.drain.is_stopping() {
            let complete = self.discover(&mut known, &mut slots).await;
            let pause = if known.is_empty() || !complete {
                backoff.after_failure()
            } else {
                backoff.reset();
                RESOLVE_INTERVAL
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.drain.stopping() => {}
            }
            while slots.try_join_next().is_some() {}
        }
        while slots.join_next().await.is_some() {}
    }

    /// Looks the hub's names up. New addresses get tunnels; one that is gone is not dialled again.
    /// Returns whether every name was found.
    async fn discover(
        self: &Arc<Self>,
        known: &mut HashMap<Target, CancellationToken>,
        slots: &mut JoinSet<()>,
    ) -> bool {
        let mut found = Vec::new();
        let mut complete = true;
        for hub in &self.hubs {
            match dial::resolve(hub).await {
                Ok(targets) => found.extend(targets),
                Err(error) => {
                    complete = false;
                    tracing::warn!(%error, hub, "the hub's name cannot be resolved");
                }
            }
        }
        if complete {
            known.retain(|target, retire| {
                let stays = found.contains(target);
                if !stays {
                    retire.cancel();
                }
                stays
            });
        }
        for target in found {
            if known.contains_key(&target) {
                continue;
            }
            let retire = CancellationToken::new();
            known.insert(target.clone(), retire.clone());
            for _ in 0..self.tunnels {
                slots.spawn(self.clone().keep(target.clone(), retire.clone()));
            }
        }
        complete
    }

    /// Keeps one tunnel to one address, until that is retired or the drain stops.
    async fn keep(self: Arc<Self>, target: Target, retire: CancellationToken) {
        let mut backoff = Backoff::new();
        let mut old: Option<Tunnel> = None;
        while !self.drain.is_stopping() && !retire.is_cancelled() {
            let established = tokio::select! {
                established = self.establish(&target, old.is_some()) => established,
                () = self.drain.stopping() => break,
                () = retire.cancelled() => break,
            };
            let pause = match established {
                Ok(tunnel) => {
                    if let Some(old) = old.take() {
                        self.retire(old);
                    }
                    let (replaced, pause) = self.attend(tunnel, &mut backoff).await;
                    old = replaced;
                    pause
                }
                // A hub that is unknown by the CA we hold may be known by a newer one.
                Err(Failure::Refused(_) | Failure::Unreachable(_))
                    if renewal::enrolled_anew(&self.credentials).await =>
                {
                    Duration::ZERO
                }
                Err(failure) => self.after(&failure, &target, &mut backoff),
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.drain.stopping() => {}
                () = retire.cancelled() => {}
            }
        }
        if let Some(old) = old {
            old.leave();
        }
    }

    /// Waits until something happens to `tunnel`. Gives it back when it should be replaced before
    /// it is left, and says how long to wait before dialling.
    async fn attend(
        &self,
        mut tunnel: Tunnel,
        backoff: &mut Backoff,
    ) -> (Option<Tunnel>, Duration) {
        let born = Instant::now();
        let event = self.next_event(&mut tunnel).await;
        let steady = born.elapsed() >= STEADY;
        if steady {
            backoff.reset();
        }
        match event {
            Event::Stop => {
                tunnel.leave();
                (None, Duration::ZERO)
            }
            Event::Ended(TunnelEnd::Graceful) => {
                tracing::info!("the hub closed a tunnel");
                self.metrics.reconnect(Reconnect::Closed);
                (None, backoff.after_failure())
            }
            Event::Ended(end) => {
                tracing::warn!(%end, "a tunnel was lost");
                self.metrics.reconnect(Reconnect::Lost);
                (None, backoff.after_failure())
            }
            Event::Leave => {
                tracing::info!("the hub asks us to dial elsewhere");
                self.metrics.reconnect(Reconnect::Leave);
                tunnel.place.give_back();
                (Some(tunnel), backoff.after_failure())
            }
            Event::Renewed => {
                self.metrics.reconnect(Reconnect::Renewed);
                (Some(tunnel), Duration::ZERO)
            }
        }
    }

    async fn next_event(&self, tunnel: &mut Tunnel) -> Event {
        let mut renewed = self.renewed.clone();
        renewed.mark_unchanged();
        tokio::select! {
            biased;
            // First: after this the end is no news.
            () = tunnel.link.leave.cancelled() => Event::Leave,
            end = &mut tunnel.task => Event::Ended(ended(end)),
            Ok(()) = renewed.changed() => Event::Renewed,
            () = self.drain.stopping() => Event::Stop,
        }
    }

    /// Reports a failure, and says how long to wait.
    fn after(&self, failure: &Failure, target: &Target, backoff: &mut Backoff) -> Duration {
        let address = target.address;
        match failure {
            Failure::Unreachable(_) => {
                self.metrics.reconnect(Reconnect::Unreachable);
                tracing::warn!(%address, %failure, "no tunnel to the hub");
                backoff.after_failure()
            }
            Failure::Refused(_) | Failure::Silent => {
                self.metrics.reconnect(Reconnect::Refused);
                tracing::error!(
                    %address,
                    %failure,
                    "no tunnel to the hub; if this goes on, see whether this cluster is enrolled \
                     (`cluster-proxy clusters list` on the hub), and enrol it again if it was \
                     removed or revoked"
                );
                backoff.after_refusal()
            }
            Failure::Surplus(replica) => {
                tracing::debug!(%address, replica, "one address more of a replica that we know");
                SURPLUS_PAUSE
            }
        }
    }

    /// Connects and waits for the hub's hello: TLS 1.3 lets us finish before the hub has judged
    /// our certificate, so nothing less proves that we are welcome.
    async fn establish(&self, target: &Target, replacing: bool) -> Result<Tunnel, Failure> {
        self.valid_certificate().await;
        let tcp = dial::connect(target).await?;
        let handshake = self.credentials.connect(&target.host, tcp);
        let stream = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake)
            .await
            .map_err(io::Error::from)??;
        let mut tunnel = self.serve(stream);
        let mut greeted = tunnel.link.greeted.subscribe();
        let replica = tokio::select! {
            biased;
            Ok(replica) = greeted.wait_for(Option::is_some) => replica.clone().unwrap_or_default(),
            end = &mut tunnel.task => return Err(Failure::Refused(ended(end))),
            () = tokio::time::sleep(HELLO_DEADLINE) => {
                tunnel.leave();
                return Err(Failure::Silent);
            }
        };
        let limit = (!replacing).then_some(self.tunnels);
        if !tunnel.place.take(&replica, limit) {
            tunnel.leave();
            return Err(Failure::Surplus(replica));
        }
        Ok(tunnel)
    }

    fn serve<IO>(&self, io: IO) -> Tunnel
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let link = Link::new();
        let goodbye = CancellationToken::new();
        let place = Arc::new(self.presence.place());
        let handler = TunnelHandler { service: self.service.clone(), link: link.clone() };
        let settings = self.settings.clone();
        let (drain, said, counted) = (self.drain.clone(), goodbye.clone(), place.clone());
        let task = self.drain.spawn(async move {
            let end = tokio::select! {
                end = server::serve(io, &settings, handler, said.cancelled()) => end,
                () = drain.cut() => TunnelEnd::Closed("the agent stopped"),
            };
            counted.give_back();
            end
        });
        Tunnel { link, place, goodbye, task }
    }

    /// Leaves a tunnel whose successor was greeted, a little later: the hub still looks at the
    /// cluster behind the new one, and a goodbye before that would leave it with none.
    fn retire(&self, old: Tunnel) {
        old.place.give_back();
        let Tunnel { goodbye, mut task, .. } = old;
        let drain = self.drain.clone();
        self.drain.spawn(async move {
            tokio::select! {
                _ = &mut task => {}
                () = tokio::time::sleep(OVERLAP) => {}
                () = drain.stopping() => {}
            }
            goodbye.cancel();
        });
    }

    /// Waits for the renewal where the certificate has expired: the hub would hang up, and call it
    /// a refusal.
    async fn valid_certificate(&self) {
        let mut renewed = self.renewed.clone();
        renewed.mark_unchanged();
        while self.credentials.expires() <= SystemTime::now() {
            tracing::info!("the certificate has expired; dialling once it is renewed");
            if renewed.changed().await.is_err() {
                return;
            }
        }
    }
}

// === impl Tunnel ===

impl Tunnel {
    /// Says goodbye: streams that run may finish, and the hub opens no more.
    fn leave(&self) {
        self.place.give_back();
        self.goodbye.cancel();
    }
}

fn ended(joined: Result<TunnelEnd, tokio::task::JoinError>) -> TunnelEnd {
    joined.unwrap_or_else(|error| TunnelEnd::Broken(error.to_string()))
}

/// A new replica is found, and a vanished one forgotten, within this time.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// The hub's first request comes at once; our answer may wait three seconds for an API server.
const HELLO_DEADLINE: Duration = Duration::from_secs(15);
/// The hub gives its look at `kube-system` five seconds between hello and first request.
const OVERLAP: Duration = Duration::from_secs(6);
/// A tunnel that lived so long was no accident: dial again as if for the first time.
const STEADY: Duration = Duration::from_secs(5);
/// Looked at again now and then, because an address may move to another replica.
const SURPLUS_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
