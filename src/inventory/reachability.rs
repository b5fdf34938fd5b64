//! What the path condition should say: the probes' word, once it has held for a while. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::name::ClusterName;

/// The word on every enrolled cluster.
#[derive(Debug, Default)]
pub struct Reachability {
    clusters: BTreeMap<ClusterName, Word>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Word {
    /// What is said.
    said: Option<bool>,
    /// Since when the probes say otherwise.
    doubted: Option<Instant>,
}

// === impl Reachability ===

impl Reachability {
    /// Takes in a snapshot. `None` is a cluster of which nothing can be said yet.
    pub fn observe(&mut self, fleet: &Fleet, now: Instant) -> BTreeMap<ClusterName, Option<bool>> {
        self.clusters.retain(|name, _| fleet.clusters.contains_key(name));
        let clusters = fleet.clusters.iter();
        clusters
            .map(|(name, state)| {
                let probe = state.probe.as_ref();
                let healthy = !state.tunnels.is_empty() && probe.is_some_and(|probe| probe.healthy);
                let word = self.clusters.entry(name.clone()).or_default();
                (name.clone(), word.hear(healthy, now))
            })
            .collect()
    }

    /// When a word changes if the probes go on as they do.
    pub fn next_change(&self) -> Option<Instant> {
        let doubted = self.clusters.values().filter_map(|word| word.doubted);
        doubted.min().map(|since| since + HOLD)
    }
}

// === impl Word ===

impl Word {
    fn hear(&mut self, healthy: bool, now: Instant) -> Option<bool> {
        if self.said == Some(healthy) {
            self.doubted = None;
            return self.said;
        }
        // A first success is said at once; a first failure may only mean that agents have not yet
        // found the new hub.
        let first_success = self.said.is_none() && healthy;
        let since = *self.doubted.get_or_insert(now);
        if first_success || now - since >= HOLD {
            *self = Self { said: Some(healthy), doubted: None };
        }
        self.said
    }
}

/// Every change is a write, and every write makes consumers rebuild their clients: a blip is none.
const HOLD: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::fleet::{ClusterState, Probe, TunnelState};

    fn fleet(healthy: Option<bool>) -> Fleet {
        let tunnel = TunnelState {
            id: 1,
            agent: String::new(),
            since: SystemTime::UNIX_EPOCH,
            certificate_expires: SystemTime::UNIX_EPOCH,
        };
        let probe =
            |healthy| Probe { at: SystemTime::UNIX_EPOCH, healthy, latency_ms: 1, error: None };
        let state = ClusterState {
            tunnels: healthy.map(|_| tunnel).into_iter().collect(),
            probe: healthy.map(probe),
            ..ClusterState::default()
        };
        Fleet { clusters: [("c1".parse().unwrap(), Arc::new(state))].into() }
    }

    #[test]
    fn a_blip_is_not_told() {
        let mut word = Reachability::default();
        let start = Instant::now();
        let mut at = |seconds, healthy| {
            let told = word.observe(&fleet(healthy), start + Duration::from_secs(seconds));
            (
                told.into_values().next().unwrap(),
                word.next_change().map(|at| (at - start).as_secs()),
            )
        };
        assert_eq!(at(0, None), (None, Some(60)));
        assert_eq!(at(5, Some(true)), (Some(true), None), "the first success at once");
        assert_eq!(at(10, Some(false)), (Some(true), Some(70)));
        assert_eq!(at(69, Some(false)), (Some(true), Some(70)));
        assert_eq!(at(69, Some(true)), (Some(true), None));
        assert_eq!(at(80, None), (Some(true), Some(140)));
        assert_eq!(at(139, Some(false)), (Some(true), Some(140)));
        assert_eq!(at(140, None), (Some(false), None));
        assert_eq!(at(141, Some(true)), (Some(false), Some(201)));
        assert_eq!(at(200, Some(true)), (Some(false), Some(201)));
        assert_eq!(at(201, Some(true)), (Some(true), None));
    }

    #[test]
    fn a_cluster_that_left_is_forgotten() {
        let mut word = Reachability::default();
        let start = Instant::now();
        word.observe(&fleet(Some(true)), start);
        assert!(word.observe(&Fleet::default(), start).is_empty());
        let told = word.observe(&fleet(Some(false)), start + HOLD);
        assert_eq!(told.into_values().next(), Some(None), "it has no past");
    }
}
