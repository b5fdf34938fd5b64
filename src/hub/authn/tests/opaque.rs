//! Tokens that are no JSON Web Tokens: the hub's API server alone says whose they are.

use super::*;

/// A hub that asks about them, whose API server accepts every token.
async fn world() -> World {
    let world = World::with(AuthnConfig { opaque_tokens: true, ..AuthnConfig::default() }).await;
    world.connect("c1", &SigningKey::new("one")).await;
    world.hub.accepts.store(true, Ordering::Relaxed);
    world
}

fn reviews(world: &World) -> usize {
    world.hub.reviews.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_about_one_unless_an_operator_says_so() {
    let off = World::new().await;
    off.hub.accepts.store(true, Ordering::Relaxed);
    assert_eq!(off.refusal("c1", "opaque").await, Refusal::Opaque);
    assert_eq!(reviews(&off), 0);

    let on = world().await;
    let identity = on.ask("c1", "opaque").await.unwrap();
    assert_eq!(identity.user, "cluster:hub:system:serviceaccount:apps:reader");
    assert_eq!(
        (identity.mode(), identity.bound, identity.expires),
        (Mode::Impersonate, true, None)
    );
    assert_eq!(on.spokes.proofs.load(Ordering::Relaxed), 0, "no cluster sees it");
    assert!(on.ask("nowhere", "opaque").await.is_ok(), "whether or not there is such a cluster");
    assert_eq!(reviews(&on), 1, "one question for all paths");
    // What looks like a JSON Web Token is one, or nothing.
    let stranger = SigningKey::new("stranger");
    assert_eq!(on.refusal("c1", &on.good(&stranger)).await, Refusal::UnknownKey);
    assert_eq!(reviews(&on), 1);
    // A path without a cluster names none for it.
    let mut headers = HeaderMap::new();
    headers.insert("authorization", "Bearer opaque".parse().unwrap());
    assert!(on.authenticator.authenticate_at_home(&mut headers).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn answers_are_shared_and_last_ten_seconds() {
    let world = world().await;
    let all = join_all((0..100).map(|_| world.ask("c1", "opaque"))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(reviews(&world), 1);
    world.hub.accepts.store(false, Ordering::Relaxed);
    world.pass(9).await;
    assert!(world.ask("c1", "opaque").await.is_ok());
    world.pass(1).await;
    assert_eq!(world.refusal("c1", "opaque").await, Refusal::HubRefused);
    for _ in 0..5 {
        assert_eq!(world.refusal("c1", "other").await, Refusal::HubRefused);
    }
    assert_eq!(reviews(&world), 3, "a refusal is remembered as well");
    world.hub.accepts.store(true, Ordering::Relaxed);
    world.pass(10).await;
    assert!(world.ask("c1", "opaque").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_no_refusal() {
    let world = world().await;
    let keys = std::mem::take(&mut *world.hub.keys.lock().unwrap());
    for _ in 0..2 {
        assert!(unavailable(&world.ask("c1", "opaque").await));
    }
    *world.hub.keys.lock().unwrap() = keys;
    assert!(world.ask("c1", "opaque").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn strangers_take_turns_and_whoever_was_good_does_not_wait_for_them() {
    let world = world().await;
    assert!(world.ask("c1", "good").await.is_ok());
    world.pass(11).await;
    let before = reviews(&world);
    world.hub.accepts.store(false, Ordering::Relaxed);
    let names: Vec<String> = (0..300).map(|number| format!("junk-{number}")).collect();
    let began = tokio::time::Instant::now();
    let junk = join_all(names.iter().map(|name| world.ask("c1", name)));
    let good = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.hub.accepts.store(true, Ordering::Relaxed);
        let answer = world.ask("c1", "good").await;
        world.hub.accepts.store(false, Ordering::Relaxed);
        (answer, began.elapsed())
    };
    let (junk, (good, after)) = tokio::join!(junk, good);
    assert!(good.is_ok() && after < Duration::from_millis(100), "{good:?} {after:?}");
    assert!(junk.iter().all(Result::is_err));
    let asked = reviews(&world) - before;
    let most = 8 + usize::try_from(began.elapsed().as_millis()).unwrap() * 4 / 100;
    assert!(asked <= most, "{asked} questions in {:?}", began.elapsed());
    assert!(junk.iter().any(unavailable), "who waits for too long is not refused");
}
