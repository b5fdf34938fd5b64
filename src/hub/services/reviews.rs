//! Whether a cluster stands by a token of its own that wants to reach a service: TokenReview through
//! its tunnel, asked once for all who wait for the answer.
//!
//! On its way to the API server a token is checked there again with every request. A service
//! checks nothing, so the question is asked here. Answers are remembered for a moment, refusals in
//! a cache of their own: they must not push out what is good. An outage is never taken for one.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method};
use tokio::time::Instant;

use crate::hub::authn::{AuthnError, Refusal, SpokeApi};
use crate::hub::token_key::{TokenKey, TokenKeys};
use crate::hub::token_review::{self, Answer, MAX_ANSWER, PATH};
use crate::name::ClusterName;
use crate::shares::Shares;

/// Asks clusters about their tokens. Clones share what they know.
#[derive(Clone)]
pub(crate) struct SpokeReviews(Arc<Inner>);

struct Inner {
    spokes: Arc<dyn SpokeApi>,
    keys: TokenKeys,
    /// When the question was asked: the answer may be as old as that.
    accepted: moka::future::Cache<TokenKey, Instant>,
    refused: moka::sync::Cache<TokenKey, ()>,
    /// A cluster that does not answer must leave room for the others.
    waiting: Shares<ClusterName>,
}

// === impl SpokeReviews ===

impl SpokeReviews {
    /// Knows nothing yet. At most `waiting` requests wait for an answer at once, and those of one
    /// cluster leave some of these places to the others.
    pub(crate) fn new(spokes: Arc<dyn SpokeApi>, waiting: usize) -> Self {
        let (accepted, refused) = (moka::future::Cache::builder(), moka::sync::Cache::builder());
        Self(Arc::new(Inner {
            spokes,
            keys: TokenKeys::new(),
            accepted: accepted.max_capacity(MAX_ACCEPTED).time_to_live(FRESH).build(),
            refused: refused.max_capacity(MAX_REFUSED).time_to_live(FRESH).build(),
            waiting: Shares::new(waiting, waiting - waiting / RESERVE),
        }))
    }

    /// Asks `cluster`, or knows what it said a moment ago, about a token that authentication has
    /// accepted offline and left in `authorization`.
    ///
    /// # Errors
    /// The common refusal only where the cluster definitely says no.
    pub(crate) async fn confirm(
        &self,
        cluster: &ClusterName,
        authorization: &HeaderValue,
    ) -> Result<(), AuthnError> {
        let Inner { keys, accepted, refused, .. } = &*self.0;
        let authorization = authorization.to_str().unwrap_or_default();
        let token = authorization.strip_prefix(SCHEME).ok_or(Refusal::Malformed)?;
        let key = keys.of(cluster.as_str(), token);
        if refused.contains_key(&key) {
            return Err(Refusal::Revoked.into());
        }
        if let Some(asked) = accepted.get(&key).await {
            if asked.elapsed() < FRESH {
                return Ok(());
            }
            accepted.invalidate(&key).await;
        }
        let place = self.0.waiting.take(cluster.clone());
        let _place = place.map_err(|_| unavailable(cluster, "too many requests wait for it"))?;
        match accepted.try_get_with(key, self.ask(cluster, token)).await {
            Ok(_) => Ok(()),
            Err(error) => {
                if matches!(*error, AuthnError::Unauthorized(_)) {
                    refused.insert(key, ());
                }
                Err(AuthnError::clone(&error))
            }
        }
    }

    async fn ask(&self, cluster: &ClusterName, token: &str) -> Result<Instant, AuthnError> {
        let unavailable = |why: &str| unavailable(cluster, why);
        let body = token_review::request(token).ok_or(Refusal::Malformed)?;
        let asked = Instant::now();
        let spokes = &self.0.spokes;
        let answer =
            spokes.request(cluster, Method::POST, PATH, Some(body), MAX_ANSWER, DEADLINE).await;
        let (status, body) = answer.map_err(|error| unavailable(&error.to_string()))?;
        match token_review::answer(status, body) {
            Answer::Accepted(_) => Ok(asked),
            Answer::Refused => Err(Refusal::Revoked.into()),
            Answer::Forbidden => {
                Err(unavailable("its agent may not create tokenreviews (deploy/README.md)"))
            }
            Answer::Nothing => Err(unavailable(&format!("its API server answered {status}"))),
        }
    }
}

fn unavailable(cluster: &ClusterName, why: &str) -> AuthnError {
    AuthnError::Unavailable(format!("cluster {cluster} could not confirm the token: {why}"))
}

/// As authentication leaves it in the header.
const SCHEME: &str = "Bearer ";

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(10);

