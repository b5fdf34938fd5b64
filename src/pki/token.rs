//! Join tokens: one name, one use, a short life.
//!
//! A token reads `NAME.ID.SECRET`: the cluster it enrols, a public id, and 256 random bits. The hub
//! keeps the SHA-256 of the secret only.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::hash;
use crate::name::ClusterName;
use crate::state::{Document, JoinToken, State, StateError, seconds};

/// A join token in the open. `Debug` hides the secret.
pub struct Token {
    /// The cluster it enrols.
    pub cluster: ClusterName,
    id: String,
    secret: Zeroizing<String>,
}

/// What a good token allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Redeemed {
    /// Enrols the hub's own cluster.
    pub(crate) hub_itself: bool,
}

// === impl Token ===

impl Token {
    /// Makes a token for `cluster` and remembers its hash. `life` is cut to [`MAX_LIFE`].
    ///
    /// # Errors
    /// [`TokenError::TooMany`] with [`MAX_OPEN`] unexpired ones; [`TokenError::State`].
    pub async fn create(
        state: &State,
        cluster: ClusterName,
        life: Duration,
        hub_itself: bool,
        now: SystemTime,
    ) -> Result<Self, TokenError> {
        let token = Self {
            cluster,
            id: hash::hex(&rand::random::<[u8; 6]>()),
            secret: Zeroizing::new(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())),
        };
        let record = JoinToken {
            cluster: token.cluster.clone(),
            secret_sha256: hash::sha256_hex(token.secret.as_bytes()),
            expires: seconds(now + life.min(MAX_LIFE)),
            hub_itself,
        };
        state
            .update(&Document::JoinTokens, |tokens: &mut Tokens| {
                forget_expired(tokens, now);
                if tokens.len() >= MAX_OPEN {
                    return Err(Err(TokenError::TooMany));
                }
                tokens.insert(token.id.clone(), record.clone());
                Ok(Ok(()))
            })
            .await??;
        Ok(token)
    }

    /// Parses the text form.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        let (Some(name), Some(id), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed);
        };
        let plain = |text: &str, length: usize| {
            text.len() == length
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if !plain(id, ID_LENGTH) || !plain(secret, SECRET_LENGTH) {
            return Err(TokenError::Malformed);
        }
        Ok(Self {
            cluster: ClusterName::parse(name).map_err(|_| TokenError::Malformed)?,
            id: id.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
        })
    }

    /// The text form. Show it to nobody but the one who joins.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}.{}.{}", self.cluster, self.id, self.secret.as_str()))
    }

    /// Whether it could be used now. Leaves it as it is.
    pub(crate) async fn check(&self, state: &State, now: SystemTime) -> Result<(), TokenError> {
        let tokens = state.read::<Tokens>(&Document::JoinTokens).await?.unwrap_or_default();
        self.find(&tokens, now).map(drop)
    }

    /// Uses the token up. Of any number of attempts at once, one succeeds.
    pub(crate) async fn redeem(
        &self,
        state: &State,
        now: SystemTime,
    ) -> Result<Redeemed, TokenError> {
        state
            .update(&Document::JoinTokens, |tokens: &mut Tokens| {
                let found = self.find(tokens, now).map_err(Err)?;
                let redeemed = Redeemed { hub_itself: found.hub_itself };
                tokens.remove(&self.id);
                Ok(Ok(redeemed))
            })
            .await?
    }

    /// What the hub remembers of it.
    fn find<'a>(&self, tokens: &'a Tokens, now: SystemTime) -> Result<&'a JoinToken, TokenError> {
        let record = tokens.get(&self.id).ok_or(TokenError::Unknown)?;
        let presented = hash::sha256_hex(self.secret.as_bytes());
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(
            presented.as_bytes(),
            record.secret_sha256.as_bytes(),
        );
        if same.is_err() || record.cluster != self.cluster {
            return Err(TokenError::Unknown);
        }
        if record.expires <= seconds(now) {
            return Err(TokenError::Expired);
        }
        Ok(record)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("cluster", &self.cluster)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Why a token could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not `NAME.ID.SECRET`.
    #[error(
        "this is not a join token (NAME.ID.SECRET); copy the whole one that `join token` printed"
    )]
    Malformed,
    /// No such token, or not this secret or name. One answer for all: it helps nobody guess.
    #[error(
        "the hub does not know this join token: it was used already, withdrawn, or never made \
         there; make a new one on the hub with `join token`"
    )]
    Unknown,
    /// The secret is right and too old.
    #[error("this join token has expired; make a new one on the hub with `join token`")]
    Expired,
    /// A script that makes tokens without end.
    #[error("{MAX_OPEN} join tokens are open already; wait until some expire or are used")]
    TooMany,
    /// The state could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
}

