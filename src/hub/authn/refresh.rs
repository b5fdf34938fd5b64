//! Reading a key set from its API server, and what follows: owners, the kept copy, proofs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::SpokeApiError;
use super::key_sets::{DEADLINE, Kept, KeySet, Material, lock, seconds};
use super::keys::{self, KeysError, PublicKey, Published};
use super::metrics::{HUB, label};
use super::oidc::reader::{self, ReadError};
use super::ownership::Owner;
use super::proof;
use super::sources::Sources;
use crate::name::ClusterName;
use crate::state::{Document, StateError};

/// Why a key set could not be read.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error("cannot ask for {JWKS}: {0}")]
    Unreachable(#[from] SpokeApiError),
    #[error("no answer to {JWKS} within {DEADLINE:?}")]
    Late,
    #[error(
        "the answer to {JWKS} is {0}; it is readable with the ClusterRole system:service-account-issuer-discovery"
    )]
    Status(StatusCode),
    #[error("the answer to {JWKS} is larger than {MAX_JWKS} bytes")]
    TooLarge,
    #[error("{JWKS}: {0}")]
    Keys(#[from] KeysError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the hub's own keys could not be read, and a new key might be one of them")]
    HubUnknown,
    #[error("it is no longer enrolled")]
    NotEnrolled,
    #[error("it is no longer configured")]
    NotConfigured,
    #[error(transparent)]
    Issuer(#[from] ReadError),
    #[error("its key set: {0}")]
    IssuerKeys(KeysError),
}

impl Sources {
    /// Reads one set and puts it to use.
    pub(super) async fn refresh(&self, set: Arc<KeySet>) {
        match &set.owner {
            Owner::Cluster(name) => {
                let result = self.refresh_cluster(name, &set).await;
                self.report(name.as_str(), &result);
                self.reported(name);
                set.attempted(result.is_ok());
                if let Ok(disputed) = result {
                    self.settle_disputes(name, disputed).await;
                }
            }
            owner @ Owner::Reserved(_) => {
                let result = self.refresh_issuer(&set).await;
                self.report(&label(owner), &result);
                set.attempted(result.is_ok());
            }
            Owner::Hub => {
                // Reports by itself: it is also read before a cluster's new key is recorded.
                let _ = self.refresh_hub(&set, Instant::now()).await;
            }
        }
        set.finish();
    }

    /// Returns the keys that other clusters own.
    async fn refresh_cluster(
        &self,
        name: &ClusterName,
        set: &KeySet,
    ) -> Result<Vec<(Arc<PublicKey>, ClusterName)>, RefreshError> {
        let (published, discovered) = self.read_cluster(name).await?;
        let read_at = Instant::now();
        let cluster = self.cluster(name).ok_or(RefreshError::NotEnrolled)?;
        let before = set.material();
        let about = cluster.about.as_ref();
        let bounded = |told: &[String]| -> Vec<String> {
            let short = |text: &&String| text.len() <= MAX_TOLD_LENGTH;
            told.iter().filter(short).take(MAX_TOLD).cloned().collect()
        };
        let kept = Kept {
            keys: published.keys.iter().map(|key| key.jwk().clone()).collect(),
            issuers: about
                .map_or_else(|| before.kept.issuers.clone(), |about| bounded(&about.issuers)),
            discovered_issuer: discovered.or_else(|| before.kept.discovered_issuer.clone()),
            audiences: about
                .map_or_else(|| before.kept.audiences.clone(), |about| bounded(&about.audiences)),
            read_at: seconds(self.now()),
        };
        if kept.audiences.is_empty() {
            tracing::warn!(cluster = %name, "the agent names no audience, so no token is accepted; start it with --audience");
        }
        let keys = published.keys.into_iter().map(Arc::new).collect();
        let material = Material { keys, kept };
        let recorded = self.record_owners(name, &material, read_at).await;
        set.replace(material.clone());
        let owners = self.ownership.view();
        self.settle(set, &owners);
        self.settle_all();
        self.free_if_removed(name).await?;
        // Last: a store that fails must not keep a new key from working now.
        self.keep(&Document::KeySet(name.clone()), &before.kept, &material.kept).await?;
        recorded?;

        let mut disputed = Vec::new();
        let mut conflicts = HashSet::new();
        for key in material.keys {
            match owners.get(&key.thumbprint) {
                Some(Owner::Hub) if cluster.hub_itself => continue,
                Some(Owner::Cluster(owner)) if owner == name => continue,
                Some(owner) => {
                    self.alarm(name, &key.thumbprint, owner);
                    conflicts.insert(key.thumbprint.clone());
                    if let Owner::Cluster(owner) = owner {
                        disputed.push((key.clone(), owner.clone()));
                    }
                }
                None => {}
            }
        }
        self.alarms.keep(name, |thumbprint| conflicts.contains(thumbprint));
        Ok(disputed)
    }

    /// `clusters remove` frees the keys of a cluster after its enrolment is gone, and the fleet
    /// learns of it up to two seconds later. Whatever was recorded in between is freed here.
    async fn free_if_removed(&self, name: &ClusterName) -> Result<(), RefreshError> {
        if self.state.enrolment(name).await?.is_some() {
            return Ok(());
        }
        self.ownership.free(name).await?;
        self.settle_all();
        Err(RefreshError::NotEnrolled)
    }

    /// Records new keys for `name`. With a hub API that happens only when the hub's set was read
    /// later than the cluster's: a key that nobody owns might be one that the hub began to use a
    /// second ago, and a cluster that is first to record it would be handed the hub's tokens.
    async fn record_owners(
        &self,
        name: &ClusterName,
        material: &Material,
        read_at: Instant,
    ) -> Result<(), RefreshError> {
        self.ownership.reload().await?;
        let published = material.thumbprints();
        let owners = self.ownership.view();
        if published.iter().all(|thumbprint| owners.get(thumbprint).is_some()) {
            return Ok(());
        }
        if let Some(hub) = &self.hub {
            self.refresh_hub(hub, read_at).await.map_err(|()| RefreshError::HubUnknown)?;
        }
        self.ownership.claim(name, &published).await?;
        Ok(())
    }

    /// Reads the hub's own set, unless a read that began after `newer_than` has done it: 1,000
    /// clusters that come back at once share one or two.
    async fn refresh_hub(&self, set: &KeySet, newer_than: Instant) -> Result<(), ()> {
        let mut read_at = self.hub_read.lock().await;
        if read_at.is_some_and(|read_at| read_at > newer_than) {
            return Ok(());
        }
        let started = Instant::now();
        let result = self.read_hub(set).await;
        self.report(HUB, &result);
        set.attempted(result.is_ok());
        *read_at = result.is_ok().then_some(started);
        result.map_err(|_| ())
    }

    async fn read_hub(&self, set: &KeySet) -> Result<(), RefreshError> {
        let Some(api) = &self.hub_api else { return Ok(()) };
        let answer = tokio::time::timeout(DEADLINE, api.get(JWKS, MAX_JWKS, DEADLINE)).await;
        let published = parse(answer.map_err(|_| RefreshError::Late)??)?;
        let before = set.material();
        let kept = Kept {
            keys: published.keys.iter().map(|key| key.jwk().clone()).collect(),
            read_at: seconds(self.now()),
            ..Kept::default()
        };
        let keys = published.keys.into_iter().map(Arc::new).collect();
        let material = Material { keys, kept };
        // In use before it is stored: these keys are the hub's whatever a store says.
        set.replace(material.clone());
        self.settle(set, &self.ownership.view());
        for (cluster, thumbprint) in
            self.ownership.claim_first(&Owner::Hub, &material.thumbprints()).await?
        {
            self.alarm(&cluster, &thumbprint, &Owner::Hub);
        }
        self.settle_all();
        self.keep(&Document::HubKeySet, &before.kept, &material.kept).await?;
        Ok(())
    }

    /// Reads the keys of an issuer.
    async fn refresh_issuer(&self, set: &KeySet) -> Result<(), RefreshError> {
        let issuer = self.issuers.load().of(set).cloned().ok_or(RefreshError::NotConfigured)?;
        let document = reader::read(&issuer.config, self.hub_api.as_deref()).await?;
        let published = keys::parse(&document).map_err(RefreshError::IssuerKeys)?;
        let kept = Kept { read_at: seconds(self.now()), ..Kept::default() };
        let material = Material { keys: published.keys.into_iter().map(Arc::new).collect(), kept };
        let thumbprints = material.thumbprints();
        set.replace(material);
        for (cluster, thumbprint) in self.ownership.claim_first(&set.owner, &thumbprints).await? {
            self.alarm(&cluster, &thumbprint, &set.owner);
        }
        self.settle(set, &self.ownership.view());
        self.settle_all();
        Ok(())
    }

    /// Lets a cluster prove the keys that others hold.
    async fn settle_disputes(
        &self,
        name: &ClusterName,
        disputed: Vec<(Arc<PublicKey>, ClusterName)>,
    ) {
        for (key, owner) in disputed {
            if !self.may_prove(name, &key.thumbprint) {
                continue;
            }
            let thumbprint = &key.thumbprint;
            if let Err(error) = proof::prove(&*self.spokes, name, &key).await {
                tracing::warn!(cluster = %name, %owner, thumbprint, %error, "a cluster could not prove a key");
                continue;
            }
            match self.ownership.take(thumbprint, &owner, name).await {
                Ok(true) => {
                    tracing::warn!(cluster = %name, former = %owner, thumbprint, "a cluster proved a key, which moves");
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(cluster = %name, %error, "cannot record a proven key"),
            }
            if let Err(error) = self.free_if_removed(name).await {
                tracing::debug!(cluster = %name, %error, "a proven key is not kept");
            }
        }
        self.settle_all();
    }

    fn may_prove(&self, name: &ClusterName, thumbprint: &str) -> bool {
        let mut proofs = lock(&self.proofs);
        proofs.retain(|_, tried| tried.elapsed() < PROOF_INTERVAL);
        let pair = (name.clone(), thumbprint.to_owned());
        let allowed = !proofs.contains_key(&pair);
        if allowed {
            proofs.insert(pair, Instant::now());
        }
        allowed
    }

    async fn read_cluster(
        &self,
        name: &ClusterName,
    ) -> Result<(Published, Option<String>), RefreshError> {
        let get = |path, limit| self.spokes.request(name, Method::GET, path, None, limit, DEADLINE);
        let both = join(get(JWKS, MAX_JWKS), get(DISCOVERY, MAX_DISCOVERY));
        let (keys, discovery) =
            tokio::time::timeout(DEADLINE, both).await.map_err(|_| RefreshError::Late)?;
        Ok((parse(keys?)?, discovery.ok().and_then(issuer)))
    }

    /// Stores a set when something changed, and otherwise once a day, for its age.
    async fn keep(&self, document: &Document, before: &Kept, now: &Kept) -> Result<(), StateError> {
        let same = Kept { read_at: now.read_at, ..before.clone() } == *now;
        if same && before.read_at / DAY == now.read_at / DAY {
            return Ok(());
        }
        let store = |stored: &mut Kept| {
            *stored = now.clone();
            Ok(())
        };
        self.state.update(document, store).await
    }

    fn alarm(&self, name: &ClusterName, thumbprint: &str, owner: &Owner) {
        self.metrics.conflict(name);
        if self.alarms.raise(name, thumbprint, owner) {
            tracing::warn!(target: "cluster_proxy::alarm", cluster = %name, thumbprint, %owner, "a cluster publishes a signing key that is not its own; the key is ignored there");
        }
        self.reported(name);
    }

    fn report<T>(&self, name: &str, result: &Result<T, RefreshError>) {
        self.metrics.refreshed(name, result.is_ok(), self.now());
        if let Err(error) = result {
            tracing::warn!(key_set = name, %error, "cannot read a key set; the last good one stays");
        }
    }
}

fn parse((status, body): (StatusCode, Bytes)) -> Result<Published, RefreshError> {
    if status != StatusCode::OK {
        return Err(RefreshError::Status(status));
    }
    if body.len() > MAX_JWKS {
        return Err(RefreshError::TooLarge);
    }
    let published = keys::parse(&body)?;
    tracing::debug!(
        keys = published.keys.len(),
        unusable = published.unusable,
        "a document of keys was read"
    );
    Ok(published)
}

/// The issuer that an API server names. Its `jwks_uri` is never followed: it may point anywhere.
fn issuer((status, body): (StatusCode, Bytes)) -> Option<String> {
    #[derive(Deserialize)]
    struct Discovery {
        issuer: String,
    }
    if status != StatusCode::OK || body.len() > MAX_DISCOVERY {
        return None;
    }
    let Discovery { issuer } = serde_json::from_slice(&body).ok()?;
    (!issuer.is_empty() && issuer.len() <= MAX_TOLD_LENGTH).then_some(issuer)
}

const JWKS: &str = "/openid/v1/jwks";

const DISCOVERY: &str = "/.well-known/openid-configuration";

/// An honest set has about 1 KiB.
const MAX_JWKS: usize = 256 * 1024;

const MAX_DISCOVERY: usize = 16 * 1024;

/// Issuers, and audiences, that one agent can name.
const MAX_TOLD: usize = 16;

/// Longest issuer or audience.
const MAX_TOLD_LENGTH: usize = 1024;

/// How often a cluster may try to prove one key: a proof makes a token.
const PROOF_INTERVAL: Duration = Duration::from_secs(600);

/// In seconds.
const DAY: u64 = 24 * 3600;

#[cfg(test)]
mod tests;
