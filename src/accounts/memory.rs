//! What this process remembers of each account: when to try again, when to ask the spoke whether the
//! token is still good, and what the metrics show. Nothing of it has to survive a restart.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use rand::Rng as _;
use tokio::time::Instant;

use super::few::Few;
use super::held::Held;
use crate::hash::sha256_hex;

/// Namespace and name.
pub(super) type Key = (String, String);

/// How an account is, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum State {
    /// Its token is good.
    Ready,
    /// Its cluster is away; the token it has still lives, if it has one.
    #[default]
    Waiting,
    /// It is tried again and again.
    Failing,
    /// Somebody else has to change something first.
    Refused,
    /// Somebody else serves it, or nobody.
    Ignored,
}

/// What is remembered. Bounded by the accounts there are: who is gone is forgotten.
#[derive(Debug, Default)]
pub(super) struct Memory {
    accounts: Mutex<HashMap<Key, Account>>,
}

#[derive(Debug, Default)]
struct Account {
    state: State,
    refreshed: Option<Timestamp>,
    failures: u32,
    /// Not before this, for these versions of the object: the last of them is our own writing.
    retry: Option<(Instant, Vec<String>)>,
    /// The last requests for tokens.
    asked: Few<3>,
    /// The last writes of its status.
    reports: Few<10>,
    /// The last looks that were the spoke's wish.
    heard: Few<6>,
    /// The token that could not be written.
    held: Option<Held>,
    /// Hash of the token that the spoke last agreed to, and when to ask again.
    reviewed: Option<(String, Instant)>,
    /// Hash of the last token that it got, since when, and until when.
    granted: Option<(String, Timestamp, Timestamp)>,
    /// Version of the account before we wrote its status.
    outdated: Option<String>,
    /// Of its Secret: the version that the watch showed when we wrote, and the one that we wrote.
    secret: Option<(Option<String>, Option<String>)>,
}

/// Whether the spoke has to be asked about a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Review {
    /// Now.
    Due,
    /// Then.
    In(Duration),
}

// === impl State ===

impl State {
    /// All of them.
    pub(super) const ALL: [Self; 5] =
        [Self::Ready, Self::Waiting, Self::Failing, Self::Refused, Self::Ignored];

    /// As metrics call it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Waiting => "waiting",
            Self::Failing => "failing",
            Self::Refused => "refused",
            Self::Ignored => "ignored",
        }
    }
}

// === impl Memory ===

impl Memory {
    /// Records how an account is, and since when it has its token.
    pub(super) fn note(&self, key: &Key, state: State, refreshed: Option<Timestamp>) {
        self.edit(key, |account| {
            account.state = state;
            account.refreshed = refreshed;
        });
    }

    /// Records that an account has to wait. One that fails is not better for it.
    pub(super) fn waits(&self, key: &Key, refreshed: Option<Timestamp>) {
        self.edit(key, |account| {
            if account.failures == 0 {
                account.state = State::Waiting;
            }
            account.refreshed = refreshed;
        });
    }

    /// Counts a failure; returns the pause before the next try. `versions` of the object are not
    /// worth a try before.
    pub(super) fn failed(&self, key: &Key, versions: Vec<String>) -> Duration {
        self.edit(key, |account| {
            let pause = RETRY.saturating_mul(1 << account.failures.min(DOUBLINGS));
            let pause = pause.min(RETRY_MOST).mul_f64(rand::rng().random_range(0.5..=1.0));
            account.failures += 1;
            account.retry = Some((Instant::now() + pause, versions));
            pause
        })
    }

    /// The way is free again.
    pub(super) fn succeeded(&self, key: &Key) {
        self.edit(key, |account| {
            account.failures = 0;
            account.retry = None;
        });
    }

    /// How long a try at this version of the object still has to wait.
    pub(super) fn pause(&self, key: &Key, version: &str) -> Option<Duration> {
        let accounts = self.lock();
        let (until, versions) = accounts.get(key)?.retry.as_ref()?;
        let left = until.checked_duration_since(Instant::now())?;
        (!left.is_zero() && versions.iter().any(|one| one == version)).then_some(left)
    }

    /// Something around the account changed: the next try need not wait.
    pub(super) fn wake(&self, key: &Key) {
        if let Some(account) = self.lock().get_mut(key) {
            account.retry = None;
        }
    }

    /// Counts a request for a token, or says how long it has to wait: a spoke that gives none, or whose
    /// tokens die at once, must not keep the hub busy.
    pub(super) fn may_ask_token(&self, key: &Key) -> Result<(), Duration> {
        self.edit(key, |account| account.asked.take())
    }

