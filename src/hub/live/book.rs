//! The live tokens of one cluster: how many streams each has, and which is due for a review. No
//! I/O; time and chance are arguments.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::schedule::{Schedule, Verdict};
use crate::hub::authn::{Identity, Voucher};
use crate::hub::forward::ending::EndReason;
use crate::hub::token_key::TokenKey as Key;

/// A bearer token, wiped when its last stream and review are gone.
pub(super) type Secret = Arc<Zeroizing<String>>;

/// Who made a token, and is asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Issuer {
    /// The cluster's API server, through its tunnel.
    Spoke,
    /// The hub's own API server.
    Hub,
    /// An OpenID Connect issuer, by its keys and its configuration as they are.
    Oidc,
}

/// A token whose review is due.
pub(super) struct Due {
    pub(super) key: Key,
    pub(super) secret: Secret,
    pub(super) by: Issuer,
}

/// Tells the streams of one token that they end.
#[derive(Debug, Default)]
pub(super) struct Ending {
    token: CancellationToken,
    reason: OnceLock<EndReason>,
}

/// The live tokens of one cluster.
#[derive(Default)]
pub(super) struct Book {
    /// Tokens at once.
    most: usize,
    tokens: HashMap<Key, Entry>,
    /// Tokens by the ServiceAccount's full name.
    accounts: HashMap<String, HashSet<Key>>,
    /// Tokens that no review is under way for, by when they are due.
    queue: BTreeSet<(Instant, Key)>,
    /// Somebody follows the cluster's ServiceAccounts and does the reviews.
    pub(super) followed: bool,
    /// The cluster is not served any more.
    pub(super) over: bool,
}

/// One token.
struct Entry {
    secret: Secret,
    by: Issuer,
    /// `system:serviceaccount:NAMESPACE:NAME`, or a name of the hub, which no spoke has.
    user: String,
    /// Of the ServiceAccount; `None` where the token does not say.
    uid: Option<String>,
    ending: Arc<Ending>,
    streams: usize,
    schedule: Schedule,
    reviewing: bool,
}

// === impl Ending ===

impl Ending {
    /// Ends the streams. The first reason given stays.
    pub(super) fn end(&self, reason: EndReason) {
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    /// Ready when they end.
    pub(super) async fn ended(&self) -> EndReason {
        self.token.cancelled().await;
        // Invariant: the reason is set before the token is cancelled, and nobody else cancels it.
        self.reason.get().copied().unwrap_or(REFUSED)
    }
}

// === impl Book ===

impl Book {
    /// Of a cluster that may have `most` distinct tokens.
    pub(super) fn new(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// Counts a stream of a token; `None` when there are too many tokens already.
    pub(super) fn enter(
        &mut self,
        key: Key,
        identity: &Identity,
        secret: &str,
        now: Instant,
        chance: f64,
    ) -> Option<Arc<Ending>> {
        if let Some(entry) = self.tokens.get_mut(&key) {
            entry.streams += 1;
            return Some(Arc::clone(&entry.ending));
        }
        if self.tokens.len() >= self.most {
            return None;
        }
        let entry = Entry {
            secret: Arc::new(Zeroizing::new(secret.to_owned())),
            by: match identity.impersonation.as_ref().map(|impersonated| impersonated.by) {
                None => Issuer::Spoke,
                Some(Voucher::Hub) => Issuer::Hub,
                Some(Voucher::Issuer) => Issuer::Oidc,
            },
            user: identity.user.clone(),
            uid: identity.account_uid.clone(),
            ending: Arc::default(),
            streams: 1,
            schedule: Schedule::new(identity.bound, now, chance),
            reviewing: false,
        };
        let ending = Arc::clone(&entry.ending);
        self.accounts.entry(entry.user.clone()).or_default().insert(key);
        self.queue.insert((entry.schedule.next(), key));
        self.tokens.insert(key, entry);
        Some(ending)
    }

    /// A stream is over. `ending` says of which entry: one that was ended and came back is another.
    pub(super) fn leave(&mut self, key: &Key, ending: &Arc<Ending>) {
        let Some(entry) = self.tokens.get_mut(key) else { return };
        if !Arc::ptr_eq(&entry.ending, ending) {
            return;
        }
        entry.streams -= 1;
        if entry.streams == 0 {
            self.remove(key);
        }
    }

    /// Up to `most` tokens whose review is due; each is under way from now on.
    pub(super) fn due(&mut self, now: Instant, most: usize) -> Vec<Due> {
        let mut due = Vec::new();
        while due.len() < most && self.queue.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.queue.pop_first() else { break };
            if let Some(entry) = self.tokens.get_mut(&key) {
                entry.reviewing = true;
                due.push(Due { key, secret: Arc::clone(&entry.secret), by: entry.by });
            }
        }
        due
    }