/// Far more tokens than reach services within ten seconds.
const MAX_ACCEPTED: u64 = 20_000;

/// A cluster has signed each of them.
const MAX_REFUSED: u64 = 5_000;

/// One place in so many is not for the cluster that has the others.
const RESERVE: usize = 5;

/// For one answer.
const DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures_util::future::{BoxFuture, join_all};
    use http::StatusCode;
    use serde_json::{Value, json};

    use super::*;
    use crate::hub::authn::SpokeApiError;

    /// Accepts every token that begins with the cluster's name, unless it is told what to answer.
    #[derive(Default)]
    struct Clusters {
        instead: Mutex<Option<(u16, Value)>>,
        asked: AtomicUsize,
    }

    impl SpokeApi for Clusters {
        fn request<'a>(
            &'a self,
            cluster: &'a ClusterName,
            method: Method,
            path: &'a str,
            body: Option<Bytes>,
            _limit: usize,
            _deadline: Duration,
        ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>> {
            assert_eq!((method, path), (Method::POST, PATH));
            let question: Value = serde_json::from_slice(&body.unwrap()).unwrap();
            let token = question["spec"]["token"].as_str().unwrap();
            let good = token.starts_with(cluster.as_str());
            let said = json!({"kind": "TokenReview", "status": {"authenticated": good}});
            Box::pin(async move {
                self.asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
                let (status, body) = self.instead.lock().unwrap().clone().unwrap_or((201, said));
                if status == 0 {
                    return Err(SpokeApiError("no tunnel".to_owned()));
                }
                Ok((StatusCode::from_u16(status).unwrap(), body.to_string().into()))
            })
        }
    }

    const WAITING: usize = 100;

    fn reviews() -> (SpokeReviews, Arc<Clusters>) {
        let clusters = Arc::new(Clusters::default());
        (SpokeReviews::new(Arc::clone(&clusters) as Arc<dyn SpokeApi>, WAITING), clusters)
    }

    async fn confirm(reviews: &SpokeReviews, cluster: &str, token: &str) -> Result<(), AuthnError> {
        let authorization = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        reviews.confirm(&ClusterName::parse(cluster).unwrap(), &authorization).await
    }

    /// Security cases 66, 67 and 70.
    #[tokio::test(start_paused = true)]
    async fn one_question_for_all_who_wait_and_none_of_another_cluster() {
        let (reviews, clusters) = reviews();
        let asked = || clusters.asked.load(Ordering::Relaxed);
        let all = join_all((0..80).map(|_| confirm(&reviews, "c1", "c1.a"))).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(asked(), 1);
        let elsewhere = confirm(&reviews, "c2", "c1.a").await;
        assert_eq!(elsewhere, Err(Refusal::Revoked.into()));
        assert_eq!(asked(), 2);
        assert_eq!(confirm(&reviews, "c1", "c1.a").await, Ok(()));
        assert_eq!(confirm(&reviews, "c2", "c1.a").await, Err(Refusal::Revoked.into()));
        assert_eq!(asked(), 2, "both answers are remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn an_acceptance_is_asked_for_again_after_ten_seconds() {
        let (reviews, clusters) = reviews();
        assert!(confirm(&reviews, "c1", "c1.a").await.is_ok());
        *clusters.instead.lock().unwrap() =
            Some((201, json!({"kind": "TokenReview", "status": {"authenticated": false}})));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(confirm(&reviews, "c1", "c1.a").await.is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(confirm(&reviews, "c1", "c1.a").await, Err(Refusal::Revoked.into()));
    }

    /// Security case 71.
    #[tokio::test(start_paused = true)]
    async fn an_outage_is_no_refusal_and_is_not_remembered() {
        let (reviews, clusters) = reviews();
        for instead in [(0, Value::Null), (500, json!({})), (401, json!({})), (403, json!({}))] {
            *clusters.instead.lock().unwrap() = Some(instead.clone());
            let answer = confirm(&reviews, "c1", "c1.a").await;
            assert!(matches!(answer, Err(AuthnError::Unavailable(_))), "{instead:?}: {answer:?}");
        }
        *clusters.instead.lock().unwrap() = None;
        assert!(confirm(&reviews, "c1", "c1.a").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_does_not_answer_leaves_room_for_others() {
        let (reviews, _) = reviews();
        // Of one token, or of many.
        let many = (0..=80).map(|number| {
            let (reviews, token) = (&reviews, format!("c1.{}", number / 40));
            async move { confirm(reviews, "c1", &token).await }
        });
        let (many, other) = tokio::join!(join_all(many), confirm(&reviews, "c2", "c2.a"));
        assert_eq!(many.iter().filter(|one| one.is_err()).count(), 1);
        assert!(other.is_ok());
    }
}
