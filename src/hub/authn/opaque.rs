//! Tokens that are no JSON Web Tokens, such as those of a token file or of a webhook: only the hub's
//! own API server can say whose one is, where an operator lets it be asked
//! ([`AuthnConfig::opaque_tokens`](super::AuthnConfig)). No cluster ever sees one.
//!
//! Anybody can make them up, and each would be a request to that API server. So those that were good a
//! while ago go first, and the others take turns.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::credential::Token;
use super::{Authenticator, AuthnError, Identity, Inner, Refusal};
use crate::hub::token_key::{TokenKey, TokenKeys};
use crate::name::ClusterName;

/// Whose turn it is to be asked about.
pub(super) struct OpaqueTokens {
    keys: TokenKeys,
    /// Was good a while ago.
    known: moka::sync::Cache<TokenKey, ()>,
    turns: Semaphore,
}

// === impl OpaqueTokens ===

impl OpaqueTokens {
    /// Knows nobody.
    pub(super) fn new() -> Self {
        let known = moka::sync::Cache::builder();
        let known = known.max_capacity(MAX_KNOWN).time_to_idle(KNOWN).build();
        Self { keys: TokenKeys::new(), known, turns: Semaphore::new(TURNS) }
    }

    /// A stranger's turn.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, AuthnError> {
        let busy = || AuthnError::Unavailable(BUSY.to_owned());
        let turn =
            tokio::time::timeout(PATIENCE, self.turns.acquire()).await.map_err(|_| busy())?;
        turn.map_err(|_| busy())
    }
}

// === impl Authenticator ===

impl Authenticator {
    /// Whose an opaque token is, and since when that is known.
    pub(super) async fn of_opaque(
        &self,
        cluster: &ClusterName,
        token: &Token,
    ) -> (Result<Arc<Identity>, AuthnError>, Instant) {
        let Inner { opaque, waiting, .. } = &*self.0;
        let key = opaque.keys.of("", token.as_str());
        if opaque.known.get(&key).is_some() {
            let (answer, since) = self.ask_hub(token, None).await;
            if matches!(answer, Err(AuthnError::Unauthorized(_))) {
                opaque.known.invalidate(&key);
            }
            return (answer, since);
        }
        let busy = || (Err(AuthnError::Unavailable(BUSY.to_owned())), Instant::now());
        let Ok(_place) = waiting.take(cluster.clone()) else { return busy() };
        let Ok(_turn) = opaque.turn().await else { return busy() };
        let began = Instant::now();
        let (answer, since) = self.ask_hub(token, None).await;
        match &answer {
            Ok(_) => opaque.known.insert(key, ()),
            Err(AuthnError::Unauthorized(Refusal::HubRefused)) => {
                tokio::time::sleep_until(began + TURN).await;
            }
            Err(_) => {}
        }
        (answer, since)
    }
}

const BUSY: &str =
    "hub authentication: too many unknown tokens wait for the hub's own API server; try again";

/// Strangers who are asked about at once, and how long a refusal takes: at most 40 a second.
const TURNS: usize = 4;
const TURN: Duration = Duration::from_millis(100);

/// How long one waits for a turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a good token is remembered after its last use, by name alone.
const KNOWN: Duration = Duration::from_secs(3600);

/// Far more holders of such tokens than a hub has.
const MAX_KNOWN: u64 = 10_000;
