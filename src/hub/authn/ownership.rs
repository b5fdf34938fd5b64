//! Whose key it is.
//!
//! Spokes often use the same issuer string, and a key set is whatever a spoke publishes. Without
//! owners, cluster c1 could publish c2's public key and be handed, on its own path, a token that
//! somebody meant for c2. So every public key has one owner, by RFC 7638 thumbprint, recorded in
//! [`Document::KeyOwners`] before the key verifies anything.
//!
//! The first cluster that publishes a key owns it. The hub's keys are the hub's whoever recorded
//! them first. A cluster takes a key from another only by proof ([`super::proof`]).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::name::ClusterName;
use crate::state::{Document, State, StateError};

/// The owner of a key. Text form: `hub`, `cluster/NAME`, or anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub(super) enum Owner {
    /// The hub's own API server.
    Hub,
    /// An enrolled cluster.
    Cluster(ClusterName),
    /// Somebody whose keys no cluster can take: `oidc/ISSUER`, or a word of a newer hub.
    Reserved(String),
}

/// Thumbprint to owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Owners(BTreeMap<String, Owner>);

/// The recorded owners, read often and written rarely.
pub(super) struct Ownership {
    state: State,
    view: ArcSwap<Owners>,
    /// When the view was last read; held while reading and writing, so that 1,000 clusters that
    /// come back at once queue here instead of failing on each other's writes.
    read_at: Mutex<Instant>,
}

// === impl Owner ===

impl From<String> for Owner {
    fn from(text: String) -> Self {
        if text == HUB {
            return Self::Hub;
        }
        let cluster = text.strip_prefix(CLUSTER).and_then(|name| ClusterName::parse(name).ok());
        cluster.map_or(Self::Reserved(text), Self::Cluster)
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        owner.to_string()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub => f.write_str(HUB),
            Self::Cluster(name) => write!(f, "{CLUSTER}{name}"),
            Self::Reserved(text) => f.write_str(text),
        }
    }
}

// === impl Owners ===

impl Owners {
    /// Who owns the key with this thumbprint.
    pub(super) fn get(&self, thumbprint: &str) -> Option<&Owner> {
        self.0.get(thumbprint)
    }

    /// Records every unowned key of `published` for `cluster`; returns whether anything changed.
    fn claim(&mut self, cluster: &ClusterName, published: &[String]) -> bool {
        let owner = Owner::Cluster(cluster.clone());
        let mut changed = false;
        for thumbprint in published {
            if !self.0.contains_key(thumbprint) {
                self.0.insert(thumbprint.clone(), owner.clone());
                changed = true;
            }
        }
        let owned = self.0.values().filter(|other| **other == owner).count();
        if owned > MAX_OWNED {
            // A spoke that publishes new keys all day must not fill the document.
            self.0.retain(|thumbprint, other| *other != owner || published.contains(thumbprint));
        }
        changed
    }

    /// Records `published` for the hub or an issuer; returns the clusters that lose a key by it,
    /// with the key. What is the hub's or another issuer's, an issuer does not get.
    fn claim_first(
        &mut self,
        owner: &Owner,
        published: &[String],
    ) -> (bool, Vec<(ClusterName, String)>) {
        let (mut changed, mut lost) = (false, Vec::new());
        for thumbprint in published {
            match self.0.get(thumbprint) {
                Some(known) if known == owner => continue,
                Some(Owner::Hub | Owner::Reserved(_)) if *owner != Owner::Hub => continue,
                Some(Owner::Cluster(name)) => lost.push((name.clone(), thumbprint.clone())),
                _ => {}
            }
            self.0.insert(thumbprint.clone(), owner.clone());
            changed = true;
        }
        (changed, lost)
    }

    /// Frees every key of `cluster`; returns whether there was one.
    fn free(&mut self, cluster: &ClusterName) -> bool {
        let (owner, before) = (Owner::Cluster(cluster.clone()), self.0.len());
        self.0.retain(|_, other| *other != owner);
        self.0.len() != before
    }

    /// Moves a key from one cluster to another, if it is still that cluster's.
    fn take(&mut self, thumbprint: &str, from: &ClusterName, to: &ClusterName) -> bool {
        match self.0.get_mut(thumbprint) {
            Some(owner) if *owner == Owner::Cluster(from.clone()) => {
                *owner = Owner::Cluster(to.clone());
                true
            }
            _ => false,
        }
    }
}

// === impl Ownership ===

impl Ownership {
    /// Reads the owners.
    pub(super) async fn load(state: State) -> Result<Self, StateError> {
        let owners: Owners = state.read(&Document::KeyOwners).await?.unwrap_or_default();
        Ok(Self { state, view: ArcSwap::from_pointee(owners), read_at: Mutex::new(Instant::now()) })
    }

    /// The owners as last read or written.
    pub(super) fn view(&self) -> Arc<Owners> {
        self.view.load_full()
    }

    /// Reads the owners again, unless that was done a moment ago: `clusters remove` frees keys
    /// beside us, and other replicas record theirs.
    pub(super) async fn reload(&self) -> Result<(), StateError> {
        let mut read_at = self.read_at.lock().await;
        if read_at.elapsed() < RELOAD_INTERVAL {
            return Ok(());
        }
        let owners = self.state.read(&Document::KeyOwners).await?.unwrap_or_default();
        *read_at = Instant::now();
        self.publish(owners);
        Ok(())
    }

    /// Records the unowned keys among `published` for `cluster`.
    pub(super) async fn claim(
        &self,
        cluster: &ClusterName,
        published: &[String],
    ) -> Result<(), StateError> {
        self.change(|owners| (owners.claim(cluster, published), ())).await
    }

