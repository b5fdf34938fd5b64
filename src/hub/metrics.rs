//! What the hub counts. Labels are closed sets plus the names of enrolled clusters; never a path,
//! never a user.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::hub::flood::Hits;
use crate::hub::limits::{Limit, LimitHits};
use crate::name::ClusterName;
use crate::telemetry::series::forget;

/// Every metric of the hub's data path.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Requests ended, by `cluster`, `verb`, `code` and failing `hop`. `cluster` is empty for
    /// callers that were not let in.
    pub(crate) requests: IntCounterVec,
    /// Seconds of answered requests, by `leg`.
    pub(crate) legs: Legs,
    /// Body bytes, by `cluster`, `kind` and `direction`; those of upgraded connections too.
    pub(crate) bytes: IntCounterVec,
    /// Requests under way, by `cluster`.
    pub(crate) in_flight: IntGaugeVec,
    /// Open streams that may live for ever, by `cluster` and `kind`.
    pub(crate) live_streams: IntGaugeVec,
    /// Live streams that we ended, by `cluster` and `reason`.
    pub(crate) streams_ended: IntCounterVec,
    /// Live tunnels, by `cluster`.
    pub(crate) tunnels: IntGaugeVec,
    /// Tunnels that ended, by `cluster` and `reason`.
    pub(crate) tunnels_lost: IntCounterVec,
    /// Agents turned away at the dock, by `reason`.
    pub(crate) dock_refusals: IntCounterVec,
    /// 1 when the last probe of a cluster went through, else 0.
    pub(crate) healthy: IntGaugeVec,
    /// End of a certificate, seconds since the epoch, by `certificate`.
    pub(crate) certificate_expiry: GaugeVec,
    /// 1 while a changed certificate on disk cannot be used and the old one is kept.
    pub(crate) reload_failed: Gauge,
    /// Access-log lines dropped because the disk was slower than the requests.
    pub(crate) access_lines_dropped: IntCounter,
    /// Times that a limit was reached, by `limit`.
    pub(crate) limit_hits: LimitHits,
    /// Bytes that clients do not read, near the budget.
    pub(crate) unread_bytes: IntGauge,
    /// User connections open.
    pub(crate) connections: Gauge,
    /// Clients that never got as far as HTTPS, by `reason`.
    pub(crate) handshakes_failed: HandshakesFailed,
}

/// Clients of the user listener whose TLS handshake came to nothing. Those that ran out of time are
/// hits of a limit instead.
#[derive(Clone, Debug)]
pub(crate) struct HandshakesFailed {
    /// Plain HTTP: an address without its `https`, or a probe.
    pub(crate) plain_http: IntCounter,
    /// Anything else: the client does not trust the certificate, went away, or speaks no TLS we do.
    pub(crate) tls: IntCounter,
}

/// How much is open right now, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenStreams {
    /// Everything that is none of the others.
    pub(crate) requests: i64,
    /// Watches.
    pub(crate) watches: i64,
    /// `logs -f`.
    pub(crate) followed: i64,
    /// exec, attach, port-forward.
    pub(crate) interactive: i64,
}

// === impl Metrics ===

impl Metrics {
    /// Counts what is open, over all clusters.
    pub(crate) fn open_streams(&self) -> OpenStreams {
        let live = |kind| sum(&self.live_streams, Some(kind));
        let (watches, followed, interactive) = (live("watch"), live("follow"), live("interactive"));
        let all = sum(&self.in_flight, None);
        let requests = (all - watches - followed - interactive).max(0);
        OpenStreams { requests, watches, followed, interactive }
    }

    /// Counters of what a guard cuts: floods as the limit `flood`.
    pub(crate) fn flood_hits(&self, flood: Limit) -> Hits {
        let (floods, late_heads) =
            (self.limit_hits.of(flood), self.limit_hits.of(Limit::HeadTimeout));
        Hits { floods, late_heads }
    }

