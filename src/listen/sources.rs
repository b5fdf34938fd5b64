//! How many of something there are at once, in all and for each source address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts things that sources hold. Clones share the counts.
#[derive(Clone, Debug)]
pub struct Sources {
    in_all: usize,
    each: usize,
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    in_all: usize,
    each: HashMap<IpAddr, usize>,
}

/// One thing that a source holds; given back when dropped.
#[derive(Debug)]
pub struct Slot {
    source: IpAddr,
    held: Arc<Mutex<Held>>,
}

/// Why a source gets no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All slots are taken.
    InAll,
    /// This source has as many as one source may.
    Source,
}

// === impl Sources ===

impl Sources {
    /// At most `in_all` slots, at most `each` of them for one source.
    pub fn new(in_all: usize, each: usize) -> Self {
        Self { in_all, each, held: Arc::default() }
    }

    /// A slot for `address`.
    pub fn take(&self, address: IpAddr) -> Result<Slot, Full> {
        let source = source(address);
        let mut held = lock(&self.held);
        if held.in_all >= self.in_all {
            return Err(Full::InAll);
        }
        let mine = held.each.get(&source).copied().unwrap_or_default();
        if mine >= self.each {
            return Err(Full::Source);
        }
        held.each.insert(source, mine + 1);
        held.in_all += 1;
        Ok(Slot { source, held: Arc::clone(&self.held) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        held.in_all -= 1;
        // Only sources that hold something are remembered: their number has a bound.
        if let Some(mine) = held.each.get_mut(&self.source) {
            *mine -= 1;
            if *mine == 0 {
                held.each.remove(&self.source);
            }
        }
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    // Nothing panics between two changes that belong together.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One customer of one network: an IPv4 address, or the /64 that a host picks its IPv6 addresses
/// from.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_source_leaves_room_for_others_and_gets_its_slots_back() {
        let sources = Sources::new(3, 2);
        let first = sources.take(ip("192.0.2.1")).unwrap();
        let _second = sources.take(ip("192.0.2.1")).unwrap();
        assert_eq!(sources.take(ip("192.0.2.1")).unwrap_err(), Full::Source);
        assert_eq!(sources.take(ip("::ffff:192.0.2.1")).unwrap_err(), Full::Source);
        let _other = sources.take(ip("192.0.2.2")).unwrap();
        assert_eq!(sources.take(ip("192.0.2.3")).unwrap_err(), Full::InAll);
        drop(first);
        assert!(sources.take(ip("192.0.2.1")).is_ok());
        assert_eq!(lock(&sources.held).each.len(), 2, "nobody is remembered for nothing");
    }

    #[test]
    fn who_gets_nothing_is_not_remembered() {
        let sources = Sources::new(3, 0);
        assert_eq!(sources.take(ip("192.0.2.1")).unwrap_err(), Full::Source);
        assert!(lock(&sources.held).each.is_empty());
        let sources = Sources::new(3, 1);
        let _slot = sources.take(ip("192.0.2.1")).unwrap();
        assert_eq!(lock(&sources.held).each.len(), 1);
    }

    #[test]
    fn a_host_of_ipv6_is_its_network() {
        let sources = Sources::new(9, 1);
        let _one = sources.take(ip("2001:db8:0:1::1")).unwrap();
        assert_eq!(sources.take(ip("2001:db8:0:1:ffff::2")).unwrap_err(), Full::Source);
        assert!(sources.take(ip("2001:db8:0:2::1")).is_ok());
    }
}
