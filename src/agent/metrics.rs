//! What the agent counts. Labels are closed sets.

use prometheus::core::Collector;
use prometheus::{Gauge, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

use crate::tunnel::headers::Mode;

/// The metrics of one agent, in a registry of its own.
#[derive(Clone)]
pub(super) struct Metrics {
    registry: Registry,
    /// Tunnels that answered the hub's hello and were not told to leave.
    pub(super) tunnels: IntGauge,
    reconnects: IntCounterVec,
    requests: IntCounterVec,
    certificate_expiry: Gauge,
}

/// Why a tunnel is dialled once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reconnect {
    /// No TCP or TLS connection.
    Unreachable,
    /// The connection ended before the hub's hello.
    Refused,
    /// A living tunnel broke.
    Lost,
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
        Self { registry, tunnels, reconnects, requests, certificate_expiry }
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

// === impl Reconnect ===

impl Reconnect {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Closed => "closed",
            Self::Leave => "leave",
            Self::Renewed => "renewed",
        }
    }
}

fn register(registry: &Registry, collector: impl Collector + 'static) {
    registry.register(Box::new(collector)).expect(VALID);
}

/// Names and labels are constants of this file.
const VALID: &str = "invariant: metric names are valid and registered once";
