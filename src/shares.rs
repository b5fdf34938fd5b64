//! How many of something there are at once, in all and for each of those who hold some.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts what holders have. Clones share the counts.
#[derive(Debug)]
pub struct Shares<K: Eq + Hash> {
    in_all: usize,
    each: usize,
    held: Arc<Mutex<Held<K>>>,
}

#[derive(Debug)]
struct Held<K> {
    in_all: usize,
    each: HashMap<K, usize>,
}

/// One thing that somebody holds; given back when dropped.
#[derive(Debug)]
pub struct Share<K: Eq + Hash> {
    holder: K,
    held: Arc<Mutex<Held<K>>>,
}

/// Why somebody gets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All are taken.
    InAll,
    /// This holder has as many as one may.
    Each,
}

// === impl Shares ===

impl<K: Eq + Hash + Clone> Shares<K> {
    /// At most `in_all`, at most `each` of them for one holder.
    pub fn new(in_all: usize, each: usize) -> Self {
        let held = Held { in_all: 0, each: HashMap::new() };
        Self { in_all, each, held: Arc::new(Mutex::new(held)) }
    }

    /// One for `holder`.
    pub fn take(&self, holder: K) -> Result<Share<K>, Full> {
        let mut held = lock(&self.held);
        if held.in_all >= self.in_all {
            return Err(Full::InAll);
        }
        let mine = held.each.get(&holder).copied().unwrap_or_default();
        if mine >= self.each {
            return Err(Full::Each);
        }
        held.each.insert(holder.clone(), mine + 1);
        held.in_all += 1;
        Ok(Share { holder, held: Arc::clone(&self.held) })
    }
}

impl<K: Eq + Hash> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self { in_all: self.in_all, each: self.each, held: Arc::clone(&self.held) }
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        held.in_all -= 1;
        // Only who holds something is remembered: their number has a bound.
        if let Some(mine) = held.each.get_mut(&self.holder) {
            *mine -= 1;
            if *mine == 0 {
                held.each.remove(&self.holder);
            }
        }
    }
}

fn lock<K>(held: &Mutex<Held<K>>) -> MutexGuard<'_, Held<K>> {
    // Nothing panics between two changes that belong together.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_leaves_room_for_others_and_gets_its_share_back() {
        let shares = Shares::new(3, 2);
        let first = shares.take("a").unwrap();
        let _second = shares.take("a").unwrap();
        assert_eq!(shares.take("a").unwrap_err(), Full::Each);
        let _other = shares.take("b").unwrap();
        assert_eq!(shares.take("c").unwrap_err(), Full::InAll);
        drop(first);
        assert!(shares.take("a").is_ok());
        assert_eq!(lock(&shares.held).each.len(), 2, "nobody is remembered for nothing");
    }

    #[test]
    fn who_gets_nothing_is_not_remembered() {
        let shares = Shares::new(3, 0);
        assert_eq!(shares.take("a").unwrap_err(), Full::Each);
        assert!(lock(&shares.held).each.is_empty());
        let shares = Shares::new(3, 1);
        let _share = shares.take("a").unwrap();
        assert_eq!(lock(&shares.held).each.len(), 1);
    }
}
