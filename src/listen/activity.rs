//! What a connection is doing: whether it serves somebody, since when it does not, and how to end it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::sources::Slot;

/// What a connection is serving. Clones share it.
#[derive(Clone, Debug)]
pub struct Activity(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    born: Instant,
    /// Requests whose answer is not finished.
    running: AtomicUsize,
    /// Those of them that were refused.
    refused: AtomicUsize,
    /// Requests so far.
    started: AtomicU64,
    /// End of the last answer, milliseconds after `born`.
    ended: AtomicU64,
    late: AtomicBool,
    /// Cancelled to end the connection at once.
    cut: CancellationToken,
    /// Given back when the last part of the connection is gone: an upgraded one outlives its HTTP.
    _slot: Option<Slot>,
}

/// One request; over when dropped.
#[derive(Debug)]
pub struct Running {
    counts: Arc<Counts>,
    refused: bool,
}

// === impl Activity ===

impl Activity {
    /// Of a connection that has just been made.
    pub fn new() -> Self {
        Self::with(None)
    }

    /// The same; `slot` is what the connection holds of its source's share.
    pub fn of(slot: Slot) -> Self {
        Self::with(Some(slot))
    }

    fn with(slot: Option<Slot>) -> Self {
        Self(Arc::new(Counts {
            born: Instant::now(),
            running: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            started: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            late: AtomicBool::new(false),
            cut: CancellationToken::new(),
            _slot: slot,
        }))
    }

    /// A request begins.
    pub fn request(&self) -> Running {
        self.0.running.fetch_add(1, Ordering::AcqRel);
        self.0.started.fetch_add(1, Ordering::AcqRel);
        Running { counts: Arc::clone(&self.0), refused: false }
    }

    /// Whether the connection ended because a head took too long.
    pub fn head_was_late(&self) -> bool {
        self.0.late.load(Ordering::Acquire)
    }

    /// Ready when no request has run for `patience`. One timer that looks now and then costs less
    /// than one for every request.
    pub async fn idle(&self, patience: Duration) {
        loop {
            let now = Instant::now();
            let since = if self.is_running() { now } else { self.last_end() };
            let due = since + patience;
            if due <= now {
                return;
            }
            sleep_until(due).await;
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.0.running.load(Ordering::Acquire) > 0
    }

    /// Ready when the connection is to end at once, whatever it serves.
    pub async fn cut(&self) {
        self.0.cut.cancelled().await;
    }

    pub(super) fn head_is_late(&self) {
        self.0.late.store(true, Ordering::Release);
    }

    pub(super) fn started(&self) -> u64 {
        self.0.started.load(Ordering::Acquire)
    }

    fn last_end(&self) -> Instant {
        self.0.born + Duration::from_millis(self.0.ended.load(Ordering::Acquire))
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Running ===

impl Running {
    /// What ends the connection that this request came on.
    pub fn cutter(&self) -> CancellationToken {
        self.counts.cut.clone()
    }

    /// The request was refused: what is left of it is an answer.
    pub fn refuse(&mut self) {
        if !std::mem::replace(&mut self.refused, true) {
            self.counts.refused.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Refused requests of the connection whose answers are not finished.
    pub fn refusals(&self) -> usize {
        self.counts.refused.load(Ordering::Acquire)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let counts = &self.counts;
        let after = counts.born.elapsed().as_millis();
        counts.ended.store(u64::try_from(after).unwrap_or(u64::MAX), Ordering::Release);
        counts.running.fetch_sub(1, Ordering::AcqRel);
        if self.refused {
            counts.refused.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_counts_from_the_end_of_the_last_request() {
        let activity = Activity::new();
        let start = Instant::now();
        let patience = Duration::from_secs(60);
        let running = activity.request();
        let work = async {
            tokio::time::sleep(Duration::from_secs(1_000)).await;
            drop(running);
        };
        tokio::join!(activity.idle(patience), work);
        assert_eq!(start.elapsed().as_secs(), 1_060);
    }
}
