//! Managed service accounts through a real hub, agents and tunnels: from an object in the hub's API to
//! a request that a cluster answers, and back to nothing.

mod others;
mod world;

use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Secret;

use cluster_proxy::accounts::api::{MANAGED_NAMESPACE, ManagedServiceAccount, PROXY_CA, SPOKE_CA};

use crate::support::client::empty;
use crate::support::{PATIENCE, eventually, within};
use world::{World, token};

#[tokio::test]
async fn an_account_is_a_token_that_its_cluster_takes_and_no_other() {
    let mut world = World::start(&["c1", "c2"]).await;
    world.account("c1", "app").await;
    let secret = world.ready("c1", "app").await;
    let data = secret.data.as_ref().unwrap();
    assert_eq!(data[PROXY_CA].0, world.fleet.hub.ca_pem.as_bytes());
    assert_ne!(data[SPOKE_CA], data[PROXY_CA]);
    let client = world.client(&secret);
    // Without rights it is known there, and nobody.
    world.wait_code(&client, NODES, 403).await;
    world.spoke("c1").bind(MANAGED_NAMESPACE, "app").await;
    assert_eq!(client.get(NODES).await.status, 200);
    let refused = client.get("/c2/api/v1/nodes").await;
    refused.assert_status(401, "Unauthorized");
    assert_eq!(refused.text(), client.get("/nobody/api/v1/nodes").await.text());

    // A hub that was restarted takes it as before, and leaves it as it is.
    world.fleet.hub.stop().await;
    world.fleet.hub.start().await;
    world.fleet.hub.wait_healthy("c1").await;
    world.wait_code(&client, NODES, 200).await;
    world.account("c1", "later").await;
    world.ready("c1", "later").await;
    assert_eq!(world.get::<Secret>("c1", "app").await.unwrap(), secret);
}

#[tokio::test]
async fn a_deleted_account_takes_everything_along() {
    let world = World::start(&["c1"]).await;
    for name in ["app", "kept"] {
        world.account("c1", name).await;
    }
    let [app, kept] = [world.ready("c1", "app").await, world.ready("c1", "kept").await];
    let mut watches = Vec::new();
    for (name, secret) in [("app", &app), ("kept", &kept)] {
        world.spoke("c1").bind(MANAGED_NAMESPACE, name).await;
        let client = world.client(secret);
        world.wait_code(&client, NODES, 200).await;
        let request = client.request("GET", &format!("{NODES}?watch=true"), empty());
        let mut body = client.open(request).await.unwrap().into_body();
        assert!(within("an event", PATIENCE, body.frame()).await.unwrap().is_ok());
        watches.push(body);
    }
    world.delete::<ManagedServiceAccount>("c1", "app").await;
    eventually("both sides are clean", PATIENCE, || async {
        let is_left = world.is_on_spoke("c1", "app").await;
        (!is_left && world.get::<Secret>("c1", "app").await.is_none()).then_some(())
    })
    .await;
    world.wait_code(&world.client(&app), NODES, 401).await;
    let other = watches.remove(1);
    // A watch ends as at an API server: cleanly.
    within("its watch ends", PATIENCE, watches.remove(0).collect()).await.unwrap();
    assert!(world.is_on_spoke("c1", "kept").await);
    assert_eq!(world.get::<Secret>("c1", "kept").await.unwrap(), kept);
    assert_eq!(world.client(&kept).get(NODES).await.status, 200);
    drop(other);
}

#[tokio::test]
async fn a_spoke_that_was_away_is_cleaned_when_it_returns() {
    let mut world = World::start(&["c1"]).await;
    for name in ["app", "kept"] {
        world.account("c1", name).await;
        world.ready("c1", name).await;
    }
    world.spoke_mut("c1").kill_agent();
    world.fleet.hub.wait_tunnels("c1", 0, PATIENCE).await;
    world.delete::<ManagedServiceAccount>("c1", "app").await;
    world.account("c1", "new").await;
    eventually("the hub's side is clean", PATIENCE, || async {
        world.get::<Secret>("c1", "app").await.is_none().then_some(())
    })
    .await;
    let reported = eventually("it says why", PATIENCE, || world.reported("c1", "new")).await;
    assert_eq!(reported.status, "False", "{}", reported.message);
    assert!(reported.message.contains("tunnel"), "{}", reported.message);
    assert!(world.is_on_spoke("c1", "app").await);
    let hub = world.fleet.hub.addresses.agents;
    world.spoke_mut("c1").start_agent(hub);
    eventually("the spoke is clean", PATIENCE, || async {
        (!world.is_on_spoke("c1", "app").await).then_some(())
    })
    .await;
    world.ready("c1", "new").await;
    assert!(world.is_on_spoke("c1", "kept").await);
}

#[tokio::test]
async fn a_deleted_secret_comes_back_with_a_token_that_works() {
    let world = World::start(&["c1"]).await;
    world.account("c1", "app").await;
    world.spoke("c1").bind(MANAGED_NAMESPACE, "app").await;
    let first = world.ready("c1", "app").await;
    world.delete::<Secret>("c1", "app").await;
    let second = world.wait_secret("c1", "app", |secret| token(secret) != token(&first)).await;
    world.wait_code(&world.client(&second), NODES, 200).await;
    // Of the same ServiceAccount: the old one lives as long as it was granted.
    assert_eq!(world.client(&first).get(NODES).await.status, 200);
}

const NODES: &str = "/c1/api/v1/nodes";
