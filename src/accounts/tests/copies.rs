//! Copies beside ClusterProfiles, as consumers look for them.

use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use tokio::time::sleep;

use super::super::api::{COPIED, ManagedServiceAccount, NAMESPACES as ONLY, SYNC, SYNCED_FROM};
use super::world::{NAMESPACES, World, eventually, keys, namespace};
use crate::name::ClusterName;
use crate::sandbox::definitions;

const GROUP: &str = "/apis/multicluster.x-k8s.io/v1alpha1/namespaces";

/// A hub that serves ClusterProfiles, with namespaces for them.
async fn start(clusters: &[&str]) -> World {
    let world = World::start(clusters).await;
    let definition =
        definitions::open("multicluster.x-k8s.io", "v1alpha1", "ClusterProfile", "clusterprofiles");
    world.define(&definition).await;
    for name in ["team", "other"] {
        world.hub.post(NAMESPACES, &namespace(name)).await;
    }
    world
}

async fn profile(world: &World, namespace: &str, name: &str, cluster: &str) {
    let profile = json!({
        "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile",
        "metadata": {"name": name, "labels": {
            "x-k8s.io/cluster-manager": "open-cluster-management",
            "open-cluster-management.io/cluster-name": cluster}},
        "spec": {"clusterManager": {"name": "open-cluster-management"}},
    });
    world.hub.post(&format!("{GROUP}/{namespace}/clusterprofiles"), &profile).await;
}

async fn synced(world: &World, cluster: &str, name: &str) -> String {
    world.account(cluster, name, json!({"metadata": {"labels": {SYNC: "true"}}})).await;
    world.ready(cluster, name).await
}

async fn copied(world: &World, namespace: &str, name: &str) -> Secret {
    eventually(&format!("{namespace}/{name}"), || world.secret(namespace, name)).await
}

