//! Spokes that want more of the hub than their accounts: its memory, its time, its writes, or what
//! belongs to another hub.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::super::api::{HUB, MANAGED, MANAGED_NAMESPACE, ManagedServiceAccount};
use super::world::{World, eventually};

/// A ServiceAccount that is labelled as managed.
fn labelled(name: &str, hub: Option<&str>) -> Value {
    let annotations = hub.map(|hub| json!({HUB: hub}));
    json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "labels": {MANAGED: "true"}, "annotations": annotations}})
}

async fn mark(world: &World, name: &str) -> Option<String> {
    world.service_account("c1", name).await?.annotations().get(HUB).cloned()
}

async fn wait_gone(world: &World, name: &str) {
    eventually(&format!("{name} is gone"), || async {
        world.service_account("c1", name).await.is_none().then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn only_what_this_hub_marked_is_swept() {
    let world = World::start(&["c1"]).await;
    world.account("c1", "app", json!({})).await;
    world.ready("c1", "app").await;
    let ours = mark(&world, "app").await.unwrap();
    assert_eq!(ours, world.hub_uid().await);
    let spoke = world.spoke("c1");
    for (name, hub) in [("unmarked", None), ("another", Some("another")), ("ours", Some(&*ours))] {
        spoke.create::<ServiceAccount>(MANAGED_NAMESPACE, labelled(name, hub)).await;
    }
    wait_gone(&world, "ours").await;
    // At the start of a visit, too.
    world.disconnect("c1");
    sleep(Duration::from_secs(1)).await;
    spoke.create::<ServiceAccount>(MANAGED_NAMESPACE, labelled("ours", Some(&ours))).await;
    world.connect("c1");
    wait_gone(&world, "ours").await;
    for name in ["app", "unmarked", "another"] {
        assert!(world.service_account("c1", name).await.is_some(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_older_hub_made_is_adopted_and_goes_with_its_account() {
    let world = World::start(&["c1"]).await;
    let spoke = world.spoke("c1");
    for (name, hub) in [("older", None), ("another", Some("another"))] {
        spoke.create::<ServiceAccount>(MANAGED_NAMESPACE, labelled(name, hub)).await;
        world.account("c1", name, json!({})).await;
        world.ready("c1", name).await;
    }
    assert_eq!(mark(&world, "older").await, Some(world.hub_uid().await));
    assert_eq!(mark(&world, "another").await.as_deref(), Some("another"), "its maker cleans");
    for name in ["another", "older"] {
        world.hub.delete::<ManagedServiceAccount>("c1", name).await;
    }
    wait_gone(&world, "older").await;
    assert!(world.service_account("c1", "another").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_may_not_know_itself_marks_later() {
    let world = World::build(&["c1"], false, false).await;
    *world.hub.forbidden.lock().unwrap() = Some("/kube-system");
    world.define(&crate::sandbox::definitions::managed_service_accounts()).await;
    world.account("c1", "app", json!({})).await;
    world.ready("c1", "app").await;
    assert_eq!(mark(&world, "app").await, None);
    *world.hub.forbidden.lock().unwrap() = None;
    eventually("a mark", || mark(&world, "app")).await;
    world.hub.delete::<ManagedServiceAccount>("c1", "app").await;
    wait_gone(&world, "app").await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_events_asks_for_no_flood_of_tokens() {
    let world = World::start(&["c1"]).await;
    *world.spoke("c1").forbidden.lock().unwrap() = Some("/token");
    world.account("c1", "app", json!({})).await;
    eventually("a condition", || world.condition("c1", "app", "TokenReported")).await;
    flood(&world, |number| json!({"metadata": {"annotations": {"number": number.to_string()}}}))
        .await;
    let asked = world.minted("c1");
    assert!((3..=3 * (MINUTES + 1)).contains(&asked), "{asked}");
    *world.spoke("c1").forbidden.lock().unwrap() = None;
    sleep(Duration::from_secs(300)).await;
    world.ready("c1", "app").await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_events_writes_no_flood_of_conditions() {
    let world = World::start(&["c1"]).await;
    world.account("c1", "app", json!({})).await;
    world.ready("c1", "app").await;
    let before = world.hub.writes().len();
    let label =
        |number: usize| json!({"metadata": {"labels": {MANAGED: (number % 2 == 1).to_string()}}});
    flood(&world, label).await;
    let written = world.hub.writes().len() - before;
    assert!((2..=10 * (MINUTES + 1)).contains(&written), "{written}");
    world.ready("c1", "app").await;
    let asked = world.hub.asked_about("/managedserviceaccounts?");
    let ours = world.hub_uid().await;
    let spoke = world.spoke("c1");
    for number in 0..200 {
        let left = labelled(&format!("left{number}"), Some(&ours));
        spoke.create::<ServiceAccount>(MANAGED_NAMESPACE, left).await;
    }
    wait_gone(&world, "left199").await;
    let asked = world.hub.asked_about("/managedserviceaccounts?") - asked;
    assert!((1..=10).contains(&asked), "{asked}");
}

/// Changes its ServiceAccount twenty times a second for some minutes.
async fn flood(world: &World, change: impl Fn(usize) -> Value) {
    for number in 0..MINUTES * 60 * 20 {
        let spoke = world.spoke("c1");
        spoke.merge::<ServiceAccount>(MANAGED_NAMESPACE, "app", change(number)).await;
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_spoke_with_too_many_service_accounts_is_not_remembered_whole() {
    let world = World::start(&["c1"]).await;
    world.account("c1", "app", json!({})).await;
    world.ready("c1", "app").await;
    let spoke = world.spoke("c1");
    let create = |number| {
        let object = labelled(&format!("more{number}"), None);
        spoke.create::<ServiceAccount>(MANAGED_NAMESPACE, object)
    };
    // Together with the one that is there: one more than may be.
    stream::iter(0..10_000).map(create).buffer_unordered(64).for_each(|()| async {}).await;
    world.account("c1", "late", json!({})).await;
    eventually("it is said", || async {
        let condition = world.condition("c1", "late", "TokenReported").await?;
        condition.message.contains("more than 10000").then_some(())
    })
    .await;
    for name in ["more0", "more1"] {
        spoke.delete::<ServiceAccount>(MANAGED_NAMESPACE, name).await;
    }
    world.ready("c1", "late").await;
}

const MINUTES: usize = 3;