    /// When the next review is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes the answer to a review; returns how many streams it ended.
    pub(super) fn judge(
        &mut self,
        key: &Key,
        verdict: Verdict,
        now: Instant,
        chance: f64,
    ) -> Option<usize> {
        // Its streams may be gone by now, and others of the same token may have begun.
        let entry = self.tokens.get_mut(key).filter(|entry| entry.reviewing)?;
        entry.reviewing = false;
        if entry.schedule.judge(verdict, now, chance) {
            let streams = entry.streams;
            entry.ending.end(REFUSED);
            // Gone from the book at once: should the API server accept the token again, what
            // begins then is judged afresh.
            self.remove(key);
            return Some(streams);
        }
        self.queue.insert((entry.schedule.next(), *key));
        None
    }

    /// The ServiceAccount `user` is there with this uid, or not at all.
    pub(super) fn account(&mut self, user: &str, uid: Option<&str>, now: Instant) {
        let Some(keys) = self.accounts.get(user) else { return };
        for key in keys {
            let Some(entry) = self.tokens.get_mut(key) else { continue };
            let same = match (uid, entry.uid.as_deref()) {
                (Some(uid), Some(own)) => uid == own,
                (Some(_), None) => true,
                (None, _) => false,
            };
            if !same {
                requeue(&mut self.queue, key, entry, |schedule| schedule.doubt(now));
            }
        }
    }

    /// Changes of ServiceAccounts may have been missed up to now.
    pub(super) fn missed(&mut self, now: Instant, mut chance: impl FnMut() -> f64) {
        for (key, entry) in &mut self.tokens {
            requeue(&mut self.queue, key, entry, |schedule| schedule.missed(now, chance()));
        }
    }

    /// Ends every stream of a cluster that is not served any more; returns how many.
    pub(super) fn end_all(&mut self, reason: EndReason) -> usize {
        self.over = true;
        let mut streams = 0;
        for entry in std::mem::take(&mut self.tokens).into_values() {
            streams += entry.streams;
            entry.ending.end(reason);
        }
        self.accounts.clear();
        self.queue.clear();
        streams
    }

    /// Distinct live tokens.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.tokens.remove(key) else { return };
        self.queue.remove(&(entry.schedule.next(), *key));
        if let Some(keys) = self.accounts.get_mut(&entry.user) {
            keys.remove(key);
            if keys.is_empty() {
                self.accounts.remove(&entry.user);
            }
        }
    }
}

fn requeue(
    queue: &mut BTreeSet<(Instant, Key)>,
    key: &Key,
    entry: &mut Entry,
    change: impl FnOnce(&mut Schedule),
) {
    queue.remove(&(entry.schedule.next(), *key));
    change(&mut entry.schedule);
    if !entry.reviewing {
        queue.insert((entry.schedule.next(), *key));
    }
}

/// The reason of streams whose token the API server does not accept any more.
const REFUSED: EndReason = "token-refused";

#[cfg(test)]
mod tests;
