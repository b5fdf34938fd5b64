//! Where no token is made: spokes that are away, names that belong to others, clusters that others
//! serve.

use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::json;
use tokio::time::sleep;

use super::super::api::{MANAGED, MANAGED_NAMESPACE, ManagedServiceAccount};
use super::world::{NAMESPACES, World, eventually, namespace};
use crate::name::ClusterName;
use crate::sandbox::definitions;

const ADDONS: &str = "/apis/addon.open-cluster-management.io/v1alpha1/namespaces";

#[tokio::test(start_paused = true)]
async fn a_spoke_that_is_away_gets_its_accounts_when_it_returns() {
    let world = World::start(&["c1"]).await;
    world.account("c1", "old", json!({})).await;
    let old = world.ready("c1", "old").await;
    world.disconnect("c1");
    sleep(Duration::from_secs(1)).await;
    world.account("c1", "new", json!({})).await;
    let condition =
        eventually("a condition", || world.condition("c1", "new", "TokenReported")).await;
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_str()),
        ("False", "TokenReportFailed")
    );
    assert_eq!(condition.message, "the cluster has no live tunnel");
    let asked = world.spoke("c1").writes().len();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.spoke("c1").writes().len(), asked, "nobody runs against a wall");
    assert_eq!(world.condition("c1", "old", "TokenReported").await.unwrap().status, "True");
    world.connect("c1");
    world.ready("c1", "new").await;
    assert_eq!(world.token("c1", "old").await, Some(old), "it was good all the time");
}

#[tokio::test(start_paused = true)]
async fn a_spoke_that_returns_is_cleaned_of_what_was_deleted_meanwhile() {
    let world = World::start(&["c1"]).await;
    for name in ["gone", "kept"] {
        world.account("c1", name, json!({})).await;
        world.ready("c1", name).await;
    }
    let foreign =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "foreign"}});
    world.spoke("c1").create::<ServiceAccount>(MANAGED_NAMESPACE, foreign).await;
    world.disconnect("c1");
    sleep(Duration::from_secs(1)).await;
    world.hub.delete::<ManagedServiceAccount>("c1", "gone").await;
    sleep(Duration::from_secs(60)).await;
    assert!(world.secret("c1", "gone").await.is_none(), "the hub's side needs no spoke");
    assert!(world.service_account("c1", "gone").await.is_some());
    world.connect("c1");
    eventually("it is gone", || async {
        world.service_account("c1", "gone").await.is_none().then_some(())
    })
    .await;
    sleep(Duration::from_secs(60)).await;
    for name in ["kept", "foreign"] {
        assert!(world.service_account("c1", name).await.is_some(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_account_of_others_is_not_handed_out_until_it_is_labelled() {
    let world = World::start(&["c1"]).await;
    let foreign =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app"}});
    world.spoke("c1").create::<ServiceAccount>(MANAGED_NAMESPACE, foreign).await;
    world.account("c1", "app", json!({})).await;
    let condition =
        eventually("a condition", || world.condition("c1", "app", "TokenReported")).await;
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_str()),
        ("False", "ServiceAccountNotManaged")
    );
    assert_eq!(world.minted("c1"), 0);
    assert!(world.secret("c1", "app").await.is_none());
    let label = json!({"metadata": {"labels": {MANAGED: "true"}}});
    world.spoke("c1").merge::<ServiceAccount>(MANAGED_NAMESPACE, "app", label).await;
    world.ready("c1", "app").await;
}

#[tokio::test(start_paused = true)]
async fn a_secret_of_others_is_not_overwritten_until_it_is_labelled() {
    let world = World::start(&["c1"]).await;
    let foreign = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "app"},
        "stringData": {"theirs": "kept"}});
    world.hub.create::<Secret>("c1", foreign).await;
    world.account("c1", "app", json!({})).await;
    let condition =
        eventually("a condition", || world.condition("c1", "app", "SecretCreated")).await;
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_str()),
        ("False", "SecretNotManaged")
    );
    let theirs = world.secret("c1", "app").await.unwrap().data.unwrap();
    assert!(theirs.len() == 1 && theirs.contains_key("theirs"));
    assert_eq!(world.minted("c1"), 0);
    let label = json!({"metadata": {"labels": {MANAGED: "true"}}});
    world.hub.merge::<Secret>("c1", "app", label).await;
    world.ready("c1", "app").await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_is_reported_once_and_tried_again_ever_less_often() {
    let world = World::start(&["c1"]).await;
    *world.spoke("c1").forbidden.lock().unwrap() = Some("/token");
    world.account("c1", "app", json!({})).await;
    let condition =
        eventually("a condition", || world.condition("c1", "app", "TokenReported")).await;
    assert_eq!(condition.reason, "TokenReportFailed");
    assert!(condition.message.ends_with("(HTTP 404)"), "{}", condition.message);
    sleep(Duration::from_secs(600)).await;
    let tries = world.minted("c1");
    assert!((5..=20).contains(&tries), "{tries}");
    assert_eq!(world.hub.writes().len(), 1, "{:?}", world.hub.writes());
    *world.spoke("c1").forbidden.lock().unwrap() = None;
    sleep(Duration::from_secs(300)).await;
    world.ready("c1", "app").await;
}

