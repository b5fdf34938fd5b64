//! Answers that were given a moment ago.
//!
//! Two caches, because junk is free to make: refusals have their own, so that no number of bad
//! tokens pushes out a good one. Keys name cluster and token and hold neither ([`TokenKeys`]).
//!
//! An entry names the generation of the key sets it was decided by ([`Generation`]). When keys of
//! the cluster or the hub change, all older entries miss at once: a removed key stops, a new one works.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::credential::Token;
use super::{AuthnError, Identity};
use crate::hub::token_key::{TokenKey, TokenKeys};
use crate::name::ClusterName;

/// Which key sets decided: numbers of the path cluster's snapshot and of the hub's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generation {
    /// 0 for a cluster that is not enrolled.
    pub(super) cluster: u64,
    /// 0 without a hub API.
    pub(super) hub: u64,
    /// Of the issuers and what is configured of them.
    pub(super) issuers: u64,
}

type Answer = Result<Arc<Identity>, AuthnError>;

/// Both caches.
pub(super) struct Cache {
    keys: TokenKeys,
    accepted: moka::sync::Cache<TokenKey, Entry>,
    refused: moka::sync::Cache<TokenKey, Entry>,
}

#[derive(Clone)]
struct Entry {
    answer: Answer,
    generation: Generation,
    /// Monotonic, so that a clock set back does not stretch it.
    until: Instant,
}

// === impl Cache ===

impl Cache {
    /// Empty caches.
    pub(super) fn new() -> Self {
        let cache = |size| moka::sync::Cache::builder().max_capacity(size).time_to_live(TTL);
        let accepted = cache(MAX_ACCEPTED).weigher(|_, entry: &Entry| entry.weight()).build();
        Self { keys: TokenKeys::new(), accepted, refused: cache(MAX_REFUSED).build() }
    }

    /// The key of `token` on the path of `cluster`.
    pub(super) fn key(&self, cluster: &ClusterName, token: &Token) -> TokenKey {
        self.keys.of(cluster.as_str(), token.as_bytes())
    }

    /// The answer that still holds.
    pub(super) fn get(
        &self,
        key: &TokenKey,
        generation: Generation,
        now: SystemTime,
    ) -> Option<Answer> {
        let entry = self.accepted.get(key).or_else(|| self.refused.get(key))?;
        let expired = match &entry.answer {
            Ok(identity) => identity.expires.is_some_and(|expires| now >= expires),
            Err(_) => false,
        };
        let holds = entry.generation == generation && Instant::now() < entry.until && !expired;
        holds.then_some(entry.answer)
    }

