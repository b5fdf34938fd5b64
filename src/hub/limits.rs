//! How much the hub takes on: every limit with its default and the reason for it. Each is a flag.

use std::time::Duration;

/// The limits of one hub process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections of clients, in all.
    pub connections: usize,
    /// Open connections of clients from one source: an IPv4 address, or a /64 of IPv6.
    pub connections_per_source: usize,
    /// Open connections of agents, in all.
    pub agent_connections: usize,
    /// Open connections of agents from one source.
    pub agent_connections_per_source: usize,
    /// TLS handshakes under way at each listener, in all.
    pub handshakes: usize,
    /// TLS handshakes under way at each listener from one source.
    pub handshakes_per_source: usize,
    /// From the first byte we wait for to the end of a TLS handshake, either listener.
    pub handshake_timeout: Duration,
    /// Headers of one request.
    pub header_count: usize,
    /// Bytes of one request's head, target included, HTTP/1.1 and decoded HTTP/2 alike.
    pub header_bytes: u32,
    /// From the first byte of a head to its end.
    pub head_timeout: Duration,
    /// How long a connection may be kept without a request.
    pub idle_timeout: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub streams_per_connection: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Each costs some tens of KiB.
            connections: 20_000,
            // A company behind one address; a load balancer needs more.
            connections_per_source: 2_000,
            // Two for each of several thousand clusters, twice during a renewal.
            agent_connections: 20_000,
            // A site of a thousand clusters behind one address.
            agent_connections_per_source: 4_000,
            // One costs a millisecond of a core and some tens of KiB: a second's work of two cores.
            handshakes: 2_000,
            // A restarted site comes back in a few rounds, and leaves room for others.
            handshakes_per_source: 500,
            // Two or three round trips, from anywhere on Earth.
            handshake_timeout: Duration::from_secs(5),
            // Impersonating a user in many groups takes one each.
            header_count: 256,
            // Several tokens of the largest size that an API server takes.
            header_bytes: 64 * 1024,
            // Heads leave a client in one piece; what takes longer is no client.
            head_timeout: Duration::from_secs(10),
            // Longer than client-go keeps one (90 s), so that the client closes first.
            idle_timeout: Duration::from_secs(180),
            // client-go opens one per watch, and a controller has hundreds.
            streams_per_connection: 250,
        }
    }
}
