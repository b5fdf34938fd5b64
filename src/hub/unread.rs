//! The budget of bytes that came through tunnels and that clients do not read.
//!
//! Flow control bounds what one stream holds, wherever in the hub its bytes wait, and no stream is
//! cut for being slow; but many slow ones together could hold more memory than there is. Past the
//! budget the one whose client has not taken anything for the longest time is reset, and so on until
//! the rest fits. Where HTTP still holds bytes of a stream that is over, its connection is closed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use prometheus::{IntCounter, IntGauge};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::limits::Limit;
use super::metrics::Metrics;
use super::record::Record;
use crate::name::ClusterName;
use crate::tunnel::pump::{Held, ReceiveBody, Unread};

/// Counts what bodies hold. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct UnreadBudget {
    most: usize,
    bodies: Arc<Mutex<Vec<Watched>>>,
    arrivals: Arc<Arrivals>,
    held: IntGauge,
    resets: IntCounter,
}

/// What came through tunnels since the last look.
#[derive(Debug)]
struct Arrivals {
    bytes: AtomicUsize,
    /// So many are worth a look before its time.
    step: usize,
    look: Notify,
}

#[derive(Debug)]
struct Watched {
    body: Unread,
    cluster: ClusterName,
    request_id: HeaderValue,
    left: Left,
    /// Closes the client's connection.
    connection: Option<CancellationToken>,
}

/// What the last look beyond the budget saw of a stream after its end; nothing before.
#[derive(Debug, Default)]
struct Left(Option<usize>);

// === impl UnreadBudget ===

impl UnreadBudget {
    /// At most `most` bytes in all.
    pub(crate) fn new(most: u64, metrics: &Metrics) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let step = most / LOOKS_PER_BUDGET;
        let arrivals = Arrivals { bytes: AtomicUsize::new(0), step, look: Notify::new() };
        Self {
            most,
            bodies: Arc::default(),
            arrivals: Arc::new(arrivals),
            held: metrics.unread_bytes.clone(),
            resets: metrics.limit_hits.of(Limit::UnreadBytes),
        }
    }

    /// Counts `body` of the request `record` from now on.
    pub(crate) fn watch(&self, body: &ReceiveBody, cluster: &ClusterName, record: &Record) {
        let watched = Watched {
            body: body.unread(),
            cluster: cluster.clone(),
            request_id: record.request_id.clone(),
            left: Left::default(),
            connection: record.cutter(),
        };
        self.lock().push(watched);
    }

    /// So many bytes came through a tunnel.
    pub(crate) fn arrived(&self, bytes: usize) {
        let since = self.arrivals.bytes.fetch_add(bytes, Ordering::Relaxed);
        if since <= self.arrivals.step && since + bytes > self.arrivals.step {
            self.arrivals.look.notify_one();
        }
    }

    /// Looks again and again, for ever.
    pub(crate) async fn run(self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.arrivals.look.notified() => {}
            }
            self.arrivals.bytes.store(0, Ordering::Relaxed);
            self.enforce();
        }
    }

    fn enforce(&self) {
        let mut bodies = self.lock();
        bodies.retain(|watched| watched.body.is_alive());
        let look = |watched: &Watched| watched.body.look().filter(|held| held.bytes > 0);
        let seen = bodies.iter_mut().filter_map(|watched| Some((look(watched)?, watched)));
        let mut stalled: Vec<(Held, &mut Watched)> = seen.collect();
        let mut held: usize = stalled.iter().map(|(one, _)| one.bytes).sum();
        if held > self.most {
            stalled.sort_unstable_by_key(|(one, _)| one.asked);
            for (one, watched) in stalled {
                if held <= self.most {
                    break;
                }
                // What HTTP holds on of the stream, the next look sees.
                held -= one.bytes;
                if !watched.left.drains(&one) {
                    watched.cut(&one);
                    self.resets.inc();
                }
            }
        }
        self.held.set(i64::try_from(held).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Watched>> {
        // A panic under it can only have left a body uncounted.
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Watched ===

impl Watched {
    /// Resets the stream; the connection, where that was done or the stream is over.
    fn cut(&self, held: &Held) {
        let what = if held.over { "connection" } else { "stream" };
        if !held.over {
            self.body.cut();
        } else if let Some(connection) = &self.connection {
            connection.cancel();
        }
        tracing::warn!(
            cluster = %self.cluster,
            request_id = self.request_id.to_str().unwrap_or_default(),
            bytes = held.bytes,
            stalled_ms = held.asked.elapsed().as_millis(),
            "a {what} was cut: its client does not read, and --max-unread-bytes is used up"
        );
    }
}

// === impl Left ===

impl Left {
    /// Whether the stream is over, and its client takes what is left: half of it from one look to
    /// the next, so that memory is not held for long.
    fn drains(&mut self, held: &Held) -> bool {
        held.over && self.0.replace(held.bytes).is_none_or(|before| held.bytes <= before / 2)
    }
}

/// How long the budget may be exceeded at most. A look costs a lock per stream.
const INTERVAL: Duration = Duration::from_millis(250);
/// A look is due once this part of the budget came through tunnels: by so much it may be exceeded.
pub(super) const LOOKS_PER_BUDGET: usize = 16;

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn a_connection_is_spared_for_as_long_as_what_is_left_halves() {
        let mut left = Left::default();
        let mut drains = |bytes, over| left.drains(&Held { bytes, asked: Instant::now(), over });
        assert!(!drains(1_000, false), "a stream that runs is cut");
        assert!(drains(1_000, true), "it was cut a moment ago");
        assert!(drains(500, true));
        assert!(drains(250, true));
        assert!(!drains(126, true), "too slow");
        assert!(drains(63, true));
        assert!(!drains(63, true), "nobody takes it");
    }
}
