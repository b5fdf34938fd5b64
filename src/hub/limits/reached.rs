//! Which limit turned somebody away or cut them off: a closed set, for the metric.

use prometheus::{IntCounter, IntCounterVec};

/// Declares [`Limit`] with all that must name every variant.
macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)+) => {
        /// A limit of the hub that was reached.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Limit {
            $($(#[$doc])* $name,)+
        }

        impl Limit {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The label `limit` of `cluster_proxy_limit_hits_total`.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }
        }
    };
}

limits! {
    /// Connections of clients, in all.
    Connections = "connections",
    /// Connections of clients, from one source.
    ConnectionsPerSource = "connections-per-source",
    /// TLS handshakes of clients, in all; PROXY headers that are waited for too.
    Handshakes = "handshakes",
    /// TLS handshakes of clients, from one source.
    HandshakesPerSource = "handshakes-per-source",
    /// A client's TLS handshake took too long.
    HandshakeTimeout = "handshake-timeout",
    /// Connections of agents, in all.
    AgentConnections = "agent-connections",
    /// Connections of agents, from one source.
    AgentConnectionsPerSource = "agent-connections-per-source",
    /// TLS handshakes of agents, in all; PROXY headers that are waited for too.
    AgentHandshakes = "agent-handshakes",
    /// TLS handshakes of agents, from one source.
    AgentHandshakesPerSource = "agent-handshakes-per-source",
    /// An agent's TLS handshake took too long.
    AgentHandshakeTimeout = "agent-handshake-timeout",
    /// A balancer's PROXY header took too long, at either listener.
    ProxyHeaderTimeout = "proxy-header-timeout",
    /// The head of a request took too long.
    HeadTimeout = "head-timeout",
    /// Bytes of a head.
    HeaderBytes = "header-bytes",
    /// Headers of a request.
    Headers = "headers",
    /// Bytes of a request's body.
    Body = "body",
    /// Frames of a client that carry nothing.
    Http2Flood = "http2-flood",
    /// Frames of an agent that carry nothing.
    TunnelFlood = "tunnel-flood",
    /// Requests in flight, in all.
    Requests = "requests",
    /// Requests that are judged at once.
    WaitingRequests = "waiting-requests",
    /// Requests whose bodies are not read yet.
    Uploads = "uploads",
    /// Requests of one caller in flight on one cluster.
    RequestsPerCaller = "requests-per-caller",
    /// Requests in flight on one cluster.
    RequestsPerCluster = "requests-per-cluster",
    /// Long-running requests of one caller on one cluster.
    LongRequestsPerCaller = "long-requests-per-caller",
    /// Long-running requests on one cluster.
    LongRequestsPerCluster = "long-requests-per-cluster",
    /// Requests that the tunnels of a cluster carry.
    TunnelStreams = "tunnel-streams",
    /// Tokens that hold streams of one cluster.
    LiveTokens = "live-tokens",
    /// Bytes that clients do not read.
    UnreadBytes = "unread-bytes",
}

/// How often each limit was reached. Clones share the counts.
#[derive(Clone, Debug)]
pub(crate) struct LimitHits(IntCounterVec);

// === impl LimitHits ===

impl LimitHits {
    /// Counts in `counter`, whose one label is the limit. Every series is there from the start: a
    /// rate of the first hit needs the zero before it.
    pub(crate) fn new(counter: IntCounterVec) -> Self {
        let hits = Self(counter);
        for limit in Limit::ALL {
            hits.of(*limit);
        }
        hits
    }

    /// The counter of one limit.
    pub(crate) fn of(&self, limit: Limit) -> IntCounter {
        self.0.with_label_values(&[limit.label()])
    }

    /// `limit` was reached.
    pub(crate) fn hit(&self, limit: Limit) {
        self.of(limit).inc();
    }
}
