//! When a live token is reviewed next, and when its answers end its streams. Pure: time and chance
//! are arguments.
//!
//! An API server caches a good token for ten seconds, so a review that comes sooner after a change
//! proves nothing: whatever gives reason to doubt is asked about until that time is over.

use std::time::Duration;

use tokio::time::Instant;

/// The reviews of one live token.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    /// Whether the token also ends with a Pod, a Node or a Secret, which nobody watches.
    bound: bool,
    next: Instant,
    /// When the last review was answered.
    last: Option<Instant>,
    /// There is reason to doubt it until then.
    doubted: Option<Instant>,
    /// The last definite answer was no.
    refused: bool,
    failures: u32,
}

/// What one review said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The API server accepts the token.
    Accepted,
    /// The API server definitely does not.
    Refused,
    /// No answer, or none that says anything of the token.
    Failed,
    /// The agent may not ask.
    Forbidden,
}

// === impl Schedule ===

impl Schedule {
    /// Of a token that the API server is about to accept, maybe from its cache. `chance` is between
    /// 0 and 1, here and below.
    pub(super) fn new(bound: bool, now: Instant, chance: f64) -> Self {
        let mut schedule =
            Self { bound, next: now, last: None, doubted: None, refused: false, failures: 0 };
        let first = if bound { BOUND_EVERY } else { PAST_CACHE };
        schedule.next = now + first + SPREAD.mul_f64(chance);
        schedule
    }

    /// When to review.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Its ServiceAccount is gone or another one.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.doubted = Some(now + DOUBT);
        // However often somebody says so.
        let earliest = self.last.map_or(now, |last| last + DOUBTED_EVERY);
        self.next = self.next.min(now.max(earliest));
    }

    /// Its ServiceAccount may have changed unseen up to now.
    pub(super) fn missed(&mut self, now: Instant, chance: f64) {
        self.next = self.next.min(now + PAST_CACHE + SPREAD.mul_f64(chance));
    }

    /// Takes an answer; returns whether the token's streams end.
    pub(super) fn judge(&mut self, verdict: Verdict, now: Instant, chance: f64) -> bool {
        self.last = Some(now);
        let doubted = self.doubted.is_some_and(|until| now < until);
        let urgent = doubted || self.bound || self.refused;
        let wait = match verdict {
            Verdict::Accepted => {
                (self.refused, self.failures) = (false, 0);
                match (doubted, self.bound) {
                    (true, _) => DOUBTED_EVERY,
                    (false, true) => BOUND_EVERY + SPREAD.mul_f64(chance),
                    (false, false) => SELDOM.mul_f64(0.8 + 0.4 * chance),
                }
            }
            Verdict::Refused if self.refused => return true,
            Verdict::Refused => {
                (self.refused, self.failures) = (true, 0);
                CONFIRM
            }
            Verdict::Failed => {
                self.failures = self.failures.saturating_add(1);
                let most = if urgent { BOUND_EVERY } else { RETRY_MOST };
                let grown = RETRY.saturating_mul(1 << self.failures.min(10));
                grown.min(most).mul_f64(0.5 + 0.5 * chance)
            }
            Verdict::Forbidden => FORBIDDEN.mul_f64(0.8 + 0.4 * chance),
        };
        self.next = now + wait;
        false
    }
}

/// Below the ten seconds within which streams of a deleted Pod have to end: the confirmation and
/// the round trips need the rest.
const BOUND_EVERY: Duration = Duration::from_secs(7);

/// API servers cache a good token for ten seconds (`kube-apiserver`, token success cache).
const PAST_CACHE: Duration = Duration::from_secs(11);

/// Tokens that came together are reviewed over this time.
const SPREAD: Duration = Duration::from_secs(1);

/// A safety net under the watch of ServiceAccounts.
const SELDOM: Duration = Duration::from_secs(300);

/// Pause between reviews of a token that is doubted.
const DOUBTED_EVERY: Duration = Duration::from_secs(2);

/// How long doubt lasts: the API server's cache, the lag of its own informers, and room.
const DOUBT: Duration = Duration::from_secs(20);

/// One no may be an API server that cannot read its own store for a moment; it says so in the same
/// words. Two in a row end streams.
const CONFIRM: Duration = Duration::from_millis(500);

const RETRY: Duration = Duration::from_millis(500);

