//! What decides about identities of the hub: rules in a ConfigMap of the hub. Hub and spoke are
//! in-memory Kubernetes APIs.

use http::Request;
use serde_json::{Value, json};

use cluster_proxy::hub::Source;

use crate::impersonation::{ALL, USER, World};
use crate::live::Streams;
use crate::support::client::Client;
use crate::support::hub_api::HubApi;
use crate::support::{PATIENCE, eventually};

const MAPS: &str = "/api/v1/namespaces/ops/configmaps";

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "policy"}, "data": data})
}

/// At once: between a deletion and a creation nobody would be let in.
async fn replace(api: &HubApi, data: Value) {
    let request = Request::put(format!("{MAPS}/policy")).header("content-type", "application/json");
    let request = request.body(map(data).to_string().into_bytes()).unwrap();
    api.client().request::<Value>(request).await.unwrap();
}

async fn wait_status(client: &Client, status: u16) {
    eventually("the policy is in force", PATIENCE, || async {
        (client.get("/c1/version").await.status == status).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_policy_in_a_config_map_decides_and_streams_end_with_it() {
    let mut world = World::start(None).await;
    world.fleet.hub.stop().await;
    world.fleet.hub.policy =
        Source::ConfigMap { namespace: "ops".to_owned(), name: "policy".to_owned() };
    world.fleet.hub.start().await;
    world.fleet.hub.wait_healthy("c1").await;
    let everything = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ]);
    world.grant("User", USER, everything).await;
    let client = world.client();
    // Without a ConfigMap nobody is let in, and that is said as if no rule matched.
    wait_status(&client, 403).await;
    let message = client.get("/c1/version").await.assert_status(403, "Forbidden");
    assert!(message.contains("no rule of the hub's policy"), "{message}");

    // Rules under all keys count.
    let other = "rules: [{users: [somebody], clusters: [c1]}]";
    world.api.create(MAPS, &map(json!({"a": other, "b": ALL}))).await;
    wait_status(&client, 200).await;
    let streams = Streams::open(&client).await;

    // One bad key spoils the change.
    replace(&world.api, json!({"a": other, "b": "rules: [{users: [x]}]"})).await;
    eventually("the failure is counted", PATIENCE, || async {
        let failures = "cluster_proxy_policy_reload_failures_total";
        (world.fleet.hub.metric(failures, &[]).await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(client.get("/c1/version").await.status, 200, "the last good one is kept");

    replace(&world.api, json!({"a": other})).await;
    streams.end("the streams that no rule allows any more").await;
    world.wait_ended("policy-denied", 3.0).await;
    assert_eq!(client.get("/c1/version").await.status, 403);
    replace(&world.api, json!({"b": ALL})).await;
    wait_status(&client, 200).await;
    world.api.delete(&format!("{MAPS}/policy")).await;
    wait_status(&client, 403).await;
}

/// The subject is as the hub's own API server knows it.
pub(crate) async fn let_in(api: &HubApi, verbs: &[&str], clusters: &[&str]) {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let object = |kind: &str| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "visitors"}});
    let mut role = object("ClusterRole");
    role["rules"] = json!([{"apiGroups": ["cluster-proxy"], "resources": ["clusters"],
        "resourceNames": clusters, "verbs": verbs}]);
    api.create(&format!("{rbac}/clusterroles"), &role).await;
    let mut binding = object("ClusterRoleBinding");
    binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
        "name": "visitors"});
    binding["subjects"] =
        json!([{"kind": "ServiceAccount", "namespace": "ops", "name": "deployer"}]);
    api.create(&format!("{rbac}/clusterrolebindings"), &binding).await;
}

#[tokio::test]
async fn what_no_rule_lets_through_rbac_of_the_hub_may() {
    let mut world = World::start(Some("rules: [{users: [somebody], clusters: ['*']}]")).await;
    let everything = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ]);
    world.grant("User", USER, everything).await;
    let_in(&world.api, &["get", "watch", "create"], &["c1", "gone"]).await;
    let client = world.client();
    let message = client.get("/c1/version").await.assert_status(403, "Forbidden");
    assert!(message.contains("no rule of the hub's policy"), "nobody is asked: {message}");

    world.fleet.hub.stop().await;
    world.fleet.hub.delegate_authorization = true;
    world.fleet.hub.start().await;
    world.fleet.hub.wait_healthy("c1").await;
    wait_status(&client, 200).await;
    // Another verb, another cluster, and a cluster that is allowed and not there.
    let message = client.get("/c1/api/v1/nodes").await.assert_status(403, "Forbidden");
    let rule = "a rule there would be: list clusters of c1 in API group cluster-proxy";
    assert!(
        message.starts_with("cluster-proxy: hub-policy: ") && message.contains(rule),
        "{message}"
    );
    client.get("/c2/version").await.assert_status(403, "Forbidden");
    client.get("/gone/version").await.assert_status(404, "NotFound");
    let decided = async |decision: &str| {
        let labels = [&format!("decision=\"{decision}\""), "by=\"subject-access-review\""];
        world.fleet.hub.metric("cluster_proxy_authorizations_total", &labels.map(|one| one)).await
    };
    assert_eq!((decided("denied").await >= 2.0, decided("allowed").await >= 2.0), (true, true));

    let streams = Streams::open(&client).await;
    world.api.delete("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/visitors").await;
    streams.end("the streams that the hub does not allow any more").await;
    world.wait_ended("policy-denied", 3.0).await;
}
