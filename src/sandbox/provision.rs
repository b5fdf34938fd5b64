//! What a cluster needs before an agent can join it, and accounts to try it with. Over the
//! Kubernetes API, so that it is the same for every kind of API server.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::SandboxError;
use crate::accounts::api::MANAGED_NAMESPACE;
use crate::kubernetes::{self, ApiServer, Context, ContextUser};

/// Makes the agent's ServiceAccount with no more rights than an agent needs, and returns a
/// kubeconfig with a token of it (a year long: nobody renews it here). `server` is where the agent
/// finds the API server; our own credentials there are those of `client`.
///
/// # Errors
/// [`SandboxError::Provision`] with what the API server said.
pub async fn agent(client: &Client, server: &ApiServer) -> Result<Zeroizing<String>, SandboxError> {
    namespace(client, MANAGED_NAMESPACE).await?;
    namespace(client, AGENT_NAMESPACE).await?;
    service_account(client, AGENT_NAMESPACE, AGENT).await?;
    let paths = ["/openid/v1/jwks", "/.well-known/openid-configuration", "/version"];
    let everywhere = json!({"rules": [
        {"nonResourceURLs": paths, "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": [KUBE_SYSTEM],
            "verbs": ["get"]},
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("", &["serviceaccounts"], &["list", "watch"]),
        // Whom it lets in, the agent decides: RBAC can only name them one by one.
        rule("", &["users", "groups"], &["impersonate"]),
        rule("authentication.k8s.io", &OF_ACCOUNTS, &["impersonate"]),
    ]});
    apply::<ClusterRole>(&Api::all(client.clone()), AGENT, everywhere).await?;
    let binding = binding("ClusterRole", AGENT, AGENT_NAMESPACE, AGENT);
    apply::<ClusterRoleBinding>(&Api::all(client.clone()), AGENT, binding).await?;

    let accounts = json!({"rules": [
        rule("", &["serviceaccounts"], &["get", "create", "patch", "delete"]),
        rule("", &["serviceaccounts/token"], &["create"]),
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["kube-root-ca.crt"],
            "verbs": ["get"]},
    ]});
    apply::<Role>(&Api::namespaced(client.clone(), MANAGED_NAMESPACE), AGENT, accounts).await?;
    let binding = self::binding("Role", AGENT, AGENT_NAMESPACE, AGENT);
    let bindings = Api::namespaced(client.clone(), MANAGED_NAMESPACE);
    apply::<RoleBinding>(&bindings, AGENT, binding).await?;
    // A controller's work, which no API server does by itself.
    let authority = json!({"data": {"ca.crt": String::from_utf8_lossy(&server.ca_pem)}});
    let maps = Api::<ConfigMap>::namespaced(client.clone(), MANAGED_NAMESPACE);
    apply(&maps, "kube-root-ca.crt", authority).await?;
    let token = token(client, AGENT_NAMESPACE, AGENT, YEAR).await?;
    Ok(kubeconfig(server, AGENT, token))
}

/// Lets the agent look up the Services of `namespace` that its owner exposes.
///
/// # Errors
/// As [`agent`].
pub async fn services(client: &Client, namespace: &str) -> Result<(), SandboxError> {
    let name = format!("{AGENT}-services");
    let role = json!({"rules": [
        rule("", &["services"], &["get"]),
        rule("discovery.k8s.io", &["endpointslices"], &["list"]),
    ]});
    apply::<Role>(&Api::namespaced(client.clone(), namespace), &name, role).await?;
    let binding = binding("Role", &name, AGENT_NAMESPACE, AGENT);
    apply::<RoleBinding>(&Api::namespaced(client.clone(), namespace), &name, binding).await
}

/// Makes a ServiceAccount with all rights in the managed namespace, and returns a token of it that
/// lives for `lifetime`.
///
/// # Errors
/// As [`agent`].
pub async fn managed_token(
    client: &Client,
    name: &str,
    lifetime: Duration,
) -> Result<Zeroizing<String>, SandboxError> {
    namespace(client, MANAGED_NAMESPACE).await?;
    service_account(client, MANAGED_NAMESPACE, name).await?;
    all_rights(client, MANAGED_NAMESPACE, name).await?;
    token(client, MANAGED_NAMESPACE, name, lifetime).await
}

/// Gives all rights to the ServiceAccount `name` of the managed namespace, which may come later.
///
/// # Errors
/// As [`agent`].
pub async fn managed_rights(client: &Client, name: &str) -> Result<(), SandboxError> {
    all_rights(client, MANAGED_NAMESPACE, name).await
}

/// Makes an account with all rights for people, and returns a token of it, a year long.
///
/// # Errors
/// As [`agent`].
pub async fn admin_token(client: &Client) -> Result<Zeroizing<String>, SandboxError> {
    service_account(client, KUBE_SYSTEM, "admin").await?;
    all_rights(client, KUBE_SYSTEM, "admin").await?;
    token(client, KUBE_SYSTEM, "admin", YEAR).await
}

