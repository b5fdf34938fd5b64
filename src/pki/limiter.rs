//! How often strangers may fail: per source and all together. Pure, in a bounded table.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// Counts failures. Successes are free: a whole fleet behind one address may renew at once.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    sources: HashMap<IpAddr, Bucket>,
    all: Bucket,
}

/// Failures that have not been forgiven yet, as of a moment.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    level: f64,
    as_of: Option<Instant>,
}

// === impl Limiter ===

impl Limiter {
    /// Whether `source` may try now.
    pub(super) fn allows(&self, source: IpAddr, now: Instant) -> bool {
        let of_source = self.sources.get(&network(source));
        self.all.level(now, ALL_PER_SECOND) + 1.0 <= ALL_BURST
            && of_source
                .is_none_or(|bucket| bucket.level(now, SOURCE_PER_SECOND) + 1.0 <= SOURCE_BURST)
    }

    /// Remembers that `source` failed.
    pub(super) fn failed(&mut self, source: IpAddr, now: Instant) {
        self.all.add(now, ALL_PER_SECOND, ALL_BURST);
        let source = network(source);
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            self.sources.retain(|_, bucket| bucket.level(now, SOURCE_PER_SECOND) > 0.0);
            if self.sources.len() >= MAX_SOURCES {
                // So many sources at once: the limit over all of them has to do.
                return;
            }
        }
        self.sources.entry(source).or_default().add(now, SOURCE_PER_SECOND, SOURCE_BURST);
    }
}

// === impl Bucket ===

impl Bucket {
    fn level(&self, now: Instant, per_second: f64) -> f64 {
        let idle = self.as_of.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        (self.level - idle.as_secs_f64() * per_second).max(0.0)
    }

    fn add(&mut self, now: Instant, per_second: f64, burst: f64) {
        // Never above the burst: a flood is forgiven as fast as its first part.
        let level = (self.level(now, per_second) + 1.0).min(burst);
        *self = Self { level, as_of: Some(now) };
    }
}

/// One subscriber usually has a whole /64 of IPv6.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        four @ IpAddr::V4(_) => four,
    }
}

/// Failures of one source that are forgiven at once: an operator's typing errors.
const SOURCE_BURST: f64 = 10.0;

/// After those, one try in six seconds.
const SOURCE_PER_SECOND: f64 = 1.0 / 6.0;

/// Failures of everybody. High, so that a stranger with many addresses cannot easily keep agents
/// out; the secret has 256 bits, so this bounds work and logs, not luck.
const ALL_BURST: f64 = 1000.0;

/// Refill of [`ALL_BURST`].
const ALL_PER_SECOND: f64 = 100.0;

/// About 300 KiB.
const MAX_SOURCES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn four(last: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + last).into())
    }

    #[test]
    fn one_source_is_stopped_and_forgiven() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        let tries = (0..1000).filter(|_| {
            let allowed = limiter.allows(four(1), start);
            limiter.failed(four(1), start);
            allowed
        });
        assert_eq!(tries.count(), 10);
        assert!(!limiter.allows(four(1), start + Duration::from_secs(5)));
        assert!(limiter.allows(four(1), start + Duration::from_secs(6)));
    }

    #[test]
    fn another_source_is_not() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        for _ in 0..50 {
            limiter.failed(four(1), start);
        }
        assert!(!limiter.allows(four(1), start));
        assert!(limiter.allows(four(2), start));
    }

    #[test]
    fn addresses_of_one_subscriber_are_one_source() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        for last in 0..10u128 {
            limiter.failed(Ipv6Addr::from_bits(0x2001_0db8 << 96 | last).into(), start);
        }
        assert!(!limiter.allows(Ipv6Addr::from_bits(0x2001_0db8 << 96 | 99).into(), start));
        assert!(limiter.allows(Ipv6Addr::from_bits(0x2001_0db8 << 96 | 1 << 64).into(), start));
        // And the two spellings of an IPv4 address are one.
        for _ in 0..10 {
            limiter.failed("::ffff:10.0.0.9".parse().unwrap(), start);
        }
        assert!(!limiter.allows(four(9), start));
    }

    #[test]
    fn the_table_is_bounded_and_all_together_too() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        for source in 0..20_000 {
            limiter.failed(four(source), start);
        }
        assert_eq!(limiter.sources.len(), MAX_SOURCES);
        assert!(!limiter.allows(four(30_000), start));
        let later = start + Duration::from_secs(3600);
        assert!(limiter.allows(four(30_000), later));
        limiter.failed(four(30_000), later);
        assert_eq!(limiter.sources.len(), 1);
    }
}