#[tokio::test(start_paused = true)]
async fn a_spoke_that_hides_its_service_accounts_is_said_so() {
    let world = World::start(&["c1"]).await;
    world.disconnect("c1");
    sleep(Duration::from_secs(1)).await;
    *world.spoke("c1").forbidden.lock().unwrap() = Some("/kube-root-ca.crt");
    world.account("c1", "app", json!({})).await;
    world.connect("c1");
    eventually("the reason", || async {
        let condition = world.condition("c1", "app", "TokenReported").await?;
        condition.message.contains("kube-root-ca.crt").then_some(())
    })
    .await;
    *world.spoke("c1").forbidden.lock().unwrap() = None;
    world.ready("c1", "app").await;
}

#[tokio::test(start_paused = true)]
async fn only_namespaces_of_enrolled_clusters_count() {
    let world = World::start(&["c1"]).await;
    for other in ["c2", "metrics"] {
        world.hub.post(NAMESPACES, &namespace(other)).await;
        world.account(other, "app", json!({})).await;
    }
    world.account("c1", "app", json!({})).await;
    world.ready("c1", "app").await;
    sleep(Duration::from_secs(60)).await;
    let others: Option<ManagedServiceAccount> = world.hub.get("c2", "app").await;
    assert_eq!(others.unwrap().status, None);
    // Un-enrolled: nothing is renewed or deleted, until the account itself goes.
    world.fleet.send_modify(|fleet| {
        fleet.clusters.remove(&ClusterName::parse("c1").unwrap());
    });
    sleep(Duration::from_secs(60)).await;
    assert!(world.secret("c1", "app").await.is_some());
    world.hub.delete::<ManagedServiceAccount>("c1", "app").await;
    eventually("its Secret is gone", || async {
        world.secret("c1", "app").await.is_none().then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn accounts_that_are_defined_later_are_served() {
    let world = World::build(&["c1"], false, false).await;
    sleep(Duration::from_secs(100)).await;
    assert!(world.hub.writes().is_empty());
    world.define(&definitions::managed_service_accounts()).await;
    world.account("c1", "app", json!({})).await;
    world.ready("c1", "app").await;
}

#[tokio::test(start_paused = true)]
async fn where_ocms_own_addon_serves_we_stand_back_unless_told_otherwise() {
    for take_over in [false, true] {
        let world = World::build(&["c1", "c2"], take_over, false).await;
        let definition = definitions::open(
            "addon.open-cluster-management.io",
            "v1alpha1",
            "ManagedClusterAddOn",
            "managedclusteraddons",
        );
        world.define(&definition).await;
        let addon = json!({"apiVersion": "addon.open-cluster-management.io/v1alpha1",
            "kind": "ManagedClusterAddOn", "metadata": {"name": "managed-serviceaccount"}, "spec": {}});
        world.hub.post(&format!("{ADDONS}/c1/managedclusteraddons"), &addon).await;
        world.define(&definitions::managed_service_accounts()).await;
        for cluster in ["c1", "c2"] {
            world.account(cluster, "app", json!({})).await;
        }
        world.ready("c2", "app").await;
        if take_over {
            world.ready("c1", "app").await;
            continue;
        }
        sleep(Duration::from_secs(60)).await;
        assert!(world.hub.writes().iter().all(|(_, path)| !path.contains("/c1/")));
        assert_eq!(world.spoke("c1").count(&Method::GET, ""), 0, "not even a look");
        world
            .hub
            .delete_path(&format!("{ADDONS}/c1/managedclusteraddons/managed-serviceaccount"))
            .await;
        world.ready("c1", "app").await;
    }
}
