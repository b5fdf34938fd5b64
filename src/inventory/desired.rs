//! What a profile should say, and what has to change for it. Pure.

use k8s_openapi::jiff::Timestamp;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::api::{
    AUTHORITY, AccessProvider, CLUSTER_LABEL, CONDITIONS, MANAGER_LABEL, PROVIDERS, server,
    status_list,
};
use crate::name::ClusterName;

/// What is published for every cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Name and URL (without a slash at its end) of each entry; the first is the one that consumers
    /// know. Not empty, no name twice.
    pub entries: Vec<(String, String)>,
    /// The authorities that clients trust, PEM, in an order that does not change by itself.
    pub ca_pem: String,
}

/// What is known of the cluster of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is enrolled.
    Enrolled {
        /// What the path condition should say: `None` leaves the one that is there.
        reachable: Option<bool>,
    },
    /// The hub does not know it (any more).
    Unknown,
}

/// The path condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathCondition {
    /// Published.
    On,
    /// Not published; one from before is removed.
    Off,
}

/// Lists of a profile's status as they should be; `None` for one that can stay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// All of `accessProviders`, those of others as they were.
    pub providers: Option<Vec<Value>>,
    /// All of `conditions`, those of others as they were.
    pub conditions: Option<Vec<Value>>,
    /// What of it is ours.
    pub claims: Claims,
    /// Whether something of ours is to go, which server-side apply cannot say for what was written
    /// otherwise.
    pub removes: bool,
}

/// What we say in a profile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims {
    /// Our entries, in the order of the configuration.
    pub entries: Vec<Value>,
    /// Our condition.
    pub condition: Option<Value>,
}

// === impl Claims ===

impl Claims {
    /// Whether both say the same, whenever it was said.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let status = |claims: &Self| claims.condition.as_ref().map(|one| one["status"].clone());
        self.entries == other.entries && status(self) == status(other)
    }
}

/// The cluster of a profile, where it is one for us: the manager's label is `manager`, and the label
/// with the name holds a name that a cluster can have.
pub fn cluster(profile: &DynamicObject, manager: &str) -> Option<ClusterName> {
    let labels = profile.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGER_LABEL).is_some_and(|value| value == manager);
    ours.then(|| labels.get(CLUSTER_LABEL)).flatten().and_then(|name| ClusterName::parse(name).ok())
}

/// What has to change in `profile`, of which we know that it is for `cluster`; `None` when it says
/// all that it should, or is about to go.
pub fn plan(
    profile: &DynamicObject,
    publication: &Publication,
    cluster: &ClusterName,
    standing: Standing,
    condition: PathCondition,
    now: Timestamp,
) -> Option<Plan> {
    if profile.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let mut claims = Claims::default();
    let providers = status_list(profile, PROVIDERS);
    let conditions = status_list(profile, CONDITIONS);
    let (next_providers, next_conditions) = match standing {
        Standing::Enrolled { reachable } => {
            claims.entries = entries(publication, cluster);
            let said = conditions.iter().find(|one| one["type"] == PATH_CONDITION);
            claims.condition = match (condition, reachable) {
                (PathCondition::Off, _) => None,
                (PathCondition::On, None) => said.cloned(),
                (PathCondition::On, Some(reachable)) => {
                    Some(path_condition(profile, said, reachable, now))
                }
            };
            (
                upsert(&without_former(providers, publication, cluster), &claims.entries, "name"),
                match &claims.condition {
                    Some(claim) => upsert(conditions, std::slice::from_ref(claim), "type"),
                    None => without_condition(conditions),
                },
            )
        }
        Standing::Unknown => {
            let rest = without_former(providers, publication, cluster);
            (without_entries(&rest, publication, cluster), without_condition(conditions))
        }
    };
    let plan = Plan {
        removes: lost(providers, &next_providers) || lost(conditions, &next_conditions),
        providers: (next_providers != providers).then_some(next_providers),
        conditions: (next_conditions != conditions).then_some(next_conditions),
        claims,
    };
    (plan.providers.is_some() || plan.conditions.is_some()).then_some(plan)
}

