//! The end of a hub, in an order in which nobody loses anything: readiness, agents, listener,
//! watches, streams, tunnels.
//!
//! | from | what |
//! |---|---|
//! | the signal | `/readyz` says 503, agents are told to dial elsewhere, HTTP/1.1 answers close their connection; everything is served |
//! | `min_drain` | the user listener closes, idle connections close, HTTP/2 says GOAWAY, watches end cleanly |
//! | `drain_timeout` | what still runs is cut |

use std::time::Duration;

use tokio::time::Instant;

use super::dock;
use super::metrics::{Metrics, OpenStreams};
use super::registry::Registry;
use super::replicas::Replicas;
use crate::drain::Drain;

/// What a hub ends.
pub(super) struct Shutdown {
    pub(super) registry: Registry,
    pub(super) replicas: Replicas,
    pub(super) metrics: Metrics,
    /// Connections of users and what goes on for them.
    pub(super) clients: Drain,
    /// Connections of agents.
    pub(super) tunnels: Drain,
    pub(super) min_drain: Duration,
    pub(super) drain_timeout: Duration,
}

// === impl Shutdown ===

impl Shutdown {
    /// Waits until `drain` is asked to stop, then ends everything. Ends at once when it is cut.
    pub(super) async fn run(self, drain: Drain) {
        drain.stopping().await;
        let waited_for = tokio::select! {
            () = self.wait() => None,
            () = drain.cut() => Some(self.metrics.open_streams()),
        };
        if let Some(cut) = waited_for {
            self.cut(cut).await;
        }
        for tunnel in self.registry.tunnels() {
            tunnel.opener.close("hub-stopped");
        }
        self.tunnels.finish(TUNNELS_CLOSE).await;
    }

    async fn wait(&self) {
        let end = Instant::now() + self.drain_timeout;
        self.replicas.leave();
        self.registry.drain();
        self.report("draining: not ready any more, serving on until balancers have noticed");
        for tunnel in self.registry.tunnels() {
            // Told alongside: a dead agent must not hold the drain.
            self.tunnels.spawn(async move { dock::leave(&tunnel).await });
        }
        tokio::time::sleep(self.min_drain).await;
        self.report("draining: closing idle connections, ending watches, waiting for the rest");
        if !self.clients.settle(end.saturating_duration_since(Instant::now())).await {
            self.cut(self.metrics.open_streams()).await;
        }
    }

    async fn cut(&self, open: OpenStreams) {
        if open != OpenStreams::default() {
            tracing::warn!(
                requests = open.requests,
                watches = open.watches,
                followed_logs = open.followed,
                sessions = open.interactive,
                "drained: cutting what still runs"
            );
        }
        self.clients.finish(Duration::ZERO).await;
    }

    fn report(&self, what: &'static str) {
        let open = self.metrics.open_streams();
        tracing::info!(
            requests = open.requests,
            watches = open.watches,
            followed_logs = open.followed,
            sessions = open.interactive,
            "{what}"
        );
    }
}

/// Tunnels have nothing left to carry when they are closed.
const TUNNELS_CLOSE: Duration = Duration::from_secs(2);
