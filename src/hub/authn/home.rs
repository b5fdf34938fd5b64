//! Whose token is this? For a path that names no cluster.
//!
//! `kubectl get --raw /version` sends the path as it was typed: client-go's `RequestURI` replaces
//! the path of the server URL, cluster name included. A public key has one owner, so a verified
//! signature names the one cluster where the token can be good; that is where the request goes.

use std::sync::Arc;

use http::HeaderMap;

use super::credential::Token;
use super::key_sets::Signer;
use super::token::Unverified;
use super::{Authenticator, AuthnError, Identity, Refusal};
use crate::name::ClusterName;

// === impl Authenticator ===

impl Authenticator {
    /// As [`Authenticator::authenticate`], at the cluster whose key signed the token. A token that
    /// names no key, or one that no kept key set has, gets the common refusal without a wait.
    pub async fn authenticate_at_home(
        &self,
        headers: &mut HeaderMap,
    ) -> Result<(ClusterName, Arc<Identity>), AuthnError> {
        match self.home(headers) {
            Ok(cluster) => {
                let identity = self.authenticate(&cluster, headers).await?;
                Ok((cluster, identity))
            }
            Err(refusal) => {
                let error = AuthnError::Unauthorized(refusal);
                self.0.metrics.decided(None, Some(&error));
                Err(error)
            }
        }
    }

    fn home(&self, headers: &mut HeaderMap) -> Result<ClusterName, Refusal> {
        let token = Token::take(headers)?;
        let token = Unverified::parse(token.as_str())?;
        // Without a key id every key of the fleet would have to be tried.
        if token.key_id.is_none() {
            return Err(Refusal::UnknownKey);
        }
        let now = self.0.sources.now();
        let mut forged = 0;
        for (cluster, set) in self.0.sources.clusters() {
            match set.snapshot().signer(&token, now) {
                Signer::Key(_) => return Ok(cluster),
                Signer::Forged => forged += 1,
                Signer::Unknown => {}
            }
            if forged == MOST_TRIES {
                return Err(Refusal::Signature);
            }
        }
        Err(Refusal::UnknownKey)
    }
}

/// Signatures checked for one request: key ids are hashes of keys, so that even two of one name are
/// somebody's doing.
const MOST_TRIES: usize = 4;