type Tokens = BTreeMap<String, JoinToken>;

/// Drops tokens that expired so long ago that nobody tries them any more: until then the holder
/// learns that it is the time, not the token.
fn forget_expired(tokens: &mut Tokens, now: SystemTime) {
    let oldest = seconds(now).saturating_sub(MAX_LIFE.as_secs());
    tokens.retain(|_, token| token.expires > oldest);
}

/// Longest life of a token.
pub const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Life of a token unless told otherwise.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(3600);

/// Keeps the document of all tokens below a quarter of a megabyte.
const MAX_OPEN: usize = 1000;

/// Six bytes in hexadecimal.
const ID_LENGTH: usize = 12;

/// 32 bytes in base64 without padding.
const SECRET_LENGTH: usize = 43;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::state::FolderStore;

    fn state(folder: &tempfile::TempDir) -> State {
        State::new(Arc::new(FolderStore::open(folder.path()).unwrap()))
    }

    async fn token(state: &State, cluster: &str, now: SystemTime) -> Token {
        let cluster = ClusterName::parse(cluster).unwrap();
        Token::create(state, cluster, DEFAULT_LIFE, false, now).await.unwrap()
    }

    #[tokio::test]
    async fn one_use() {
        let folder = tempfile::tempdir().unwrap();
        let (state, now) = (state(&folder), SystemTime::now());
        let made = token(&state, "c1", now).await;
        let token = Token::parse(&made.reveal()).unwrap();
        assert_eq!(token.redeem(&state, now).await.unwrap(), Redeemed { hub_itself: false });
        assert!(matches!(token.redeem(&state, now).await, Err(TokenError::Unknown)));
    }

    #[tokio::test]
    async fn one_use_also_for_those_who_come_together() {
        let folder = tempfile::tempdir().unwrap();
        let (state, now) = (state(&folder), SystemTime::now());
        let token = token(&state, "c1", now).await;
        let tries = futures_util::future::join_all((0..8).map(|_| token.redeem(&state, now))).await;
        assert_eq!(tries.iter().filter(|result| result.is_ok()).count(), 1);
    }

    #[tokio::test]
    async fn not_late_not_for_another_and_not_guessed() {
        let folder = tempfile::tempdir().unwrap();
        let (state, now) = (state(&folder), SystemTime::now());
        let made = token(&state, "c1", now).await;
        let other = token(&state, "c2", now).await;

        let text = made.reveal().replace("c1.", "c2.");
        let moved = Token::parse(&text).unwrap();
        assert!(matches!(moved.redeem(&state, now).await, Err(TokenError::Unknown)));
        let mixed = Token {
            cluster: made.cluster.clone(),
            id: made.id.clone(),
            secret: other.secret.clone(),
        };
        assert!(matches!(mixed.redeem(&state, now).await, Err(TokenError::Unknown)));
        let late = now + DEFAULT_LIFE + Duration::from_secs(1);
        assert!(matches!(made.redeem(&state, late).await, Err(TokenError::Expired)));
        // None of these used it up.
        assert!(made.redeem(&state, now).await.is_ok());
    }

    #[tokio::test]
    async fn the_secret_is_kept_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        let token = token(&state, "c1", SystemTime::now()).await;
        let kept = state.store().read(&Document::JoinTokens).await.unwrap().unwrap().contents;
        let kept = String::from_utf8(kept.to_vec()).unwrap();
        assert!(kept.contains(&token.id) && !kept.contains(token.secret.as_str()));
        assert!(!format!("{token:?}").contains(token.secret.as_str()));
    }

    proptest! {
        #[test]
        fn parsing_accepts_only_what_it_prints(text in "[a-z0-9.-]{0,5}[.]?[a-z0-9]{11,13}[.]?[A-Za-z0-9_.-]{42,44}") {
            if let Ok(token) = Token::parse(&text) {
                let shown = token.reveal();
                prop_assert_eq!(shown.as_str(), text);
            }
        }
    }
}
