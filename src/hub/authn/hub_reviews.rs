//! Whether the hub's own API server stands by a token that its key has signed: TokenReview, asked
//! once for all who wait for the answer.
//!
//! An acceptance is remembered for a moment. Refusals are not remembered here (that of a caller is
//! in the cache of refusals), and an outage is never taken for one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::HubApi;
use crate::hub::token_key::{TokenKey, TokenKeys};
use crate::hub::token_review::{self, Answer, MAX_ANSWER, PATH, UserInfo};

/// Asks the hub's API server about tokens. Clones share what they know.
#[derive(Clone)]
pub(crate) struct HubReviews(Arc<Inner>);

struct Inner {
    api: Arc<dyn HubApi>,
    keys: TokenKeys,
    accepted: moka::future::Cache<TokenKey, Arc<Reviewed>>,
    asking: Semaphore,
}

/// A user whose token was accepted.
#[derive(Debug)]
pub(crate) struct Reviewed {
    /// Who it is.
    pub(super) user: Arc<UserInfo>,
    /// When the question was asked: the answer may be as old as that.
    pub(super) asked: Instant,
}

/// Why a token was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotAccepted {
    /// It is definitely not a good one.
    Refused,
    /// The hub may not ask.
    Forbidden,
    /// No answer, or none that says anything.
    Failed(String),
}

// === impl HubReviews ===

impl HubReviews {
    /// Knows nothing yet.
    pub(super) fn new(api: Arc<dyn HubApi>) -> Self {
        Self(Arc::new(Inner {
            api,
            keys: TokenKeys::new(),
            accepted: moka::future::Cache::builder()
                .max_capacity(MAX_ACCEPTED)
                .time_to_live(FRESH)
                .build(),
            asking: Semaphore::new(AT_ONCE),
        }))
    }

    /// What the API server says of `token`, or said less than `age` ago.
    pub(crate) async fn review(
        &self,
        token: &str,
        age: Duration,
    ) -> Result<Arc<Reviewed>, NotAccepted> {
        let Inner { keys, accepted, .. } = &*self.0;
        let key = keys.of("", token);
        if let Some(reviewed) = accepted.get(&key).await {
            if reviewed.asked.elapsed() < age {
                return Ok(reviewed);
            }
            accepted.invalidate(&key).await;
        }
        let answer = accepted.try_get_with(key, self.ask(token)).await;
        answer.map_err(|error| NotAccepted::clone(&error))
    }

    async fn ask(&self, token: &str) -> Result<Arc<Reviewed>, NotAccepted> {
        let failed = |why: &str| NotAccepted::Failed(why.to_owned());
        let body = token_review::request(token).ok_or_else(|| failed("it is no token"))?;
        let waiting = tokio::time::timeout(DEADLINE, self.0.asking.acquire()).await;
        let _place = waiting.map_err(|_| failed("too many tokens are being reviewed"))?;
        let asked = Instant::now();
        let answer = self.0.api.post(PATH, body, MAX_ANSWER, DEADLINE).await;
        let (status, body) = answer.map_err(|error| NotAccepted::Failed(error.to_string()))?;
        match token_review::answer(status, body) {
            Answer::Accepted(user) => {
                let user = Arc::new(user);
                Ok(Arc::new(Reviewed { user, asked }))
            }
            Answer::Refused => Err(NotAccepted::Refused),
            Answer::Forbidden => Err(NotAccepted::Forbidden),
            Answer::Nothing => Err(failed(&format!("it answered {status}"))),
        }
    }
}

/// How old an acceptance may be that lets a request in.
pub(super) const FRESH: Duration = Duration::from_secs(10);

/// Far more users of a hub than act within ten seconds.
const MAX_ACCEPTED: u64 = 20_000;

/// Questions under way together. An API server answers in milliseconds.
const AT_ONCE: usize = 16;

/// For one answer, and for one's turn.
const DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
