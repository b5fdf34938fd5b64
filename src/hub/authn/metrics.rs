//! What an operator can see of authentication. Labels come from closed sets and from the names of
//! enrolled clusters; nothing that a caller writes becomes a label.

use std::time::SystemTime;

use prometheus::{GaugeVec, IntCounter, IntCounterVec, Opts, Registry};

use super::AuthnError;
use super::key_sets::seconds;
use super::ownership::Owner;
use crate::name::ClusterName;
use crate::telemetry::series::forget;

/// Counters and gauges of one [`super::Authenticator`].
pub(super) struct Metrics {
    decisions: IntCounterVec,
    cache_hits: IntCounterVec,
    refreshes: IntCounterVec,
    read_at: GaugeVec,
    conflicts: IntCounterVec,
    issuer_failures: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    /// Registers them.
    pub(super) fn register(registry: &Registry) -> Self {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)
                .expect("invariant: names and labels are constants that follow the grammar");
            registry
                .register(Box::new(counter.clone()))
                .expect("invariant: one authenticator per registry");
            counter
        };
        let read_at = GaugeVec::new(
            Opts::new(
                "cluster_proxy_key_set_read_timestamp_seconds",
                "When the key set was last read, seconds since the epoch.",
            ),
            &["cluster"],
        )
        .expect("invariant: names and labels are constants that follow the grammar");
        registry
            .register(Box::new(read_at.clone()))
            .expect("invariant: one authenticator per registry");
        let issuer_failures = IntCounter::new(
            "cluster_proxy_authentication_config_reload_failures_total",
            "Changed lists of issuers that could not be used; the last good one was kept.",
        )
        .expect("invariant: names are constants that follow the grammar");
        registry
            .register(Box::new(issuer_failures.clone()))
            .expect("invariant: one authenticator per registry");
        Self {
            issuer_failures,
            decisions: counter(
                "cluster_proxy_authentications_total",
                "Decisions about callers. The cluster is empty when it is not enrolled.",
                &["cluster", "outcome"],
            ),
            cache_hits: counter(
                "cluster_proxy_authentication_cache_hits_total",
                "Decisions that came out of a cache.",
                &["cache"],
            ),
            refreshes: counter(
                "cluster_proxy_key_set_refreshes_total",
                "Attempts to read a key set.",
                &["cluster", "result"],
            ),
            read_at,
            conflicts: counter(
                "cluster_proxy_key_conflicts_total",
                "Published keys that were ignored because somebody else owns them.",
                &["cluster"],
            ),
        }
    }

    /// Counts a decision.
    pub(super) fn decided(&self, cluster: Option<&ClusterName>, error: Option<&AuthnError>) {
        let cluster = cluster.map_or("", ClusterName::as_str);
        let outcome = error.map_or(ACCEPTED, AuthnError::reason);
        self.decisions.with_label_values(&[cluster, outcome]).inc();
    }

    /// Counts a decision that a cache made.
    pub(super) fn cache_hit(&self, accepted: bool) {
        let cache = if accepted { ACCEPTED } else { "refused" };
        self.cache_hits.with_label_values(&[cache]).inc();
    }

    /// Counts an attempt to read a key set; `cluster` may be [`HUB`].
    pub(super) fn refreshed(&self, cluster: &str, ok: bool, now: SystemTime) {
        let result = if ok { "read" } else { "failed" };
        self.refreshes.with_label_values(&[cluster, result]).inc();
        if ok {
            self.kept(cluster, seconds(now));
        }
    }

    /// Shows the age of a set that was read before this process started.
    pub(super) fn kept(&self, cluster: &str, read_at: u64) {
        self.read_at.with_label_values(&[cluster]).set(read_at as f64);
    }

    /// Raises the alarm: `cluster` publishes a key that is not its own.
    pub(super) fn conflict(&self, cluster: &ClusterName) {
        self.conflicts.with_label_values(&[cluster.as_str()]).inc();
    }

    /// Counts a list of issuers that cannot be used.
    pub(super) fn issuers_unusable(&self) {
        self.issuer_failures.inc();
    }

    /// Forgets a set that is read no more.
    pub(super) fn forget_set(&self, owner: &Owner) {
        let label = label(owner);
        forget(&self.read_at, "cluster", &label);
        forget(&self.refreshes, "cluster", &label);
    }

    /// Forgets a cluster that is no longer enrolled: clusters that come and go must not add up.
    pub(super) fn forget(&self, cluster: &ClusterName) {
        forget(&self.read_at, "cluster", cluster.as_str());
        for counter in [&self.decisions, &self.refreshes, &self.conflicts] {
            forget(counter, "cluster", cluster.as_str());
        }
    }
}

/// The set of `owner`, in place of a cluster.
pub(super) fn label(owner: &Owner) -> String {
    match owner {
        Owner::Hub => HUB.to_owned(),
        Owner::Cluster(name) => name.to_string(),
        Owner::Reserved(name) => format!("_{name}"),
    }
}

/// In place of a cluster: the hub's own key set. No cluster name begins with `_`.
pub(super) const HUB: &str = "_hub";

const ACCEPTED: &str = "accepted";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::hub::authn::Refusal;
    use crate::telemetry::testing::assert_metrics_written;

    #[test]
    fn a_cluster_that_goes_takes_its_series_along() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for name in ["c1", "c2"] {
            let cluster = ClusterName::parse(name).unwrap();
            metrics.decided(Some(&cluster), None);
            metrics.decided(Some(&cluster), Some(&Refusal::Expired.into()));
            metrics.refreshed(name, true, now);
            metrics.refreshed(name, false, now + Duration::from_secs(60));
            metrics.conflict(&cluster);
        }
        let of = |cluster: &str| -> Vec<f64> {
            let families = registry.gather();
            let series = families.iter().flat_map(|family| family.get_metric());
            let value = |series: &prometheus::proto::Metric| {
                series.get_counter().get_value() + series.get_gauge().get_value()
            };
            series
                .filter(|series| series.get_label().iter().any(|label| label.value() == cluster))
                .map(value)
                .collect()
        };
        let mut all = of("c1");
        all.sort_by(f64::total_cmp);
        assert_eq!(all, [1.0, 1.0, 1.0, 1.0, 1.0, 1_800_000_000.0]);
        metrics.forget(&ClusterName::parse("c1").unwrap());
        assert!(of("c1").is_empty());
        assert_eq!(of("c2").len(), 6);
    }

    #[test]
    fn the_page_says_every_metric_of_authentication() {
        let registry = Registry::new();
        let Metrics { decisions, cache_hits, refreshes, read_at, conflicts, issuer_failures } =
            Metrics::register(&registry);
        assert_metrics_written(
            "authentication",
            &registry,
            &[&decisions, &cache_hits, &refreshes, &read_at, &conflicts, &issuer_failures],
        );
    }
}
