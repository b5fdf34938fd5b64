//! Others that write to the same profiles: what they wrote survives, and nobody is fought.

use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};

use cluster_proxy::inventory::api;
use cluster_proxy::inventory::desired::PATH_CONDITION;
use cluster_proxy::pki::ca::Authority;

use super::providers;
use super::world::{DAY, MANAGER, NAMESPACE, World, definitions, own, presented, skip};
use crate::support::{PATIENCE, eventually};

/// A thousand updates by four others, each as careful as OCM's own controllers, while we publish one
/// authority after the other.
#[tokio::test]
async fn a_thousand_updates_by_others_lose_nothing() {
    for definition in definitions("a_thousand_updates_by_others_lose_nothing") {
        let world = World::start(&definition).await;
        world.profile("p", "c1").await;
        world.wait_published("p", "c1").await;
        let authorities: Vec<_> = (0..20)
            .map(|number| presented(&Authority::create(&number.to_string(), DAY).unwrap(), &[]))
            .collect();
        let ours = async {
            for next in authorities {
                world.presented.send_replace(next);
                world.wait_published("p", "c1").await;
            }
        };
        let version = async {
            for number in 0..250 {
                let status = json!({"version": {"kubernetes": format!("v{number}")}});
                world.patch_status("p", "version", status).await;
            }
        };
        let lists = LISTS.map(|(list, key)| count_up(&world, list, key));
        tokio::join!(ours, version, futures_util::future::join_all(lists));

        let after = world.wait_published("p", "c1").await;
        assert_eq!(after.data["status"]["version"]["kubernetes"], "v249");
        for (list, key) in LISTS {
            let items = api::status_list(&after, list);
            assert_eq!(counted(items, key), UPDATES, "{list}: {}", definition.name);
        }
    }
}

