//! What is done with a hub and its cluster so that each of their rights is needed.

use serde_json::{Value, json};

use cluster_proxy::accounts::api::{HUB as HUB_MARK, MANAGED as MANAGED_LABEL, MANAGED_NAMESPACE};
use cluster_proxy::inventory::api;
use cluster_proxy::sandbox::definitions;

use super::audit::{Call, Speaking};
use super::helm::AGENT;
use super::world::{AGENT_NAMESPACE, World};
use crate::support::client::empty;
use crate::support::process::Kubectl;
use crate::support::{PATIENCE, eventually};

/// What the hub's cluster has before the hub comes.
pub(super) fn define(hub: &Kubectl) {
    for namespace in ["c1", PROFILES, "ops"] {
        hub.run(&["create", "namespace", namespace]);
    }
    let addons = "addon.open-cluster-management.io";
    for kind in [
        definitions::cluster_profiles("v1alpha1"),
        definitions::managed_service_accounts(),
        definitions::open(addons, "v1alpha1", "ManagedClusterAddOn", "managedclusteraddons"),
        definitions::open(PROMETHEUS, "v1", "ServiceMonitor", "servicemonitors"),
        definitions::open(PROMETHEUS, "v1", "PrometheusRule", "prometheusrules"),
    ] {
        make(hub, &kind);
    }
}

/// These are clusters of Open Cluster Management, which it accepts.
pub(super) fn accept(hub: &Kubectl, clusters: &[&str]) {
    make(hub, &definitions::managed_clusters());
    for name in clusters {
        let cluster = json!({
            "apiVersion": "cluster.open-cluster-management.io/v1", "kind": "ManagedCluster",
            "metadata": {"name": name}, "spec": {"hubAcceptsClient": true},
        });
        hub.run_with(&["apply", "-f", "-"], &cluster.to_string());
    }
}

/// A cluster that is not accepted for a while is as if it were not enrolled.
pub(super) async fn accepted_again(world: &World, token: &str) {
    let (hub, client) = (&world.ground.hub_cluster.kubectl, world.client(token));
    for (accepts, code) in [(false, 404), (true, 200)] {
        let patch = json!({"spec": {"hubAcceptsClient": accepts}}).to_string();
        hub.run(&["patch", "managedclusters", "c1", "--type=merge", "--patch", &patch]);
        eventually(&format!("c1 is {code}"), PATIENCE, || async {
            let answer = client.try_get("/c1/api/v1/namespaces/default/pods").await.ok()?;
            (answer.status == code).then_some(())
        })
        .await;
    }
}

/// What the spoke has before the agent comes.
pub(super) fn define_on_spoke(spoke: &Kubectl) {
    spoke.run(&["create", "namespace", "shop"]);
    make(spoke, &definitions::open(PROMETHEUS, "v1", "PodMonitor", "podmonitors"));
}

fn make(kubectl: &Kubectl, kind: &Value) {
    let made = kubectl.run_with(&["apply", "-f", "-", "-o", "name"], &kind.to_string());
    kubectl.run(&["wait", "--for=condition=Established", "--timeout=90s", made.trim()]);
}

/// A ClusterProfile, and somebody who writes over what the hub published in it.
pub(super) async fn publish(hub: &Kubectl) {
    let profile = json!({
        "apiVersion": format!("{}/v1alpha1", api::GROUP), "kind": api::KIND,
        "metadata": {"name": "c1", "namespace": PROFILES,
            "labels": {api::MANAGER_LABEL: api::OCM, api::CLUSTER_LABEL: "c1"}},
        "spec": {"displayName": "c1", "clusterManager": {"name": api::OCM}},
    });
    hub.run_with(&["apply", "-f", "-"], &profile.to_string());
    let get = ["get", "clusterprofiles", "c1", "-n", PROFILES, "-o", "jsonpath={.status}"];
    says("the hub has published", hub, &get, "cluster-proxy.cluster-proxy.svc").await;
    let rival = json!({"status": {"accessProviders": [
        {"name": api::OCM, "cluster": {"server": "https://rival/c1"}}]}});
    let patch = ["patch", "clusterprofiles", "c1", "-n", PROFILES, "--subresource=status"];
    let rival = rival.to_string();
    hub.run(&[&patch[..], &["--type=merge", "--patch", &rival]].concat());
    let events = ["get", "events", "-n", PROFILES, "-o", "jsonpath={.items[*].reason}"];
    says("a rival is reported", hub, &events, "AccessProviderContested").await;
}

