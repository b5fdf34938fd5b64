//! The budget of bytes that came through tunnels and that clients do not read.
//!
//! Flow control bounds what one stream holds, and no stream is cut for being slow; but many slow
//! ones together could hold more memory than there is. Past the budget the one whose client has not
//! taken anything for the longest time is reset, and so on until the rest fits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use prometheus::{IntCounter, IntGauge};
use tokio::time::{Instant, MissedTickBehavior};

use super::limits::Limit;
use super::metrics::Metrics;
use crate::name::ClusterName;
use crate::tunnel::pump::{ReceiveBody, Unread};

/// Counts what bodies hold. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct UnreadBudget {
    most: usize,
    /// What one body holds at most.
    window: usize,
    bodies: Arc<Mutex<Vec<Watched>>>,
    held: IntGauge,
    resets: IntCounter,
}

#[derive(Debug)]
struct Watched {
    body: Unread,
    cluster: ClusterName,
    request_id: HeaderValue,
}

// === impl UnreadBudget ===

impl UnreadBudget {
    /// At most `most` bytes in all, of bodies that hold at most `window` each.
    pub(crate) fn new(most: u64, window: u32, metrics: &Metrics) -> Self {
        Self {
            most: usize::try_from(most).unwrap_or(usize::MAX),
            window: window as usize,
            bodies: Arc::default(),
            held: metrics.unread_bytes.clone(),
            resets: metrics.limit_hits.of(Limit::UnreadBytes),
        }
    }

    /// Counts `body` from now on.
    pub(crate) fn watch(
        &self,
        body: &ReceiveBody,
        cluster: &ClusterName,
        request_id: &HeaderValue,
    ) {
        let (cluster, request_id) = (cluster.clone(), request_id.clone());
        self.lock().push(Watched { body: body.unread(), cluster, request_id });
    }

    /// Looks again and again, for ever.
    pub(crate) async fn run(self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.enforce();
        }
    }

    fn enforce(&self) {
        let mut bodies = self.lock();
        bodies.retain(|watched| watched.body.is_alive());
        // So few cannot hold too much: nothing to measure.
        if bodies.len().saturating_mul(self.window) <= self.most {
            self.held.set(0);
            return;
        }
        let mut stalled: Vec<(Instant, usize, &Watched)> = Vec::new();
        for watched in bodies.iter() {
            if let Some((bytes @ 1.., asked)) = watched.body.measure() {
                stalled.push((asked, bytes, watched));
            }
        }
        let mut held: usize = stalled.iter().map(|(_, bytes, _)| bytes).sum();
        if held > self.most {
            stalled.sort_unstable_by_key(|(asked, ..)| *asked);
            for (asked, bytes, watched) in stalled {
                if held <= self.most {
                    break;
                }
                watched.body.cut();
                held -= bytes;
                self.resets.inc();
                tracing::warn!(
                    cluster = %watched.cluster,
                    request_id = watched.request_id.to_str().unwrap_or_default(),
                    bytes,
                    stalled_ms = asked.elapsed().as_millis(),
                    "a stream was reset: its client does not read, and --max-unread-bytes is used up"
                );
            }
        }
        self.held.set(i64::try_from(held).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Watched>> {
        // A panic under it can only have left a body uncounted.
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the budget may be exceeded. A look costs a lock per stream, and nothing at all while the
/// streams are too few to matter.
const INTERVAL: Duration = Duration::from_millis(250);
