//! What happens in the midst of something else: an account that goes or changes while it is looked at,
//! answers that are lost, versions that change, a hub that does not lead any more.

use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::api::{MANAGED, MANAGED_NAMESPACE, ManagedServiceAccount};
use super::world::{DEFINITIONS, World, eventually};
use crate::miniapi::testing::Fault;
use crate::sandbox::definitions;

/// How many accounts the metrics show.
fn shown(world: &World) -> usize {
    let families = world.metrics.gather();
    let accounts = families.iter().find(|family| family.name() == "cluster_proxy_accounts");
    let accounts = accounts.unwrap().get_metric().iter();
    accounts.map(|one| one.get_gauge().get_value() as usize).sum()
}

#[tokio::test(start_paused = true)]
async fn an_account_that_goes_while_it_is_looked_at_is_forgotten() {
    let world = World::start(&["c1"]).await;
    world.account("c1", "first", json!({})).await;
    world.ready("c1", "first").await;
    world.spoke("c1").wire.set(Fault::Silent);
    world.account("c1", "app", json!({})).await;
    sleep(Duration::from_secs(5)).await;
    world.hub.delete::<ManagedServiceAccount>("c1", "app").await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(shown(&world), 1);
    world.account("c1", "app", json!({})).await;
    eventually("it is shown", || async { (shown(&world) == 2).then_some(()) }).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_report_fails_is_reported_later_and_not_made_again() {
    let world = World::start(&["c1"]).await;
    *world.hub.forbidden.lock().unwrap() = Some("/status?&fieldManager=cluster-proxy-accounts");
    world.account("c1", "app", json!({})).await;
    let token = eventually("a token", || world.token("c1", "app")).await;
    sleep(Duration::from_secs(300)).await;
    assert!(world.hub.count(&Method::PATCH, "/app/status") > 3, "it is tried again");
    assert_eq!(world.condition("c1", "app", "TokenReported").await, None);
    *world.hub.forbidden.lock().unwrap() = None;
    sleep(Duration::from_secs(300)).await;
    assert_eq!(world.ready("c1", "app").await, token);
    assert_eq!(world.minted("c1"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_account_that_changes_while_it_is_looked_at_gets_one_token() {
    let world = World::start(&["c1"]).await;
    world.account("c1", "app", json!({})).await;
    while world.minted("c1") == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    // A new generation, before the status is written.
    let change = json!({"spec": {"ttlSecondsAfterCreation": 86_400}});
    world.hub.merge::<ManagedServiceAccount>("c1", "app", change).await;
    eventually("the condition speaks of it", || async {
        let condition = world.condition("c1", "app", "TokenReported").await?;
        (condition.status == "True" && condition.observed_generation == Some(2)).then_some(())
    })
    .await;
    sleep(Duration::from_secs(60)).await;
    assert!(world.hub.count(&Method::PATCH, "/app/status") >= 2, "a conflict");
    assert_eq!(world.minted("c1"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_limited_life_ends_in_time_for_accounts_that_fail_or_are_away() {
    let begun = Instant::now();
    let world = World::start(&["c1", "c2"]).await;
    *world.spoke("c1").forbidden.lock().unwrap() = Some("/token");
    let life = json!({"spec": {"ttlSecondsAfterCreation": 400}});
    world.account("c2", "app", life.clone()).await;
    world.ready("c2", "app").await;
    world.disconnect("c2");
    world.account("c1", "app", life).await;
    // Objects are made at the time of the machine, which stands still here.
    for (second, is_there) in [(390, true), (410, false)] {
        sleep_until(begun + Duration::from_secs(second)).await;
        for cluster in ["c1", "c2"] {
            let account: Option<ManagedServiceAccount> = world.hub.get(cluster, "app").await;
            assert_eq!(account.is_some(), is_there, "{cluster} after {second} s");
        }
    }
    assert!(world.service_account("c2", "app").await.is_some());
    world.connect("c2");
    eventually("its spoke is clean", || async {
        world.service_account("c2", "app").await.is_none().then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_label_that_is_taken_off_ends_what_is_done_and_keeps_the_token() {
    let world = World::start(&["c1"]).await;
    world.account("c1", "app", json!({})).await;
    let token = world.ready("c1", "app").await;
    let label = |value: Option<&str>| json!({"metadata": {"labels": {MANAGED: value}}});
    let spoke = world.spoke("c1");
    spoke.merge::<ServiceAccount>(MANAGED_NAMESPACE, "app", label(None)).await;
    eventually("it is said", || async {
        let condition = world.condition("c1", "app", "TokenReported").await?;
        (condition.reason == "ServiceAccountNotManaged").then_some(())
    })
    .await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.token("c1", "app").await.as_ref(), Some(&token));
    spoke.merge::<ServiceAccount>(MANAGED_NAMESPACE, "app", label(Some("true"))).await;
    assert_eq!(world.ready("c1", "app").await, token);
    assert_eq!(world.minted("c1"), 1);
}

#[tokio::test(start_paused = true)]
async fn add_ons_are_followed_into_another_version() {
    let world = World::build(&["c1"], false, false).await;
    let group = "addon.open-cluster-management.io";
    let kind =
        |version| definitions::open(group, version, "ManagedClusterAddOn", "managedclusteraddons");
    world.define(&kind("v1alpha1")).await;
    world.define(&definitions::managed_service_accounts()).await;
    world.account("c1", "app", json!({})).await;
    world.ready("c1", "app").await;
    world.hub.delete_path(&format!("{DEFINITIONS}/managedclusteraddons.{group}")).await;
    world.define(&kind("v1beta1")).await;
    let path = format!("/apis/{group}/v1beta1/namespaces/c1/managedclusteraddons");
    let addon = json!({"apiVersion": format!("{group}/v1beta1"), "kind": "ManagedClusterAddOn",
        "metadata": {"name": "managed-serviceaccount"}, "spec": {}});
    world.hub.post(&path, &addon).await;
    sleep(Duration::from_secs(400)).await;
    world.account("c1", "late", json!({})).await;
    sleep(Duration::from_secs(60)).await;
    let late: ManagedServiceAccount = world.hub.get("c1", "late").await.unwrap();
    assert_eq!(late.status, None);
    world.hub.delete_path(&format!("{path}/managed-serviceaccount")).await;
    world.ready("c1", "late").await;
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_does_not_lead_any_more_does_nothing() {
    let mut world = World::start(&["c1"]).await;
    world.account("c1", "app", json!({})).await;
    let token = world.ready("c1", "app").await;
    world.running.abort();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(shown(&world), 0);
    let (hub, spoke) = (world.hub.wire.requests(), world.spoke("c1").wire.requests());
    world.account("c1", "late", json!({})).await;
    world.spoke("c1").delete::<ServiceAccount>(MANAGED_NAMESPACE, "app").await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!((world.hub.wire.requests(), world.spoke("c1").wire.requests()), (hub, spoke));
    world.restart();
    world.ready("c1", "late").await;
    eventually("a new token", || async {
        world.token("c1", "app").await.filter(|now| *now != token)
    })
    .await;
}
