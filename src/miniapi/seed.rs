//! What a cluster has from the start.

use serde_json::{Value, json};

use super::admission;
use super::cluster::Cluster;
use super::object;
use super::rbac;
use super::store::Key;

/// Namespaces, one Node, a few Pods, a Deployment, two Services and the rules that every cluster has.
pub(super) fn seed(cluster: &Cluster) {
    for name in NAMESPACES {
        namespace(cluster, name);
    }
    rules(cluster);
    cluster.ensure(
        &Key::new("", "serviceaccounts", ADMIN_NAMESPACE, ADMIN),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {}}),
    );
    let admin = json!({"kind": "ServiceAccount", "namespace": ADMIN_NAMESPACE, "name": ADMIN});
    bind_cluster(cluster, "miniapi-admin", "cluster-admin", admin);
    let node = format!("{}-control-plane", cluster.name);
    cluster.ensure(&Key::new("", "nodes", "", &node), node_object(&node));
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.1",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]},
        "status": {"loadBalancer": {}},
    });
    cluster.ensure(&Key::new("", "services", "default", "kubernetes"), service);
    let ports = json!([
        {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 80},
        {"name": "https", "port": 443, "protocol": "TCP", "targetPort": 443},
    ]);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.2", "selector": {"app": "hello"}, "ports": ports},
        "status": {"loadBalancer": {}},
    });
    cluster.ensure(&Key::new("", "services", "default", "web"), service);
    for (namespace, name) in PODS {
        let labels = json!({ "app": name });
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"labels": labels},
            "spec": {"containers": [{"name": name, "image": format!("example.com/{name}:1")}]},
            "status": {"phase": "Pending"},
        });
        admission::spec_defaults(&mut pod["spec"]);
        cluster.ensure(&Key::new("", "pods", namespace, name), pod);
    }
    let key = Key::new("apps", "deployments", "default", "web");
    cluster.ensure(&key, deployment());
}

/// Adds a namespace with what is in every one.
pub(super) fn namespace(cluster: &Cluster, name: &str) {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    });
    cluster.ensure(&Key::new("", "namespaces", "", name), namespace);
    admission::namespace_contents(cluster, name);
}

/// A rule that lets `verbs` on `resources` of `group` through.
fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

/// A binding of `kind` of one role to one subject.
fn binding(kind: &str, role_kind: &str, role: &str, subject: Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {},
        "roleRef": {"apiGroup": rbac::GROUP, "kind": role_kind, "name": role},
        "subjects": [subject],
    })
}

/// A group as the subject of a binding.
fn group(name: &str) -> Value {
    json!({"kind": "Group", "apiGroup": rbac::GROUP, "name": name})
}

/// Adds a ClusterRole.
fn cluster_role(cluster: &Cluster, name: &str, rules: Value) {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {}, "rules": rules,
    });
    cluster.ensure(&Key::new(rbac::GROUP, "clusterroles", "", name), role);
}

/// Binds a ClusterRole everywhere.
fn bind_cluster(cluster: &Cluster, name: &str, role: &str, subject: Value) {
    let key = Key::new(rbac::GROUP, "clusterrolebindings", "", name);
    cluster.ensure(&key, binding("ClusterRoleBinding", "ClusterRole", role, subject));
}

fn rules(cluster: &Cluster) {
    let all = json!([rule("*", &["*"], &["*"]), {"nonResourceURLs": ["*"], "verbs": ["*"]}]);
    cluster_role(cluster, "cluster-admin", all);
    bind_cluster(cluster, "cluster-admin", "cluster-admin", group("system:masters"));
    let paths = [
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
    ];
    let discovery = json!([{"nonResourceURLs": paths, "verbs": ["get"]}]);
    cluster_role(cluster, "system:discovery", discovery);
    let reviews = ["selfsubjectaccessreviews", "selfsubjectrulesreviews"];
    let basic = json!([
        rule("authorization.k8s.io", &reviews, &["create"]),
        rule("authentication.k8s.io", &["selfsubjectreviews"], &["create"]),
    ]);
    cluster_role(cluster, "system:basic-user", basic);
    for role in ["system:discovery", "system:basic-user"] {
        bind_cluster(cluster, role, role, group("system:authenticated"));
    }
    let issuer = ["/.well-known/openid-configuration", "/openid/v1/jwks"];
    let issuer = json!([{"nonResourceURLs": issuer, "verbs": ["get"]}]);
    cluster_role(cluster, "system:service-account-issuer-discovery", issuer);
    let viewed = [
        "configmaps",
        "endpoints",
        "events",
        "namespaces",
        "pods",
        "pods/log",
        "pods/status",
        "serviceaccounts",
        "services",
    ];
    let read = ["get", "list", "watch"];
    let view = json!([
        rule("", &viewed, &read),
        rule("apps", &["*"], &read),
        rule("batch", &["*"], &read),
    ]);
    cluster_role(cluster, "view", view);
}

fn node_object(name: &str) -> Value {
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": object::now(), "lastTransitionTime": object::now(),
        })
    };
    let resources = json!({"cpu": "2", "memory": "4Gi", "pods": "110"});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "node-role.kubernetes.io/control-plane": "",
        }},
        "spec": {"podCIDR": "10.244.0.0/24"},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "10.0.0.2"},
                {"type": "Hostname", "address": name},
            ],
            "allocatable": resources,
            "capacity": resources,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ],
            "nodeInfo": {
                "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "miniapi://1",
                "kernelVersion": "none", "kubeProxyVersion": "", "kubeletVersion": "v1.33.4",
                "machineID": "", "operatingSystem": "linux", "osImage": "in memory", "systemUUID": "",
            },
        },
    })
}

fn deployment() -> Value {
    let labels = json!({"app": "web"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": labels},
                "spec": {"containers": [{"name": "web", "image": "example.com/web:1"}]}},
        },
        "status": {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1,
            "updatedReplicas": 1, "availableReplicas": 1},
    })
}

/// The account behind `MiniApi::admin_token`.
pub(super) const ADMIN_NAMESPACE: &str = "kube-system";
pub(super) const ADMIN: &str = "miniapi-admin";

const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

const PODS: [(&str, &str); 4] = [
    ("default", "hello"),
    ("kube-system", "coredns"),
    ("kube-system", "etcd"),
    ("kube-system", "kube-apiserver"),
];
