//! The bytes of one request, both ways, counted as they pass: a session of hours shows in the
//! metrics while it lasts, and one that is cut off has carried what it has carried.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::IntCounter;

use super::metrics::Metrics;
use super::verb::Span;
use crate::name::ClusterName;
use crate::tunnel::pump::Meter;

/// What one request has carried so far.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
    /// Of the request's cluster and kind, once the caller was let in.
    counters: OnceLock<Counters>,
}

#[derive(Debug)]
struct Counters {
    received: IntCounter,
    sent: IntCounter,
}

// === impl Traffic ===

impl Traffic {
    /// From here on it counts for a cluster. Nothing passes before that.
    pub(crate) fn admitted(&self, metrics: &Metrics, cluster: &ClusterName, span: Span) {
        let counter = |direction| {
            metrics.bytes.with_label_values(&[cluster.as_str(), span.label(), direction])
        };
        self.counters.get_or_init(|| Counters {
            received: counter("from-client"),
            sent: counter("to-client"),
        });
    }

    /// Counts bytes from the client.
    pub(crate) fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        if let Some(counters) = self.counters.get() {
            counters.received.inc_by(bytes);
        }
    }

    /// Counts bytes to the client.
    pub(crate) fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        if let Some(counters) = self.counters.get() {
            counters.sent.inc_by(bytes);
        }
    }

    /// Bytes from the client.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes to the client.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// On an upgraded connection: what goes into the stream comes from the client.
impl Meter for Traffic {
    fn sent(&self, bytes: u64) {
        self.add_received(bytes);
    }

    fn received(&self, bytes: u64) {
        self.add_sent(bytes);
    }
}
