//! `ManagedServiceAccount` of `authentication.open-cluster-management.io/v1beta1`, as Open Cluster
//! Management publishes it, and the names around it.
//!
//! What is read here may be written by many: times stay texts until they are used, so that one
//! object with a strange one does not spoil the list that it is in.

use kube::CustomResource;
use serde::{Deserialize, Deserializer, Serialize};

/// What is wanted.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "authentication.open-cluster-management.io",
    version = "v1beta1",
    kind = "ManagedServiceAccount",
    namespaced,
    status = "ManagedServiceAccountStatus",
    schema = "disabled",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ManagedServiceAccountSpec {
    /// How its tokens are renewed.
    #[serde(default, deserialize_with = "or_default")]
    pub rotation: Rotation,
    /// Seconds from its creation to its deletion, above 0; for ever when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds_after_creation: Option<i64>,
}

/// How tokens are renewed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rotation {
    /// The life to ask for, as Go writes durations: `8640h0m0s` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity: Option<String>,
}

/// What has been done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedServiceAccountStatus {
    /// `SecretCreated`, `TokenReported`, and those of others.
    // Written when empty too: what is left out of a merge patch stays.
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
    /// When the token ends, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_timestamp: Option<String>,
    /// Where the token is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<TokenSecretRef>,
}

/// Where a token is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenSecretRef {
    /// Name of the Secret, in the namespace of the account.
    pub name: String,
    /// When its token was renewed, RFC 3339.
    #[serde(default)]
    pub last_refresh_timestamp: String,
}

/// A condition as all of Kubernetes has them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which one.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
    /// One word for programs.
    #[serde(default)]
    pub reason: String,
    /// A sentence for people.
    #[serde(default)]
    pub message: String,
    /// When `status` changed, RFC 3339.
    #[serde(default)]
    pub last_transition_time: String,
    /// Of which generation of the account it speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// `null` is what is left out.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Condition: the Secret on the hub is there.
pub const SECRET_CREATED: &str = "SecretCreated";
/// Condition: the Secret has a good token.
pub const TOKEN_REPORTED: &str = "TokenReported";
/// Condition, only while it is false: copies for ClusterProfiles.
pub const COPIED: &str = "CopiedToClusterProfiles";

/// Label of ServiceAccounts on spokes and of Secrets on the hub, `true`: they are made for managed
/// service accounts.
pub const MANAGED: &str = "authentication.open-cluster-management.io/is-managed-serviceaccount";
/// Label of a managed service account, `true`: its Secret is copied beside ClusterProfiles.
pub const SYNC: &str = "authentication.open-cluster-management.io/sync-to-clusterprofile";
/// Label of a copy: where it comes from.
pub const SYNCED_FROM: &str = "authentication.open-cluster-management.io/synced-from";

/// Key of a Secret: the token.
pub const TOKEN: &str = "token";
/// Key of a Secret: the CA of the spoke's own API server.
pub const SPOKE_CA: &str = "ca.crt";
/// Key of a Secret, ours: the CA of the hub's user listener.
pub const PROXY_CA: &str = "cluster-proxy-ca.crt";

/// Annotation of a managed service account, ours: audiences of its tokens, separated by commas,
/// instead of the default ones of the spoke's API server.
pub const AUDIENCES: &str = "cluster-proxy/audiences";
/// Annotation of a managed service account, ours: the namespaces of ClusterProfiles that get a copy
/// of its Secret, separated by commas, instead of all of them.
pub const NAMESPACES: &str = "cluster-proxy/clusterprofile-namespaces";
/// Annotation of a ServiceAccount on a spoke, ours: uid of `kube-system` of the hub that made it, or
/// found it without this. That hub deletes it when no account of it wants it any more.
pub const HUB: &str = "cluster-proxy/hub";
/// Annotation of a Secret, ours: what its token was asked for with.
pub const REQUESTED: &str = "cluster-proxy/token-request";
/// Annotation of a copy, ours: `CLUSTER/ACCOUNT` that it comes from.
pub const COPIED_FROM: &str = "cluster-proxy/copied-from";

/// Where Open Cluster Management keeps managed service accounts on a spoke.
pub const MANAGED_NAMESPACE: &str = "open-cluster-management-managed-serviceaccount";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_others_leave_out_or_spoil_is_read() {
        for spec in [json!({"rotation": {}}), json!({"rotation": null}), json!({})] {
            let account = json!({
                "apiVersion": "authentication.open-cluster-management.io/v1beta1",
                "kind": "ManagedServiceAccount", "metadata": {"name": "a"}, "spec": spec,
                "status": {"conditions": null, "expirationTimestamp": "never"},
            });
            let account: ManagedServiceAccount = serde_json::from_value(account).unwrap();
            assert_eq!(account.spec, ManagedServiceAccountSpec::default());
            let status = account.status.unwrap();
            assert_eq!(status.expiration_timestamp.as_deref(), Some("never"));
        }
    }

    #[test]
    fn the_last_condition_can_be_taken_away() {
        let none = serde_json::to_value(ManagedServiceAccountStatus::default()).unwrap();
        assert_eq!(none, json!({"conditions": []}));
    }

    #[test]
    fn foreign_conditions_come_back_as_they_were() {
        let condition = json!({
            "type": "Other", "status": "Unknown", "reason": "R", "message": "m",
            "lastTransitionTime": "2026-01-02T03:04:05Z", "observedGeneration": 7,
        });
        let read: Condition = serde_json::from_value(condition.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), condition);
    }
}
