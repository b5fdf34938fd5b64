//! Definitions of kinds that others own, with as much of their schemas as objects need to be stored
//! and merged. A real hub has the published ones.

use serde_json::{Value, json};

use crate::inventory::api;

/// `ManagedServiceAccount` of Open Cluster Management.
pub fn managed_service_accounts() -> Value {
    let group = "authentication.open-cluster-management.io";
    open(group, "v1beta1", "ManagedServiceAccount", "managedserviceaccounts")
}

/// `ManagedCluster` of Open Cluster Management.
pub fn managed_clusters() -> Value {
    let group = "cluster.open-cluster-management.io";
    let mut definition = open(group, "v1", "ManagedCluster", "managedclusters");
    definition["spec"]["scope"] = "Cluster".into();
    definition
}

/// `ClusterProfile`, with lists whose entries have keys.
pub fn cluster_profiles(version: &str) -> Value {
    let list = |key: &str| {
        json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key],
            "items": {"type": "object", "required": [key], "properties": {key: {"type": "string"}},
                "x-kubernetes-preserve-unknown-fields": true}})
    };
    let mut definition = open(api::GROUP, version, api::KIND, api::PLURAL);
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"] = json!({
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
            "accessProviders": list("name"), "conditions": list("type")}},
    });
    definition
}

/// A namespaced kind with a status, of any fields.
pub fn open(group: &str, version: &str, kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{
                "name": version, "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                }},
                "subresources": {"status": {}},
            }],
        },
    })
}
