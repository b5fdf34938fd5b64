//! Discovery: which groups, versions and resources there are.

pub(super) mod aggregated;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::resources::{self, Resource};
use super::store::Store;

/// `/version`.
pub(super) fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// `/api`.
pub(super) fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`.
pub(super) fn groups(store: &Store) -> Value {
    let groups = versions_by_group(store);
    let groups: Vec<Value> =
        groups.iter().map(|(name, versions)| group_value(name, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub(super) fn group(store: &Store, name: &str) -> Option<Value> {
    let versions = versions_by_group(store).remove(name)?;
    let mut group = group_value(name, &versions);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Some(group)
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub(super) fn resource_list(store: &Store, group: &str, version: &str) -> Option<Value> {
    let here = |one: &&std::sync::Arc<Resource>| one.group == group && one.version == version;
    let all = resources::all(store);
    let entries: Vec<Value> = all.iter().filter(here).flat_map(|one| entries(one)).collect();
    if entries.is_empty() {
        return None;
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": resources::group_version(group, version),
        "resources": entries,
    }))
}

/// Versions of every named group, in the order of their definition.
pub(super) fn versions_by_group(store: &Store) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for resource in resources::all(store).iter().filter(|one| !one.group.is_empty()) {
        let versions = groups.entry(resource.group.clone()).or_default();
        if !versions.contains(&resource.version) {
            versions.push(resource.version.clone());
        }
    }
    groups
}

fn group_value(name: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions[0]})
}

fn entries(resource: &Resource) -> Vec<Value> {
    let mut main = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs(),
    });
    if !resource.short.is_empty() {
        main["shortNames"] = json!(resource.short);
    }
    if !resource.categories.is_empty() {
        main["categories"] = json!(resource.categories);
    }
    let below = resource.subresources.iter().map(|(name, verbs)| {
        let mut below = json!({
            "name": format!("{}/{name}", resource.plural),
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": verbs,
        });
        // The kinds that are not of the resource's own group.
        let foreign = match name.as_str() {
            "scale" => Some(("autoscaling", "v1", "Scale")),
            "token" => Some(("authentication.k8s.io", "v1", "TokenRequest")),
            "eviction" => Some(("policy", "v1", "Eviction")),
            _ => None,
        };
        if let Some((group, version, kind)) = foreign {
            below["group"] = group.into();
            below["version"] = version.into();
            below["kind"] = kind.into();
        }
        below
    });
    std::iter::once(main).chain(below).collect()
}

/// The Kubernetes version whose behaviour this follows.
pub(super) const VERSION: &str = "v1.33.4+miniapi";
