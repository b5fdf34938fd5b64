//! What the agent counts. Labels are closed sets.

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use crate::tunnel::headers::Mode;
use crate::tunnel::opener::TunnelEnd;
use crate::tunnel::pump::Meter;

/// The metrics of one agent, in a registry of its own.
#[derive(Clone)]
pub(super) struct Metrics {
    registry: Registry,
    /// Tunnels that answered the hub's hello and were not told to leave.
    pub(super) tunnels: IntGauge,
    reconnects: IntCounterVec,
    requests: IntCounterVec,
    /// Seconds from a request to the API server's head.
    pub(super) api_server: Histogram,
    /// Bytes of upgraded connections.
    pub(super) upgraded: Upgraded,
    certificate_expiry: Gauge,
}

/// What upgraded connections carry, both ways, as it happens.
#[derive(Clone)]
pub(super) struct Upgraded {
    to_api_server: IntCounter,
    from_api_server: IntCounter,
}

/// Why a tunnel is dialled once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reconnect {
    /// No TCP or TLS connection.
    Unreachable,
    /// The hub's certificate is of an authority that we do not know.
    UnknownAuthority,
    /// The connection ended before the hub's hello.
    Refused,
    /// The connection of a living tunnel broke.
    Broken,
    /// The hub answered no ping on a living tunnel.
    PingTimeout,
    /// The hub closed a living tunnel: it stopped, or it revoked or removed the cluster.
    Closed,
    /// The hub asked us to dial elsewhere.
    Leave,
    /// Our certificate was renewed.
    Renewed,
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn new() -> Self {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        register(&registry, prometheus::process_collector::ProcessCollector::for_self());
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels).expect(VALID);
            register(&registry, counter.clone());
            counter
        };
        let reconnects = counter(
            "cluster_proxy_agent_reconnects_total",
            "Tunnels dialled again, by reason.",
            &["reason"],
        );
        let requests = counter(
            "cluster_proxy_agent_requests_total",
            "Requests from the hub, by mode and outcome.",
            &["mode", "outcome"],
        );
        let tunnels = IntGauge::new("cluster_proxy_agent_tunnels", "Tunnels in use.").expect(VALID);
        register(&registry, tunnels.clone());
        let certificate_expiry = Gauge::new(
            "cluster_proxy_agent_certificate_expiry_seconds",
            "End of the agent's certificate, in seconds since 1970.",
        )
        .expect(VALID);
        register(&registry, certificate_expiry.clone());
        let upgraded = counter(
            "cluster_proxy_agent_upgraded_bytes_total",
            "Bytes of exec, attach and port-forward, by direction.",
            &["direction"],
        );
        let upgraded = Upgraded {
            to_api_server: upgraded.with_label_values(&["to-api-server"]),
            from_api_server: upgraded.with_label_values(&["from-api-server"]),
        };
        let seconds = HistogramOpts::new(
            "cluster_proxy_agent_api_server_seconds",
            "Seconds from a request to the head of the API server's answer.",
        );
        let api_server = Histogram::with_opts(seconds.buckets(BUCKETS.to_vec())).expect(VALID);
        register(&registry, api_server.clone());
        Self { registry, tunnels, reconnects, requests, api_server, upgraded, certificate_expiry }
    }

    pub(super) fn reconnect(&self, reason: Reconnect) {
        self.reconnects.with_label_values(&[reason.as_str()]).inc();
    }

    /// `outcome`: a status class, a fault, or one of the other words that `serve` knows.
    pub(super) fn request(&self, mode: Option<Mode>, outcome: &str) {
        let mode = mode.map_or("none", Mode::as_str);
        self.requests.with_label_values(&[mode, outcome]).inc();
    }

    pub(super) fn certificate_expires(&self, at: std::time::SystemTime) {
        let since = at.duration_since(std::time::UNIX_EPOCH);
        self.certificate_expiry.set(since.map_or(0.0, |since| since.as_secs_f64()));
    }

    /// The text that Prometheus scrapes.
    pub(super) fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

// === impl Upgraded ===

/// What the stream brings goes to the API server.
impl Meter for Upgraded {
    fn sent(&self, bytes: u64) {
        self.from_api_server.inc_by(bytes);
    }

    fn received(&self, bytes: u64) {
        self.to_api_server.inc_by(bytes);
    }
}

// === impl Reconnect ===

impl Reconnect {
    /// Why a tunnel that was in use is no more.
    pub(super) const fn after(end: &TunnelEnd) -> Self {
        match end {
            TunnelEnd::Graceful | TunnelEnd::Closed(_) => Self::Closed,
            TunnelEnd::PingTimeout => Self::PingTimeout,
            TunnelEnd::Broken(_) => Self::Broken,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::UnknownAuthority => "unknown-authority",
            Self::Refused => "refused",
            Self::Broken => "broken",
            Self::PingTimeout => "ping-timeout",
            Self::Closed => "closed",
            Self::Leave => "leave",
            Self::Renewed => "renewed",
        }
    }
}

fn register(registry: &Registry, collector: impl Collector + 'static) {
    registry.register(Box::new(collector)).expect(VALID);
}

/// 250 us, on the same node, to 60 s, when an API server gives up.
const BUCKETS: [f64; 12] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 10.0, 60.0];

/// Names and labels are constants of this file.
const VALID: &str = "invariant: metric names are valid and registered once";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::testing::assert_metrics_written;

    #[test]
    fn the_page_says_every_metric_of_the_agent() {
        let Metrics {
            registry,
            tunnels,
            reconnects,
            requests,
            api_server,
            // Its series are there from the start.
            upgraded: _,
            certificate_expiry,
        } = Metrics::new();
        let others: [&dyn Collector; 5] =
            [&tunnels, &reconnects, &requests, &api_server, &certificate_expiry];
        assert_metrics_written("agent", &registry, &others);
    }
}
