//! Who may come in at a listener: connections and TLS handshakes, in all and per source. Who is over
//! a limit is closed at once, before a byte is read.

use std::net::SocketAddr;

use prometheus::IntCounterVec;
use tokio::net::TcpStream;

use crate::hub::limits::Limits;
use crate::hub::metrics::Metrics;
use crate::listen::sources::{Full, Slot, Sources};

/// The gates of both listeners.
pub(crate) struct Gates {
    pub(crate) users: Gate,
    pub(crate) agents: Gate,
}

/// The gate of one listener. Clones share the counts.
#[derive(Clone)]
pub(crate) struct Gate {
    connections: Sources,
    handshakes: Sources,
    labels: &'static Labels,
    hits: IntCounterVec,
}

/// A connection that was let in.
pub(crate) struct Arrived {
    pub(crate) socket: TcpStream,
    pub(crate) peer: SocketAddr,
    /// Held as long as the connection is.
    pub(crate) connection: Slot,
    /// Held until TLS is up.
    pub(crate) handshake: Slot,
}

/// Metric labels of one listener's limits.
struct Labels {
    connections: [&'static str; 2],
    handshakes: [&'static str; 2],
}

// === impl Gates ===

impl Gates {
    pub(crate) fn new(limits: &Limits, metrics: &Metrics) -> Self {
        let gate = |in_all, each, labels| Gate {
            connections: Sources::new(in_all, each),
            handshakes: Sources::new(limits.handshakes, limits.handshakes_per_source),
            labels,
            hits: metrics.limit_hits.clone(),
        };
        Self {
            users: gate(limits.connections, limits.connections_per_source, &USERS),
            agents: gate(limits.agent_connections, limits.agent_connections_per_source, &AGENTS),
        }
    }
}

// === impl Gate ===

impl Gate {
    /// Slots for a connection from `peer` and its handshake. None when it is over a limit.
    pub(crate) fn admit(&self, peer: SocketAddr) -> Option<(Slot, Slot)> {
        let connection = self.slot(&self.connections, peer, &self.labels.connections)?;
        let handshake = self.slot(&self.handshakes, peer, &self.labels.handshakes)?;
        Some((connection, handshake))
    }

    fn slot(&self, sources: &Sources, peer: SocketAddr, labels: &[&str; 2]) -> Option<Slot> {
        let full = match sources.take(peer.ip()) {
            Ok(slot) => return Some(slot),
            Err(full) => full,
        };
        let label = match full {
            Full::InAll => labels[0],
            Full::Source => labels[1],
        };
        self.hits.with_label_values(&[label]).inc();
        // Not louder: who floods us must not flood our log.
        tracing::debug!(%peer, limit = label, "a connection over a limit was closed");
        None
    }
}

static USERS: Labels = Labels {
    connections: ["connections", "connections-per-source"],
    handshakes: ["handshakes", "handshakes-per-source"],
};
static AGENTS: Labels = Labels {
    connections: ["agent-connections", "agent-connections-per-source"],
    handshakes: ["agent-handshakes", "agent-handshakes-per-source"],
};
