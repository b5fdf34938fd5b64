//! Typed records over a [`Store`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Document, Expected, Registration, Replica, StateError, Store};
use crate::name::ClusterName;

/// One enrolled cluster, as the hub remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrolment {
    /// SHA-256 of the enrolled key's SubjectPublicKeyInfo, hex. The only key the dock accepts for
    /// this name.
    pub key_sha256: String,
    /// When the cluster joined, seconds since the epoch.
    pub enrolled_at: u64,
    /// End of the newest certificate issued, seconds since the epoch.
    pub certificate_expires: u64,
    /// uid of the spoke's `kube-system` namespace, once it was seen. A different one is not served.
    pub cluster_uid: Option<String>,
    /// The hub's own cluster: shares the hub's signing keys.
    #[serde(default)]
    pub hub_itself: bool,
    /// Set by `clusters revoke`: the key is lost or stolen, and only a new join token brings the
    /// name back.
    #[serde(default)]
    pub revoked: bool,
    /// SHA-256 of the key before this one, hex, unless that was revoked: its agents take no new
    /// requests, but may finish what they are at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// A join token as the hub remembers it: never the token itself. [`Document::JoinTokens`] is a map
/// from the token's public id to this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinToken {
    /// The only name it can enrol.
    pub cluster: ClusterName,
    /// SHA-256 of the secret half, hex.
    pub secret_sha256: String,
    /// End, seconds since the epoch.
    pub expires: u64,
    /// Enrols the hub's own cluster.
    #[serde(default)]
    pub hub_itself: bool,
}

/// The typed view of a [`Store`] that the hub and the commands use. Clones share the store.
#[derive(Clone, Debug)]
pub struct State {
    store: Arc<dyn Store>,
    recent: Arc<Mutex<Option<Recent>>>,
}

/// All enrolments as of a mark of the store.
#[derive(Debug)]
struct Recent {
    mark: String,
    enrolments: BTreeMap<ClusterName, Enrolment>,
}

/// What an edit does with the document it was shown.
pub(crate) enum Edit<D, T> {
    /// Write this and return that.
    Write(D, T),
    /// Leave it and return that.
    Keep(T),
}

// === impl State ===

