//! What belongs to others, or to another hub, is left to them.

use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use cluster_proxy::accounts::api::{MANAGED, ManagedServiceAccount};
use cluster_proxy::sandbox::definitions;

use super::world::{MANAGED_ACCOUNTS, World};
use crate::support::{PATIENCE, eventually};

#[tokio::test]
async fn a_service_account_of_others_is_not_handed_out_until_it_is_labelled() {
    let world = World::start(&["c1"]).await;
    let spoke = world.spoke("c1");
    spoke.create(MANAGED_ACCOUNTS, json!({"metadata": {"name": "theirs"}})).await;
    world.account("c1", "theirs").await;
    let reported = eventually("it says why", PATIENCE, || world.reported("c1", "theirs")).await;
    assert_eq!(
        (reported.status.as_str(), reported.reason.as_str()),
        ("False", "ServiceAccountNotManaged")
    );
    assert!(world.get::<Secret>("c1", "theirs").await.is_none());
    world.delete::<ManagedServiceAccount>("c1", "theirs").await;
    // What came after it has been done: it is not deleted either.
    world.account("c1", "ours").await;
    world.ready("c1", "ours").await;
    assert!(world.is_on_spoke("c1", "theirs").await);
    let label = json!({"metadata": {"labels": {MANAGED: "true"}}});
    world.account("c1", "theirs").await;
    eventually("it says why", PATIENCE, || world.reported("c1", "theirs")).await;
    spoke.merge(&format!("{MANAGED_ACCOUNTS}/theirs"), label).await;
    world.ready("c1", "theirs").await;
}

#[tokio::test]
async fn of_two_hubs_one_serves_and_the_other_takes_over() {
    let mut world = World::start(&["c1"]).await;
    let second = world.fleet.hub.beside().await;
    let _agent = world.spoke("c1").agent_beside(second.addresses.agents);
    second.wait_healthy("c1").await;
    world.account("c1", "one").await;
    let one = world.ready("c1", "one").await;
    let minted = async |hub: &crate::support::fleet::RunningHub| {
        let minted = hub.metric("cluster_proxy_account_tokens_total", &["minted"]).await;
        (hub.metric("cluster_proxy_leader", &[]).await, minted)
    };
    assert_eq!(minted(&world.fleet.hub).await, (1.0, 1.0));
    assert_eq!(minted(&second).await, (0.0, 0.0));

    world.fleet.hub.stop().await;
    world.account("c1", "two").await;
    world.ready("c1", "two").await;
    assert_eq!(minted(&second).await, (1.0, 1.0));
    assert_eq!(world.get::<Secret>("c1", "one").await.unwrap(), one);
}

#[tokio::test]
async fn where_ocms_addon_serves_we_stand_back_unless_told_otherwise() {
    let addons = definitions::open(
        "addon.open-cluster-management.io",
        "v1alpha1",
        "ManagedClusterAddOn",
        "managedclusteraddons",
    );
    let accounts = definitions::managed_service_accounts();
    let mut world = World::with(&["c1", "c2"], &[addons, accounts]).await;
    let addon = json!({
        "apiVersion": "addon.open-cluster-management.io/v1alpha1",
        "kind": "ManagedClusterAddOn", "metadata": {"name": "managed-serviceaccount"},
    });
    let path = "/apis/addon.open-cluster-management.io/v1alpha1/namespaces/c1/managedclusteraddons";
    world.api.create(path, &addon).await;
    world.account("c1", "app").await;
    world.wait_ignored(1).await;
    world.account("c2", "app").await;
    world.ready("c2", "app").await;
    assert!(world.reported("c1", "app").await.is_none());
    assert!(world.get::<Secret>("c1", "app").await.is_none());
    assert!(!world.is_on_spoke("c1", "app").await);

    world.fleet.hub.stop().await;
    let controllers = world.fleet.hub.controllers.as_mut().unwrap();
    controllers.accounts.as_mut().unwrap().take_over = true;
    world.fleet.hub.start().await;
    world.ready("c1", "app").await;
}

#[tokio::test]
async fn accounts_of_strangers_wait_until_their_cluster_is_enrolled() {
    let mut world = World::start(&["c1"]).await;
    world.namespace("c2").await;
    world.account("c2", "app").await;
    world.account("c1", "app").await;
    let served = world.ready("c1", "app").await;
    assert!(world.reported("c2", "app").await.is_none());
    assert!(world.get::<Secret>("c2", "app").await.is_none());
    world.join("c2").await;
    world.ready("c2", "app").await;

    // One that leaves keeps its Secret, and nothing is done for it any more.
    let cluster = "c1".parse().unwrap();
    world.fleet.hub.state.remove(&cluster).await.unwrap();
    world.wait_ignored(1).await;
    world.account("c1", "late").await;
    world.account("c2", "late").await;
    world.ready("c2", "late").await;
    assert!(world.reported("c1", "late").await.is_none());
    assert_eq!(world.get::<Secret>("c1", "app").await.unwrap(), served);
}

/// A hub that serves no accounts publishes; all other tests here are of one without ClusterProfiles.
#[tokio::test]
async fn without_their_definition_profiles_are_published_all_the_same() {
    let world = World::with(&["c1"], &[definitions::cluster_profiles("v1alpha1")]).await;
    world.profile("c1").await;
    eventually("the profile is published", PATIENCE, || async {
        let published = world.published("c1").await;
        let url = &published["server"];
        url.as_str()?.ends_with("/c1").then_some(())
    })
    .await;
}
