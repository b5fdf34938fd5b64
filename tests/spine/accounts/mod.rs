//! Managed service accounts through a real hub, agents and tunnels: from an object in the hub's API to
//! a request that a cluster answers, and back to nothing.

mod others;
mod world;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Secret;

use cluster_proxy::accounts::api::{MANAGED_NAMESPACE, ManagedServiceAccount, PROXY_CA, SPOKE_CA};
use cluster_proxy::pki::authorities::{self, Role};
use cluster_proxy::pki::ca;
use cluster_proxy::sandbox::definitions;

use crate::support::client::{Client, empty};
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

/// Case 110 of the attacks, the half that consumers see: who reads an authority now can connect now.
#[tokio::test]
async fn s110_what_is_published_verifies_what_is_served_at_every_moment_of_a_rotation() {
    let kinds =
        [definitions::managed_service_accounts(), definitions::cluster_profiles("v1alpha1")];
    let world = World::with(&["c1"], &kinds).await;
    world.profile("c1").await;
    world.account("c1", "app").await;
    let client = world.client(&world.ready("c1", "app").await);
    world.wait_code(&client, "/c1/version", 200).await;
    // From both places, tried at once.
    let published = async || {
        let profile = world.published("c1").await;
        let profile = STANDARD.decode(profile["certificate-authority-data"].as_str()?).unwrap();
        let secret = world.get::<Secret>("c1", "app").await?.data?.remove(PROXY_CA)?.0;
        for ca_pem in [&profile, &secret] {
            let client = Client { ca_pem: ca_pem.clone(), ..client.clone() };
            assert_eq!(client.get("/c1/version").await.status, 200);
        }
        (profile == secret).then(|| ca::certificates(&profile).unwrap())
    };
    let state = &world.fleet.hub.state;
    let wait = async |what: &str, old: &[_], count: usize| {
        eventually(what, PATIENCE, || async {
            published().await.filter(|now| now.len() == count && now[..] != *old)
        })
        .await
    };
    let first = wait("the authority", &[], 1).await;
    authorities::rotate(state, Role::Serving).await.unwrap();
    let both = wait("both authorities", &first, 2).await;
    assert_eq!(both[1], first[0], "the old one beside it");
    authorities::finish(state, Role::Serving).await.unwrap();
    let second = wait("the new authority alone", &both, 1).await;
    assert_eq!(second[0], both[0]);
    eventually("the old one is no use any more", PATIENCE, || async {
        client.connect(b"h2").await.is_err().then_some(())
    })
    .await;
    published().await.unwrap();
}

const NODES: &str = "/c1/api/v1/nodes";