/// Makes an item and counts up in it, on condition that nobody wrote since it was read.
async fn count_up(world: &World, list: &str, key: &str) {
    for _ in 0..UPDATES {
        loop {
            let profile = world.get("p").await;
            let mut items = api::status_list(&profile, list).to_vec();
            let next = counted(&items, key) + 1;
            items.retain(|item| item[key] != COUNTER);
            items.push(item(list, key, next));
            let patch = json!({
                "metadata": {"resourceVersion": profile.metadata.resource_version},
                "status": {list: items},
            });
            let params = PatchParams { field_manager: Some(list.to_owned()), ..Default::default() };
            match world.profiles().patch_status("p", &params, &Patch::Merge(patch)).await {
                Ok(_) => break,
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn item(list: &str, key: &str, count: usize) -> Value {
    let count = count.to_string();
    match list {
        "conditions" => json!({key: COUNTER, "status": "True", "reason": "R", "message": count,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}),
        "properties" => json!({key: COUNTER, "value": count}),
        _ => json!({key: COUNTER, "cluster": {"server": count}}),
    }
}

fn counted(items: &[Value], key: &str) -> usize {
    let Some(item) = items.iter().find(|item| item[key] == COUNTER) else { return 0 };
    let places = ["/message", "/value", "/cluster/server"];
    let count = places.iter().find_map(|place| item.pointer(place)).unwrap();
    count.as_str().unwrap().parse().unwrap()
}

/// A rival that writes over our entry whenever it is not its own.
async fn rival(world: &World) -> u32 {
    let profile = world.get("p").await;
    let mut list = providers(&profile).to_vec();
    let Some(entry) = list.iter_mut().find(|entry| entry["name"] == MANAGER) else { return 0 };
    if entry["cluster"]["server"] == RIVAL {
        return 0;
    }
    entry["cluster"]["server"] = RIVAL.into();
    world.patch_status("p", "rival", json!({"accessProviders": list})).await;
    1
}

#[tokio::test]
async fn a_rival_is_reported_and_not_fought() {
    for definition in definitions("a_rival_is_reported_and_not_fought") {
        let world = World::start(&definition).await;
        world.profile("p", "c1").await;
        world.wait_published("p", "c1").await;
        let writes = world.writes();
        assert_eq!(rival(&world).await, 1);
        let contested = |world: &World| world.metric("inventory_profiles", "contested") == 1.0;
        eventually("it is noticed", PATIENCE, || async { contested(&world).then_some(()) }).await;
        let leads_to_rival = |profile: &DynamicObject| {
            providers(profile).iter().any(|entry| entry["cluster"]["server"] == RIVAL)
        };
        // Also not when we have something new to say, nor as time goes by.
        let rotated = presented(&Authority::create("two", DAY).unwrap(), &[]);
        world.presented.send_replace(rotated);
        skip(Duration::from_secs(29 * 60)).await;
        assert!(leads_to_rival(&world.get("p").await));
        assert_eq!(world.writes(), writes, "{}", definition.name);
        // Half an hour later it is tried once more, and the rival is still there.
        skip(Duration::from_secs(2 * 60)).await;
        world.wait_published("p", "c1").await;
        assert_eq!(world.writes(), writes + 1.0);
        assert_eq!(world.metric("inventory_profiles", "published"), 1.0);
        assert_eq!(rival(&world).await, 1);
        eventually("it is noticed", PATIENCE, || async { contested(&world).then_some(()) }).await;
        assert_eq!(world.writes(), writes + 1.0);
        // And once more with the same words as before.
        skip(Duration::from_secs(31 * 60)).await;
        world.wait_published("p", "c1").await;
        assert_eq!(rival(&world).await, 1);
        eventually("it is noticed", PATIENCE, || async { contested(&world).then_some(()) }).await;
        assert_eq!(world.writes(), writes + 2.0);

        let events: Api<Event> = Api::namespaced(world.client.clone(), NAMESPACE);
        let events = events.list(&Default::default()).await.unwrap();
        let note = events.items[0].note.clone().unwrap();
        assert!(note.contains(RIVAL) && note.contains("rival"), "{note}");
        assert_eq!(events.items[0].reason.as_deref(), Some("AccessProviderContested"));

        // The rival lets go: its last word is ours.
        let entries = world.entries("c1");
        world.patch_status("p", "rival", json!({"accessProviders": entries})).await;
        eventually("it is published", PATIENCE, || async {
            (world.metric("inventory_profiles", "published") == 1.0).then_some(())
        })
        .await;
    }
}

/// Somebody who writes the whole status from an old copy is not a rival.
#[tokio::test]
async fn an_entry_that_got_lost_is_put_back() {
    for definition in definitions("an_entry_that_got_lost_is_put_back") {
        let world = World::start(&definition).await;
        world.profile("p", "c1").await;
        for _ in 0..2 {
            world.wait_published("p", "c1").await;
            world.patch_status("p", "others", json!({"accessProviders": null})).await;
        }
        world.wait_published("p", "c1").await;
        assert_eq!(world.metric("inventory_profiles", "contested"), 0.0);
    }
}

/// Fields that another owner left inside of our entry go, also where an apply would leave them.
#[tokio::test]
async fn an_entry_of_ours_has_nothing_of_others_in_it() {
    for definition in definitions("an_entry_of_ours_has_nothing_of_others_in_it") {
        let world = World::new().await;
        world.define(&definition.text).await;
        world.profile("p", "c1").await;
        let params = PatchParams::apply("former").force();
        let former = json!({
            "apiVersion": format!("{}/v1alpha1", api::GROUP), "kind": api::KIND,
            "metadata": {"name": "p"},
            "status": {"accessProviders": [{"name": MANAGER, "cluster": {
                "server": "https://former/c1", "insecure-skip-tls-verify": true}}]},
        });
        world.profiles().patch_status("p", &params, &Patch::Apply(former)).await.unwrap();
        world.publish();
        let after = world.wait_published("p", "c1").await;
        assert_eq!(providers(&after), world.entries("c1"), "{}", definition.name);
        assert_eq!(world.metric("inventory_profiles", "contested"), 0.0);
    }
}

/// Lists of conditions without keys, beside entries with keys: an apply would take the whole list.
#[tokio::test]
async fn our_condition_takes_no_other_away() {
    let mut world = World::new().await;
    world.path_condition = true;
    let mut definition = own("v1alpha1", true);
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let conditions = &mut schema["properties"]["status"]["properties"]["conditions"];
    let lists = conditions.as_object_mut().unwrap();
    lists.retain(|key, _| !key.starts_with("x-kubernetes-list"));
    world.define(&definition.to_string()).await;
    world.profile("p", "c1").await;
    let joined = json!({"type": "Joined", "status": "True", "reason": "R", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    world.patch_status("p", "others", json!({"conditions": [joined]})).await;
    world.publish();
    let after = world
        .wait("our condition is there", "p", |profile| {
            let mut conditions = api::status_list(profile, api::CONDITIONS).iter();
            conditions.any(|one| one["type"] == PATH_CONDITION)
        })
        .await;
    assert_eq!(api::status_list(&after, api::CONDITIONS)[0], joined);
    world.wait_published("p", "c1").await;
}

/// Of each list: with the versions, a thousand.
const UPDATES: usize = 250;
const LISTS: [(&str, &str); 3] =
    [("properties", "name"), ("conditions", "type"), ("accessProviders", "name")];
const COUNTER: &str = "counter";
const RIVAL: &str = "https://rival/c1";
