//! Definitions of the kinds that others publish, for a hub that has none of them: just enough to
//! store objects. On a real hub they come from their owners.

use serde_json::{Value, json};

/// `ManagedServiceAccount` of Open Cluster Management.
pub(super) fn managed_service_accounts() -> Value {
    let group = "authentication.open-cluster-management.io";
    definition(group, "v1beta1", "ManagedServiceAccount", "managedserviceaccounts")
}

/// A namespaced kind with a status, of any fields.
pub(super) fn definition(group: &str, version: &str, kind: &str, plural: &str) -> Value {
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