/// A kubeconfig with one context, of one token.
pub fn kubeconfig(server: &ApiServer, name: &str, token: Zeroizing<String>) -> Zeroizing<String> {
    kubernetes::kubeconfig(&[Context {
        name: name.to_owned(),
        server: format!("https://{}", server.authority()),
        ca_pem: server.ca_pem.to_vec(),
        user: ContextUser::Token(token),
    }])
}

/// Makes the Pods to try things with, and waits until they run.
///
/// # Errors
/// As [`agent`].
pub async fn pods(client: &Client) -> Result<(), SandboxError> {
    for (namespace, name) in PODS {
        // A controller's work, which no API server does by itself.
        service_account(client, namespace, "default").await?;
        let pods = Api::<Pod>::namespaced(client.clone(), namespace);
        let pod = json!({
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": name, "image": format!("example.com/{name}:1")}]},
        });
        apply(&pods, name, pod).await?;
        let running = await_condition(pods, name, conditions::is_pod_running());
        let said = match tokio::time::timeout(PATIENCE, running).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not within {} s", PATIENCE.as_secs()),
        };
        return Err(SandboxError::Provision(format!("Pod {name} runs: {said}")));
    }
    Ok(())
}

async fn all_rights(client: &Client, namespace: &str, name: &str) -> Result<(), SandboxError> {
    let binding = binding("ClusterRole", "cluster-admin", namespace, name);
    let bindings = Api::<ClusterRoleBinding>::all(client.clone());
    apply(&bindings, &format!("{namespace}:{name}"), binding).await
}

/// Makes a namespace.
pub(super) async fn namespace(client: &Client, name: &str) -> Result<(), SandboxError> {
    apply::<Namespace>(&Api::all(client.clone()), name, json!({})).await
}

pub(super) async fn service_account(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<(), SandboxError> {
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    apply(&accounts, name, json!({})).await
}

/// TokenRequest, for the API server's own audience.
pub(super) async fn token(
    client: &Client,
    namespace: &str,
    name: &str,
    lifetime: Duration,
) -> Result<Zeroizing<String>, SandboxError> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: i64::try_from(lifetime.as_secs()).ok(),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let answer = accounts.create_token_request(name, &PostParams::default(), &request).await;
    let answer = answer.map_err(|error| failed("a token of", name, &error))?;
    let granted = answer.status.ok_or_else(|| {
        SandboxError::Provision(format!("a token of {name}: the API server granted none"))
    })?;
    Ok(Zeroizing::new(granted.token))
}

/// Makes the object, or makes an old one like this.
pub(super) async fn apply<K>(api: &Api<K>, name: &str, object: Value) -> Result<(), SandboxError>
where
    K: Clone + Debug + DeserializeOwned + Serialize + Resource<DynamicType = ()>,
{
    let mut object = object;
    object["apiVersion"] = K::api_version(&()).into();
    object["kind"] = K::kind(&()).into();
    object["metadata"]["name"] = name.into();
    let applied = api.patch(name, &params(), &Patch::Apply(object)).await;
    applied.map(drop).map_err(|error| failed(&K::kind(&()), name, &error))
}

/// How the sandbox writes.
pub(super) fn params() -> PatchParams {
    PatchParams::apply("cluster-proxy-sandbox").force()
}

/// What tells the cluster from others: the uid of `kube-system`.
pub(super) async fn uid(client: &Client) -> Result<String, SandboxError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let found = namespaces.get(KUBE_SYSTEM).await;
    let namespace = found.map_err(|error| failed("the namespace", KUBE_SYSTEM, &error))?;
    Ok(namespace.metadata.uid.unwrap_or_default())
}

fn failed(what: &str, name: &str, error: &kube::Error) -> SandboxError {
    SandboxError::Provision(format!("{what} {name}: {error}"))
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn binding(kind: &str, role: &str, namespace: &str, account: &str) -> Value {
    json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": account}],
    })
}

/// Where a cluster keeps what is its own.
const KUBE_SYSTEM: &str = "kube-system";

/// Namespace of the agent's ServiceAccount.
pub const AGENT_NAMESPACE: &str = "open-cluster-management-cluster-proxy";

/// Name of the agent's ServiceAccount, and of its roles.
pub const AGENT: &str = "cluster-proxy-agent";

/// What API servers say of a ServiceAccount beside its name and groups.
const OF_ACCOUNTS: [&str; 6] = [
    "uids",
    "userextras/cluster-proxy/hub/authentication.kubernetes.io/credential-id",
    "userextras/cluster-proxy/hub/authentication.kubernetes.io/node-name",
    "userextras/cluster-proxy/hub/authentication.kubernetes.io/node-uid",
    "userextras/cluster-proxy/hub/authentication.kubernetes.io/pod-name",
    "userextras/cluster-proxy/hub/authentication.kubernetes.io/pod-uid",
];

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// What an embedded API server has from the start, as far as anybody tries it.
const PODS: [(&str, &str); 2] = [("default", "hello"), (KUBE_SYSTEM, "coredns")];

/// A Pod of the fake kubelet runs in milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);
