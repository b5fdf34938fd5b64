//! Who asks the hub itself: a path that is no cluster's.

use std::sync::Arc;

use http::HeaderMap;

use super::{Authenticator, AuthnError, Identity, Refusal};
use crate::name::ClusterName;

// === impl Authenticator ===

impl Authenticator {
    /// As [`Authenticator::authenticate`], by the keys of the hub and of issuers alone: a token of a
    /// cluster gets the common refusal, as late as one of nobody.
    pub async fn authenticate_for_hub(
        &self,
        headers: &mut HeaderMap,
    ) -> Result<Arc<Identity>, AuthnError> {
        let answer = self.decide(&ClusterName::of_hub(), None, headers).await;
        let answer = answer.and_then(|identity| match identity.impersonation {
            Some(_) => Ok(identity),
            None => Err(Refusal::UnknownKey.into()),
        });
        self.0.metrics.decided(None, answer.as_ref().err());
        answer
    }
}
