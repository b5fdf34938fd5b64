//! What an operator can see of the publisher. No label has the name of a profile or a cluster.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::telemetry::series::add;

/// Counters and gauges of one publisher.
#[derive(Debug)]
pub(super) struct Metrics {
    publishable: IntGauge,
    served: IntGauge,
    profiles: IntGaugeVec,
    writes: IntCounterVec,
    states: Mutex<HashMap<String, ProfileState>>,
}

/// How a profile of our manager stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ProfileState {
    /// It says what it should.
    Published,
    /// Its cluster is not enrolled.
    Unknown,
    /// Somebody else writes over our entry.
    Contested,
    /// It cannot be read or written.
    Failed,
}

/// How a write ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Write {
    /// The API server took it.
    Done,
    /// Somebody else was faster: tried again.
    Conflict,
    /// Refused, or not answered.
    Failed,
}

// === impl Metrics ===

impl Metrics {
    /// Registers them.
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            publishable: add(
                registry,
                IntGauge::new(
                    "cluster_proxy_inventory_publishable",
                    "1 while URL and authority are known and belong to the served certificate.",
                ),
            )?,
            served: add(
                registry,
                IntGauge::new(
                    "cluster_proxy_inventory_served",
                    "1 while the hub's API server has ClusterProfiles.",
                ),
            )?,
            profiles: add(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "cluster_proxy_inventory_profiles",
                        "ClusterProfiles of our manager by what became of our entry.",
                    ),
                    &["state"],
                ),
            )?,
            writes: add(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "cluster_proxy_inventory_writes_total",
                        "Writes of the status of ClusterProfiles.",
                    ),
                    &["result"],
                ),
            )?,
            states: Mutex::default(),
        };
        metrics.count(&HashMap::new());
        Ok(metrics)
    }

    pub(super) fn publishable(&self, publishable: bool) {
        self.publishable.set(publishable.into());
    }

    pub(super) fn served(&self, served: bool) {
        self.served.set(served.into());
    }

    pub(super) fn wrote(&self, write: Write) {
        let result = match write {
            Write::Done => "done",
            Write::Conflict => "conflict",
            Write::Failed => "failed",
        };
        self.writes.with_label_values(&[result]).inc();
    }

    /// Notes how the profile with `uid` stands. True when that is news.
    pub(super) fn stands(&self, uid: &str, state: ProfileState) -> bool {
        let mut states = self.states();
        let news = states.insert(uid.to_owned(), state) != Some(state);
        if news {
            self.count(&states);
        }
        news
    }

    /// Forgets all but these.
    pub(super) fn retain(&self, uids: &HashSet<String>) {
        let mut states = self.states();
        states.retain(|uid, _| uids.contains(uid));
        self.count(&states);
    }

    fn count(&self, states: &HashMap<String, ProfileState>) {
        for (state, label) in LABELS {
            let count = states.values().filter(|one| **one == state).count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.profiles.with_label_values(&[label]).set(count);
        }
    }

    fn states(&self) -> MutexGuard<'_, HashMap<String, ProfileState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const LABELS: [(ProfileState, &str); 4] = [
    (ProfileState::Published, "published"),
    (ProfileState::Unknown, "unknown"),
    (ProfileState::Contested, "contested"),
    (ProfileState::Failed, "failed"),
];

#[cfg(test)]
mod tests {
    use prometheus::core::Collector;

    use super::*;
    use crate::telemetry::testing::assert_metrics_written;

    #[test]
    fn profiles_that_come_and_go_are_no_series() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let series =
            || -> usize { registry.gather().iter().map(|one| one.get_metric().len()).sum() };
        let before = series();
        for uid in 0..1000 {
            assert!(metrics.stands(&uid.to_string(), ProfileState::Contested));
            assert!(!metrics.stands(&uid.to_string(), ProfileState::Contested));
            assert!(metrics.stands(&uid.to_string(), ProfileState::Published));
        }
        let published = || metrics.profiles.with_label_values(&["published"]).get();
        assert_eq!((published(), series()), (1000, before));
        metrics.retain(&HashSet::from(["0".to_owned(), "x".to_owned()]));
        assert_eq!((published(), metrics.states().len()), (1, 1));
    }

    #[test]
    fn the_page_says_every_metric_of_the_inventory() {
        let registry = Registry::new();
        let Metrics { publishable, served, profiles, writes, states: _ } =
            Metrics::register(&registry).unwrap();
        let others: [&dyn Collector; 4] = [&publishable, &served, &profiles, &writes];
        assert_metrics_written("inventory", &registry, &others);
    }
}