    /// Remembers an answer that is as old as `since`. An outage is none.
    pub(super) fn put(
        &self,
        key: TokenKey,
        generation: Generation,
        answer: &Answer,
        since: Instant,
    ) {
        let entry = Entry { answer: answer.clone(), generation, until: since + TTL };
        match answer {
            Ok(_) => self.accepted.insert(key, entry),
            Err(AuthnError::Unavailable(_)) => {}
            Err(_) => self.refused.insert(key, entry),
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Bytes, about.
    fn weight(&self) -> u32 {
        let names = self.answer.as_ref().map_or(0, |identity| identity.size());
        u32::try_from(names).unwrap_or(u32::MAX).saturating_add(ENTRY)
    }
}

/// How long an answer holds. Verifying again costs tens of microseconds, so there is nothing to
/// gain from more, and a token that becomes valid works within this time. An answer that the hub's
/// API server gave was as old already when it came: no request is let in by one that is older.
const TTL: Duration = Duration::from_secs(10);

/// Bytes. About 100,000 ServiceAccounts, ten times the tokens that 1,000 busy clusters use at once; a
/// user of an issuer may be in so many groups that a few hundred fill it.
const MAX_ACCEPTED: u64 = 32 << 20;

/// Bytes of an entry without the names in it.
const ENTRY: u32 = 250;

/// Refusals only save work while somebody repeats one; their flood must stay small.
const MAX_REFUSED: u64 = 20_000;

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::hub::authn::{Refusal, UnprefixedNames};
    use crate::hub::token_review::UserInfo;

    const HERE: Generation = Generation { cluster: 1, hub: 1, issuers: 1 };

    fn token(text: &str) -> Token {
        let value = format!("Bearer {text}").parse().unwrap();
        Token::take(&mut HeaderMap::from_iter([(http::header::AUTHORIZATION, value)])).unwrap()
    }

    fn name(name: &str) -> ClusterName {
        ClusterName::parse(name).unwrap()
    }

    fn identity(expires: SystemTime) -> Answer {
        let user = "system:serviceaccount:a:b".to_owned();
        Ok(Arc::new(Identity {
            user,
            impersonation: None,
            account_uid: None,
            bound: false,
            expires: Some(expires),
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_ends_by_time_by_generation_and_by_expiry() {
        let cache = Cache::new();
        let now = SystemTime::now();
        let key = cache.key(&name("c1"), &token("t"));
        cache.put(key, HERE, &identity(now + Duration::from_secs(5)), Instant::now());
        assert!(cache.get(&key, HERE, now).is_some());
        assert!(cache.get(&key, Generation { cluster: 2, ..HERE }, now).is_none());
        assert!(cache.get(&key, Generation { hub: 2, ..HERE }, now).is_none());
        assert!(cache.get(&key, HERE, now + Duration::from_secs(5)).is_none());
        // The wall clock goes back an hour; the entry ends all the same.
        tokio::time::advance(TTL).await;
        assert!(cache.get(&key, HERE, now - Duration::from_secs(3600)).is_none());
    }

    #[test]
    fn a_key_is_of_cluster_and_token_and_process() {
        let cache = Cache::new();
        let key = cache.key(&name("c1"), &token("t"));
        assert_eq!(key, cache.key(&name("c1"), &token("t")));
        assert_ne!(key, cache.key(&name("c2"), &token("t")));
        assert_ne!(key, cache.key(&name("c1"), &token("u")));
        assert_ne!(key, Cache::new().key(&name("c1"), &token("t")));
    }

    #[test]
    fn junk_pushes_out_no_good_answer_and_outages_are_not_kept() {
        let cache = Cache::new();
        let now = SystemTime::now();
        let good = cache.key(&name("c1"), &token("good"));
        cache.put(good, HERE, &identity(now + Duration::from_secs(60)), Instant::now());
        for junk in 0..MAX_REFUSED * 3 {
            let mut key = TokenKey::default();
            key[..8].copy_from_slice(&junk.to_be_bytes());
            cache.put(
                key,
                HERE,
                &Err(AuthnError::Unauthorized(Refusal::UnknownKey)),
                Instant::now(),
            );
        }
        cache.refused.run_pending_tasks();
        assert!(cache.refused.entry_count() <= MAX_REFUSED);
        assert!(cache.get(&good, HERE, now).is_some());

        let key = cache.key(&name("c1"), &token("outage"));
        cache.put(key, HERE, &Err(AuthnError::Unavailable("down".to_owned())), Instant::now());
        assert!(cache.get(&key, HERE, now).is_none());
    }

    #[test]
    fn members_of_many_groups_leave_it_small_too() {
        let cache = Cache::new();
        let groups: Vec<String> = (0..1_000).map(|group| format!("group-{group:05}")).collect();
        let user = UserInfo { username: "jane".to_owned(), groups, ..UserInfo::default() };
        let answer = Ok(Arc::new(
            Identity::of_hub(&user.into(), &UnprefixedNames::default(), None).unwrap(),
        ));
        for number in 0..10_000_u64 {
            let mut key = TokenKey::default();
            key[..8].copy_from_slice(&number.to_be_bytes());
            cache.put(key, HERE, &answer, Instant::now());
        }
        cache.accepted.run_pending_tasks();
        assert!(cache.accepted.weighted_size() <= MAX_ACCEPTED);
        assert!((100..1_500).contains(&cache.accepted.entry_count()));
    }

    #[test]
    fn a_million_tokens_leave_it_small_and_push_out_no_hot_one() {
        let cache = Cache::new();
        let now = SystemTime::now();
        let answer = identity(now + Duration::from_secs(60));
        let numbered = |number: u64| {
            // Spread as an HMAC is: the cache looks at every part of a key.
            let mut key = TokenKey::default();
            for (part, salt) in key.chunks_exact_mut(8).zip(1..) {
                let mixed = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(salt * 13);
                part.copy_from_slice(&mixed.to_le_bytes());
            }
            key
        };
        let hot: Vec<TokenKey> = (0..100).map(numbered).collect();
        let (mut asked, mut hits, mut most) = (0_u32, 0_u32, 0);
        for cold in 100..1_000_000 {
            cache.put(numbered(cold), HERE, &answer, Instant::now());
            // A hot token is one that is asked about again and again.
            let key = &hot[usize::try_from(cold % 100).unwrap()];
            asked += 1;
            match cache.get(key, HERE, now) {
                Some(_) => hits += 1,
                None => cache.put(*key, HERE, &answer, Instant::now()),
            }
            if cold % 50_000 == 0 {
                cache.accepted.run_pending_tasks();
                most = most.max(cache.accepted.weighted_size());
            }
        }
        assert!(most <= MAX_ACCEPTED, "{most} bytes");
        assert!(f64::from(hits) > 0.99 * f64::from(asked), "{hits} of {asked}");
    }
}
