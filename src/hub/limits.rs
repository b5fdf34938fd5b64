//! How much the hub takes on: every limit with its default and the reason for it. Each is a flag.

use std::time::Duration;

/// The limits of one hub process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections of clients, in all.
    pub connections: usize,
    /// Open connections of agents, in all.
    pub agent_connections: usize,
    /// From the first byte we wait for to the end of a TLS handshake, either listener.
    pub handshake_timeout: Duration,
    /// Headers of one request.
    pub header_count: usize,
    /// Bytes of one request's head, target included, HTTP/1.1 and decoded HTTP/2 alike.
    pub header_bytes: u32,
    /// Requests at once on one HTTP/2 connection.
    pub streams_per_connection: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Each costs some tens of KiB.
            connections: 20_000,
            // Two for each of several thousand clusters, twice during a renewal.
            agent_connections: 20_000,
            // Two or three round trips, from anywhere on Earth.
            handshake_timeout: Duration::from_secs(5),
            // Impersonating a user in many groups takes one each.
            header_count: 256,
            // Several tokens of the largest size that an API server takes.
            header_bytes: 64 * 1024,
            // client-go opens one per watch, and a controller has hundreds.
            streams_per_connection: 250,
        }
    }
}
