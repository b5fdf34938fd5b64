//! What the parts of this controller share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, ResourceExt as _};
use tokio::sync::{Notify, watch};

use super::addons::Addons;
use super::api::ManagedServiceAccount;
use super::ask::Slots;
use super::memory::{Key, Memory};
use super::presence::Presence;
use super::{AccountsConfig, metrics::Metrics};
use crate::name::ClusterName;

/// What the parts share.
pub(super) struct Context {
    pub(super) config: AccountsConfig,
    /// Requests to the hub's API server.
    pub(super) slots: Slots,
    pub(super) accounts: Store<ManagedServiceAccount>,
    /// Secrets that are labelled as made for accounts.
    pub(super) secrets: Store<Secret>,
    pub(super) memory: Arc<Memory>,
    pub(super) metrics: Metrics,
    pub(super) addons: Addons,
    pub(super) presence: Presence,
    /// Uid of `kube-system` of the hub's API server, once it is known.
    pub(super) hub_uid: OnceLock<String>,
    pub(super) enrolled: watch::Sender<BTreeSet<ClusterName>>,
    /// Why copies cannot be made, by account.
    refused: Mutex<BTreeMap<Key, String>>,
    /// What to look at; no account is in it twice.
    named: Mutex<BTreeSet<Key>>,
    /// Something was named.
    naming: Notify,
    /// Something changed that copies are made from.
    pub(super) copies_stale: Notify,
    /// There may be Secrets without an account.
    pub(super) secrets_stale: Notify,
    /// The definition of accounts may be gone.
    pub(super) watch_failed: Notify,
}

// === impl Context ===

impl Context {
    pub(super) fn new(
        config: AccountsConfig,
        metrics: Metrics,
        accounts: Store<ManagedServiceAccount>,
        secrets: Store<Secret>,
    ) -> Arc<Self> {
        let memory = metrics.watch();
        Arc::new(Self {
            config,
            slots: Slots::new(HUB_REQUESTS),
            accounts,
            secrets,
            memory,
            metrics,
            addons: Addons::default(),
            presence: Presence::default(),
            hub_uid: OnceLock::new(),
            enrolled: watch::Sender::default(),
            refused: Mutex::default(),
            named: Mutex::default(),
            naming: Notify::new(),
            copies_stale: Notify::new(),
            secrets_stale: Notify::new(),
            watch_failed: Notify::new(),
        })
    }

    pub(super) fn now(&self) -> Timestamp {
        (self.config.clock)()
    }

    /// Whether a cluster has a tunnel.
    pub(super) fn is_connected(&self, cluster: &ClusterName) -> bool {
        let fleet = self.config.fleet.borrow();
        fleet.clusters.get(cluster).is_some_and(|state| !state.tunnels.is_empty())
    }

    /// Looks at one account again, now, if there is one.
    pub(super) fn trigger(&self, namespace: &str, name: &str) {
        let reference = ObjectRef::new(name).within(namespace);
        if self.accounts.get(&reference).is_some() {
            let key = (namespace.to_owned(), name.to_owned());
            self.memory.wake(&key);
            lock(&self.named).insert(key);
            self.naming.notify_one();
        }
    }

    /// The next account that was named.
    pub(super) async fn next(&self) -> ObjectRef<ManagedServiceAccount> {
        loop {
            if let Some((namespace, name)) = lock(&self.named).pop_first() {
                return ObjectRef::new(&name).within(&namespace);
            }
            self.naming.notified().await;
        }
    }

    /// Looks at all accounts of some clusters again.
    pub(super) fn trigger_clusters(&self, is_meant: impl Fn(&str) -> bool) {
        let meant = |account: &ManagedServiceAccount| is_meant(namespace_of(account));
        for account in self.accounts.state_filter(meant) {
            self.trigger(namespace_of(&account), &account.name_any());
        }
    }

    /// Names of the accounts of a cluster, as far as is known here.
    pub(super) fn accounts_of(&self, cluster: &ClusterName) -> Vec<String> {
        let meant = |account: &ManagedServiceAccount| namespace_of(account) == cluster.as_str();
        self.accounts.state_filter(meant).iter().map(|account| account.name_any()).collect()
    }

    /// Whether there is an account of that name, as far as is known here.
    pub(super) fn has_account(&self, namespace: &str, name: &str) -> bool {
        self.accounts.get(&ObjectRef::new(name).within(namespace)).is_some()
    }

    /// Whether the hub's API server says that there is none: what is known here may be old, and what
    /// is cleaned for its sake is gone for good.
    pub(super) async fn is_certainly_gone(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<bool, kube::Error> {
        let api = Api::<ManagedServiceAccount>::namespaced(self.config.hub.clone(), namespace);
        match self.slots.ask(api.get_metadata(name)).await {
            Ok(_) => Ok(false),
            Err(error) if super::ask::is_gone(&error, name) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The accounts of a cluster, as the hub's API server says it.
    pub(super) async fn names(&self, namespace: &str) -> Result<BTreeSet<String>, kube::Error> {
        let api = Api::<ManagedServiceAccount>::namespaced(self.config.hub.clone(), namespace);
        let list = self.slots.ask(api.list_metadata(&ListParams::default())).await?;
        Ok(list.iter().map(|account| account.name_any()).collect())
    }

    /// Why the copies of an account's Secret cannot be made.
    pub(super) fn refused(&self, key: &Key) -> Option<String> {
        lock(&self.refused).get(key).cloned()
    }

    /// Takes over which copies cannot be made, and looks at those accounts whose answer changed.
    pub(super) fn set_refused(&self, now: BTreeMap<Key, String>) {
        let before = std::mem::replace(&mut *lock(&self.refused), now.clone());
        let keys: BTreeSet<&Key> = before.keys().chain(now.keys()).collect();
        for key in keys {
            if before.get(key) != now.get(key) {
                self.trigger(&key.0, &key.1);
            }
        }
    }
}

/// Namespace of an account: all of them have one.
pub(super) fn namespace_of(account: &ManagedServiceAccount) -> &str {
    account.metadata.namespace.as_deref().unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one call of a collection.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Requests at once to the hub's API server.
const HUB_REQUESTS: usize = 16;
