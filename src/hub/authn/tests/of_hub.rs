//! Tokens of the hub: its key set says that they are, its API server says whose.

use super::*;

/// A hub that accepts its own tokens, a cluster, and a token.
async fn world() -> (World, String) {
    let world = World::new().await;
    world.connect("c1", &SigningKey::new("one")).await;
    world.hub.accepts.store(true, Ordering::Relaxed);
    let hub = world.hub.keys.lock().unwrap()[0].clone();
    let token = world.good(&hub);
    (world, token)
}

fn reviews(world: &World) -> usize {
    world.hub.reviews.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_token_of_the_hub_is_somebody_with_the_hubs_mark_on_every_path() {
    let (world, token) = world().await;
    for cluster in ["c1", "nowhere"] {
        let identity = world.ask(cluster, &token).await.unwrap();
        assert_eq!(identity.user, "cluster:hub:system:serviceaccount:apps:reader");
        assert_eq!(identity.mode(), Mode::Impersonate);
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(world.now() + 3600 + 61);
        assert_eq!(identity.expires, Some(end));
        let impersonated = identity.impersonation.as_ref().unwrap();
        assert_eq!(impersonated.groups, ["cluster:hub:system:serviceaccounts"]);
    }
    assert_eq!(reviews(&world), 1, "one question for all paths");
}

#[tokio::test(start_paused = true)]
async fn an_acceptance_lets_nobody_in_for_more_than_ten_seconds() {
    let (world, token) = world().await;
    assert!(world.ask("c1", &token).await.is_ok());
    world.pass(6).await;
    // Known from the first review, which is six seconds old.
    assert!(world.ask("c2", &token).await.is_ok());
    world.hub.accepts.store(false, Ordering::Relaxed);
    world.pass(3).await;
    for cluster in ["c1", "c2"] {
        assert!(world.ask(cluster, &token).await.is_ok(), "{cluster}");
    }
    assert_eq!(reviews(&world), 1);
    world.pass(1).await;
    for cluster in ["c1", "c2"] {
        assert_eq!(world.refusal(cluster, &token).await, Refusal::HubRefused, "{cluster}");
    }
    // A refusal ends as soon.
    world.hub.accepts.store(true, Ordering::Relaxed);
    world.pass(10).await;
    assert!(world.ask("c1", &token).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_cannot_be_asked_refuses_nobody() {
    let (world, token) = world().await;
    let keys = std::mem::take(&mut *world.hub.keys.lock().unwrap());
    for _ in 0..2 {
        assert!(unavailable(&world.ask("c1", &token).await));
    }
    assert_eq!(reviews(&world), 2, "an outage is not remembered");
    *world.hub.keys.lock().unwrap() = keys;
    assert!(world.ask("c1", &token).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_the_hubs_key_has_not_signed_asks_nobody() {
    let (world, token) = world().await;
    let thief = SigningKey::new("hub");
    assert_eq!(world.refusal("c1", &world.good(&thief)).await, Refusal::Signature);
    let hub = world.hub.keys.lock().unwrap()[0].clone();
    let mut late = claims(world.now());
    late["exp"] = json!(world.now() - 100);
    assert_eq!(world.refusal("c1", &hub.sign(&late)).await, Refusal::Expired);
    let mut endless = claims(world.now());
    endless.as_object_mut().unwrap().remove("exp");
    assert_eq!(world.refusal("c1", &hub.sign(&endless)).await, Refusal::Claims);
    let mut nobody = claims(world.now());
    nobody["sub"] = json!("system:admin");
    assert_eq!(world.refusal("c1", &hub.sign(&nobody)).await, Refusal::Subject);
    assert_eq!(reviews(&world), 0);
    assert!(world.ask("c1", &token).await.is_ok());
    assert_eq!(reviews(&world), 1);
}
