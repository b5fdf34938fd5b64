//! How many streams a tunnel carries at once: ours to count, because HTTP/2 would queue without
//! bound where its own limit is reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::settings::Settings;

/// Which of the two stream budgets a request draws on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamClass {
    /// Ends by itself soon.
    Short,
    /// Watch, `logs -f`, upgrade.
    Long,
}

/// The right to one stream; given back when dropped.
#[derive(Debug)]
pub struct StreamPermit {
    counts: Arc<Counts>,
    class: StreamClass,
}

/// The two budgets of one tunnel.
#[derive(Debug)]
pub(super) struct Permits {
    counts: Arc<Counts>,
    short: usize,
    long: usize,
}

#[derive(Debug, Default)]
struct Counts {
    short: AtomicUsize,
    long: AtomicUsize,
}

// === impl Permits ===

impl Permits {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { counts: Arc::default(), short: settings.short_streams, long: settings.long_streams }
    }

    /// Takes a permit if one is free. `peer` is how many streams the peer allows in all: when that
    /// is less than our own sum, both classes shrink alike, so neither can starve the other.
    pub(super) fn try_take(&self, class: StreamClass, peer: usize) -> Option<StreamPermit> {
        let limit = self.limit(class, peer);
        let below = |count| (count < limit).then_some(count + 1);
        self.counts.of(class).fetch_update(Ordering::AcqRel, Ordering::Relaxed, below).ok()?;
        Some(StreamPermit { counts: Arc::clone(&self.counts), class })
    }

    /// Permits out, both classes.
    pub(super) fn taken(&self) -> usize {
        self.counts.short.load(Ordering::Acquire) + self.counts.long.load(Ordering::Acquire)
    }

    fn limit(&self, class: StreamClass, peer: usize) -> usize {
        let sum = self.short.saturating_add(self.long);
        if peer >= sum {
            return match class {
                StreamClass::Short => self.short,
                StreamClass::Long => self.long,
            };
        }
        // `peer < sum`, so the quotient fits; u128 holds every product.
        let long = (self.long as u128 * peer as u128 / sum as u128) as usize;
        match class {
            StreamClass::Short => peer - long,
            StreamClass::Long => long,
        }
    }
}

// === impl Counts ===

impl Counts {
    fn of(&self, class: StreamClass) -> &AtomicUsize {
        match class {
            StreamClass::Short => &self.short,
            StreamClass::Long => &self.long,
        }
    }
}

// === impl StreamPermit ===

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.counts.of(self.class).fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(short: usize, long: usize) -> Permits {
        Permits::new(&Settings { short_streams: short, long_streams: long, ..Settings::default() })
    }

    fn take_all(permits: &Permits, class: StreamClass, peer: usize) -> Vec<StreamPermit> {
        std::iter::from_fn(|| permits.try_take(class, peer)).collect()
    }

    #[test]
    fn each_class_has_its_own_budget_and_gets_it_back() {
        let permits = permits(3, 5);
        let short = take_all(&permits, StreamClass::Short, usize::MAX);
        let long = take_all(&permits, StreamClass::Long, usize::MAX);
        assert_eq!((short.len(), long.len(), permits.taken()), (3, 5, 8));
        drop((short, long));
        assert_eq!(permits.taken(), 0);
        assert!(permits.try_take(StreamClass::Short, usize::MAX).is_some());
    }

    #[test]
    fn a_smaller_peer_is_respected_in_sum() {
        let permits = permits(1_024, 8_192);
        for peer in [0, 1, 2, 9, 100, 9_215] {
            let short = take_all(&permits, StreamClass::Short, peer);
            let long = take_all(&permits, StreamClass::Long, peer);
            assert_eq!(short.len() + long.len(), peer);
            assert!(peer == 0 || !short.is_empty());
        }
    }
}