    /// Keeps a token that could not be written.
    pub(super) fn hold(&self, key: &Key, held: Held) {
        self.edit(key, |account| account.held = Some(held));
    }

    /// Gives it out again.
    pub(super) fn take_held(&self, key: &Key) -> Option<Held> {
        self.edit(key, |account| account.held.take())
    }

    /// Counts a look that the spoke wishes, or says how long it has to wait.
    pub(super) fn hear(&self, key: &Key) -> Result<(), Duration> {
        self.edit(key, |account| account.heard.take())
    }

    /// Whether the status of an account may be written, or how long that has to wait: it is made of
    /// what the spoke says, which may be something else each time.
    pub(super) fn may_report(&self, key: &Key) -> Result<(), Duration> {
        self.edit(key, |account| account.reports.may())
    }

    /// The status of an account is written.
    pub(super) fn reporting(&self, key: &Key) {
        self.edit(key, |account| account.reports.count());
    }

    /// Whether the spoke has to be asked about `token`. One that was there before us waits for its
    /// turn, so that a start does not ask about all of them; one that came in its place does not.
    pub(super) fn review(&self, key: &Key, token: &str) -> Review {
        let hash = sha256_hex(token.as_bytes());
        let now = Instant::now();
        self.edit(key, |account| {
            let at = match &account.reviewed {
                Some((known, at)) if *known == hash => *at,
                Some(_) => return Review::Due,
                None => {
                    let at = now + REVIEW.mul_f64(rand::rng().random_range(0.0..=1.0));
                    account.reviewed = Some((hash, at));
                    at
                }
            };
            match at.checked_duration_since(now) {
                Some(left) if !left.is_zero() => Review::In(left),
                _ => Review::Due,
            }
        })
    }

    /// The spoke agreed to `token`. Returns when to ask again.
    pub(super) fn reviewed(&self, key: &Key, token: &str) -> Duration {
        let pause = REVIEW.mul_f64(rand::rng().random_range(0.75..=1.25));
        let hash = sha256_hex(token.as_bytes());
        self.edit(key, |account| account.reviewed = Some((hash, Instant::now() + pause)));
        pause
    }

    /// An account got `token`.
    pub(super) fn minted(&self, key: &Key, token: &str, refreshed: Timestamp, expires: Timestamp) {
        let hash = sha256_hex(token.as_bytes());
        self.edit(key, |account| account.granted = Some((hash, refreshed, expires)));
        self.reviewed(key, token);
    }

    /// Since when an account has `token`, and until when, if it got it here.
    pub(super) fn granted(&self, key: &Key, token: &str) -> Option<(Timestamp, Timestamp)> {
        let accounts = self.lock();
        let (hash, refreshed, expires) = accounts.get(key)?.granted.as_ref()?;
        (*hash == sha256_hex(token.as_bytes())).then_some((*refreshed, *expires))
    }

    /// We wrote the status of an account; what is older than that has this version.
    pub(super) fn account_written(&self, key: &Key, outdated: Option<String>) {
        self.edit(key, |account| account.outdated = outdated);
    }

    /// Whether a version of an account is older than what we wrote.
    pub(super) fn is_outdated(&self, key: &Key, version: Option<&str>) -> bool {
        let accounts = self.lock();
        let outdated = accounts.get(key).and_then(|account| account.outdated.as_deref());
        outdated.is_some() && outdated == version
    }

    /// We wrote the Secret of an account, while the watch showed `outdated`.
    pub(super) fn secret_written(
        &self,
        key: &Key,
        outdated: Option<String>,
        written: Option<String>,
    ) {
        self.edit(key, |account| account.secret = Some((outdated, written)));
    }

    /// Whether a version of its Secret (or that there is none) is older than what we wrote.
    pub(super) fn is_secret_outdated(&self, key: &Key, version: Option<&str>) -> bool {
        let accounts = self.lock();
        let secret = accounts.get(key).and_then(|account| account.secret.as_ref());
        secret.is_some_and(|(outdated, _)| outdated.as_deref() == version)
    }

    /// Whether this version of its Secret is the one we wrote.
    pub(super) fn is_secret_ours(&self, key: &Key, version: Option<&str>) -> bool {
        let accounts = self.lock();
        let secret = accounts.get(key).and_then(|account| account.secret.as_ref());
        secret.is_some_and(|(_, written)| written.is_some() && written.as_deref() == version)
    }

