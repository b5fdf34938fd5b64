//! A token that a spoke gave out and that is in no Secret yet: the hub's API server could not take it.

use std::fmt;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::spoke::Granted;
use super::token::Wanted;

/// Kept for the next try, so that a hub without a right, or without its API server, does not ask spokes
/// for one token after the other.
pub(super) struct Held {
    pub(super) granted: Granted,
    /// Of the ServiceAccount that it is of.
    pub(super) uid: String,
    pub(super) wanted: Wanted,
    pub(super) refreshed: Timestamp,
}

// === impl Held ===

impl Held {
    /// Whether a token that is `wanted` now, of the ServiceAccount with `uid`, may be this one.
    pub(super) fn fits(&self, uid: &str, wanted: &Wanted, now: Timestamp) -> bool {
        let life = self.granted.expires.duration_since(self.refreshed);
        let age = now.duration_since(self.refreshed);
        let is_fresh = age < (life / 2).min(LONGEST) && age >= SignedDuration::ZERO;
        self.uid == uid && self.wanted == *wanted && is_fresh
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("uid", &self.uid).finish_non_exhaustive()
    }
}

/// Three of the longest pauses between tries. What nobody has seen for longer is not worth trust: its
/// signing key may be gone.
const LONGEST: SignedDuration = SignedDuration::from_mins(15);

#[cfg(test)]
mod tests {
    use super::*;

    fn held(life: i64) -> Held {
        Held {
            granted: Granted {
                token: "secret".to_owned().into(),
                expires: Timestamp::from_second(life).unwrap(),
            },
            uid: "u".to_owned(),
            wanted: wanted(3600),
            refreshed: Timestamp::UNIX_EPOCH,
        }
    }

    fn wanted(seconds: i64) -> Wanted {
        Wanted { seconds, audiences: Vec::new() }
    }

    #[test]
    fn it_is_for_what_it_was_asked_for_and_not_for_long() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let one = held(86_400);
        assert!(one.fits("u", &wanted(3600), at(0)) && one.fits("u", &wanted(3600), at(899)));
        assert!(!one.fits("u", &wanted(3600), at(900)), "too old");
        assert!(!one.fits("u", &wanted(3600), at(-1)), "a clock that was set back");
        assert!(!one.fits("v", &wanted(3600), at(0)), "another ServiceAccount");
        assert!(!one.fits("u", &wanted(7200), at(0)), "something else is wanted");
        let short = held(600);
        assert!(short.fits("u", &wanted(3600), at(299)));
        assert!(!short.fits("u", &wanted(3600), at(300)), "half of its life is over");
    }

    #[test]
    fn no_token_is_in_its_debug_output() {
        assert!(!format!("{:?}", held(600)).contains("secret"));
    }
}
