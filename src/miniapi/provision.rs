//! Accounts and kubeconfigs that the sandbox and the command hand out.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::admission;
use super::cluster::Cluster;
use super::files;
use super::rbac;
use super::seed::{MANAGED_NAMESPACE, bind_cluster, binding, cluster_role, rule, service_account};
use super::store::Key;
use super::{MiniApi, MiniApiError};

/// Makes the agent's ServiceAccount with no more rights than an agent needs, and returns a
/// kubeconfig with a token of it (a year long: nobody renews it here).
pub fn provision_agent(api: &MiniApi) -> String {
    let cluster = &*api.cluster;
    ensure_namespace(cluster, AGENT_NAMESPACE);
    ensure_account(cluster, AGENT_NAMESPACE, AGENT);
    let subject = || service_account(AGENT_NAMESPACE, AGENT);
    let paths = ["/openid/v1/jwks", "/.well-known/openid-configuration", "/version", "/readyz"];
    let everywhere = json!([
        {"nonResourceURLs": paths, "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"],
            "verbs": ["get"]},
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("", &["serviceaccounts"], &["list", "watch"]),
    ]);
    cluster_role(cluster, AGENT_ROLE, everywhere);
    bind_cluster(cluster, AGENT_ROLE, AGENT_ROLE, subject());
    let accounts = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {},
        "rules": [
            rule("", &["serviceaccounts"], &["get", "list", "watch", "create", "delete"]),
            rule("", &["serviceaccounts/token"], &["create"]),
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["kube-root-ca.crt"],
                "verbs": ["get"]},
        ],
    });
    cluster.ensure(&Key::new(rbac::GROUP, "roles", MANAGED_NAMESPACE, AGENT_ROLE), accounts);
    let key = Key::new(rbac::GROUP, "rolebindings", MANAGED_NAMESPACE, AGENT_ROLE);
    cluster.ensure(&key, binding("RoleBinding", "Role", AGENT_ROLE, subject()));
    kubeconfig(api, "agent", &api.token(AGENT_NAMESPACE, AGENT, &[], YEAR))
}

/// Makes a ServiceAccount `name` with all rights in the managed namespace, and returns a token of
/// it that lives for `lifetime`.
pub fn managed_token(api: &MiniApi, name: &str, lifetime: Duration) -> String {
    ensure_account(&api.cluster, MANAGED_NAMESPACE, name);
    managed_rights(api, name);
    api.token(MANAGED_NAMESPACE, name, &[], lifetime)
}

/// Gives all rights to the ServiceAccount `name` of the managed namespace, which may come later.
pub fn managed_rights(api: &MiniApi, name: &str) {
    let binding = format!("{MANAGED_NAMESPACE}:{name}");
    let subject = service_account(MANAGED_NAMESPACE, name);
    bind_cluster(&api.cluster, &binding, "cluster-admin", subject);
}

/// A kubeconfig with all rights, for people.
pub fn admin_kubeconfig(api: &MiniApi) -> String {
    kubeconfig(api, "admin", &api.admin_token())
}

/// Writes a file that only its owner may read, whole or not at all; makes its folder.
pub fn write_private(path: &Path, text: &str) -> Result<(), MiniApiError> {
    files::write_secret(path, text).map_err(MiniApiError::Setup)
}

/// Makes the account behind [`MiniApi::admin_token`].
pub(super) fn ensure_admin(cluster: &Cluster) {
    ensure_account(cluster, ADMIN_NAMESPACE, ADMIN);
    let subject = service_account(ADMIN_NAMESPACE, ADMIN);
    bind_cluster(cluster, "miniapi-admin", "cluster-admin", subject);
}

/// Makes a namespace unless it is there.
pub(super) fn ensure_namespace(cluster: &Cluster, name: &str) {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
    });
    cluster.ensure(&Key::new("", "namespaces", "", name), namespace);
    admission::namespace_contents(cluster, name);
}

fn ensure_account(cluster: &Cluster, namespace: &str, name: &str) {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {}});
    cluster.ensure(&Key::new("", "serviceaccounts", namespace, name), account);
}

/// JSON is YAML: no writer for another format is needed.
fn kubeconfig(api: &MiniApi, user: &str, token: &str) -> String {
    use base64::Engine;
    let name = &api.cluster.name;
    let ca = base64::engine::general_purpose::STANDARD.encode(api.ca_pem());
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": api.url(), "certificate-authority-data": ca}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
    });
    format!("{config:#}\n")
}

/// Namespace of the agent's ServiceAccount.
pub const AGENT_NAMESPACE: &str = "open-cluster-management-cluster-proxy";
/// Name of the agent's ServiceAccount.
pub const AGENT: &str = "cluster-proxy-agent";

const AGENT_ROLE: &str = "cluster-proxy-agent";

pub(super) const ADMIN_NAMESPACE: &str = "kube-system";
pub(super) const ADMIN: &str = "admin";
pub(super) const YEAR: Duration = Duration::from_secs(365 * 86_400);