/// The value under `key` of the item of `list` that is `claim`'s, whoever wrote it.
pub fn counterpart<'a>(list: &'a [Value], claim: &Value, key: &str) -> Option<&'a Value> {
    list.iter().find(|item| item[key] == claim[key])
}

fn entries(publication: &Publication, cluster: &ClusterName) -> Vec<Value> {
    let entries = publication.entries.iter();
    entries
        .map(|(name, url)| AccessProvider::new(name, url, &publication.ca_pem, cluster).to_value())
        .collect()
}

/// `list` with `wanted` in it, each in the place of the item with the same `key`, or at the end.
fn upsert(list: &[Value], wanted: &[Value], key: &str) -> Vec<Value> {
    let mut next: Vec<Value> = Vec::with_capacity(list.len() + wanted.len());
    for item in list {
        match counterpart(wanted, item, key) {
            None => next.push(item.clone()),
            // A list without keys may hold a name twice; consumers would take either.
            Some(claim) if !next.contains(claim) => next.push(claim.clone()),
            Some(_) => {}
        }
    }
    let missing = wanted.iter().filter(|claim| counterpart(list, claim, key).is_none());
    next.extend(missing.cloned());
    next
}

/// Without what we published: an entry of a name of ours that leads elsewhere is somebody else's.
fn without_entries(list: &[Value], publication: &Publication, cluster: &ClusterName) -> Vec<Value> {
    let is_ours = |item: &&Value| {
        let mut entries = publication.entries.iter();
        entries.any(|(name, url)| {
            item["name"] == name.as_str()
                && item["cluster"]["server"] == server(url, cluster).as_str()
        })
    };
    list.iter().filter(|item| !is_ours(item)).cloned().collect()
}

/// Without what we published under another name before: all of it but the name and the authority is
/// as we write it. What led to another URL then cannot be told from an entry of another hub.
fn without_former(list: &[Value], publication: &Publication, cluster: &ClusterName) -> Vec<Value> {
    let is_former = |item: &&Value| {
        let mut entries = publication.entries.iter();
        let named = entries.clone().any(|(name, _)| item["name"] == name.as_str());
        !named
            && entries.any(|(_, url)| {
                let mut ours = AccessProvider::new("", url, "", cluster).to_value();
                ours["name"] = item["name"].clone();
                ours["cluster"][AUTHORITY] = item["cluster"][AUTHORITY].clone();
                ours == **item
            })
    };
    list.iter().filter(|item| !is_former(item)).cloned().collect()
}

fn without_condition(list: &[Value]) -> Vec<Value> {
    list.iter().filter(|item| item["type"] != PATH_CONDITION).cloned().collect()
}

fn lost(before: &[Value], after: &[Value]) -> bool {
    after.len() < before.len()
}

/// The condition, equal to the one that is there where that says the same.
fn path_condition(
    profile: &DynamicObject,
    said: Option<&Value>,
    reachable: bool,
    now: Timestamp,
) -> Value {
    let (status, reason, message) = if reachable { REACHABLE } else { UNREACHABLE };
    if let Some(said) = said
        && (&said["status"], &said["reason"], &said["message"])
            == (&json!(status), &json!(reason), &json!(message))
    {
        return said.clone();
    }
    let kept = said.filter(|said| said["status"] == status);
    let since = kept.map(|said| said["lastTransitionTime"].clone());
    let seconds = now.as_second();
    json!({
        "type": PATH_CONDITION, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since.filter(Value::is_string).unwrap_or_else(||
            // Seconds from a valid time are a valid time.
            Timestamp::from_second(seconds).unwrap_or(now).to_string().into()),
        "observedGeneration": profile.metadata.generation.unwrap_or_default(),
    })
}

/// Our own condition: whether requests get through tunnel and API server. OCM's
/// `ControlPlaneHealthy` says nothing about the path.
pub const PATH_CONDITION: &str = "ClusterProxyReachable";

/// Without latencies and times: a text that changes is a write, and a write makes consumers rebuild.
const REACHABLE: (&str, &str, &str) =
    ("True", "ProbeSucceeded", "requests reach the API server through the hub");
const UNREACHABLE: (&str, &str, &str) = (
    "False",
    "ProbeFailed",
    "no request reached the API server through the hub for a minute or more",
);

#[cfg(test)]
mod tests;