    /// Registers everything.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntCounterVec::new(opts(name, help), labels)?)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntGaugeVec::new(opts(name, help), labels)?)
        };
        Ok(Self {
            requests: counter(
                "requests_total",
                "Requests ended, by the hop that failed (none: answered by the API server)",
                &["cluster", "verb", "code", "hop"],
            )?,
            legs: Legs::new(registry)?,
            bytes: counter(
                "bytes_total",
                "Body bytes, those of upgraded connections included",
                &["cluster", "kind", "direction"],
            )?,
            in_flight: gauge("requests_in_flight", "Requests under way", &["cluster"])?,
            live_streams: gauge(
                "live_streams",
                "Open watches, followed logs and interactive sessions",
                &["cluster", "kind"],
            )?,
            streams_ended: counter(
                "streams_ended_total",
                "Live streams that the hub ended, by reason",
                &["cluster", "reason"],
            )?,
            tunnels: gauge("tunnels", "Live tunnels", &["cluster"])?,
            tunnels_lost: counter(
                "tunnels_lost_total",
                "Tunnels that ended, whoever ended them",
                &["cluster", "reason"],
            )?,
            dock_refusals: counter(
                "agents_refused_total",
                "Connections turned away at the agent listener",
                &["reason"],
            )?,
            healthy: gauge(
                "cluster_healthy",
                "Whether the last request of the hub through tunnel and API server succeeded",
                &["cluster"],
            )?,
            certificate_expiry: register(
                registry,
                GaugeVec::new(
                    opts("certificate_expiry_seconds", "End of a certificate, Unix time"),
                    &["certificate"],
                )?,
            )?,
            reload_failed: register(
                registry,
                Gauge::with_opts(opts(
                    "certificate_reload_failed",
                    "1 while a changed certificate cannot be used and the old one is kept",
                ))?,
            )?,
            access_lines_dropped: register(
                registry,
                IntCounter::with_opts(opts(
                    "access_log_lines_dropped_total",
                    "Access-log lines dropped because their destination was too slow, or full",
                ))?,
            )?,
            limit_hits: LimitHits::new(counter(
                "limit_hits_total",
                "Connections and requests that a limit of the hub turned away or cut",
                &["limit"],
            )?),
            unread_bytes: register(
                registry,
                IntGauge::with_opts(opts(
                    "unread_bytes",
                    "Bytes that came through tunnels and wait for their clients",
                ))?,
            )?,
            connections: register(
                registry,
                Gauge::with_opts(opts("connections", "Open connections on the user listener"))?,
            )?,
            handshakes_failed: HandshakesFailed::new(&counter(
                "handshakes_failed_total",
                "Connections of clients that came to no TLS, those out of time aside",
                &["reason"],
            )?),
        })
    }

    /// Drops every series of a cluster that is no longer enrolled: clusters that come and go must
    /// not add up.
    pub(crate) fn forget(&self, cluster: &ClusterName) {
        for gauge in [&self.healthy, &self.tunnels, &self.in_flight, &self.live_streams] {
            forget(gauge, "cluster", cluster.as_str());
        }
        for counter in [&self.requests, &self.bytes, &self.tunnels_lost, &self.streams_ended] {
            forget(counter, "cluster", cluster.as_str());
        }
    }
}

// === impl HandshakesFailed ===

impl HandshakesFailed {
    fn new(counter: &IntCounterVec) -> Self {
        let reason = |name| counter.with_label_values(&[name]);
        Self { plain_http: reason("plain-http"), tls: reason("tls") }
    }
}

/// Where the time of a request goes. What may live for ever has no `body` and no `total`.
#[derive(Clone, Debug)]
pub(crate) struct Legs {
    /// From the request's head to "let in".
    pub(crate) authentication: Histogram,
    /// From there to the head of the answer, without what the agent waited: hub, tunnel, agent.
    pub(crate) tunnel: Histogram,
    /// What the agent waited for the API server's head.
    pub(crate) api_server: Histogram,
    /// From the answer's head to its last byte.
    pub(crate) body: Histogram,
    /// All of it; of requests that got no answer from an API server as well.
    pub(crate) total: Histogram,
}

// === impl Legs ===

impl Legs {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let seconds = HistogramOpts::new(
            format!("{PREFIX}latency_seconds"),
            "Seconds by leg: authentication, tunnel, api-server (to its head), body, total",
        )
        .buckets(LATENCY_BUCKETS.to_vec());
        let legs = register(registry, HistogramVec::new(seconds, &["leg"])?)?;
        let leg = |name| legs.with_label_values(&[name]);
        Ok(Self {
            authentication: leg("authentication"),
            tunnel: leg("tunnel"),
            api_server: leg("api-server"),
            body: leg("body"),
            total: leg("total"),
        })
    }
}

const PREFIX: &str = "cluster_proxy_";

/// 250 us to 100 s: one leg on loopback up to a slow list over a long way.
const LATENCY_BUCKETS: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 100.0];

/// The sum of all samples of `gauge`, or of those whose `kind` is `label`.
fn sum(gauge: &IntGaugeVec, label: Option<&str>) -> i64 {
    let families = gauge.collect();
    let samples = families.iter().flat_map(|family| family.get_metric());
    let wanted = samples.filter(|sample| {
        label.is_none_or(|label| {
            sample.get_label().iter().any(|pair| pair.name() == "kind" && pair.value() == label)
        })
    });
    // Gauges of whole numbers: nothing is lost.
    wanted.map(|sample| sample.get_gauge().get_value() as i64).sum()
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("{PREFIX}{name}"), help)
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::testing::assert_metrics_written;

    #[test]
    fn the_page_says_every_metric_of_the_data_path() {
        let registry = Registry::new();
        let Metrics {
            requests,
            // These have their series from the start.
            legs: _,
            limit_hits: _,
            handshakes_failed: _,
            bytes,
            in_flight,
            live_streams,
            streams_ended,
            tunnels,
            tunnels_lost,
            dock_refusals,
            healthy,
            certificate_expiry,
            reload_failed,
            access_lines_dropped,
            unread_bytes,
            connections,
        } = Metrics::new(&registry).unwrap();
        let others: [&dyn Collector; 14] = [
            &requests,
            &bytes,
            &in_flight,
            &live_streams,
            &streams_ended,
            &tunnels,
            &tunnels_lost,
            &dock_refusals,
            &healthy,
            &certificate_expiry,
            &reload_failed,
            &access_lines_dropped,
            &unread_bytes,
            &connections,
        ];
        assert_metrics_written("hub", &registry, &others);
    }
}
