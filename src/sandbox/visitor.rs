//! An account of the hub's own cluster that the policy lets in everywhere, and that may look at things
//! on every cluster: what identities of the hub are tried with.

use std::time::Duration;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::{Api, Client};
use serde_json::json;
use zeroize::Zeroizing;

use super::SandboxError;
use super::provision::{apply, service_account, token};

/// Makes the account in the hub's cluster, and returns a token of it.
pub(super) async fn seed(hub: &Client) -> Result<Zeroizing<String>, SandboxError> {
    service_account(hub, NAMESPACE, NAME).await?;
    token(hub, NAMESPACE, NAME, TOKEN_LIFE).await
}

/// Lets it look at things on a cluster, as the name under which it comes there.
pub(super) async fn rights(cluster: &Client) -> Result<(), SandboxError> {
    // `view` is filled by a controller manager, which real API servers alone do not have.
    let role = json!({"rules": [
        {"apiGroups": [""], "verbs": ["get", "list", "watch"],
         "resources": ["configmaps", "events", "namespaces", "nodes", "pods", "pods/log", "services"]},
        {"apiGroups": ["apps"], "verbs": ["get", "list", "watch"], "resources": ["*"]},
    ]});
    apply::<ClusterRole>(&Api::all(cluster.clone()), ROLE, role).await?;
    let binding = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
    });
    apply::<ClusterRoleBinding>(&Api::all(cluster.clone()), ROLE, binding).await
}

/// The hub's policy.
pub(super) fn policy() -> String {
    format!(
        "\
# Which identities of the hub reach which clusters. Read again when it changes; the clusters' own RBAC
# has the last word.
rules:
- users: [\"{USER}\"]
  clusters: [\"*\"]
"
    )
}

const NAMESPACE: &str = "default";

const NAME: &str = "visitor";

/// The role on clusters, and its binding.
const ROLE: &str = "visitor-of-the-hub";

/// As clusters and policies know it.
const USER: &str = "cluster:hub:system:serviceaccount:default:visitor";

/// As those of the managed accounts.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_the_account() {
        let text = policy();
        assert!(text.contains(&format!("system:serviceaccount:{NAMESPACE}:{NAME}\"")), "{text}");
        assert!(!text.contains('\t'));
    }
}
