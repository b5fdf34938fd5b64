//! Health is a round trip: a real request through every connected cluster's tunnel and API server,
//! every few seconds, when a tunnel has come and when the last one is gone.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::Method;
use tokio::time::{Instant, MissedTickBehavior};

use super::authn::SpokeApi;
use super::metrics::Metrics;
use super::registry::Registry;
use super::spokes::Spokes;
use crate::fleet::Probe;
use crate::name::ClusterName;

/// Probes for ever.
pub(crate) async fn run(registry: Registry, metrics: Metrics) {
    let connected = || registry.connected();
    rounds(connected, |cluster| probe(&registry, &metrics, cluster)).await;
}

/// Probes every cluster once in an interval, all of a round at once: whoever takes long keeps nobody
/// else from a probe. A cluster whose last one is under way is left out.
async fn rounds<F: Future<Output = ()>>(
    connected: impl Fn() -> Vec<ClusterName>,
    probe: impl Fn(ClusterName) -> F,
) -> ! {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = HashSet::new();
    let mut probes = FuturesUnordered::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                for cluster in connected() {
                    if asked.insert(cluster.clone()) {
                        let answer = probe(cluster.clone());
                        probes.push(async move {
                            answer.await;
                            cluster
                        });
                    }
                }
            }
            Some(cluster) = probes.next() => {
                asked.remove(&cluster);
            }
        }
    }
}

/// One round trip, recorded. Without a tunnel it fails at once.
pub(crate) async fn probe(registry: &Registry, metrics: &Metrics, cluster: ClusterName) {
    let started = Instant::now();
    let spokes = Spokes { registry: registry.clone() };
    let answer = spokes.request(&cluster, Method::GET, "/version", None, LIMIT, DEADLINE).await;
    let error = match answer {
        Ok((code, _)) if code.is_success() => None,
        Ok((code, _)) => Some(format!("the API server answered {code}")),
        Err(error) => Some(error.to_string()),
    };
    let healthy = error.is_none();
    // A cluster that was removed meanwhile is not unhealthy, but gone.
    if registry.is_enrolled(&cluster) {
        metrics.healthy.with_label_values(&[cluster.as_str()]).set(i64::from(healthy));
    }
    let latency_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let probe = Probe { at: SystemTime::now(), healthy, latency_ms, error };
    registry.probed(&cluster, probe);
}

/// Fresh enough to act on, rare enough to cost nothing: one small request per cluster.
const INTERVAL: Duration = Duration::from_secs(5);
/// A healthy path answers in milliseconds. Below the interval, so that who is silent is asked in
/// every round.
const DEADLINE: Duration = Duration::from_secs(4);
/// Of `/version`.
const LIMIT: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_are_silent_delay_nobody() {
        let cluster = |number: usize| ClusterName::parse(&format!("c{number}")).unwrap();
        let silent = |name: &ClusterName| (0..500).any(|number| cluster(number) == *name);
        let begun = Mutex::new(HashMap::<ClusterName, Vec<Instant>>::new());
        let start = Instant::now();
        let rounds = rounds(
            || (0..501).map(cluster).collect(),
            |name| {
                let takes = if silent(&name) { DEADLINE } else { Duration::ZERO };
                begun.lock().unwrap().entry(name).or_default().push(Instant::now());
                tokio::time::sleep(takes)
            },
        );
        let _ = tokio::time::timeout(INTERVAL * 3 - DEADLINE / 2, rounds).await;
        let expected: Vec<_> = (0..3).map(|round| start + INTERVAL * round).collect();
        let begun = begun.into_inner().unwrap();
        assert_eq!(begun.len(), 501);
        assert!(begun.values().all(|times| *times == expected), "{:?}", begun[&cluster(500)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_has_one_probe_at_a_time() {
        let (name, begun) = (ClusterName::parse("c1").unwrap(), Mutex::new(Vec::new()));
        let start = Instant::now();
        let rounds = rounds(
            || vec![name.clone()],
            |_| {
                begun.lock().unwrap().push(Instant::now());
                tokio::time::sleep(INTERVAL * 3 / 2)
            },
        );
        let _ = tokio::time::timeout(INTERVAL * 3, rounds).await;
        assert_eq!(begun.into_inner().unwrap(), [start, start + INTERVAL * 2]);
    }
}
