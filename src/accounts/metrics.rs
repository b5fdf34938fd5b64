//! What is counted. Labels are closed sets: no cluster, no account.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::Clock;
use super::memory::{Memory, State};

/// The metrics of managed service accounts.
#[derive(Clone)]
pub(super) struct Metrics {
    tokens: IntCounterVec,
    memory: Arc<ArcSwap<Memory>>,
}

/// Counts what is remembered, whenever somebody asks.
struct Remembered {
    memory: Arc<ArcSwap<Memory>>,
    clock: Clock,
    accounts: IntGaugeVec,
    oldest: Gauge,
}

// === impl Metrics ===

impl Metrics {
    /// Registers everything.
    pub(super) fn new(registry: &Registry, clock: Clock) -> Result<Self, prometheus::Error> {
        let tokens = IntCounterVec::new(
            Opts::new(
                "cluster_proxy_account_tokens_total",
                "Tokens of managed service accounts that were asked for",
            ),
            &["outcome"],
        )?;
        for outcome in ["minted", "failed"] {
            tokens.with_label_values(&[outcome]);
        }
        registry.register(Box::new(tokens.clone()))?;
        let memory = Arc::new(ArcSwap::default());
        registry.register(Box::new(Remembered {
            memory: memory.clone(),
            clock,
            accounts: IntGaugeVec::new(
                Opts::new("cluster_proxy_accounts", "Managed service accounts"),
                &["state"],
            )?,
            oldest: Gauge::new(
                "cluster_proxy_account_oldest_refresh_age_seconds",
                "Seconds since the token of an account was renewed: the oldest of all",
            )?,
        }))?;
        Ok(Self { tokens, memory })
    }

    /// A memory that starts empty, and is what is shown from now on.
    pub(super) fn watch(&self) -> Arc<Memory> {
        let memory = Arc::new(Memory::default());
        self.memory.store(memory.clone());
        memory
    }

    /// Nobody is at work here any more.
    pub(super) fn idle(&self) {
        self.memory.store(Arc::default());
    }

    /// A token was asked for.
    pub(super) fn asked(&self, is_minted: bool) {
        let outcome = if is_minted { "minted" } else { "failed" };
        self.tokens.with_label_values(&[outcome]).inc();
    }
}

impl Collector for Remembered {
    fn desc(&self) -> Vec<&Desc> {
        self.accounts.desc().into_iter().chain(self.oldest.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let states = self.memory.load().states();
        let mut counts: HashMap<State, i64> = HashMap::new();
        for (state, _) in &states {
            *counts.entry(*state).or_default() += 1;
        }
        for state in State::ALL {
            let count = counts.get(&state).copied().unwrap_or_default();
            self.accounts.with_label_values(&[state.as_str()]).set(count);
        }
        let oldest = states.iter().filter_map(|(_, refreshed)| *refreshed).min();
        let now = (self.clock)();
        let age = oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64());
        self.oldest.set(age.max(0.0));
        self.accounts.collect().into_iter().chain(self.oldest.collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::at;
    use super::*;
    use crate::telemetry::testing::assert_metrics_written;

    #[test]
    fn accounts_are_counted_by_state_and_the_oldest_token_shown() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry, Arc::new(|| at(100))).unwrap();
        let memory = metrics.watch();
        let key = |name: &str| ("c1".to_owned(), name.to_owned());
        memory.note(&key("a"), State::Ready, Some(at(90)));
        memory.note(&key("b"), State::Ready, Some(at(40)));
        memory.note(&key("c"), State::Failing, None);
        metrics.asked(true);
        let text = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "cluster_proxy_accounts{state=\"ready\"} 2",
            "cluster_proxy_accounts{state=\"failing\"} 1",
            "cluster_proxy_accounts{state=\"waiting\"} 0",
            "cluster_proxy_account_oldest_refresh_age_seconds 60",
            "cluster_proxy_account_tokens_total{outcome=\"minted\"} 1",
            "cluster_proxy_account_tokens_total{outcome=\"failed\"} 0",
        ] {
            assert!(text().contains(line), "{line} in {}", text());
        }
        metrics.idle();
        assert!(text().contains("cluster_proxy_accounts{state=\"ready\"} 0"));
    }

    #[test]
    fn the_page_says_every_metric_of_accounts() {
        let registry = Registry::new();
        // What is remembered has its series from the start.
        let Metrics { tokens, memory: _ } = Metrics::new(&registry, Arc::new(|| at(100))).unwrap();
        assert_metrics_written("accounts", &registry, &[&tokens]);
    }
}
