//! Keeping a tunnel: dialled again when it is lost, replaced before it is left.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::tunnel::{Failure, Tunnel, ended};
use super::{Dialer, Hub};
use crate::agent::backoff::Backoff;
use crate::agent::metrics::Reconnect;
use crate::agent::renewal;
use crate::egress::Target;
use crate::tunnel::opener::TunnelEnd;

/// Why a living tunnel is looked at again.
enum Event {
    Ended(TunnelEnd),
    Leave,
    Renewed,
    Stop,
}

// === impl Dialer ===

impl Dialer {
    /// Keeps one tunnel to one address, until that is retired or the drain stops.
    pub(super) async fn keep(
        self: Arc<Self>,
        hub: Arc<Hub>,
        target: Target,
        retire: CancellationToken,
    ) {
        let mut backoff = Backoff::new();
        while !self.drain.is_stopping() && !retire.is_cancelled() {
            let established = tokio::select! {
                established = self.establish(&hub, &target, None) => established,
                () = self.drain.stopping() => return,
                () = retire.cancelled() => return,
            };
            let pause = match established {
                Ok(tunnel) => {
                    let born = Instant::now();
                    self.hold(&hub, &target, tunnel).await;
                    if born.elapsed() >= STEADY {
                        backoff.reset();
                    }
                    backoff.after_failure()
                }
                // A hub that is unknown by the CA we hold may be known by a newer one.
                Err(
                    Failure::Refused(_) | Failure::Unreachable(_) | Failure::UnknownAuthority(_),
                ) if renewal::enrolled_anew(&self.credentials).await => Duration::ZERO,
                Err(failure) => self.after(&failure, &target, &mut backoff),
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.drain.stopping() => {}
                () = retire.cancelled() => {}
            }
        }
    }

    /// Stays with a tunnel, and with the one that replaces it, until it is over.
    pub(super) async fn hold(&self, hub: &Hub, target: &Target, mut tunnel: Tunnel) {
        loop {
            match self.next_event(hub, &mut tunnel).await {
                Event::Stop => return tunnel.leave(),
                Event::Ended(TunnelEnd::Graceful) => {
                    tracing::info!("the hub closed a tunnel");
                    return self.metrics.reconnect(Reconnect::Closed);
                }
                Event::Ended(end) => {
                    tracing::warn!(%end, "a tunnel was lost");
                    return self.metrics.reconnect(Reconnect::after(&end));
                }
                Event::Leave => {
                    tracing::info!(replica = tunnel.replica, "the hub asks us to dial elsewhere");
                    self.metrics.reconnect(Reconnect::Leave);
                    hub.coverage.left(&tunnel.replica);
                    return self.entrust(tunnel);
                }
                Event::Renewed => {
                    self.metrics.reconnect(Reconnect::Renewed);
                    self.replace(hub, target, &mut tunnel).await;
                }
            }
        }
    }

    /// Puts a tunnel with the renewed certificate in the place of `tunnel`, unless something happens
    /// to that first.
    async fn replace(&self, hub: &Hub, target: &Target, tunnel: &mut Tunnel) {
        let mut backoff = Backoff::new();
        while !self.drain.is_stopping()
            && !tunnel.link.leave.is_cancelled()
            && !tunnel.task.is_finished()
        {
            let established = tokio::select! {
                established = self.establish(hub, target, Some(tunnel)) => established,
                () = self.drain.stopping() => return,
            };
            let pause = match established {
                Ok(new) => return self.retire(std::mem::replace(tunnel, new)),
                // Behind a balancer the next attempt may reach the right replica.
                Err(Failure::Surplus(_)) => backoff.after_failure(),
                Err(failure) => self.after(&failure, target, &mut backoff),
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.drain.stopping() => {}
            }
        }
    }

    async fn next_event(&self, hub: &Hub, tunnel: &mut Tunnel) -> Event {
        let mut greeting = tunnel.link.greeting.subscribe();
        greeting.mark_changed();
        loop {
            tokio::select! {
                biased;
                // First: after this the end is no news.
                () = tunnel.link.leave.cancelled() => return Event::Leave,
                end = &mut tunnel.task => return Event::Ended(ended(end)),
                Ok(()) = greeting.changed() => {
                    if let Some(said) = greeting.borrow_and_update().clone() {
                        hub.coverage.heard(&said.replica, said.living);
                    }
                }
                Ok(()) = tunnel.renewed.changed() => return Event::Renewed,
                () = self.drain.stopping() => return Event::Stop,
            }
        }
    }

    /// Reports a failure, and says how long to wait.
    pub(super) fn after(
        &self,
        failure: &Failure,
        target: &Target,
        backoff: &mut Backoff,
    ) -> Duration {
        let address = target.to_string();
        match failure {
            Failure::Unreachable(_) | Failure::NoTls(_) | Failure::Slow => {
                self.metrics.reconnect(Reconnect::Unreachable);
                tracing::warn!(address, %failure, "no tunnel to the hub");
                backoff.after_failure()
            }
            Failure::UnknownAuthority(_) => {
                self.metrics.reconnect(Reconnect::UnknownAuthority);
                tracing::error!(address, %failure, "no tunnel to the hub");
                backoff.after_refusal()
            }
            Failure::Refused(_) | Failure::Silent => {
                self.metrics.reconnect(Reconnect::Refused);
                tracing::error!(
                    address,
                    %failure,
                    "no tunnel to the hub; if this goes on, see whether this cluster is enrolled \
                     (`cluster-proxy clusters list` on the hub), enrol it again if it was removed or \
                     revoked, and have it accepted where Open Cluster Management decides that; the \
                     hub's log says why it is turned away"
                );
                backoff.after_refusal()
            }
            Failure::Surplus(replica) => {
                tracing::debug!(address, replica, "one address more of a replica that we know");
                SURPLUS_PAUSE
            }
        }
    }
}

/// A tunnel that lived so long was no accident: dial again as if for the first time.
const STEADY: Duration = Duration::from_secs(5);
/// Looked at again now and then, because an address may move to another replica.
const SURPLUS_PAUSE: Duration = Duration::from_secs(60);