impl State {
    /// The view of `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, recent: Arc::default() }
    }

    /// The store itself, for documents that are bytes (certificates, keys).
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Lists this hub process as living, until the registration is dropped or the process dies.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub async fn register(&self, replica: Replica) -> Result<Box<dyn Registration>, StateError> {
        self.store.register(replica).await
    }

    /// Every living hub on this state, ordered by id.
    pub async fn replicas(&self) -> Result<Vec<Replica>, StateError> {
        self.store.replicas().await
    }

    /// Every enrolment. Cheap to ask for every second: they are read again only after a change.
    pub async fn enrolments(&self) -> Result<BTreeMap<ClusterName, Enrolment>, StateError> {
        // The mark is taken before the reading: a change in between moves the next mark.
        let mark = self.store.enrolments_mark().await?;
        if let Some(known) = &*self.recent.lock().unwrap_or_else(PoisonError::into_inner)
            && mark.as_ref() == Some(&known.mark)
        {
            return Ok(known.enrolments.clone());
        }
        let mut enrolments = BTreeMap::new();
        for (cluster, contents) in self.store.enrolments().await? {
            let document = Document::Enrolment(cluster.clone());
            match contents.and_then(|contents| parse(&document, &contents)) {
                Ok(enrolment) => {
                    enrolments.insert(cluster, enrolment);
                }
                // One damaged document must not keep the others from being served or revoked, and
                // whom it names is not served on a guess.
                Err(StateError::Damaged { document, reason }) => {
                    tracing::error!(%cluster, document, reason, "an enrolment is damaged: the cluster is not served");
                }
                Err(error) => return Err(error),
            }
        }
        *self.recent.lock().unwrap_or_else(PoisonError::into_inner) =
            mark.map(|mark| Recent { mark, enrolments: enrolments.clone() });
        Ok(enrolments)
    }

    /// One enrolment, always read afresh.
    pub async fn enrolment(&self, cluster: &ClusterName) -> Result<Option<Enrolment>, StateError> {
        self.read(&Document::Enrolment(cluster.clone())).await
    }

    /// Reads a JSON document, lets `change` edit it (from its default when absent), writes it back;
    /// repeats on conflict. `change` returns what the caller wants to know; returning `Err(T)`
    /// leaves the document as it is.
    pub async fn update<D, T>(
        &self,
        document: &Document,
        mut change: impl FnMut(&mut D) -> Result<T, T>,
    ) -> Result<T, StateError>
    where
        D: DeserializeOwned + Serialize + Default,
    {
        self.edit(document, |found: Option<D>| {
            let mut value = found.unwrap_or_default();
            match change(&mut value) {
                Ok(told) => Edit::Write(value, told),
                Err(told) => Edit::Keep(told),
            }
        })
        .await
    }

    /// As [`State::update`], for documents without a default: `change` sees whether it exists.
    pub(crate) async fn edit<D, T>(
        &self,
        document: &Document,
        mut change: impl FnMut(Option<D>) -> Edit<D, T>,
    ) -> Result<T, StateError>
    where
        D: DeserializeOwned + Serialize,
    {
        for _ in 0..ATTEMPTS {
            let found = self.store.read(document).await?;
            let (value, expected) = match found {
                Some(found) => {
                    (Some(parse(document, &found.contents)?), Expected::Version(found.version))
                }
                None => (None, Expected::Absent),
            };
            let (value, told) = match change(value) {
                Edit::Write(value, told) => (value, told),
                Edit::Keep(told) => return Ok(told),
            };
            let contents = serde_json::to_vec_pretty(&value).map_err(|error| {
                StateError::Damaged { document: document.to_string(), reason: error.to_string() }
            })?;
            match self.store.write(document, contents.into(), expected).await {
                Ok(_) => return Ok(told),
                Err(StateError::Conflict(_)) => {
                    // Two writers in step would meet again and again.
                    let pause = rand::random_range(0..=MAX_PAUSE_MS);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(StateError::Conflict(document.to_string()))
    }

    /// Reads a JSON document.
    pub async fn read<D: DeserializeOwned>(
        &self,
        document: &Document,
    ) -> Result<Option<D>, StateError> {
        let found = self.store.read(document).await?;
        found.map(|found| parse(document, &found.contents)).transpose()
    }

    /// Un-enrols: deletes enrolment, open join tokens and key set, and frees owned keys. Returns
    /// false when it was not enrolled; what was left of an interrupted removal is deleted anyway.
    pub async fn remove(&self, cluster: &ClusterName) -> Result<bool, StateError> {
        let document = Document::Enrolment(cluster.clone());
        let enrolled = self.store.read(&document).await?.is_some();
        // Tokens first: a join in flight must not bring the name back after the deletion.
        self.drop_tokens(cluster).await?;
        self.store.delete(&document).await?;
        let owner = key_owner(cluster);
        self.update(&Document::KeyOwners, |owners: &mut BTreeMap<String, String>| {
            let before = owners.len();
            owners.retain(|_, of| *of != owner);
            if owners.len() == before { Err(()) } else { Ok(()) }
        })
        .await?;
        self.store.delete(&Document::KeySet(cluster.clone())).await?;
        Ok(enrolled)
    }

    /// Marks the key as lost or stolen and voids open join tokens of the name. Returns false when
    /// it was not enrolled.
    pub async fn revoke(&self, cluster: &ClusterName) -> Result<bool, StateError> {
        self.drop_tokens(cluster).await?;
        let document = Document::Enrolment(cluster.clone());
        self.edit(&document, |found: Option<Enrolment>| match found {
            None => Edit::Keep(false),
            Some(enrolment) if enrolment.revoked => Edit::Keep(true),
            Some(enrolment) => Edit::Write(Enrolment { revoked: true, ..enrolment }, true),
        })
        .await
    }

    async fn drop_tokens(&self, cluster: &ClusterName) -> Result<(), StateError> {
        self.update(&Document::JoinTokens, |tokens: &mut BTreeMap<String, JoinToken>| {
            let before = tokens.len();
            tokens.retain(|_, token| token.cluster != *cluster);
            if tokens.len() == before { Err(()) } else { Ok(()) }
        })
        .await
    }
}

/// Seconds since the epoch, for records.
pub fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How [`Document::KeyOwners`] spells a cluster; the hub's own keys belong to `hub`, which no
/// cluster's spelling can be.
pub fn key_owner(cluster: &ClusterName) -> String {
    format!("cluster/{cluster}")
}

fn parse<D: DeserializeOwned>(document: &Document, contents: &[u8]) -> Result<D, StateError> {
    serde_json::from_slice(contents).map_err(|error| StateError::Damaged {
        document: document.to_string(),
        // The text of a serde error may quote the document.
        reason: format!(
            "line {}, column {} is not what this version writes; restore it from a backup",
            error.line(),
            error.column()
        ),
    })
}

/// Writers that meet this often have another problem than each other.
const ATTEMPTS: usize = 32;

/// Longest pause between two attempts, milliseconds.
const MAX_PAUSE_MS: u64 = 20;

#[cfg(test)]
mod tests;
