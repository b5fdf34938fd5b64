//! Who is calling: a bearer token becomes an [`Identity`], or a reason why not.
//!
//! Key sets are asked in a fixed order: the hub's, then those of OpenID Connect issuers, then that of
//! the cluster in the path. The first that made the signature decides what the token is:
//!
//! | the signature was made by | outcome |
//! |---|---|
//! | nobody: it is no JSON Web Token | the common 401; with `--allow-opaque-tokens` the hub's API server decides, as below ([`opaque`]) |
//! | a key of the hub, and the path's cluster is not the hub's own | the hub's API server decides (`hub_reviews`): passes as [`Mode::Impersonate`](crate::tunnel::headers::Mode), 401, or 503 while it cannot be asked |
//! | a key of an OpenID Connect issuer | its claims decide ([`oidc`]): passes as `Mode::Impersonate`, or 401 |
//! | a key that the path's cluster owns (or shares with the hub, `--hub-itself`) | its claims decide: passes as `Mode::Caller`, or 401 |
//! | nobody, and the hub's set could not be read at the last attempt | 503: the token may be the hub's |
//! | nobody, and the hub's set could be read or there is no hub API | 401, whether or not the cluster's set could be read |
//!
//! Before the last two, the sets that could be behind are read once, if that is allowed again
//! (`sources`), and the answer is given [`REFUSED_AFTER`](decide::REFUSED_AFTER) whether or not there was anything to read:
//! time must not tell a stranger which clusters there are. A cluster whose tunnels are gone keeps its
//! last good set, also over a restart of the hub, so that its callers get 503 from the routing and not
//! 401 from here.

mod alarms;
mod cache;
mod claims;
mod credential;
mod decide;
mod errors;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod home;
mod hub_reviews;
mod identity;
mod key_sets;
mod keys;
mod metrics;
mod names;
pub mod oidc;
mod opaque;
mod own;
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

use self::cache::Cache;
pub use self::errors::{AuthnError, Explanation, Refusal};
pub(crate) use self::hub_reviews::{HubReviews, NotAccepted};
pub(crate) use self::identity::HUB_PREFIX;
pub use self::identity::{Identity, Impersonated, Voucher};
use self::metrics::Metrics;
pub use self::names::{NamesError, UnprefixedNames};
use self::oidc::Issuers;
use self::oidc::sets::Vouched;
use self::opaque::OpaqueTokens;
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
    /// Whose tokens are believed besides those of the hub and of its clusters.
    pub issuers: Issuers,
    /// Ask the hub's API server about tokens that are no JSON Web Tokens.
    pub opaque_tokens: bool,
    /// Which of the hub's users and groups clusters know without a prefix.
    pub names: Arc<UnprefixedNames>,
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
    opaque: OpaqueTokens,
}

/// The wall clock, as an argument: tests move it.
type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

// === impl AuthnConfig ===

impl Default for AuthnConfig {
    fn default() -> Self {
        let waiting = Limits::default().waiting_strangers();
        let issuers = Issuers::default();
        let names = Arc::default();
        Self {
            managed_only: None,
            allow_legacy_tokens: false,
            waiting,
            issuers,
            opaque_tokens: false,
            names,
        }
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
        let Inner { config, sources, metrics, .. } = &*self.0;
        tokio::select! {
            () = sources.run() => {}
            never = oidc::follow(config.issuers.clone(), sources, metrics) => match never {},
        }
    }

    /// Decides who is calling. Moves a WebSocket subprotocol token into Authorization and deletes
    /// it there. `cluster` need not be enrolled: the answer is then the common refusal.
    ///
    /// A caller that was answered a moment ago costs one HMAC and one lookup, and does not wait.
    /// A token with an unknown key waits for a key set, and for its refusal, [`REFUSED_AFTER`](decide::REFUSED_AFTER); a new
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

    /// Whether an issuer still stands by a token that was accepted before. Costs no request.
    pub(crate) fn is_vouched(&self, token: &str) -> Result<(), NotAccepted> {
        let Inner { sources, .. } = &*self.0;
        let token = Unverified::parse(token).map_err(|_| NotAccepted::Refused)?;
        let issuers = sources.issuers.load();
        match issuers.judge(&token, sources.now()) {
            Vouched::Decided(Ok(_)) => Ok(()),
            Vouched::Decided(Err(_)) => Err(NotAccepted::Refused),
            Vouched::Unknown | Vouched::Forged => match issuers.claimed(&token) {
                Some(keys) if !keys.answered() => {
                    Err(NotAccepted::Failed("the keys of its issuer cannot be read".to_owned()))
                }
                _ => Err(NotAccepted::Refused),
            },
        }
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
        let issuers = config.issuers.clone();
        let metrics_of = metrics.clone();
        let parts = Parts { clock, state, fleet, spokes, hub_api, issuers, metrics: metrics_of };
        let sources = Sources::load(parts).await?;
        let waiting = Shares::new(config.waiting, config.waiting - config.waiting / RESERVE);
        let (cache, opaque) = (Cache::new(), OpaqueTokens::new());
        Ok(Self(Arc::new(Inner { config, cache, metrics, sources, hub, waiting, opaque })))
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("config", &self.0.config).finish_non_exhaustive()
    }
}

/// One place in so many for those who wait is not for callers of the cluster that has the others.
const RESERVE: usize = 5;

#[cfg(test)]
mod tests;
