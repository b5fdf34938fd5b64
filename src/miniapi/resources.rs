//! Which resources exist: the built-in ones and those of CustomResourceDefinitions.

use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::crd;
use super::patch::keys::Lists;
use super::store::{Key, Store};

/// One resource of one API version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resource {
    /// API group, empty for the core group.
    pub(super) group: String,
    /// API version.
    pub(super) version: String,
    /// Plural name, as in paths.
    pub(super) plural: String,
    /// Singular name.
    pub(super) singular: String,
    /// Kind.
    pub(super) kind: String,
    /// Short names for kubectl.
    pub(super) short: Vec<String>,
    /// Categories such as `all`.
    pub(super) categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub(super) namespaced: bool,
    /// Further subresources, with the verbs they take.
    pub(super) subresources: Vec<(String, Vec<&'static str>)>,
    /// Whether only `create` exists and nothing is stored (reviews).
    pub(super) review: bool,
    /// Whether a CustomResourceDefinition made it.
    pub(super) custom: bool,
    /// Its lists that merge by keys.
    pub(super) lists: Lists,
    /// Printer columns of the CustomResourceDefinition.
    pub(super) columns: Vec<Value>,
}

// === impl Resource ===

impl Resource {
    /// `v1` or `group/version`.
    pub(super) fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
    }

    /// The key of one object.
    pub(super) fn key(&self, namespace: &str, name: &str) -> Key {
        let namespace = if self.namespaced { namespace } else { "" };
        Key::new(&self.group, &self.plural, namespace, name)
    }

    /// Whether it has the subresource.
    pub(super) fn has(&self, subresource: &str) -> bool {
        self.subresources.iter().any(|(name, _)| name == subresource)
    }

    /// What can be done with it.
    pub(super) fn verbs(&self) -> &'static [&'static str] {
        if self.review { &["create"] } else { &ALL_VERBS }
    }
}

/// `v1` or `group/version`.
pub(super) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Everything that is served now.
pub(super) fn all(store: &Store) -> Vec<Arc<Resource>> {
    let mut all = BUILT_IN.clone();
    all.extend(crd::resources(store).into_iter().map(Arc::new));
    all
}

/// The resource with that plural name.
pub(super) fn find(
    store: &Store,
    group: &str,
    version: &str,
    plural: &str,
) -> Option<Arc<Resource>> {
    let is_it =
        |one: &Arc<Resource>| one.group == group && one.version == version && one.plural == plural;
    if let Some(found) = BUILT_IN.iter().find(|one| is_it(one)) {
        return Some(found.clone());
    }
    all(store).into_iter().find(is_it)
}

fn built_in() -> Vec<Arc<Resource>> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    TABLE
        .iter()
        .map(|(group_version, plural, kind, namespaced, short, subresources)| {
            let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
            let subresources = words(subresources).into_iter().map(|name| {
                let verbs = subresource_verbs(&name);
                (name, verbs)
            });
            Arc::new(Resource {
                group: group.to_owned(),
                version: version.to_owned(),
                plural: (*plural).to_owned(),
                singular: kind.to_lowercase(),
                kind: (*kind).to_owned(),
                short: words(short),
                categories: if IN_ALL.contains(plural) { words("all") } else { Vec::new() },
                namespaced: *namespaced,
                subresources: subresources.collect(),
                review: plural.ends_with("reviews"),
                ..Resource::default()
            })
        })
        .collect()
}

fn subresource_verbs(name: &str) -> Vec<&'static str> {
    match name {
        "log" => vec!["get"],
        "attach" | "exec" | "portforward" => vec!["create", "get"],
        "token" | "eviction" => vec!["create"],
        "finalize" => vec!["update"],
        _ => vec!["get", "patch", "update"],
    }
}

static BUILT_IN: LazyLock<Vec<Arc<Resource>>> = LazyLock::new(built_in);

