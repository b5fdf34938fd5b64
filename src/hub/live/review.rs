//! TokenReview of a live token: on its spoke, through the tunnel and under the agent's
//! ServiceAccount, or on the hub.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::Spoke;
use super::book::{Due, Issuer};
use super::schedule::Verdict;
use crate::hub::authn::{Authenticator, HubReviews, NotAccepted};
use crate::hub::token_review::{self, Answer, MAX_ANSWER, PATH};
use crate::name::ClusterName;

/// Who is asked about tokens.
pub(super) struct Reviewers {
    pub(super) spokes: Arc<dyn Spoke>,
    pub(super) hub: Option<HubReviews>,
    pub(super) issuers: Option<Authenticator>,
}

// === impl Reviewers ===

impl Reviewers {
    /// Asks whether a token that has live streams on `cluster` is accepted now.
    pub(super) async fn review(&self, cluster: &ClusterName, due: &Due) -> Verdict {
        match due.by {
            Issuer::Spoke => self.by_spoke(cluster, &due.secret).await,
            Issuer::Hub => self.by_hub(&due.secret).await,
            Issuer::Oidc => self.by_issuer(&due.secret),
        }
    }

    async fn by_spoke(&self, cluster: &ClusterName, token: &str) -> Verdict {
        let Some(body) = token_review::request(token) else { return Verdict::Failed };
        let asked =
            self.spokes.request(cluster, Method::POST, PATH, Some(body), MAX_ANSWER, DEADLINE);
        match asked.await {
            Ok((status, body)) => match token_review::answer(status, body) {
                Answer::Accepted(_) => Verdict::Accepted,
                Answer::Refused => Verdict::Refused,
                Answer::Forbidden => Verdict::Forbidden,
                Answer::Nothing => {
                    tracing::debug!(%cluster, %status, "a TokenReview was not answered");
                    Verdict::Failed
                }
            },
            Err(error) => {
                tracing::debug!(%cluster, %error, "a TokenReview failed");
                Verdict::Failed
            }
        }
    }

    async fn by_hub(&self, token: &str) -> Verdict {
        let Some(hub) = &self.hub else { return Verdict::Failed };
        verdict(hub.review(token, SHARED).await.map(drop))
    }

    fn by_issuer(&self, token: &str) -> Verdict {
        self.issuers.as_ref().map_or(Verdict::Failed, |issuers| verdict(issuers.is_vouched(token)))
    }
}

fn verdict(answer: Result<(), NotAccepted>) -> Verdict {
    match answer {
        Ok(()) => Verdict::Accepted,
        Err(NotAccepted::Refused) => Verdict::Refused,
        Err(NotAccepted::Forbidden) => Verdict::Forbidden,
        Err(NotAccepted::Failed(error)) => {
            tracing::debug!(error, "nobody could say whether a live token is good");
            Verdict::Failed
        }
    }
}

/// An API server answers in milliseconds; what takes longer is asked again.
const DEADLINE: Duration = Duration::from_secs(5);

/// A token of the hub may have streams on a thousand clusters: they share an acceptance for so long.
const SHARED: Duration = Duration::from_secs(1);
