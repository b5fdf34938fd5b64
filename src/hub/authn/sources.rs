//! All key sets, and the one loop that keeps them fresh.
//!
//! Only [`Sources::run`] reads key sets. A request that meets an unknown key marks the set as
//! wanted and waits for the loop: a caller who hangs up takes no read with it, and a thousand
//! callers wait for the same one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use futures_util::stream::{self, FuturesUnordered, StreamExt as _, TryStreamExt as _};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::alarms::Alarms;
use super::key_sets::{INTERVAL, Kept, KeySet, Material, Snapshot, lock};
use super::metrics::{HUB, Metrics};
use super::oidc::Issuers;
use super::oidc::sets::IssuerSets;
use super::ownership::{Owner, Owners, Ownership};
use super::{Clock, HubApi, SpokeApi};
use crate::fleet::{ClusterState, Fleet};
use crate::name::ClusterName;
use crate::state::{Document, State, StateError};

/// Every key set of this hub.
pub(super) struct Sources {
    pub(super) clock: Clock,
    pub(super) state: State,
    pub(super) fleet: watch::Receiver<Fleet>,
    pub(super) spokes: Arc<dyn SpokeApi>,
    pub(super) hub_api: Option<Arc<dyn HubApi>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) ownership: Ownership,
    /// The hub's own set; none without a hub API.
    pub(super) hub: Option<Arc<KeySet>>,
    /// Whose tokens are believed besides.
    pub(super) issuers: ArcSwap<IssuerSets>,
    /// When the last good read of the hub's set began; held while reading it.
    pub(super) hub_read: tokio::sync::Mutex<Option<Instant>>,
    /// When a cluster last tried to prove a key.
    pub(super) proofs: Mutex<HashMap<(ClusterName, String), Instant>>,
    /// Conflicts that were told.
    pub(super) alarms: Alarms,
    clusters: ArcSwap<HashMap<ClusterName, Arc<KeySet>>>,
    /// Kept sets of clusters that the fleet has not named yet.
    kept: Mutex<HashMap<ClusterName, Kept>>,
    /// Sets of clusters that have come, before anybody looked whether one was kept of them.
    arrived: Mutex<Vec<Arc<KeySet>>>,
    /// The owners that all sets were last settled by.
    settled: Mutex<Arc<Owners>>,
    /// The snapshot of a cluster that is not enrolled.
    nothing: Arc<Snapshot>,
    wake: Notify,
}

/// What [`Sources`] is made from.
pub(super) struct Parts {
    pub(super) clock: Clock,
    pub(super) state: State,
    pub(super) fleet: watch::Receiver<Fleet>,
    pub(super) spokes: Arc<dyn SpokeApi>,
    pub(super) hub_api: Option<Arc<dyn HubApi>>,
    pub(super) issuers: Issuers,
    pub(super) metrics: Arc<Metrics>,
}

// === impl Sources ===

impl Sources {
    /// Reads owners and kept key sets.
    pub(super) async fn load(parts: Parts) -> Result<Self, StateError> {
        let Parts { clock, state, fleet, spokes, hub_api, issuers, metrics } = parts;
        let ownership = Ownership::load(state.clone()).await?;
        let mut kept = HashMap::new();
        let mut reads = stream::iter(state.enrolments().await?.into_keys())
            .map(|name| async {
                let set = read_kept(&state, &Document::KeySet(name.clone())).await;
                set.map(|set| set.map(|set| (name, set)))
            })
            .buffer_unordered(READS_AT_ONCE);
        while let Some(found) = reads.try_next().await? {
            if let Some((name, set)) = found {
                metrics.kept(name.as_str(), set.read_at);
                kept.insert(name, set);
            }
        }
        drop(reads);
        let hub = hub_api.as_ref().map(|_| Arc::new(KeySet::new(Owner::Hub)));
        if let Some(hub) = &hub
            && let Some(set) = read_kept(&state, &Document::HubKeySet).await?
        {
            metrics.kept(HUB, set.read_at);
            hub.replace(Material::from_kept(set));
            hub.settle(&ownership.view(), true);
        }
        let sources = Self {
            settled: Mutex::new(ownership.view()),
            clock,
            state,
            fleet,
            spokes,
            hub_api,
            metrics,
            ownership,
            hub,
            issuers: ArcSwap::from_pointee(IssuerSets::new(issuers.configs(), None)),
            hub_read: tokio::sync::Mutex::default(),
            proofs: Mutex::default(),
            alarms: Alarms::default(),
            clusters: ArcSwap::default(),
            kept: Mutex::new(kept),
            arrived: Mutex::default(),
            nothing: Arc::new(Snapshot::empty()),
            wake: Notify::new(),
        };
        sources.reconcile();
        Ok(sources)
    }

