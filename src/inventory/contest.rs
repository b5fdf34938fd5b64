//! Telling a rival from an accident: whoever takes back what we wrote has a reason, and a fight would
//! make every consumer rebuild its clients at each blow. Pure.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use kube::core::DynamicObject;
use serde_json::Value;
use tokio::time::Instant;

use super::api::{CONDITIONS, PROVIDERS, status_list};
use super::desired::{Claims, counterpart};

/// What we wrote where, and who took it back. Keys are uids: a profile that is made anew has no past.
#[derive(Debug, Default)]
pub struct Contests {
    records: HashMap<String, Record>,
}

#[derive(Debug)]
struct Record {
    written: Claims,
    /// When it was written, or last taken back.
    at: Instant,
    /// How often it was taken back, weighed.
    strikes: u32,
    /// Until when we stay away.
    until: Option<Instant>,
}

/// What to do about a profile that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Write.
    Write,
    /// Somebody took back what we wrote just now: say so, and stay away for this long.
    Contested(Duration),
    /// Still staying away.
    Waiting(Duration),
}

// === impl Contests ===

impl Contests {
    /// Judges the live `profile`, which differs from `claims`.
    pub fn judge(&mut self, profile: &DynamicObject, claims: &Claims, now: Instant) -> Verdict {
        let Some(record) = self.records.get_mut(uid(profile)) else { return Verdict::Write };
        match record.until {
            Some(until) if until > now => return Verdict::Waiting(until - now),
            // Tried once more. Whether anybody takes that back, too, is seen after the write.
            Some(_) => return Verdict::Write,
            None => {}
        }
        let loss = loss(profile, claims);
        if !record.written.says_the_same(claims) || loss == 0 {
            // We want something else than before: no sign of anybody.
            return Verdict::Write;
        }
        if now - record.at >= FORGET {
            record.strikes = 0;
        }
        record.strikes += loss;
        record.at = now;
        if record.strikes < STRIKES {
            return Verdict::Write;
        }
        record.until = Some(now + STAY_AWAY);
        Verdict::Contested(STAY_AWAY)
    }

    /// Notes that the profile with `uid` says `claims` now, by our hand.
    pub fn wrote(&mut self, uid: &str, claims: &Claims, now: Instant) {
        let record = self.records.entry(uid.to_owned()).or_insert_with(|| Record {
            written: Claims::default(),
            at: now,
            strikes: 0,
            until: None,
        });
        record.written = claims.clone();
        record.at = now;
        record.until = None;
    }

    /// Forgets all but these.
    pub fn retain(&mut self, uids: &HashSet<String>) {
        self.records.retain(|uid, _| uids.contains(uid));
    }
}

/// The uid of a profile; empty for an object that no API server has seen.
pub fn uid(profile: &DynamicObject) -> &str {
    profile.metadata.uid.as_deref().unwrap_or_default()
}

/// How much of `claims` is gone from the profile. Another's entry in the place of ours says all; a
/// missing one may be the slip of somebody who wrote the whole status from an old copy.
fn loss(profile: &DynamicObject, claims: &Claims) -> u32 {
    let of = |list: &str, claim: &Value, key: &str| match counterpart(
        status_list(profile, list),
        claim,
        key,
    ) {
        Some(found) if found == claim => 0,
        Some(_) => STRIKES,
        None => 1,
    };
    let entries = claims.entries.iter().map(|claim| of(PROVIDERS, claim, "name"));
    let condition = claims.condition.iter().map(|claim| of(CONDITIONS, claim, "type"));
    entries.chain(condition).max().unwrap_or_default()
}

/// As many losses as nobody has by accident.
const STRIKES: u32 = 3;

/// Losses further apart than this are not counted together.
const FORGET: Duration = Duration::from_secs(60 * 60);

/// A rival is an operator's mistake: half an hour is soon enough to notice that it was mended, and a
/// blow in half an hour is no fight.
const STAY_AWAY: Duration = Duration::from_secs(30 * 60);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::inventory::api;

    fn profile(providers: Value) -> DynamicObject {
        let mut object = DynamicObject::new("p", &api::resource("v1alpha1"));
        object.metadata.uid = Some("u".into());
        object.data = json!({"status": {"accessProviders": providers}});
        object
    }

    fn claims(server: &str) -> Claims {
        let entry = json!({"name": "ours", "cluster": {"server": server}});
        Claims { entries: vec![entry], condition: None }
    }

    fn theirs() -> DynamicObject {
        profile(json!([{"name": "ours", "cluster": {"server": "theirs"}}]))
    }

    #[test]
    fn what_was_there_before_us_is_no_rival() {
        let mut contests = Contests::default();
        assert_eq!(contests.judge(&theirs(), &claims("a"), Instant::now()), Verdict::Write);
    }

    #[test]
    fn who_writes_over_us_is_left_alone_and_tried_again_later() {
        let mut contests = Contests::default();
        let start = Instant::now();
        contests.wrote("u", &claims("a"), start);
        assert_eq!(contests.judge(&theirs(), &claims("a"), start), Verdict::Contested(STAY_AWAY));
        // Also when we want something else by now.
        let later = start + STAY_AWAY / 2;
        let waiting = Verdict::Waiting(STAY_AWAY / 2);
        assert_eq!(contests.judge(&theirs(), &claims("b"), later), waiting);
        let end = start + STAY_AWAY;
        assert_eq!(contests.judge(&theirs(), &claims("b"), end), Verdict::Write);
        contests.wrote("u", &claims("b"), end);
        assert_eq!(contests.judge(&theirs(), &claims("b"), end), Verdict::Contested(STAY_AWAY));
        // Nor does it take a change of ours to end it, or a write that succeeds at once.
        let end = end + STAY_AWAY;
        for _ in 0..3 {
            assert_eq!(contests.judge(&theirs(), &claims("b"), end), Verdict::Write);
        }
        // One blow is enough now, also one that might be an accident.
        contests.wrote("u", &claims("b"), end);
        let gone = profile(json!([]));
        assert_eq!(contests.judge(&gone, &claims("b"), end), Verdict::Contested(STAY_AWAY));
        // A profile that is made anew is another one.
        contests.retain(&HashSet::new());
        assert_eq!(contests.judge(&theirs(), &claims("b"), end), Verdict::Write);
    }

    #[test]
    fn an_entry_that_is_gone_is_put_back_a_few_times() {
        let mut contests = Contests::default();
        let mut now = Instant::now();
        let gone = profile(json!([{"name": "other"}]));
        let mut judge = |now| {
            let verdict = contests.judge(&gone, &claims("a"), now);
            contests.wrote("u", &claims("a"), now);
            verdict
        };
        let verdicts: Vec<_> = (0..4).map(|_| judge(now)).collect();
        let write = Verdict::Write;
        assert_eq!(verdicts, [write, write, write, Verdict::Contested(STAY_AWAY)]);
        for _ in 0..9 {
            now += FORGET;
            assert_eq!(judge(now), write, "once an hour is an accident");
        }
    }

    #[test]
    fn a_change_of_our_own_is_no_sign_of_a_rival() {
        let mut contests = Contests::default();
        let now = Instant::now();
        contests.wrote("u", &claims("a"), now);
        let ours = profile(json!(claims("a").entries));
        for server in ["b", "c", "d", "e"] {
            assert_eq!(contests.judge(&ours, &claims(server), now), Verdict::Write);
        }
    }
}