/// The life of managed service accounts, with all that may meet them.
pub(super) async fn accounts(hub: &Kubectl, spoke: &Kubectl) {
    // One that somebody marked for us, and one that is none of ours.
    for name in ["adopted", "foreign"] {
        spoke.run(&["create", "serviceaccount", name, "-n", MANAGED_NAMESPACE]);
    }
    let managed = format!("{MANAGED_LABEL}=true");
    spoke.run(&["label", "serviceaccount", "adopted", "-n", MANAGED_NAMESPACE, &managed]);
    let account = |name: &str, spec: Value| {
        let account = json!({
            "apiVersion": "authentication.open-cluster-management.io/v1beta1",
            "kind": "ManagedServiceAccount", "spec": spec,
            "metadata": {"name": name, "namespace": "c1", "labels": {
                "authentication.open-cluster-management.io/sync-to-clusterprofile": "true"}},
        });
        hub.run_with(&["apply", "-f", "-"], &account.to_string());
    };
    for name in ["copied", "adopted", "foreign"] {
        account(name, json!({"rotation": {}}));
    }
    account("brief", json!({"rotation": {}, "ttlSecondsAfterCreation": 5}));
    let status =
        |name| ["get", "managedserviceaccounts", name, "-n", "c1", "-o", "jsonpath={.status}"];
    says("what is not ours", hub, &status("foreign"), "ServiceAccountNotManaged").await;
    let mark = ["get", "serviceaccount", "adopted", "-n", MANAGED_NAMESPACE, "-o", "yaml"];
    says("an account of ours is marked", spoke, &mark, HUB_MARK).await;

    let token = |secret, namespace| {
        [
            "get",
            "secret",
            secret,
            "-n",
            namespace,
            "--ignore-not-found",
            "-o",
            "jsonpath={.data.token}",
        ]
    };
    says("a copy", hub, &token("c1-copied", PROFILES), "ZXl").await;
    let patch = ["patch", "secret", "c1-copied", "-n", PROFILES, "--type=merge", "--patch"];
    hub.run(&[&patch[..], &[r#"{"data": {"token": "eA=="}}"#]].concat());
    says("the copy is mended", hub, &token("c1-copied", PROFILES), "ZXl").await;
    hub.run(&["delete", "managedserviceaccounts", "copied", "-n", "c1"]);
    for name in ["brief", "copied"] {
        let account =
            ["get", "serviceaccount", name, "-n", MANAGED_NAMESPACE, "--ignore-not-found"];
        is_gone(spoke, &account).await;
        is_gone(hub, &token(name, "c1")).await;
    }
    is_gone(hub, &token("c1-copied", PROFILES)).await;
}

/// A token of an account of the hub's cluster, of a Pod there, and its rights on the spoke.
pub(super) fn deployer(hub: &Kubectl, spoke: &Kubectl) -> String {
    let role = ["create", "clusterrole", "readers", "--verb=get,list,watch"];
    spoke.run(&[&role[..], &["--resource=pods,configmaps"]].concat());
    let user = format!("--user={DEPLOYER}");
    spoke.run(&["create", "clusterrolebinding", "readers", "--clusterrole=readers", &user]);
    hub.run(&["create", "serviceaccount", "deployer", "-n", "ops"]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "box", "namespace": "ops"},
        "spec": {"serviceAccountName": "deployer",
            "containers": [{"name": "box", "image": "registry.example/box"}]},
    });
    hub.run_with(&["apply", "-f", "-"], &pod.to_string());
    hub.run(&["wait", "pod", "box", "-n", "ops", "--for=condition=Ready", "--timeout=90s"]);
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=box"];
    let token = hub.run(&[&["create", "token", "deployer", "-n", "ops"], &bound[..]].concat());
    token.trim().to_owned()
}

/// A stream of a token that may end before it expires, until the hub has asked whether it is good.
pub(super) async fn watch(world: &World) {
    let spoke = &world.ground.spoke;
    let secret = ["create", "secret", "generic", "bound", "-n", "default"];
    spoke.kubectl.run(&secret);
    let reader = ["create", "clusterrolebinding", "caller", "--clusterrole=readers"];
    spoke.kubectl.run(&[&reader[..], &["--serviceaccount=default:caller"]].concat());
    let bound = ["--bound-object-kind=Secret", "--bound-object-name=bound"];
    let token = ["create", "token", "caller", "-n", "default"];
    let token = spoke.kubectl.run(&[&token[..], &bound].concat());
    let client = world.client(token.trim());
    let path = "/c1/api/v1/namespaces/default/configmaps?watch=true";
    let stream = client.open(client.request("GET", path, empty())).await.unwrap();
    assert_eq!(stream.status().as_u16(), 200);
    let user = format!("system:serviceaccount:{AGENT_NAMESPACE}:{AGENT}");
    let is_review = |call: &Call| call.resource == "tokenreviews";
    eventually("the token is looked at again", PATIENCE, || async {
        let asked = spoke.audit.asked(&user, 0, Speaking::Plain);
        asked.calls.iter().any(is_review).then_some(())
    })
    .await;
}

/// A Service that both sides expose. No pod is behind it, which the agent has to find out.
pub(super) async fn service(world: &World) {
    let spoke = &world.ground.spoke.kubectl;
    spoke.run(&["create", "service", "clusterip", "web", "-n", "shop", "--tcp=8080"]);
    let token = spoke.run(&["create", "token", "caller", "-n", "default"]);
    let path = "/c1/api/v1/namespaces/shop/services/http:web:8080/proxy-service/";
    let said = world.client(token.trim()).get(path).await.assert_status(404, "NotFound");
    assert!(said.contains("has no service"), "{said}");
}

/// Everything that an agent with constrained impersonation may do for others.
pub(super) async fn read_as(world: &World, token: &str) {
    let client = world.client(token);
    let pods = "/c1/api/v1/namespaces/default/pods";
    eventually("an account of the hub still reads", PATIENCE, || async {
        client.try_get(pods).await.ok()?.status.is_success().then_some(())
    })
    .await;
    let is = async |path: &str, code: u16| {
        let answer = client.get(path).await;
        assert_eq!(answer.status.as_u16(), code, "{path}: {}", answer.text());
    };
    for path in ["/api", "/api/v1", "/apis", "/apis/apps", "/version", "/openapi/v3"] {
        is(&format!("/c1{path}"), 200).await;
    }
    // Nothing is there, and it may be asked for.
    is("/c1/openapi", 404).await;
    is(&format!("{pods}/none"), 404).await;
    is(&format!("{pods}?watch=true&timeoutSeconds=1"), 200).await;
    for (group, kind, spec) in [
        ("authentication", "SelfSubjectReview", json!({})),
        (
            "authorization",
            "SelfSubjectAccessReview",
            json!({"resourceAttributes": {"verb": "get", "resource": "pods"}}),
        ),
        ("authorization", "SelfSubjectRulesReview", json!({"namespace": "default"})),
    ] {
        let version = format!("{group}.k8s.io/v1");
        let review = json!({"apiVersion": version, "kind": kind, "spec": spec});
        let path = format!("/c1/apis/{version}/{}s", kind.to_lowercase());
        let answer = client.post(&path, review.to_string()).await;
        assert_eq!(answer.status.as_u16(), 201, "{path}: {}", answer.text());
    }
}

/// kubectl prints this sooner or later.
async fn says(what: &str, kubectl: &Kubectl, args: &[&str], part: &str) {
    eventually(what, PATIENCE, || {
        let output = kubectl.output(args);
        let said = String::from_utf8_lossy(&output.stdout).contains(part);
        async move { said.then_some(()) }
    })
    .await;
}

async fn is_gone(kubectl: &Kubectl, args: &[&str]) {
    eventually(&format!("nothing for {args:?}"), PATIENCE, || {
        let output = kubectl.output(args);
        let gone = output.status.success() && output.stdout.is_empty();
        async move { gone.then_some(()) }
    })
    .await;
}

const PROMETHEUS: &str = "monitoring.coreos.com";
const PROFILES: &str = "cluster-inventory";
/// As the spoke knows an account of the hub's cluster.
pub(super) const DEPLOYER: &str = "cluster:hub:system:serviceaccount:ops:deployer";