    /// The key set of an enrolled cluster.
    pub(super) fn find(&self, cluster: &ClusterName) -> Option<Arc<KeySet>> {
        if let Some(set) = self.clusters.load().get(cluster) {
            return Some(set.clone());
        }
        // Enrolled a moment ago, and the loop has not come round yet.
        if !self.fleet.borrow().clusters.contains_key(cluster) {
            return None;
        }
        self.reconcile();
        self.clusters.load().get(cluster).cloned()
    }

    /// The key set of every enrolled cluster.
    pub(super) fn clusters(&self) -> Vec<(ClusterName, Arc<KeySet>)> {
        let clusters = self.clusters.load();
        clusters.iter().map(|(name, set)| (name.clone(), set.clone())).collect()
    }

    /// What verifies tokens on the path of a cluster.
    pub(super) fn snapshot(&self, set: Option<&Arc<KeySet>>) -> Arc<Snapshot> {
        set.map_or_else(|| self.nothing.clone(), |set| arc_swap::Guard::into_inner(set.snapshot()))
    }

    /// Who could have signed a token without us knowing: a key set could not be read. Says what a
    /// caller is told. The keys that the token `claimed` to be signed by are those of an issuer.
    pub(super) fn unknown(&self, claimed: Option<&Arc<KeySet>>) -> Option<&'static str> {
        let silent = |set: Option<&Arc<KeySet>>| set.is_some_and(|set| !set.answered());
        if silent(self.hub.as_ref()) {
            return Some(HUB_UNKNOWN);
        }
        silent(claimed).then_some(ISSUER_UNKNOWN)
    }

    /// Reads the sets that might hold a key nobody knows, as far as that is allowed now. Returns
    /// false when nothing was read until `due`, so that looking again is of no use.
    pub(super) async fn read_for_unknown_key(
        &self,
        cluster: &ClusterName,
        set: Option<&Arc<KeySet>>,
        claimed: Option<&Arc<KeySet>>,
        due: Instant,
    ) -> bool {
        let mut waits = self.ask_for_unknown_key(cluster, set, claimed);
        if waits.is_empty() {
            return false;
        }
        let attempts = join_all(waits.iter_mut().map(watch::Receiver::changed));
        tokio::time::timeout_at(due, attempts).await.is_ok()
    }

    /// Has the same sets read; returns what to wait for.
    pub(super) fn ask_for_unknown_key(
        &self,
        cluster: &ClusterName,
        set: Option<&Arc<KeySet>>,
        claimed: Option<&Arc<KeySet>>,
    ) -> Vec<watch::Receiver<()>> {
        let live = self.cluster(cluster).is_some_and(|cluster| !cluster.tunnels.is_empty());
        let set = set.filter(|_| live);
        let sets = self.hub.iter().chain(claimed).chain(set);
        let waits: Vec<_> = sets.filter_map(|set| set.ask()).collect();
        if !waits.is_empty() {
            self.wake.notify_one();
        }
        waits
    }

    /// Believes these issuers from now on, and no others.
    pub(super) fn believe(&self, issuers: &Issuers) {
        let before = self.issuers.load();
        self.issuers.store(Arc::new(IssuerSets::new(issuers.configs(), Some(&**before))));
        let kept = self.issuers.load();
        for gone in before.keys().filter(|keys| kept.of(keys).is_none()) {
            self.metrics.forget_set(&gone.owner);
        }
        self.wake.notify_one();
    }

    /// Keeps every set fresh. Returns only when the fleet's writer is gone.
    pub(super) async fn run(&self) {
        let mut fleet = self.fleet.clone();
        let (mut reads, mut recalls) = (FuturesUnordered::new(), FuturesUnordered::new());
        loop {
            fleet.mark_unchanged();
            self.reconcile();
            recalls.extend(lock(&self.arrived).drain(..).map(|set| self.recall(set)));
            let mut next = Instant::now() + INTERVAL;
            for set in self.all() {
                let (live, about) = match &set.owner {
                    Owner::Cluster(name) => self.cluster(name).map_or((false, None), |cluster| {
                        if set.is_hub_itself() != cluster.hub_itself {
                            self.settle(&set, &self.ownership.view());
                        }
                        (!cluster.tunnels.is_empty(), cluster.about.clone())
                    }),
                    _ => (true, None),
                };
                if set.start(live, about.as_ref()) {
                    reads.push(self.refresh(set));
                } else if let Some(due) = set.due() {
                    next = next.min(due);
                }
            }
            tokio::select! {
                changed = fleet.changed() => if changed.is_err() { return },
                () = self.wake.notified() => {}
                Some(()) = reads.next() => {}
                Some(()) = recalls.next() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Takes what is kept of a cluster that has come back, unless its agent was quicker: a good token
    /// must not get a 401 until then.
    async fn recall(&self, set: Arc<KeySet>) {
        let Owner::Cluster(name) = &set.owner else { return };
        let kept = read_kept(&self.state, &Document::KeySet(name.clone())).await;
        match kept {
            Ok(Some(kept)) if set.material().keys.is_empty() => {
                self.metrics.kept(name.as_str(), kept.read_at);
                set.replace(Material::from_kept(kept));
                self.settle(&set, &self.ownership.view());
                self.reported(name);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(cluster = %name, %error, "no kept key set"),
        }
    }

    /// Settles every set again if owners changed since the last time.
    pub(super) fn settle_all(&self) {
        let owners = self.ownership.view();
        {
            let mut settled = lock(&self.settled);
            if Arc::ptr_eq(&settled, &owners) {
                return;
            }
            *settled = owners.clone();
        }
        for set in self.all() {
            self.settle(&set, &owners);
        }
    }

    /// Works out what of a set counts.
    pub(super) fn settle(&self, set: &KeySet, owners: &Owners) {
        let hub_itself = match &set.owner {
            Owner::Cluster(name) => self.cluster(name).is_some_and(|cluster| cluster.hub_itself),
            _ => true,
        };
        set.settle(owners, hub_itself);
    }

    /// To be called after every report about a cluster: one that was removed meanwhile must not come
    /// back as a label.
    pub(super) fn reported(&self, cluster: &ClusterName) {
        if !self.clusters.load().contains_key(cluster) {
            self.forget(cluster);
        }
    }

    /// Drops what is shown and was told about a cluster that is not served any more.
    fn forget(&self, cluster: &ClusterName) {
        self.metrics.forget(cluster);
        self.alarms.keep(cluster, |_| false);
    }

    /// What is known about a cluster right now.
    pub(super) fn cluster(&self, name: &ClusterName) -> Option<Arc<ClusterState>> {
        self.fleet.borrow().clusters.get(name).cloned()
    }

    /// The present, by the clock on the wall.
    pub(super) fn now(&self) -> SystemTime {
        (self.clock)()
    }

    fn all(&self) -> Vec<Arc<KeySet>> {
        let (issuers, clusters) = (self.issuers.load(), self.clusters.load());
        self.hub.iter().chain(issuers.keys()).chain(clusters.values()).cloned().collect()
    }

    /// Makes the sets follow the fleet: one per enrolled cluster, none for others.
    fn reconcile(&self) {
        let mut kept = lock(&self.kept);
        let current = self.clusters.load_full();
        let mut next = HashMap::new();
        let mut added = Vec::new();
        for name in self.fleet.borrow().clusters.keys() {
            let set = current.get(name).cloned().unwrap_or_else(|| {
                let set = Arc::new(KeySet::new(Owner::Cluster(name.clone())));
                match kept.remove(name) {
                    Some(kept) => {
                        set.replace(Material::from_kept(kept));
                        added.push(set.clone());
                    }
                    None => lock(&self.arrived).push(set.clone()),
                }
                set
            });
            next.insert(name.clone(), set);
        }
        let removed: Vec<_> = current.keys().filter(|name| !next.contains_key(*name)).collect();
        if removed.is_empty() && next.len() == current.len() {
            return;
        }
        let owners = self.ownership.view();
        added.iter().for_each(|set| self.settle(set, &owners));
        self.clusters.store(Arc::new(next));
        removed.into_iter().for_each(|name| self.forget(name));
    }
}

/// A kept set only saves time, so a damaged one is dropped and read again from its source.
async fn read_kept(state: &State, document: &Document) -> Result<Option<Kept>, StateError> {
    match state.read(document).await {
        Err(error @ StateError::Damaged { .. }) => {
            tracing::warn!(%error, "dropping a kept key set");
            state.store().delete(document).await?;
            Ok(None)
        }
        kept => kept,
    }
}

const HUB_UNKNOWN: &str = "hub authentication: the signing keys of the hub's own API server cannot be read at the moment; try again";

const ISSUER_UNKNOWN: &str =
    "OpenID Connect: the signing keys of an issuer cannot be read at the moment; try again";

/// Kept key sets that are read at once when the hub starts.
const READS_AT_ONCE: usize = 16;
