//! The publisher of ClusterProfiles before an in-memory hub API, on every definition at hand. Names
//! with a number are cases of upstream's own tests.

mod others;
mod rights;
mod world;

use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};

use cluster_proxy::inventory::api;
use cluster_proxy::pki::ca::Authority;
use cluster_proxy::pki::tls::Presented;

use crate::support::{PATIENCE, eventually};
use world::{DAY, MANAGER, World, definitions, fleet, own, presented, skip};

fn providers(profile: &DynamicObject) -> &[Value] {
    api::status_list(profile, api::PROVIDERS)
}

fn without_metadata(profile: &DynamicObject) -> Value {
    profile.data.clone()
}

/// U19 and U20.
#[tokio::test]
async fn u19_u20_the_exact_entry_among_those_of_others() {
    for definition in definitions("u19_u20_the_exact_entry_among_those_of_others") {
        let world = World::new().await;
        world.define(&definition.text).await;
        world.profile("named-otherwise", "c1").await;
        let theirs = json!({"name": "theirs", "cluster": {"server": "https://elsewhere"}});
        let upstreams = json!({"name": MANAGER, "cluster": {
            "server": "https://cluster-proxy-addon-user.ocm:9092/named-otherwise",
            "certificate-authority-data": "bGVhZg==", "proxy-url": "http://p"}});
        let mut status = json!({
            "version": {"kubernetes": "v1.36.0"},
            "properties": [{"name": "region", "value": "x"}],
            "conditions": [{"type": "Joined", "status": "True", "reason": "R", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "credentialProviders": [theirs],
            "accessProviders": [theirs, upstreams],
        });
        world.patch_status("named-otherwise", "others", status.clone()).await;
        world.publish();
        let after = world.wait_published("named-otherwise", "c1").await;
        let [first, second]: [Value; 2] = world.entries("c1").try_into().unwrap();
        status["accessProviders"] = json!([theirs, first, second]);
        assert_eq!(after.data["status"], status, "{}", definition.name);
    }
}

/// U21 and U22: upstream lacks its configuration or its Secret, we an authority that can be published.
#[tokio::test]
async fn u21_u22_nothing_is_written_until_there_is_an_authority() {
    for definition in definitions("u21_u22_nothing_is_written_until_there_is_an_authority") {
        let world = World::new().await;
        world.define(&definition.text).await;
        let good = world.presented.send_replace(Presented::default());
        let before = world.profile("p", "c1").await;
        world.publish();
        eventually("it says so", PATIENCE, || async {
            (world.metric("inventory_publishable", "") == 0.0).then_some(())
        })
        .await;
        world.patch_status("p", "others", json!({"version": {"kubernetes": "v1"}})).await;
        assert!(providers(&world.get("p").await).is_empty());
        world.presented.send_replace(good);
        let after = world.wait_published("p", "c1").await;
        assert_eq!(after.metadata.uid, before.metadata.uid);
        assert_eq!(world.metric("inventory_publishable", ""), 1.0);
    }
}

/// U23 and U24.
#[tokio::test]
async fn u23_u24_only_profiles_with_both_labels() {
    for definition in definitions("u23_u24_only_profiles_with_both_labels") {
        let world = World::start(&definition).await;
        let others = [
            ("none", json!({})),
            ("no-manager", json!({api::CLUSTER_LABEL: "c1"})),
            ("other-manager", json!({api::MANAGER_LABEL: "karmada", api::CLUSTER_LABEL: "c1"})),
            ("no-cluster", json!({api::MANAGER_LABEL: MANAGER})),
            ("unknown-cluster", json!({api::MANAGER_LABEL: MANAGER, api::CLUSTER_LABEL: "c9"})),
        ];
        let mut before = Vec::new();
        for (name, labels) in &others {
            before.push(world.labelled(name, labels.clone()).await);
        }
        // Made last: what is before it has been looked at.
        world.profile("both", "c2").await;
        world.wait_published("both", "c2").await;
        for profile in before {
            let name = profile.metadata.name.clone().unwrap();
            assert_eq!(world.get(&name).await, profile, "{name}: {}", definition.name);
        }
        // A label that comes later counts.
        let patch = json!({"metadata": {"labels": {api::MANAGER_LABEL: MANAGER}}});
        let params = PatchParams::default();
        world.profiles().patch("no-manager", &params, &Patch::Merge(patch)).await.unwrap();
        world.wait_published("no-manager", "c1").await;
    }
}

/// Ten minutes of probes and of watches that end and begin again, on a clock that runs by itself.
#[tokio::test]
async fn ten_idle_minutes_write_nothing_and_then_a_change_is_published() {
    for definition in definitions("ten_idle_minutes_write_nothing_and_then_a_change_is_published") {
        let world = World::start(&definition).await;
        world.profile("p", "c1").await;
        let before = world.wait_published("p", "c1").await;
        let writes = world.writes();
        for _ in 0..120 {
            skip(Duration::from_secs(5)).await;
            world.fleet.send_replace(fleet(&[("c1", Some(true)), ("c2", Some(true))]));
        }
        assert_eq!(world.writes(), writes);
        assert_eq!(world.get("p").await, before, "{}", definition.name);
        let rotated = presented(&Authority::create("two", DAY).unwrap(), &[]);
        world.presented.send_replace(rotated);
        world.wait_published("p", "c1").await;
        assert_eq!(world.writes(), writes + 1.0);
    }
}

#[tokio::test]
async fn a_rotated_authority_reaches_every_profile_with_the_old_one_beside_it() {
    for definition in definitions("a_rotated_authority_reaches_every_profile") {
        let world = World::new().await;
        world.define(&definition.text).await;
        let [old, new] = ["old", "new"].map(|name| Authority::create(name, DAY).unwrap());
        world.presented.send_replace(presented(&old, &[]));
        world.publish();
        let names: Vec<String> = (0..20).map(|number| format!("p{number}")).collect();
        for name in &names {
            world.profile(name, "c1").await;
            world.wait_published(name, "c1").await;
        }
        let mut writes = world.writes();
        for next in [presented(&new, &[&old]), presented(&new, &[])] {
            world.presented.send_replace(next.clone());
            for name in &names {
                world.wait_published(name, "c1").await;
            }
            writes += 20.0;
            assert_eq!(world.writes(), writes, "once for each: {}", definition.name);
            // A new leaf of the same authority is no change.
            let leaf = Presented { chain: presented(&new, &[]).chain, ..next };
            world.presented.send_replace(leaf);
        }
        // What came after the last leaf has been written: so the leaf has been looked at.
        world.profile("last", "c2").await;
        world.wait_published("last", "c2").await;
        assert_eq!(world.writes(), writes + 1.0);
    }
}

#[tokio::test]
async fn an_unenrolled_cluster_loses_our_entries_alone() {
    for definition in definitions("an_unenrolled_cluster_loses_our_entries_alone") {
        let world = World::start(&definition).await;
        world.profile("p", "c1").await;
        world.profile("q", "c2").await;
        let theirs = json!({"name": "theirs", "cluster": {"server": "https://elsewhere"}});
        let published = world.wait_published("p", "c1").await;
        let mut list = providers(&published).to_vec();
        list.insert(0, theirs.clone());
        world.patch_status("p", "others", json!({"accessProviders": list})).await;
        let kept = world.wait_published("q", "c2").await;
        world.fleet.send_replace(fleet(&[("c2", Some(true))]));
        let gone = world
            .wait("the entries are gone", "p", |profile| providers(profile) == [theirs.clone()])
            .await;
        assert_eq!(gone.data["spec"], published.data["spec"]);
        assert_eq!(world.get("q").await, kept, "{}", definition.name);
        // Gone for the metrics as well, and back once it is enrolled again.
        assert_eq!(world.metric("inventory_profiles", "unknown"), 1.0);
        world.fleet.send_replace(fleet(&[("c1", None), ("c2", Some(true))]));
        let back = world.wait_published("p", "c1").await;
        assert_eq!(providers(&back)[0], theirs);
    }
}

#[tokio::test]
async fn a_profile_that_somebodys_finalizer_holds_is_left_alone() {
    for definition in definitions("a_profile_that_somebodys_finalizer_holds_is_left_alone") {
        let world = World::start(&definition).await;
        world.profile("p", "c1").await;
        world.wait_published("p", "c1").await;
        let finalizers = |names: Value| Patch::Merge(json!({"metadata": {"finalizers": names}}));
        let params = PatchParams::default();
        let argo = finalizers(json!(["argoproj.io/cluster-profile-finalizer"]));
        world.profiles().patch("p", &params, &argo).await.unwrap();
        world.profiles().delete("p", &DeleteParams::default()).await.unwrap();
        let going = world.get("p").await;
        assert!(going.metadata.deletion_timestamp.is_some());
        world.presented.send_replace(presented(&Authority::create("two", DAY).unwrap(), &[]));
        world.profile("q", "c2").await;
        world.wait_published("q", "c2").await;
        assert_eq!(without_metadata(&world.get("p").await), without_metadata(&going));
        // Made anew under the same name, it is a profile like any other.
        world.profiles().patch("p", &params, &finalizers(Value::Null)).await.unwrap();
        world.profile("p", "c1").await;
        world.wait_published("p", "c1").await;
    }
}

/// Without a restart: no definition, then one with whole lists, then one with keyed lists.
#[tokio::test]
async fn a_definition_may_come_later_and_change() {
    let mut world = World::new().await;
    world.version = "v1alpha2".to_owned();
    world.publish();
    eventually("it has looked", PATIENCE, || async {
        (world.metric("inventory_publishable", "") == 1.0).then_some(())
    })
    .await;
    assert_eq!(world.metric("inventory_served", ""), 0.0);
    world.define(&own("v1alpha2", false).to_string()).await;
    world.profile("p", "c1").await;
    eventually_by_the_clock("it is found", || async {
        (world.metric("inventory_served", "") == 1.0).then_some(())
    })
    .await;
    let by = |profile: &DynamicObject, operation: &str| {
        let entries = profile.metadata.managed_fields.iter().flatten();
        let mut ours = entries.filter(|entry| entry.manager.as_deref() == Some("cluster-proxy"));
        ours.any(|entry| entry.operation.as_deref() == Some(operation))
    };
    let whole = world.wait_published("p", "c1").await;
    assert!(by(&whole, "Update") && !by(&whole, "Apply"), "{:?}", whole.metadata.managed_fields);

    world.define(&own("v1alpha2", true).to_string()).await;
    world.profile("q", "c2").await;
    world.wait_published("q", "c2").await;
    let rotated = presented(&Authority::create("two", DAY).unwrap(), &[]);
    eventually_by_the_clock("it applies", || async {
        world.presented.send_replace(rotated.clone());
        world.profile(&uuid::Uuid::new_v4().to_string(), "c1").await;
        let all = world.profiles().list(&Default::default()).await.unwrap();
        all.items.iter().any(|profile| by(profile, "Apply")).then_some(())
    })
    .await;
}

/// As [`eventually`], on a clock that is moved on between two questions.
async fn eventually_by_the_clock<F: Future<Output = Option<()>>>(
    what: &str,
    mut question: impl FnMut() -> F,
) {
    for _ in 0..100 {
        if question().await.is_some() {
            return;
        }
        skip(Duration::from_secs(1)).await;
    }
    panic!("not within 100 simulated seconds: {what}");
}

/// The condition turns after a minute, and never for less.
#[tokio::test]
async fn the_path_condition_follows_the_probes_slowly() {
    for definition in definitions("the_path_condition_follows_the_probes_slowly") {
        let mut world = World::new().await;
        world.path_condition = true;
        world.define(&definition.text).await;
        world.profile("p", "c1").await;
        let joined = json!({"type": "Joined", "status": "True", "reason": "R", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        world.patch_status("p", "others", json!({"conditions": [joined]})).await;
        world.publish();
        let says = |status: &'static str| {
            move |profile: &DynamicObject| {
                let conditions = api::status_list(profile, api::CONDITIONS);
                conditions.len() == 2
                    && conditions[0]["type"] == "Joined"
                    && conditions[1]["type"] == "ClusterProxyReachable"
                    && conditions[1]["status"] == status
            }
        };
        world.wait("it is reachable", "p", says("True")).await;
        let writes = world.writes();
        let mut probes = [Some(false), Some(true)].into_iter().cycle();
        for _ in 0..20 {
            world.fleet.send_replace(fleet(&[("c1", probes.next().unwrap())]));
            skip(Duration::from_secs(55)).await;
        }
        assert_eq!(world.writes(), writes, "blips of less than a minute");
        world.fleet.send_replace(fleet(&[("c1", Some(false))]));
        skip(Duration::from_secs(61)).await;
        world.wait("it is not reachable", "p", says("False")).await;
        assert_eq!(world.writes(), writes + 1.0, "{}", definition.name);
    }
}