    /// The account is gone.
    pub(super) fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// Forgets all but some.
    pub(super) fn retain(&self, keep: impl Fn(&Key) -> bool) {
        self.lock().retain(|key, _| keep(key));
    }

    /// How every account is, and since when it has its token.
    pub(super) fn states(&self) -> Vec<(State, Option<Timestamp>)> {
        self.lock().values().map(|account| (account.state, account.refreshed)).collect()
    }

    fn edit<T>(&self, key: &Key, change: impl FnOnce(&mut Account) -> T) -> T {
        change(self.lock().entry(key.clone()).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Account>> {
        // Every change is a few assignments: a panic elsewhere leaves nothing half done.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first pause.
const RETRY: Duration = Duration::from_secs(1);
/// The longest: what is missing is mostly a right that somebody has to grant.
const RETRY_MOST: Duration = Duration::from_secs(300);
/// Enough to come from the first to the longest.
const DOUBLINGS: u32 = 9;
/// Upstream asks at every look. What a review shows and the rest does not (a lost signing key) is
/// rare, and clients of a dead token hear of it at once.
const REVIEW: Duration = Duration::from_secs(30 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        ("c1".to_owned(), "a".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end_and_a_change_cuts_them_short() {
        let memory = Memory::default();
        let mut last = Duration::ZERO;
        for round in 0..20 {
            last = memory.failed(&key(), vec!["7".to_owned()]);
            let least = RETRY.mul_f64(0.5 * f64::from(1_u32 << round.min(8)));
            assert!(last >= least.min(RETRY_MOST / 2) && last <= RETRY_MOST, "{round}: {last:?}");
        }
        assert!(memory.pause(&key(), "7").is_some());
        assert_eq!(memory.pause(&key(), "8"), None, "the object changed");
        tokio::time::advance(last).await;
        assert_eq!(memory.pause(&key(), "7"), None, "it is time");
        memory.failed(&key(), vec!["7".to_owned()]);
        memory.wake(&key());
        assert_eq!(memory.pause(&key(), "7"), None, "something else changed");
        memory.succeeded(&key());
        assert!(memory.failed(&key(), Vec::new()) <= RETRY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_in_a_minute_and_no_more() {
        let mut few = Few::<3>::default();
        for _ in 0..3 {
            assert_eq!(few.take(), Ok(()));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let wait = few.take().unwrap_err();
        assert!(wait < super::super::few::WINDOW);
        tokio::time::advance(wait).await;
        assert_eq!(few.may(), Ok(()));
        assert_eq!(few.take(), Ok(()));
        assert!(few.take().is_err());
    }

    #[test]
    fn who_fails_does_not_merely_wait() {
        let memory = Memory::default();
        memory.waits(&key(), None);
        assert_eq!(memory.states(), [(State::Waiting, None)]);
        memory.note(&key(), State::Refused, None);
        memory.failed(&key(), Vec::new());
        memory.waits(&key(), None);
        assert_eq!(memory.states(), [(State::Refused, None)]);
        memory.succeeded(&key());
        memory.waits(&key(), None);
        assert_eq!(memory.states(), [(State::Waiting, None)]);
    }

    #[tokio::test(start_paused = true)]
    async fn known_tokens_are_asked_about_now_and_then_and_new_ones_at_once() {
        let memory = Memory::default();
        let Review::In(first) = memory.review(&key(), "old") else { panic!("at the start") };
        assert!(first <= REVIEW);
        tokio::time::advance(first).await;
        assert_eq!(memory.review(&key(), "old"), Review::Due);
        let next = memory.reviewed(&key(), "old");
        assert_eq!(memory.review(&key(), "old"), Review::In(next));
        assert_eq!(memory.review(&key(), "edited"), Review::Due);
        memory.forget(&key());
        assert!(memory.states().is_empty());
    }

    #[test]
    fn our_own_writing_is_known() {
        let memory = Memory::default();
        assert!(!memory.is_secret_ours(&key(), None) && !memory.is_secret_outdated(&key(), None));
        memory.secret_written(&key(), None, Some("5".to_owned()));
        assert!(memory.is_secret_ours(&key(), Some("5")));
        assert!(!memory.is_secret_ours(&key(), Some("6")), "edited");
        assert!(memory.is_secret_outdated(&key(), None), "the watch does not know it yet");
        assert!(!memory.is_secret_outdated(&key(), Some("5")));
        assert!(!memory.is_outdated(&key(), None));
        memory.account_written(&key(), Some("7".to_owned()));
        assert!(memory.is_outdated(&key(), Some("7")) && !memory.is_outdated(&key(), Some("8")));
    }
}