const RETRY_MOST: Duration = Duration::from_secs(60);

/// Rights are granted by people.
const FORBIDDEN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    /// The waits between reviews whose answers are given.
    fn waits(schedule: &mut Schedule, from: Instant, answers: &[Verdict]) -> Vec<Duration> {
        let mut now = from;
        let mut waits = Vec::new();
        for answer in answers {
            waits.push(schedule.next() - now);
            now = schedule.next();
            assert!(!schedule.judge(*answer, now, 0.5));
        }
        waits
    }

    #[tokio::test(start_paused = true)]
    async fn bound_tokens_every_ten_seconds_and_others_seldom() {
        let now = Instant::now();
        let mut bound = Schedule::new(true, now, 1.0);
        for wait in waits(&mut bound, now, &[Verdict::Accepted; 5]) {
            assert!(wait + CONFIRM < Duration::from_secs(10), "{wait:?}");
        }
        let mut other = Schedule::new(false, now, 0.0);
        let waits = waits(&mut other, now, &[Verdict::Accepted; 3]);
        assert!(waits[0] > Duration::from_secs(10), "past the API server's cache: {waits:?}");
        assert_eq!(waits[1..], [SELDOM, SELDOM]);
    }

    #[tokio::test(start_paused = true)]
    async fn two_definite_refusals_end_and_nothing_else_does() {
        let now = Instant::now();
        let mut schedule = Schedule::new(false, now, 0.5);
        assert!(!schedule.judge(Verdict::Refused, now, 0.5));
        assert_eq!(schedule.next(), now + CONFIRM);
        assert!(!schedule.judge(Verdict::Accepted, now, 0.5), "it was a moment's weakness");
        for _ in 0..100 {
            assert!(!schedule.judge(Verdict::Failed, now, 0.5));
            assert!(!schedule.judge(Verdict::Forbidden, now, 0.5));
        }
        assert!(!schedule.judge(Verdict::Refused, now, 0.5));
        assert!(!schedule.judge(Verdict::Failed, now, 0.5));
        assert!(schedule.judge(Verdict::Refused, now, 0.5), "an outage is no answer in between");
    }

    #[tokio::test(start_paused = true)]
    async fn doubt_asks_until_the_cache_of_the_api_server_is_over() {
        let now = Instant::now();
        let mut schedule = Schedule::new(false, now, 0.5);
        schedule.doubt(now);
        let answers = [Verdict::Accepted; 12];
        let waits = waits(&mut schedule, now, &answers);
        assert_eq!(waits[0], Duration::ZERO, "at once");
        assert!(waits[1..11].iter().all(|wait| *wait == DOUBTED_EVERY), "{waits:?}");
        assert_eq!(waits[11], SELDOM, "nothing came of it");
    }

    #[tokio::test(start_paused = true)]
    async fn doubt_that_is_said_all_the_time_is_rate_limited() {
        let now = Instant::now();
        let mut schedule = Schedule::new(false, now, 0.5);
        for _ in 0..10 {
            schedule.doubt(now);
            assert_eq!(schedule.next(), now);
            schedule.judge(Verdict::Accepted, now, 0.5);
            schedule.doubt(now);
            assert_eq!(schedule.next(), now + DOUBTED_EVERY);
            schedule = Schedule::new(false, now, 0.5);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_urgent_ones_less() {
        let now = Instant::now();
        let mut seldom = Schedule::new(false, now, 0.5);
        let mut bound = Schedule::new(true, now, 0.5);
        let last =
            |schedule: &mut Schedule| *waits(schedule, now, &[Verdict::Failed; 12]).last().unwrap();
        assert_eq!(last(&mut seldom), RETRY_MOST.mul_f64(0.75));
        assert_eq!(last(&mut bound), BOUND_EVERY.mul_f64(0.75));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_missed_is_looked_at_once_the_cache_is_over() {
        let now = Instant::now();
        let mut schedule = Schedule::new(false, now, 0.5);
        schedule.judge(Verdict::Accepted, now, 0.5);
        assert_eq!(schedule.next(), now + SELDOM);
        schedule.missed(now, 0.0);
        assert_eq!(schedule.next(), now + PAST_CACHE);
        schedule.missed(now, 1.0);
        assert_eq!(schedule.next(), now + PAST_CACHE, "never later");
    }
}
