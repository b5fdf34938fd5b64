//! Who is calling: a bearer token becomes an [`Identity`], or a reason why not.
//!
//! Key sets are asked in a fixed order: the hub's, then (not built yet) those of OIDC issuers, then
//! that of the cluster in the path. The first that made the signature decides what the token is:
//!
//! | the signature was made by | outcome |
//! |---|---|
//! | a key of the hub, and the path's cluster is not the hub's own | the hub's API server decides (`hub_reviews`): passes as [`Mode::Impersonate`](crate::tunnel::headers::Mode), 401, or 503 while it cannot be asked |
//! | a key that the path's cluster owns (or shares with the hub, `--hub-itself`) | its claims decide: passes as `Mode::Caller`, or 401 |
//! | nobody, and the hub's set could not be read at the last attempt | 503: the token may be the hub's |
//! | nobody, and the hub's set could be read or there is no hub API | 401, whether or not the cluster's set could be read |
//!
//! Before the last two, the sets that could be behind are read once, if that is allowed again
//! (`sources`), and the answer is given [`REFUSED_AFTER`] whether or not there was anything to read:
//! time must not tell a stranger which clusters there are. A cluster whose tunnels are gone keeps its
//! last good set, also over a restart of the hub, so that its callers get 503 from the routing and not
//! 401 from here.
//!
//! The seam for what comes: a new verifier is a new arm of `Authenticator::verify` between the
//! hub's keys and the cluster's, and gives an [`Identity`] of its own kind; a token that is no JWT
//! stops at [`Refusal::Opaque`], which is where a TokenReview would go on.

mod alarms;
mod cache;
mod claims;
mod credential;
mod errors;
mod home;
mod hub_reviews;
mod identity;
mod key_sets;
mod keys;
mod metrics;
mod ownership;
mod proof;
mod refresh;
mod sources;
mod token;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;

use self::cache::{Cache, Generation};
use self::claims::{Accepted, Subject};
use self::credential::Token;
pub use self::errors::{AuthnError, Explanation, Refusal};
use self::hub_reviews::FRESH;
pub(crate) use self::hub_reviews::{HubReviews, NotAccepted};
pub(crate) use self::identity::HUB_PREFIX;
pub use self::identity::{Identity, Impersonated};
use self::key_sets::{KeySet, Signer};
use self::metrics::Metrics;
use self::sources::{Parts, Sources};
use self::token::Unverified;
use super::limits::Limits;
use crate::fleet::Fleet;
use crate::name::ClusterName;
use crate::shares::Shares;
use crate::state::{State, StateError};

/// A small request to a spoke's API server under the agent's own ServiceAccount, through its tunnel.
pub trait SpokeApi: Send + Sync + 'static {
    /// Sends it; at most `limit` bytes of answer, within `deadline`. Follows no redirect.
    fn request<'a>(
        &'a self,
        cluster: &'a ClusterName,
        method: Method,
        path: &'a str,
        body: Option<Bytes>,
        limit: usize,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>>;
}

/// Why a spoke could not be asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct SpokeApiError(pub String);

/// The hub's own API server, where there is one.
pub trait HubApi: Send + Sync + 'static {
    /// `GET path` under the hub's own ServiceAccount. Follows no redirect.
    fn get<'a>(
        &'a self,
        path: &'a str,
        limit: usize,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>>;

    /// `POST path` with a JSON body, in the same way.
    fn post<'a>(
        &'a self,
        path: &'a str,
        body: Bytes,
        limit: usize,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>>;
}

/// Configuration of authentication.
#[derive(Clone, Debug)]
pub struct AuthnConfig {
    /// Only ServiceAccounts of this namespace (`--managed-only`).
    pub managed_only: Option<String>,
    /// Accept legacy Secret-bound tokens, which have no expiry.
    pub allow_legacy_tokens: bool,
    /// Requests at once whose tokens nobody is known to have signed, and which wait for a key set or
    /// for their refusal; one cluster has a part of them. More are refused without a wait.
    pub waiting: usize,
}

