//! How much the hub takes on: every limit with its default and the reason for it. Each is a flag.

mod reached;

use std::time::Duration;

use ipnet::IpNet;

pub use reached::Limit;
pub(crate) use reached::LimitHits;

use crate::listen::pages;

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
    /// Requests of one caller that one cluster has in flight.
    pub requests_per_caller: usize,
    /// Requests that one cluster has in flight.
    pub requests_per_cluster: usize,
    /// The same for requests that may stay open for ever: watches, followed logs, sessions,
    /// services.
    pub long_requests_per_caller: usize,
    /// The same, of one cluster.
    pub long_requests_per_cluster: usize,
    /// Tokens that hold streams of one cluster. Each is supervised, so that its streams can be ended.
    pub live_tokens_per_cluster: usize,
    /// Bytes of one request's body; no limit by default, because bodies stream.
    pub max_body: Option<u64>,
    /// Bytes that came through tunnels and that clients do not read, in all.
    pub unread_bytes: u64,
    /// Requests in flight in all.
    pub requests: usize,
    /// Requests at once whose bodies are not read to their end.
    pub uploads: usize,
    /// Whose connections begin with a header of the PROXY protocol, at both listeners.
    pub proxies: Vec<IpNet>,
}

impl Limits {
    /// Requests that are judged at once: a part of all, because it takes milliseconds.
    pub(crate) const fn waiting_requests(&self) -> usize {
        self.requests.div_ceil(8)
    }

    /// Of those, the ones whose tokens nobody is known to have signed: they take longest, and are
    /// free to make.
    pub(crate) const fn waiting_strangers(&self) -> usize {
        self.waiting_requests().div_ceil(2)
    }

    /// With connections that fit into `descriptors` open files. Every connection is one; what
    /// `workers` threads, listeners, files and the probes of operators need is left out.
    pub fn within(mut self, descriptors: u64, workers: usize) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let own = OWN_DESCRIPTORS + WORKER_DESCRIPTORS * workers;
        // At a limit this low nothing works well; something should.
        let free = descriptors.saturating_sub(own).max(2);
        self.agent_connections = self.agent_connections.min(free / 2);
        self.connections = self.connections.min(free - self.agent_connections);
        self
    }
}

/// Listeners, files of state, certificates and logs, the hub's API server, with some to spare, and the
/// connections of both admin listeners.
const OWN_DESCRIPTORS: usize = 32 + 2 * pages::CONNECTIONS;
/// Of one runtime: its poll, its waker, its signals.
const WORKER_DESCRIPTORS: usize = 6;

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
            // client-go opens one per watch, and another connection when these are taken.
            streams_per_connection: 250,
            // An API server itself works on 600 at once (priority and fairness): half for one.
            requests_per_caller: 400,
            // Below the 1,024 that one tunnel carries: the rest is for the hub's own requests and
            // for second attempts.
            requests_per_cluster: 800,
            // A controller with a watch per namespace of a large cluster.
            long_requests_per_caller: 4_000,
            // Below the 8,192 that one tunnel carries.
            long_requests_per_cluster: 8_000,
            // 8 MiB at the usual 2 KiB each; few clusters have so many accounts that hold streams.
            live_tokens_per_cluster: 4_096,
            max_body: None,
            // A thousand streams whose clients stopped, each with its full window.
            unread_bytes: 256 << 20,
            // Ten thousand watches, twice. Each may wait with a full buffer of its own.
            requests: 20_000,
            // Each may wait with a full window of its own, and bodies are short but for `kubectl cp`.
            uploads: 2_000,
            // Anybody could write one.
            proxies: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_into_the_descriptors() {
        let fitted = |descriptors| {
            let limits = Limits::default().within(descriptors, 2);
            (limits.connections, limits.agent_connections)
        };
        assert_eq!(fitted(1 << 20), (20_000, 20_000));
        assert_eq!(fitted(256), (58, 58));
        assert_eq!(fitted(10), (1, 1));
        for descriptors in [200, 1_024, 30_000, 65_536] {
            let (users, agents) = fitted(descriptors);
            let all = users + agents + 2 * pages::CONNECTIONS + 32 + 12;
            assert!(all as u64 <= descriptors, "{descriptors}");
        }
    }

    /// The hub's own requests find room on a tunnel whatever callers do.
    #[test]
    fn callers_leave_room_on_one_tunnel() {
        let (limits, tunnel) = (Limits::default(), crate::tunnel::settings::Settings::default());
        assert!(limits.requests_per_caller < limits.requests_per_cluster);
        assert!(limits.requests_per_cluster + 128 <= tunnel.short_streams);
        assert!(limits.long_requests_per_caller < limits.long_requests_per_cluster);
        assert!(limits.long_requests_per_cluster + 128 <= tunnel.long_streams);
    }
}