const ALL_VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Members of the category `all`, which `kubectl get all` asks for.
const IN_ALL: [&str; 8] = [
    "pods",
    "services",
    "daemonsets",
    "deployments",
    "replicasets",
    "statefulsets",
    "jobs",
    "cronjobs",
];

const AUTHENTICATION: &str = "authentication.k8s.io/v1";
const AUTHORIZATION: &str = "authorization.k8s.io/v1";
const RBAC: &str = "rbac.authorization.k8s.io/v1";

type Row = (&'static str, &'static str, &'static str, bool, &'static str, &'static str);

/// API version, plural, kind, namespaced, short names, subresources.
const TABLE: [Row; 39] = [
    ("v1", "configmaps", "ConfigMap", true, "cm", ""),
    ("v1", "endpoints", "Endpoints", true, "ep", ""),
    ("v1", "events", "Event", true, "ev", ""),
    ("v1", "limitranges", "LimitRange", true, "limits", ""),
    ("v1", "namespaces", "Namespace", false, "ns", "finalize status"),
    ("v1", "nodes", "Node", false, "no", "status"),
    ("v1", "persistentvolumeclaims", "PersistentVolumeClaim", true, "pvc", "status"),
    ("v1", "persistentvolumes", "PersistentVolume", false, "pv", "status"),
    (
        "v1",
        "pods",
        "Pod",
        true,
        "po",
        "attach ephemeralcontainers eviction exec log portforward status",
    ),
    ("v1", "replicationcontrollers", "ReplicationController", true, "rc", "status"),
    ("v1", "resourcequotas", "ResourceQuota", true, "quota", "status"),
    ("v1", "secrets", "Secret", true, "", ""),
    ("v1", "serviceaccounts", "ServiceAccount", true, "sa", "token"),
    ("v1", "services", "Service", true, "svc", "status"),
    (
        "apiextensions.k8s.io/v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        false,
        "crd crds",
        "status",
    ),
    ("apps/v1", "daemonsets", "DaemonSet", true, "ds", "status"),
    ("apps/v1", "deployments", "Deployment", true, "deploy", "scale status"),
    ("apps/v1", "replicasets", "ReplicaSet", true, "rs", "scale status"),
    ("apps/v1", "statefulsets", "StatefulSet", true, "sts", "scale status"),
    (AUTHENTICATION, "selfsubjectreviews", "SelfSubjectReview", false, "", ""),
    (AUTHENTICATION, "tokenreviews", "TokenReview", false, "", ""),
    (AUTHORIZATION, "localsubjectaccessreviews", "LocalSubjectAccessReview", true, "", ""),
    (AUTHORIZATION, "selfsubjectaccessreviews", "SelfSubjectAccessReview", false, "", ""),
    (AUTHORIZATION, "selfsubjectrulesreviews", "SelfSubjectRulesReview", false, "", ""),
    (AUTHORIZATION, "subjectaccessreviews", "SubjectAccessReview", false, "", ""),
    ("batch/v1", "cronjobs", "CronJob", true, "cj", "status"),
    ("batch/v1", "jobs", "Job", true, "", "status"),
    ("coordination.k8s.io/v1", "leases", "Lease", true, "", ""),
    ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", true, "", ""),
    ("events.k8s.io/v1", "events", "Event", true, "ev", ""),
    ("networking.k8s.io/v1", "ingresses", "Ingress", true, "ing", "status"),
    ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy", true, "netpol", ""),
    ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", true, "pdb", "status"),
    (RBAC, "clusterrolebindings", "ClusterRoleBinding", false, "", ""),
    (RBAC, "clusterroles", "ClusterRole", false, "", ""),
    (RBAC, "rolebindings", "RoleBinding", true, "", ""),
    (RBAC, "roles", "Role", true, "", ""),
    ("scheduling.k8s.io/v1", "priorityclasses", "PriorityClass", false, "pc", ""),
    ("storage.k8s.io/v1", "storageclasses", "StorageClass", false, "sc", ""),
];
