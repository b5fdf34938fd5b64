//! How long to wait before dialling again. Pure, but for the random numbers.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// The pauses of one connection that is kept up.
#[derive(Debug)]
pub(super) struct Backoff {
    seed: Option<u64>,
    quick: ExponentialBackoff,
    slow: ExponentialBackoff,
    refusals: usize,
}

// === impl Backoff ===

impl Backoff {
    pub(super) fn new() -> Self {
        Self::start(None)
    }

    fn start(seed: Option<u64>) -> Self {
        let build = |least, most| {
            let builder = ExponentialBuilder::new()
                .with_min_delay(least)
                .with_max_delay(most)
                .with_jitter()
                .without_max_times();
            match seed {
                Some(seed) => builder.with_jitter_seed(seed).build(),
                None => builder.build(),
            }
        };
        Self {
            seed,
            quick: build(LEAST, MOST / 2),
            slow: build(MOST / 2, REFUSED_MOST / 2),
            refusals: 0,
        }
    }

    /// The pause after a failure that time may heal: no connection, or a lost one.
    pub(super) fn after_failure(&mut self) -> Duration {
        self.refusals = 0;
        self.quick.next().unwrap_or(MOST)
    }

    /// The pause after the hub hung up on us. A restarting hub does that too, so patience begins
    /// only when it does so again and again.
    pub(super) fn after_refusal(&mut self) -> Duration {
        self.refusals += 1;
        let quick = self.quick.next().unwrap_or(MOST);
        if self.refusals <= REFUSALS_BY_CHANCE {
            return quick;
        }
        self.slow.next().unwrap_or(REFUSED_MOST)
    }

    /// Starts over, after a success.
    pub(super) fn reset(&mut self) {
        *self = Self::start(self.seed);
    }
}

/// Soon enough that a restarted hub has its agents back within a second or two.
const LEAST: Duration = Duration::from_millis(200);
/// With jitter, which adds up to as much again; thousands of agents must not arrive together.
const MOST: Duration = Duration::from_secs(10);
/// A removed or revoked cluster stays so until somebody enrols it again.
const REFUSED_MOST: Duration = Duration::from_secs(60);
const REFUSALS_BY_CHANCE: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pauses_stay_in_their_range(seed: u64, failures in 1usize..200) {
            let mut backoff = Backoff::start(Some(seed));
            let first = backoff.after_failure();
            prop_assert!(first >= LEAST && first <= 2 * LEAST);
            for _ in 0..failures {
                let pause = backoff.after_failure();
                prop_assert!(pause >= LEAST && pause <= MOST);
            }
            backoff.reset();
            prop_assert!(backoff.after_failure() <= 2 * LEAST);
        }

        #[test]
        fn only_repeated_refusals_slow_down(seed: u64) {
            let mut backoff = Backoff::start(Some(seed));
            for _ in 0..REFUSALS_BY_CHANCE {
                prop_assert!(backoff.after_refusal() <= MOST);
            }
            for _ in 0..20 {
                let pause = backoff.after_refusal();
                prop_assert!(pause >= MOST / 2 && pause <= REFUSED_MOST);
            }
            prop_assert!(backoff.after_failure() <= MOST);
        }
    }
}