async fn gone(world: &World, namespace: &str, name: &str) {
    eventually(&format!("no {namespace}/{name}"), || async {
        world.secret(namespace, name).await.is_none().then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_labelled_account_is_copied_to_the_profiles_of_its_cluster_and_follows_its_token() {
    let world = start(&["c1", "c2"]).await;
    profile(&world, "team", "production", "c1").await;
    profile(&world, "other", "c2", "c2").await;
    let token = synced(&world, "c1", "app").await;
    let copy = copied(&world, "team", "c1-app").await;
    assert_eq!(copy.metadata.labels.as_ref().unwrap()[SYNCED_FROM], "c1-app");
    assert_eq!(keys(&copy), ["ca.crt", "cluster-proxy-ca.crt", "token"].into());
    assert_eq!(copy.data.unwrap()["token"].0, token.as_bytes());
    assert!(world.secret("other", "c1-app").await.is_none(), "another cluster's profile");

    world.hub.delete::<Secret>("c1", "app").await;
    eventually("the fresh token", || async {
        let copy = world.secret("team", "c1-app").await?.data?.remove("token")?;
        (copy.0 != token.as_bytes()).then_some(())
    })
    .await;
    let edit = json!({"data": {"token": "AAAA"}});
    world.hub.merge::<Secret>("team", "c1-app", edit).await;
    let token = world.token("c1", "app").await.unwrap();
    eventually("repaired", || async {
        let copy = world.secret("team", "c1-app").await?.data?.remove("token")?;
        (copy.0 == token.as_bytes()).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_goes_with_its_label_its_account_and_its_profile() {
    let world = start(&["c1"]).await;
    profile(&world, "team", "c1", "c1").await;
    profile(&world, "other", "c1", "c1").await;
    synced(&world, "c1", "app").await;
    for namespace in ["team", "other"] {
        copied(&world, namespace, "c1-app").await;
    }
    let only = json!({"metadata": {"annotations": {ONLY: "team"}}});
    world.hub.merge::<ManagedServiceAccount>("c1", "app", only).await;
    gone(&world, "other", "c1-app").await;
    let unlabelled = json!({"metadata": {"labels": {SYNC: null}}});
    world.hub.merge::<ManagedServiceAccount>("c1", "app", unlabelled).await;
    gone(&world, "team", "c1-app").await;
    let labelled = json!({"metadata": {"labels": {SYNC: "true"}}});
    world.hub.merge::<ManagedServiceAccount>("c1", "app", labelled).await;
    copied(&world, "team", "c1-app").await;
    world.hub.delete_path(&format!("{GROUP}/team/clusterprofiles/c1")).await;
    gone(&world, "team", "c1-app").await;
    profile(&world, "team", "c1", "c1").await;
    copied(&world, "team", "c1-app").await;
    world.hub.delete::<ManagedServiceAccount>("c1", "app").await;
    gone(&world, "team", "c1-app").await;
}

#[tokio::test(start_paused = true)]
async fn of_two_accounts_with_one_name_the_second_is_told_so() {
    let world = start(&["a-b", "a"]).await;
    profile(&world, "team", "one", "a-b").await;
    profile(&world, "team", "two", "a").await;
    let token = synced(&world, "a-b", "c").await;
    copied(&world, "team", "a-b-c").await;
    synced(&world, "a", "b-c").await;
    let condition = eventually("a condition", || world.condition("a", "b-c", COPIED)).await;
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "NameTaken"));
    assert!(condition.message.contains("a-b/c"), "{}", condition.message);
    assert_eq!(world.condition("a-b", "c", COPIED).await, None);
    let copy = world.secret("team", "a-b-c").await.unwrap();
    assert_eq!(copy.data.unwrap()["token"].0, token.as_bytes());

    world.hub.delete::<ManagedServiceAccount>("a-b", "c").await;
    let token = world.token("a", "b-c").await.unwrap();
    eventually("it is the other's", || async {
        let copy = world.secret("team", "a-b-c").await?.data?.remove("token")?;
        let is_told = world.condition("a", "b-c", COPIED).await.is_some();
        (copy.0 == token.as_bytes() && !is_told).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_secret_of_others_with_the_name_of_a_copy_stays() {
    let world = start(&["c1"]).await;
    let foreign = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "c1-app"},
        "stringData": {"theirs": "kept"}});
    world.hub.create::<Secret>("team", foreign).await;
    profile(&world, "team", "c1", "c1").await;
    synced(&world, "c1", "app").await;
    let condition = eventually("a condition", || world.condition("c1", "app", COPIED)).await;
    assert_eq!(condition.reason, "NameTaken");
    assert_eq!(keys(&world.secret("team", "c1-app").await.unwrap()), ["theirs"].into());
    world.hub.delete::<Secret>("team", "c1-app").await;
    let copy = copied(&world, "team", "c1-app").await;
    assert!(keys(&copy).contains("token"));
}

#[tokio::test(start_paused = true)]
async fn ten_idle_minutes_write_no_copies_and_then_a_change_does() {
    let world = start(&["c1"]).await;
    profile(&world, "team", "c1", "c1").await;
    synced(&world, "c1", "app").await;
    copied(&world, "team", "c1-app").await;
    sleep(Duration::from_secs(30)).await;
    let writes = world.hub.writes().len();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.hub.writes().len(), writes, "{:?}", world.hub.writes());
    profile(&world, "other", "c1", "c1").await;
    copied(&world, "other", "c1-app").await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_cannot_be_made_is_tried_ever_less_often() {
    let world = start(&["c1"]).await;
    let theirs = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "c1-app"}});
    world.hub.create::<Secret>("team", theirs).await;
    profile(&world, "team", "production", "c1").await;
    synced(&world, "c1", "app").await;
    sleep(Duration::from_secs(3600)).await;
    let tries = world.hub.count(&Method::POST, "/team/secrets");
    assert!((5..=25).contains(&tries), "{tries}");
    world.hub.delete::<Secret>("team", "c1-app").await;
    sleep(Duration::from_secs(300)).await;
    copied(&world, "team", "c1-app").await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_not_enrolled_any_more_gets_no_copies() {
    let world = start(&["c1", "c2"]).await;
    profile(&world, "team", "one", "c1").await;
    profile(&world, "team", "two", "c2").await;
    for cluster in ["c1", "c2"] {
        synced(&world, cluster, "app").await;
        copied(&world, "team", &format!("{cluster}-app")).await;
    }
    world.fleet.send_modify(|fleet| {
        fleet.clusters.remove(&ClusterName::parse("c1").unwrap());
    });
    sleep(Duration::from_secs(1)).await;
    for cluster in ["c1", "c2"] {
        profile(&world, "other", cluster, cluster).await;
    }
    copied(&world, "other", "c2-app").await;
    sleep(Duration::from_secs(60)).await;
    assert!(world.secret("other", "c1-app").await.is_none());
    assert!(world.secret("team", "c1-app").await.is_some(), "it stays, as the Secret does");
    world.connect("c1");
    copied(&world, "other", "c1-app").await;
    world.fleet.send_modify(|fleet| {
        fleet.clusters.remove(&ClusterName::parse("c1").unwrap());
    });
    world.hub.delete::<ManagedServiceAccount>("c1", "app").await;
    gone(&world, "team", "c1-app").await;
}
