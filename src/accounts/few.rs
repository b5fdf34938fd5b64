//! What a spoke, or a mistake, can make happen a few times a minute and not more often.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// What happens a few times in [`WINDOW`] and no more.
#[derive(Debug, Default)]
pub(super) struct Few<const MOST: usize>(VecDeque<Instant>);

// === impl Few ===

impl<const MOST: usize> Few<MOST> {
    /// Whether it may happen now, or how long it has to wait.
    pub(super) fn may(&mut self) -> Result<(), Duration> {
        let now = Instant::now();
        while self.0.front().is_some_and(|at| now.duration_since(*at) >= WINDOW) {
            self.0.pop_front();
        }
        match self.0.front() {
            Some(first) if self.0.len() >= MOST => {
                Err(WINDOW.saturating_sub(now.duration_since(*first)))
            }
            _ => Ok(()),
        }
    }

    /// It happens.
    pub(super) fn count(&mut self) {
        self.0.push_back(Instant::now());
    }

    /// Counts it, where it may happen now.
    pub(super) fn take(&mut self) -> Result<(), Duration> {
        self.may().inspect(|()| self.count())
    }
}

/// Long enough for a few of anything to be seldom, short enough to wait for.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
