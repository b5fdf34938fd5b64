//! The decision about one token: what was answered a moment ago, who signed it, and what that makes
//! of its caller.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use tokio::time::Instant;

use super::cache::Generation;
use super::claims::{self, Accepted, Subject};
use super::credential::Token;
use super::hub_reviews::{FRESH, NotAccepted};
use super::key_sets::{KeySet, Signer};
use super::oidc::sets::Vouched;
use super::token::Unverified;
use super::{Authenticator, AuthnError, Identity, Inner, Refusal};
use crate::hub::token_key::TokenKey;
use crate::name::ClusterName;

/// What the key sets say of a token.
enum Signed {
    /// A key of the path's cluster or of an issuer signed it: that is all there is to know.
    Known(Arc<Identity>),
    /// A key of the hub signed it: whose it is, its API server has to say.
    ByHub(Subject),
}

// === impl Authenticator ===

impl Authenticator {
    pub(super) async fn decide(
        &self,
        cluster: &ClusterName,
        set: Option<&Arc<KeySet>>,
        headers: &mut HeaderMap,
    ) -> Result<Arc<Identity>, AuthnError> {
        let Inner { cache, metrics, sources, .. } = &*self.0;
        let token = Token::take(headers)?;
        let key = cache.key(cluster, &token);
        if let Some(answer) = cache.get(&key, self.generation(set), sources.now()) {
            metrics.cache_hit(answer.is_ok());
            return answer;
        }
        // Boxed: most requests end above, and each would have room for the waits below.
        Box::pin(self.find_out(cluster, set, token, key)).await
    }

    /// Decides about a token that was not answered a moment ago.
    async fn find_out(
        &self,
        cluster: &ClusterName,
        set: Option<&Arc<KeySet>>,
        token: Token,
        key: TokenKey,
    ) -> Result<Arc<Identity>, AuthnError> {
        let Inner { cache, sources, waiting, .. } = &*self.0;
        let unverified = match Unverified::parse(token.as_str()) {
            Err(Refusal::Opaque) if self.0.config.opaque_tokens => {
                let generation = self.generation(set);
                let (answer, since) = self.of_opaque(cluster, &token).await;
                cache.put(key, generation, &answer, since);
                return answer;
            }
            parsed => parsed?,
        };
        let due = Instant::now() + REFUSED_AFTER;
        let mut generation = self.generation(set);
        let mut signed = self.verify(set, &unverified);
        let mut claimed = None;
        if is_nobodys(&signed) {
            claimed = sources.issuers.load().claimed(&unverified);
            let claimed = claimed.as_ref();
            match waiting.take(cluster.clone()) {
                Ok(_place) => {
                    // Twice: the first wait may share a read that began before the key was published.
                    for _ in 0..2 {
                        let unknown =
                            matches!(&signed, Err(AuthnError::Unauthorized(Refusal::UnknownKey)));
                        if !unknown
                            || !sources.read_for_unknown_key(cluster, set, claimed, due).await
                        {
                            break;
                        }
                        generation = self.generation(set);
                        signed = self.verify(set, &unverified);
                    }
                    if is_nobodys(&signed) {
                        tokio::time::sleep_until(due).await;
                    }
                }
                // As quick for every name. The key will be known to who comes later.
                Err(_) => drop(sources.ask_for_unknown_key(cluster, set, claimed)),
            }
        }
        let (answer, since) = match signed {
            Ok(Signed::Known(identity)) => (Ok(identity), Instant::now()),
            Ok(Signed::ByHub(subject)) => self.ask_hub(&token, subject.expires).await,
            Err(AuthnError::Unauthorized(refusal)) if refusal.is_nobodys() => {
                let why = sources.unknown(claimed.as_ref());
                let why = why.map(|why| AuthnError::Unavailable(why.to_owned()));
                (Err(why.unwrap_or_else(|| refusal.into())), Instant::now())
            }
            Err(error) => (Err(error), Instant::now()),
        };
        cache.put(key, generation, &answer, since);
        answer
    }

