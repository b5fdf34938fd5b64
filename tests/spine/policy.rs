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
