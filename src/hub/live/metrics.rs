//! What an operator can see of the supervision of live streams.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::book::Issuer;
use super::schedule::Verdict;
use crate::name::ClusterName;
use crate::telemetry::series::{self, add};

/// Counters and gauges of one [`super::LiveStreams`].
#[derive(Debug)]
pub(super) struct Metrics {
    tokens: IntGaugeVec,
    reviews: IntCounterVec,
    watch_failures: IntCounterVec,
    missing: IntGaugeVec,
}

/// What the agent's ServiceAccount must be allowed on its spoke.
#[derive(Clone, Copy, Debug)]
pub(super) enum Right {
    /// `create tokenreviews`.
    ReviewTokens,
    /// `list` and `watch serviceaccounts` in all namespaces.
    WatchServiceAccounts,
}

// === impl Metrics ===

impl Metrics {
    /// Registers them.
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            add(registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            add(registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        Ok(Self {
            tokens: gauge(
                "cluster_proxy_live_tokens",
                "Distinct tokens that have live streams.",
                &["cluster"],
            )?,
            reviews: counter(
                "cluster_proxy_live_token_reviews_total",
                "Reviews of live tokens by the API server that made them.",
                &["cluster", "result"],
            )?,
            watch_failures: counter(
                "cluster_proxy_account_watch_failures_total",
                "Watches of ServiceAccounts that broke.",
                &["cluster"],
            )?,
            missing: gauge(
                "cluster_proxy_agent_right_missing",
                "1 while the agent's ServiceAccount lacks a right that ends streams of deleted accounts.",
                &["cluster", "right"],
            )?,
        })
    }

    pub(super) fn tokens(&self, cluster: &ClusterName, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.tokens.with_label_values(&[cluster.as_str()]).set(count);
    }

    /// Counts an answer, and notes what one of the spoke says of the agent's rights.
    pub(super) fn reviewed(&self, cluster: &ClusterName, by: Issuer, verdict: Verdict) {
        let result = match verdict {
            Verdict::Accepted => "accepted",
            Verdict::Refused => "refused",
            Verdict::Failed => "failed",
            Verdict::Forbidden => "forbidden",
        };
        self.reviews.with_label_values(&[cluster.as_str(), result]).inc();
        if by != Issuer::Spoke {
            return;
        }
        match verdict {
            Verdict::Accepted | Verdict::Refused => self.right(cluster, Right::ReviewTokens, true),
            Verdict::Forbidden => self.right(cluster, Right::ReviewTokens, false),
            Verdict::Failed => {}
        }
    }

    pub(super) fn watch_failed(&self, cluster: &ClusterName) {
        self.watch_failures.with_label_values(&[cluster.as_str()]).inc();
    }

    /// Notes whether the agent has a right; says so in the log when that changed for the worse.
    pub(super) fn right(&self, cluster: &ClusterName, right: Right, granted: bool) {
        let label = right.label();
        let missing = self.missing.with_label_values(&[cluster.as_str(), label]);
        if !granted && missing.get() == 0 {
            tracing::error!(%cluster, right = label, "the agent's ServiceAccount may not do this: streams of a deleted ServiceAccount, Pod or Secret live on until their token expires; grant it (deploy/README.md)");
        }
        missing.set(i64::from(!granted));
    }

    /// Forgets a cluster without live streams, except for counters, which must not go back, and for
    /// missing rights, which nobody granted meanwhile.
    pub(super) fn idle(&self, cluster: &ClusterName) {
        // Fails when there is nothing to remove.
        let _ = self.tokens.remove_label_values(&[cluster.as_str()]);
    }

    /// Forgets a cluster that is not served any more: clusters that come and go must not add up.
    pub(super) fn forget(&self, cluster: &ClusterName) {
        for gauge in [&self.tokens, &self.missing] {
            series::forget(gauge, "cluster", cluster.as_str());
        }
        for counter in [&self.reviews, &self.watch_failures] {
            series::forget(counter, "cluster", cluster.as_str());
        }
    }
}

// === impl Right ===

impl Right {
    const fn label(self) -> &'static str {
        match self {
            Self::ReviewTokens => "create tokenreviews",
            Self::WatchServiceAccounts => "watch serviceaccounts",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::testing::assert_metrics_written;

    #[test]
    fn nothing_is_left_of_a_removed_cluster() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let names = ["c1", "c2"].map(|name| name.parse::<ClusterName>().unwrap());
        for cluster in &names {
            metrics.tokens(cluster, 3);
            metrics.watch_failed(cluster);
            for verdict in
                [Verdict::Accepted, Verdict::Refused, Verdict::Failed, Verdict::Forbidden]
            {
                metrics.reviewed(cluster, Issuer::Spoke, verdict);
            }
            metrics.right(cluster, Right::WatchServiceAccounts, false);
        }
        let series = || registry.gather().iter().map(|family| family.get_metric().len()).sum();
        let both: usize = series();
        metrics.forget(&names[0]);
        assert_eq!(series(), both / 2);
        metrics.watch_failed(&names[1]);
        assert_eq!(series(), both / 2, "the other goes on");
    }

    #[test]
    fn the_page_says_every_metric_of_live_streams() {
        let registry = Registry::new();
        let Metrics { tokens, reviews, watch_failures, missing } =
            Metrics::register(&registry).unwrap();
        assert_metrics_written("live", &registry, &[&tokens, &reviews, &watch_failures, &missing]);
    }
}
