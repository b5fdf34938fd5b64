//! Health is a round trip: a real request through every connected cluster's tunnel and API server,
//! every few seconds, when a tunnel has come and when the last one is gone.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
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
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let probes = registry.connected().into_iter().map(|cluster| {
            let (registry, metrics) = (registry.clone(), metrics.clone());
            async move { probe(&registry, &metrics, cluster).await }
        });
        futures_util::stream::iter(probes).for_each_concurrent(AT_ONCE, |probe| probe).await;
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
/// A healthy path answers in milliseconds.
const DEADLINE: Duration = Duration::from_secs(5);
/// Probes under way together: a thousand clusters are asked within one interval.
const AT_ONCE: usize = 64;
/// Of `/version`.
const LIMIT: usize = 16 * 1024;
