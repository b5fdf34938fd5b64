//! Which copies of accounts' Secrets belong beside which ClusterProfiles. Pure.
//!
//! Names are `CLUSTER-ACCOUNT`, because consumers look for that. Two accounts may want one name
//! (`a-b` + `c`, `a` + `b-c`): the one that has it keeps it, else the older account gets it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::ObjectMeta;

use super::api::{COPIED_FROM, ManagedServiceAccount, NAMESPACES, SYNC, SYNCED_FROM};
use super::desired::is_as;
use super::memory::Key;
use super::token::listed;
use crate::hash::sha256_hex;

/// A ClusterProfile that gets copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) api_version: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// As its label says: its name may be another.
    pub(super) cluster: String,
}

/// An account whose Secret is copied.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) cluster: String,
    pub(super) account: String,
    created: Option<Timestamp>,
    /// Only there; everywhere when nothing.
    namespaces: Option<BTreeSet<String>>,
    /// Not there yet, or not any more: what is copied stays.
    pub(super) secret: Option<Arc<Secret>>,
}

/// What has to be done.
#[derive(Default)]
pub(super) struct Plan {
    /// Copies that are missing.
    pub(super) create: Vec<Secret>,
    /// Copies that are not what they should be, with the version they have.
    pub(super) replace: Vec<Secret>,
    /// Copies that nobody wants.
    pub(super) delete: Vec<Arc<Secret>>,
    /// Why accounts do not get a copy.
    pub(super) refused: BTreeMap<Key, String>,
}

// === impl Source ===

impl Source {
    /// The source that an account is, if it asks for copies.
    pub(super) fn of(account: &ManagedServiceAccount, secret: Option<Arc<Secret>>) -> Option<Self> {
        let asks = account.labels().get(SYNC).is_some_and(|value| value == "true");
        if !asks || account.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let namespaces = account.annotations().get(NAMESPACES);
        Some(Self {
            cluster: account.namespace().unwrap_or_default(),
            account: account.name_any(),
            created: account.creation_timestamp().map(|time| time.0),
            namespaces: namespaces.map(|list| listed(Some(list)).into_iter().collect()),
            secret,
        })
    }

    /// Name of its copies.
    fn copy_name(&self) -> String {
        format!("{}-{}", self.cluster, self.account)
    }

    /// As copies name it.
    fn path(&self) -> String {
        format!("{}/{}", self.cluster, self.account)
    }

    fn key(&self) -> Key {
        (self.cluster.clone(), self.account.clone())
    }
}

/// Plans from everything there is. Nothing of clusters that others serve is touched; where a cluster
/// is not enrolled any more, nothing is written, as with the Secrets that are copied.
pub(super) fn plan(
    sources: &[Source],
    profiles: &[Profile],
    copies: &[Arc<Secret>],
    is_others: impl Fn(&str) -> bool,
    is_enrolled: impl Fn(&str) -> bool,
) -> Plan {
    let existing: BTreeMap<(String, String), &Arc<Secret>> =
        copies.iter().map(|copy| (place(copy), copy)).collect();
    let mut wanted: BTreeMap<(String, String), Vec<(&Source, &Profile)>> = BTreeMap::new();
    for (source, profile) in pairs(sources, profiles) {
        let place = (profile.namespace.clone(), source.copy_name());
        wanted.entry(place).or_default().push((source, profile));
    }
    let mut plan = Plan::default();
    for (place, mut candidates) in wanted.clone() {
        let current = existing.get(&place);
        let holder = current.and_then(|copy| copy.annotations().get(COPIED_FROM));
        candidates.sort_by_key(|(source, profile)| {
            let holds = holder == Some(&source.path());
            (!holds, source.created, source.path(), profile.name.clone())
        });
        let Some(&(first, profile)) = candidates.first() else { continue };
        for (other, _) in candidates.iter().filter(|(other, _)| other.key() != first.key()) {
            let (namespace, name) = &place;
            let why = format!("the Secret {namespace}/{name} is the copy of {}", first.path());
            plan.refused.insert(other.key(), why);
        }
        if is_others(&first.cluster) || !is_enrolled(&first.cluster) {
            continue;
        }
        if place.1.len() > MAX_NAME {
            let why = format!("a copy would be called {}, which is too long", place.1);
            plan.refused.insert(first.key(), why);
            continue;
        }
        let Some(secret) = &first.secret else { continue };
        let copy = copy(first, profile, secret);
        match current {
            None => plan.create.push(copy),
            Some(current) if !is_as(current, &copy) || current.data != copy.data => {
                plan.replace.push(over(current, copy));
            }
            Some(_) => {}
        }
    }
    let is_unwanted = |copy: &&Arc<Secret>| {
        let source = copy.annotations().get(COPIED_FROM).and_then(|path| path.split_once('/'));
        // What others copied is theirs to delete.
        source.is_some_and(|(cluster, _)| !is_others(cluster)) && !wanted.contains_key(&place(copy))
    };
    plan.delete = copies.iter().filter(is_unwanted).cloned().collect();
    plan
}

fn pairs<'a>(
    sources: &'a [Source],
    profiles: &'a [Profile],
) -> impl Iterator<Item = (&'a Source, &'a Profile)> {
    let mut by_cluster: BTreeMap<&str, Vec<&Source>> = BTreeMap::new();
    for source in sources {
        by_cluster.entry(&source.cluster).or_default().push(source);
    }
    profiles.iter().flat_map(move |profile| {
        let sources = by_cluster.get(profile.cluster.as_str()).cloned().unwrap_or_default();
        let meant = sources.into_iter().filter(|source| {
            source.namespaces.as_ref().is_none_or(|only| only.contains(&profile.namespace))
        });
        meant.map(move |source| (source, profile)).collect::<Vec<_>>()
    })
}

fn copy(source: &Source, profile: &Profile, secret: &Secret) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(source.copy_name()),
            namespace: Some(profile.namespace.clone()),
            labels: Some([(SYNCED_FROM.to_owned(), label(source.copy_name()))].into()),
            annotations: Some([(COPIED_FROM.to_owned(), source.path())].into()),
            owner_references: Some(vec![OwnerReference {
                api_version: profile.api_version.clone(),
                kind: "ClusterProfile".to_owned(),
                name: profile.name.clone(),
                uid: profile.uid.clone(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        data: secret.data.clone(),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// `wanted` in the place of `current`: what others added to its metadata stays.
fn over(current: &Secret, wanted: Secret) -> Secret {
    let mut metadata = current.metadata.clone();
    metadata.managed_fields = None;
    let labels = metadata.labels.get_or_insert_default();
    labels.extend(wanted.metadata.labels.unwrap_or_default());
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.extend(wanted.metadata.annotations.unwrap_or_default());
    metadata.owner_references = wanted.metadata.owner_references;
    Secret { metadata, data: wanted.data, type_: wanted.type_, ..Secret::default() }
}

/// A value that a label can have: what is too long is hashed.
fn label(name: String) -> String {
    if name.len() <= MAX_LABEL { name } else { sha256_hex(name.as_bytes())[..MAX_LABEL].to_owned() }
}

fn place(copy: &Secret) -> (String, String) {
    (copy.namespace().unwrap_or_default(), copy.name_any())
}

/// Of a label's value.
const MAX_LABEL: usize = 63;
/// Of an object's name.
const MAX_NAME: usize = 253;

#[cfg(test)]
mod tests;
