//! Who may come in at a listener: connections and TLS handshakes, in all and per source. Who is over
//! a limit is closed at once, before a byte is read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::hub::limits::{Limit, LimitHits, Limits};
use crate::hub::metrics::Metrics;
use crate::listen::proxy_protocol;
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
    /// Whose connections begin with a PROXY header, and how many may be without one yet.
    proxies: Arc<[IpNet]>,
    headers: Sources,
    header_timeout: Duration,
    limits: &'static GateLimits,
    hits: LimitHits,
}

/// The right to come in, or to say first who is coming.
pub(crate) enum Knock {
    Source(Slot, Slot),
    Proxy(Slot),
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

/// The limits of one listener, in all and per source.
struct GateLimits {
    connections: [Limit; 2],
    handshakes: [Limit; 2],
}

// === impl Gates ===

impl Gates {
    pub(crate) fn new(limits: &Limits, metrics: &Metrics) -> Self {
        let gate = |in_all, each, own| Gate {
            connections: Sources::new(in_all, each),
            handshakes: Sources::new(limits.handshakes, limits.handshakes_per_source),
            proxies: limits.proxies.as_slice().into(),
            headers: Sources::new(limits.handshakes, limits.handshakes),
            header_timeout: limits.handshake_timeout,
            limits: own,
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
    /// The first look at a connection from `peer`. None when it is over a limit.
    pub(crate) fn knock(&self, peer: SocketAddr) -> Option<Knock> {
        let ip = peer.ip().to_canonical();
        if self.proxies.iter().any(|proxy| proxy.contains(&ip)) {
            return Some(Knock::Proxy(self.slot(&self.headers, peer, &self.limits.handshakes)?));
        }
        self.admit(peer).map(|(connection, handshake)| Knock::Source(connection, handshake))
    }

    /// The connection of a `knock`; a balancer's with the peer that it speaks for. None, and said
    /// so, when that one is over a limit or was not named.
    pub(crate) async fn enter(
        &self,
        knock: Knock,
        mut socket: TcpStream,
        peer: SocketAddr,
    ) -> Option<Arrived> {
        let (peer, (connection, handshake)) = match knock {
            Knock::Source(connection, handshake) => (peer, (connection, handshake)),
            Knock::Proxy(_waiting) => {
                let header = timeout(self.header_timeout, proxy_protocol::read(&mut socket));
                let named = match header.await {
                    Ok(Ok(named)) => named.unwrap_or(peer),
                    Ok(Err(error)) => {
                        tracing::debug!(%peer, %error, "a balancer's connection was closed");
                        return None;
                    }
                    Err(_) => {
                        self.hits.hit(Limit::ProxyHeaderTimeout);
                        tracing::debug!(%peer, "a balancer's PROXY header took too long");
                        return None;
                    }
                };
                (named, self.admit(named)?)
            }
        };
        Some(Arrived { socket, peer, connection, handshake })
    }

    /// Slots for a connection from `peer` and its handshake.
    fn admit(&self, peer: SocketAddr) -> Option<(Slot, Slot)> {
        let connection = self.slot(&self.connections, peer, &self.limits.connections)?;
        let handshake = self.slot(&self.handshakes, peer, &self.limits.handshakes)?;
        Some((connection, handshake))
    }

    fn slot(&self, sources: &Sources, peer: SocketAddr, limits: &[Limit; 2]) -> Option<Slot> {
        let full = match sources.take(peer.ip()) {
            Ok(slot) => return Some(slot),
            Err(full) => full,
        };
        let limit = match full {
            Full::InAll => limits[0],
            Full::Each => limits[1],
        };
        self.hits.hit(limit);
        // Not louder: who floods us must not flood our log.
        tracing::debug!(%peer, limit = limit.label(), "a connection over a limit was closed");
        None
    }
}

static USERS: GateLimits = GateLimits {
    connections: [Limit::Connections, Limit::ConnectionsPerSource],
    handshakes: [Limit::Handshakes, Limit::HandshakesPerSource],
};
static AGENTS: GateLimits = GateLimits {
    connections: [Limit::AgentConnections, Limit::AgentConnectionsPerSource],
    handshakes: [Limit::AgentHandshakes, Limit::AgentHandshakesPerSource],
};