/// Verifies callers. Clones share caches and key sets.
#[derive(Clone)]
pub struct Authenticator(Arc<Inner>);

struct Inner {
    config: AuthnConfig,
    cache: Cache,
    metrics: Arc<Metrics>,
    sources: Sources,
    /// By the name in the path, whether or not there is such a cluster: callers of a cluster whose
    /// keys do not come must not take the places of the others.
    waiting: Shares<ClusterName>,
    /// None without a hub API.
    hub: Option<HubReviews>,
}

/// What the key sets say of a token.
enum Signed {
    /// A key of the path's cluster signed it: that is all there is to know.
    ByCluster(Arc<Identity>),
    /// A key of the hub signed it: whose it is, its API server has to say.
    ByHub(Subject),
}

/// The wall clock, as an argument: tests move it.
type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

// === impl AuthnConfig ===

impl Default for AuthnConfig {
    fn default() -> Self {
        let waiting = Limits::default().waiting_strangers();
        Self { managed_only: None, allow_legacy_tokens: false, waiting }
    }
}

// === impl Authenticator ===

impl Authenticator {
    /// Reads key owners and kept key sets from `state`. One authenticator per `registry`.
    pub async fn build(
        config: AuthnConfig,
        state: State,
        fleet: watch::Receiver<Fleet>,
        spokes: Arc<dyn SpokeApi>,
        hub: Option<Arc<dyn HubApi>>,
        registry: &prometheus::Registry,
    ) -> Result<Self, StateError> {
        let clock: Clock = Arc::new(SystemTime::now);
        Self::build_with_clock(config, state, fleet, spokes, hub, registry, clock).await
    }

    /// Refreshes key sets every 60 s (with jitter), at once when a cluster connects, and when a
    /// caller brings an unknown key. Returns only when the fleet's writer is gone. Without it no
    /// key set is ever read: the hub spawns it once.
    pub async fn run(self) {
        self.0.sources.run().await;
    }

    /// Decides who is calling. Moves a WebSocket subprotocol token into Authorization and deletes
    /// it there. `cluster` need not be enrolled: the answer is then the common refusal.
    ///
    /// A caller that was answered a moment ago costs one HMAC and one lookup, and does not wait.
    /// A token with an unknown key waits for a key set, and for its refusal, [`REFUSED_AFTER`]; a new
    /// one of the hub for the hub's API server, at most 5 s.
    pub async fn authenticate(
        &self,
        cluster: &ClusterName,
        headers: &mut HeaderMap,
    ) -> Result<Arc<Identity>, AuthnError> {
        let set = self.0.sources.find(cluster);
        let answer = self.decide(cluster, set.as_ref(), headers).await;
        self.0.metrics.decided(set.is_some().then_some(cluster), answer.as_ref().err());
        if set.is_some() {
            self.0.sources.reported(cluster);
        }
        answer
    }

    /// What asks the hub's API server about tokens; none without one.
    pub(crate) fn hub_reviews(&self) -> Option<HubReviews> {
        self.0.hub.clone()
    }

    async fn build_with_clock(
        config: AuthnConfig,
        state: State,
        fleet: watch::Receiver<Fleet>,
        spokes: Arc<dyn SpokeApi>,
        hub_api: Option<Arc<dyn HubApi>>,
        registry: &prometheus::Registry,
        clock: Clock,
    ) -> Result<Self, StateError> {
        let metrics = Arc::new(Metrics::register(registry));
        let hub = hub_api.clone().map(HubReviews::new);
        let parts = Parts { clock, state, fleet, spokes, hub_api, metrics: metrics.clone() };
        let sources = Sources::load(parts).await?;
        let waiting = Shares::new(config.waiting, config.waiting - config.waiting / RESERVE);
        let cache = Cache::new();
        Ok(Self(Arc::new(Inner { config, cache, metrics, sources, hub, waiting })))
    }