    /// Records `published` for `owner`, the hub or an issuer; returns who loses a key by it.
    pub(super) async fn claim_first(
        &self,
        owner: &Owner,
        published: &[String],
    ) -> Result<Vec<(ClusterName, String)>, StateError> {
        if published.iter().all(|thumbprint| self.view.load().get(thumbprint) == Some(owner)) {
            return Ok(Vec::new());
        }
        self.change(|owners| owners.claim_first(owner, published)).await
    }

    /// Frees the keys of a cluster that is no longer enrolled.
    pub(super) async fn free(&self, cluster: &ClusterName) -> Result<(), StateError> {
        self.change(|owners| (owners.free(cluster), ())).await
    }

    /// Moves a key that was proven; false when it is no longer `from`'s.
    pub(super) async fn take(
        &self,
        thumbprint: &str,
        from: &ClusterName,
        to: &ClusterName,
    ) -> Result<bool, StateError> {
        self.change(|owners| {
            let moved = owners.take(thumbprint, from, to);
            (moved, moved)
        })
        .await
    }

    async fn change<T>(
        &self,
        mut change: impl FnMut(&mut Owners) -> (bool, T),
    ) -> Result<T, StateError> {
        let mut read_at = self.read_at.lock().await;
        let (owners, told) = self
            .state
            .update(&Document::KeyOwners, |owners: &mut Owners| {
                let (changed, told) = change(owners);
                let result = (owners.clone(), told);
                if changed { Ok(result) } else { Err(result) }
            })
            .await?;
        *read_at = Instant::now();
        self.publish(owners);
        Ok(told)
    }

    /// Readers compare views by pointer, so an equal one is not stored again.
    fn publish(&self, owners: Owners) {
        if **self.view.load() != owners {
            self.view.store(Arc::new(owners));
        }
    }
}

const HUB: &str = "hub";

const CLUSTER: &str = "cluster/";

/// Keys that one cluster may hold: several years of rotations, and a bound on the document.
const MAX_OWNED: usize = 64;

/// How old the view may be when a key set is read.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ClusterName {
        ClusterName::parse(name).unwrap()
    }

    fn keys(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|number| format!("k{number}")).collect()
    }

    #[test]
    fn owners_read_as_they_were_written() {
        let text = r#"{"a":"hub","b":"cluster/c1","c":"oidc/https://i","d":"cluster/_x"}"#;
        let owners: Owners = serde_json::from_str(text).unwrap();
        assert_eq!(owners.get("a"), Some(&Owner::Hub));
        assert_eq!(owners.get("b"), Some(&Owner::Cluster(name("c1"))));
        assert_eq!(owners.get("c"), Some(&Owner::Reserved("oidc/https://i".to_owned())));
        assert_eq!(serde_json::to_string(&owners).unwrap(), text);
    }

    #[test]
    fn the_first_owns_the_hub_always_and_a_move_names_its_source() {
        let mut owners = Owners::default();
        assert!(owners.claim(&name("c1"), &keys(0..2)));
        assert!(!owners.claim(&name("c2"), &keys(0..2)));
        assert_eq!(owners.get("k0"), Some(&Owner::Cluster(name("c1"))));

        let (changed, lost) = owners.claim_first(&Owner::Hub, &keys(1..3));
        assert!(changed);
        assert_eq!(lost, [(name("c1"), "k1".to_owned())]);
        assert_eq!(owners.claim_first(&Owner::Hub, &keys(1..3)), (false, Vec::new()));

        assert!(!owners.take("k1", &name("c1"), &name("c2")), "the hub's");
        assert!(!owners.take("k0", &name("c3"), &name("c2")), "not c3's");
        assert!(owners.take("k0", &name("c1"), &name("c2")));
        assert_eq!(owners.get("k0"), Some(&Owner::Cluster(name("c2"))));
    }

    #[test]
    fn a_cluster_holds_a_bounded_number() {
        let mut owners = Owners::default();
        owners.claim(&name("c2"), &["other".to_owned()]);
        for round in 0..MAX_OWNED {
            owners.claim(&name("c1"), &keys(round * 16..round * 16 + 16));
            assert!(owners.0.len() <= MAX_OWNED + 1);
        }
        assert!(owners.get("other").is_some());
    }

    #[test]
    fn a_full_cluster_keeps_all_and_one_more_key_drops_what_it_no_longer_publishes() {
        let mut owners = Owners::default();
        owners.claim(&name("c1"), &keys(0..40));
        owners.claim(&name("c1"), &keys(40..64));
        assert_eq!(owners.0.len(), 64);
        owners.claim(&name("c1"), &keys(60..65));
        assert_eq!(owners.0.into_keys().collect::<Vec<_>>(), keys(60..65));
    }

    #[tokio::test(start_paused = true)]
    async fn the_view_is_read_again_after_five_seconds() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::state::FolderStore::open(folder.path()).unwrap();
        let state = State::new(Arc::new(store));
        let (here, elsewhere) =
            (Ownership::load(state.clone()).await.unwrap(), Ownership::load(state).await.unwrap());
        elsewhere.claim(&name("c1"), &keys(0..1)).await.unwrap();
        here.reload().await.unwrap();
        assert_eq!(here.view().get("k0"), None, "read a moment ago");
        tokio::time::advance(Duration::from_secs(5)).await;
        here.reload().await.unwrap();
        assert_eq!(here.view().get("k0"), Some(&Owner::Cluster(name("c1"))));
    }
}