    /// Who a token speaks for, by the key sets as they are.
    fn verify(
        &self,
        set: Option<&Arc<KeySet>>,
        token: &Unverified<'_>,
    ) -> Result<Signed, AuthnError> {
        let Inner { config, sources, .. } = &*self.0;
        let now = sources.now();
        let snapshot = sources.snapshot(set);
        let mut forged = false;
        if let Some(hub) = &sources.hub {
            match hub.snapshot().signer(token, now) {
                Signer::Key(key) if !snapshot.holds(&key.thumbprint) => {
                    return claims::check_of_hub(&token.payload, config, now).map(Signed::ByHub);
                }
                Signer::Forged => forged = true,
                Signer::Key(_) | Signer::Unknown => {}
            }
        }
        match sources.issuers.load().judge(token, now) {
            Vouched::Decided(person) => {
                return Ok(Signed::Known(Arc::new(Identity::of_issuer(person?)?)));
            }
            Vouched::Forged => forged = true,
            Vouched::Unknown => {}
        }
        match snapshot.signer(token, now) {
            Signer::Key(_) => {}
            Signer::Unknown if !forged => return Err(Refusal::UnknownKey.into()),
            Signer::Unknown | Signer::Forged => return Err(Refusal::Signature.into()),
        }
        let accepted = Accepted { issuers: &snapshot.issuers, audiences: &snapshot.audiences };
        let subject = claims::check(&token.payload, accepted, config, now)?;
        Ok(Signed::Known(Arc::new(Identity {
            user: subject.user,
            impersonation: None,
            account_uid: subject.account_uid,
            bound: subject.bound,
            expires: subject.expires,
        })))
    }

    /// Whether the hub's API server stands by its token, and since when it is known to.
    pub(super) async fn ask_hub(
        &self,
        token: &Token,
        expires: Option<SystemTime>,
    ) -> (Result<Arc<Identity>, AuthnError>, Instant) {
        let Some(hub) = &self.0.hub else {
            return (Err(Refusal::HubRefused.into()), Instant::now());
        };
        let unavailable = |why: &str| AuthnError::Unavailable(format!("{HUB_UNASKED}: {why}"));
        let error = match hub.review(token.as_str(), FRESH).await {
            Ok(reviewed) => {
                let identity = Identity::of_hub(&reviewed.user, &self.0.config.names, expires);
                return (identity.map(Arc::new).map_err(AuthnError::from), reviewed.asked);
            }
            Err(NotAccepted::Refused) => Refusal::HubRefused.into(),
            Err(NotAccepted::Forbidden) => unavailable(
                "the hub's ServiceAccount lacks the right to create tokenreviews (deploy/README.md)",
            ),
            Err(NotAccepted::Failed(error)) => {
                tracing::warn!(error, "the hub's API server does not say whose a token is");
                unavailable("it does not answer; try again")
            }
        };
        (Err(error), Instant::now())
    }

    fn generation(&self, set: Option<&Arc<KeySet>>) -> Generation {
        Generation {
            cluster: set.map_or(0, |set| set.snapshot().generation),
            hub: self.0.sources.hub.as_ref().map_or(0, |hub| hub.snapshot().generation),
            issuers: self.0.sources.issuers.load().generation(),
        }
    }
}

/// Whether no key set knew the signature.
fn is_nobodys<T>(answer: &Result<T, AuthnError>) -> bool {
    matches!(answer, Err(AuthnError::Unauthorized(refusal)) if refusal.is_nobodys())
}

/// When a token that nobody signed is refused, counted from its question: alike for a cluster whose
/// keys were read for it, for one that has no tunnel, and for a name that is not enrolled. Time for a
/// read over a long way, so that a key works at its first use; where reads take longer, at its second.
pub(super) const REFUSED_AFTER: Duration = Duration::from_secs(1);

const HUB_UNASKED: &str =
    "hub authentication: the hub's own API server cannot be asked whose this token is";
