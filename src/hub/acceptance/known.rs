//! What a watch of ManagedClusters tells, event by event: who is accepted, and whose deletion is not
//! believed yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use tokio::time::Instant;

use crate::name::ClusterName;

/// What events tell.
#[derive(Default)]
pub(super) struct Known {
    accepted: BTreeSet<ClusterName>,
    /// Accepted until they were deleted a moment ago: by somebody who means them, or with all others by
    /// who deletes the definition. Each with the time from which the API server can tell.
    doubted: BTreeMap<ClusterName, Instant>,
    /// Whether nobody said before whom to serve.
    is_first: bool,
    /// What has come of a list. Until it is whole, what was known before holds.
    list: Option<List>,
}

/// A list: each cluster is in one of these, or not there.
#[derive(Default)]
struct List {
    accepted: BTreeSet<ClusterName>,
    refused: BTreeSet<ClusterName>,
    /// Accepted, and being deleted.
    leaving: BTreeSet<ClusterName>,
}

// === impl Known ===

impl Known {
    /// Begins with those that are served, if anybody said so: who is missing in the first list, or is
    /// being deleted there, was not seen to go.
    pub(super) fn after(served: Option<BTreeSet<ClusterName>>) -> Self {
        let is_first = served.is_none();
        Self { accepted: served.unwrap_or_default(), is_first, ..Self::default() }
    }

    /// Takes over an event. Returns whether all is known after it.
    pub(super) fn take(&mut self, event: &Event<DynamicObject>, now: Instant) -> bool {
        let until = now + DOUBT;
        match event {
            Event::Init => self.list = Some(List::default()),
            Event::InitApply(cluster) => {
                if let Some(list) = &mut self.list {
                    list.take(cluster);
                }
            }
            Event::InitDone => {
                if let Some(list) = self.list.take() {
                    self.replace(list, until);
                }
            }
            Event::Apply(cluster) => self.change(cluster, is_leaving(cluster), until),
            Event::Delete(cluster) => self.change(cluster, true, until),
        }
        self.list.is_none()
    }

    /// When to ask whether the doubted deletions are meant. Not in the middle of a list.
    pub(super) fn ask_at(&self) -> Option<Instant> {
        self.doubted.values().min().copied().filter(|_| self.list.is_none())
    }

    /// They are meant: those that could be told of at that time.
    pub(super) fn believe(&mut self, asked: Instant) {
        self.doubted.retain(|_, until| *until > asked);
    }

    /// Nobody says that they are meant. One question later is for all of them.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.doubted.values_mut().for_each(|until| *until = now + DOUBT);
    }

    /// Whom to serve.
    pub(super) fn all(&self) -> BTreeSet<ClusterName> {
        self.accepted.iter().chain(self.doubted.keys()).cloned().collect()
    }

    fn replace(&mut self, list: List, until: Instant) {
        let doubted = if std::mem::take(&mut self.is_first) {
            list.leaving
        } else {
            let mut before = self.all();
            before.retain(|name| !list.accepted.contains(name) && !list.refused.contains(name));
            before
        };
        self.accepted = list.accepted;
        self.doubted = doubted.into_iter().map(|name| (name, until)).collect();
    }

    fn change(&mut self, cluster: &DynamicObject, is_leaving: bool, until: Instant) {
        let Some(name) = name(cluster) else { return };
        let was_accepted = self.accepted.remove(&name);
        let was_doubted = self.doubted.remove(&name);
        match (accepts(cluster), is_leaving) {
            (true, false) => drop(self.accepted.insert(name)),
            // Whose finalizers go one by one is not doubted for longer.
            (true, true) if was_accepted || was_doubted.is_some() => {
                self.doubted.insert(name, was_doubted.unwrap_or(until));
            }
            _ => {}
        }
    }
}

// === impl List ===

impl List {
    fn take(&mut self, cluster: &DynamicObject) {
        let Some(name) = name(cluster) else { return };
        let of = match (accepts(cluster), is_leaving(cluster)) {
            (false, _) => &mut self.refused,
            (true, false) => &mut self.accepted,
            (true, true) => &mut self.leaving,
        };
        of.insert(name);
    }
}

/// What is no name of ours cannot be enrolled.
fn name(cluster: &DynamicObject) -> Option<ClusterName> {
    ClusterName::parse(cluster.metadata.name.as_deref().unwrap_or_default()).ok()
}

/// As OCM's own controllers see it: what is being deleted has left its sets and its profiles.
fn is_leaving(cluster: &DynamicObject) -> bool {
    cluster.metadata.deletion_timestamp.is_some()
}

fn accepts(cluster: &DynamicObject) -> bool {
    let accepts = cluster.data.pointer("/spec/hubAcceptsClient");
    accepts.and_then(serde_json::Value::as_bool) == Some(true)
}

/// How long it takes at most until discovery knows that a definition is being deleted.
const DOUBT: Duration = Duration::from_secs(2);