    async fn decide(
        &self,
        cluster: &ClusterName,
        set: Option<&Arc<KeySet>>,
        headers: &mut HeaderMap,
    ) -> Result<Arc<Identity>, AuthnError> {
        let Inner { cache, metrics, sources, waiting, .. } = &*self.0;
        let token = Token::take(headers)?;
        let key = cache.key(cluster, &token);
        if let Some(answer) = cache.get(&key, self.generation(set), sources.now()) {
            metrics.cache_hit(answer.is_ok());
            return answer;
        }
        let unverified = Unverified::parse(token.as_str())?;
        let due = Instant::now() + REFUSED_AFTER;
        let mut generation = self.generation(set);
        let mut signed = self.verify(set, &unverified);
        if is_nobodys(&signed) {
            match waiting.take(cluster.clone()) {
                Ok(_place) => {
                    // Twice: the first wait may share a read that began before the key was published.
                    for _ in 0..2 {
                        let unknown =
                            matches!(&signed, Err(AuthnError::Unauthorized(Refusal::UnknownKey)));
                        if !unknown || !sources.read_for_unknown_key(cluster, set, due).await {
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
                Err(_) => drop(sources.ask_for_unknown_key(cluster, set)),
            }
        }
        let (answer, since) = match signed {
            Ok(Signed::ByCluster(identity)) => (Ok(identity), Instant::now()),
            Ok(Signed::ByHub(subject)) => self.ask_hub(&token, subject).await,
            Err(_) if is_nobodys(&signed) && sources.hub_is_unknown() => {
                (Err(AuthnError::Unavailable(HUB_UNKNOWN.to_owned())), Instant::now())
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
        match snapshot.signer(token, now) {
            Signer::Key(_) => {}
            Signer::Unknown if !forged => return Err(Refusal::UnknownKey.into()),
            Signer::Unknown | Signer::Forged => return Err(Refusal::Signature.into()),
        }
        let accepted = Accepted { issuers: &snapshot.issuers, audiences: &snapshot.audiences };
        let subject = claims::check(&token.payload, accepted, config, now)?;
        Ok(Signed::ByCluster(Arc::new(Identity {
            user: subject.user,
            impersonation: None,
            account_uid: subject.account_uid,
            bound: subject.bound,
            expires: subject.expires,
        })))
    }

    /// Whether the hub's API server stands by its token, and since when it is known to.
    async fn ask_hub(
        &self,
        token: &Token,
        subject: Subject,
    ) -> (Result<Arc<Identity>, AuthnError>, Instant) {
        let Some(hub) = &self.0.hub else {
            return (Err(Refusal::HubRefused.into()), Instant::now());
        };
        let unavailable = |why: &str| AuthnError::Unavailable(format!("{HUB_UNASKED}: {why}"));
        let error = match hub.review(token.as_str(), FRESH).await {
            Ok(reviewed) => {
                let identity = Identity::of_hub(reviewed.user.clone(), subject.expires);
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
        }
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("config", &self.0.config).finish_non_exhaustive()
    }
}

/// Whether no key set knew the signature.
fn is_nobodys<T>(answer: &Result<T, AuthnError>) -> bool {
    matches!(answer, Err(AuthnError::Unauthorized(refusal)) if refusal.is_nobodys())
}

/// When a token that nobody signed is refused, counted from its question: alike for a cluster whose
/// keys were read for it, for one that has no tunnel, and for a name that is not enrolled. Time for a
/// read over a long way, so that a key works at its first use; where reads take longer, at its second.
const REFUSED_AFTER: Duration = Duration::from_secs(1);

/// One place in so many for those who wait is not for callers of the cluster that has the others.
const RESERVE: usize = 5;

/// What a caller is told when nobody can say whether the token is the hub's.
const HUB_UNKNOWN: &str = "hub authentication: the signing keys of the hub's own API server cannot be read at the moment; try again";

const HUB_UNASKED: &str =
    "hub authentication: the hub's own API server cannot be asked whose this token is";

#[cfg(test)]
mod tests;
