//! When key sets are read, what of it is stored, and what is counted.

use super::*;
use tokio::time::Instant;

use crate::hub::authn::decide::REFUSED_AFTER;
use crate::state::Document;

async fn stored(world: &World) -> serde_json::Value {
    world.state.read(&Document::KeySet(name("c1"))).await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_set_is_stored_when_it_changed_and_once_a_day() {
    let world = World::new().await;
    let (one, two) = (SigningKey::new("one"), SigningKey::new("two"));
    let began = world.now();
    world.connect("c1", &one).await;
    assert_eq!(stored(&world).await["readAt"], began);
    // Read again and the same: two hours later, on the same day.
    world.set_clock(began + 7_200);
    world.pass(70).await;
    assert_eq!(stored(&world).await["readAt"], began);

    world.spoke("c1", |spoke| spoke.published.push(two));
    world.pass(70).await;
    let changed = stored(&world).await;
    assert_eq!(changed["keys"].as_array().unwrap().len(), 2);
    let read_at = changed["readAt"].as_u64().unwrap();
    assert!(read_at > began + 7_200);
    world.pass(70).await;
    assert_eq!(stored(&world).await, changed);

    world.set_clock(began + 86_400);
    world.pass(70).await;
    assert!(stored(&world).await["readAt"].as_u64().unwrap() >= began + 86_400);
}

#[tokio::test(start_paused = true)]
async fn clusters_that_come_at_once_share_two_reads_of_the_hubs_keys() {
    let world = World::new().await;
    world.settle().await;
    *world.hub.delay.lock().unwrap() = Duration::from_millis(100);
    let before = world.hub.reads.load(Ordering::Relaxed);
    for cluster in ["c1", "c2", "c3", "c4"] {
        world.enrol(cluster, &SigningKey::new(cluster)).await;
    }
    for cluster in ["c1", "c2", "c3", "c4"] {
        world.tunnels(cluster, 1, false);
    }
    world.settle().await;
    // The first read began at the moment when the clusters were read, which is not later.
    assert_eq!(world.hub.reads.load(Ordering::Relaxed), before + 2);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_works_the_moment_the_fleet_names_it() {
    let world = World::new().await;
    let key = SigningKey::new("one");
    world.settle().await;
    world.enrol("c1", &key).await;
    world.tunnels("c1", 1, false);
    assert!(world.ask("c1", &world.good(&key)).await.is_ok());
    assert_eq!(world.refusal("c2", &world.good(&key)).await, Refusal::UnknownKey);
}

#[tokio::test(start_paused = true)]
async fn a_token_without_a_cluster_is_tried_on_four_keys_of_its_name() {
    let world = World::new().await;
    let home = async || {
        let mut headers = HeaderMap::new();
        let token = world.good(&SigningKey::new("k"));
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        world.authenticator.authenticate_at_home(&mut headers).await
    };
    for cluster in ["c1", "c2", "c3"] {
        world.connect(cluster, &SigningKey::new("k")).await;
    }
    assert_eq!(home().await, Err(Refusal::UnknownKey.into()));
    world.connect("c4", &SigningKey::new("k")).await;
    assert_eq!(home().await, Err(Refusal::Signature.into()));
}

#[tokio::test(start_paused = true)]
async fn whether_a_cluster_is_the_hub_itself_counts_at_once() {
    let world = World::new().await;
    let hub = world.hub.keys.lock().unwrap()[0].clone();
    world.connect("local", &hub).await;
    let reads = world.spokes.reads.load(Ordering::Relaxed);
    let is_its_own = async || {
        let answer = world.ask("local", &world.good(&hub)).await;
        answer.is_ok_and(|identity| identity.impersonation.is_none())
    };
    for _ in 0..2 {
        assert!(!is_its_own().await);
        world.tunnels("local", 1, true);
        tokio::time::sleep(TICK).await;
        assert!(is_its_own().await);
        world.tunnels("local", 1, false);
        tokio::time::sleep(TICK).await;
    }
    assert_eq!(world.spokes.reads.load(Ordering::Relaxed), reads, "it was read before");
}

#[tokio::test(start_paused = true)]
async fn a_kept_set_lasts_thirty_days() {
    let world = World::new().await;
    let key = SigningKey::new("one");
    let read_at = world.now();
    world.connect("c1", &key).await;
    let world = world.restart().await;
    world.tunnels("c1", 0, false);
    world.settle().await;
    world.set_clock(read_at + 2_592_000);
    assert!(world.ask("c1", &world.good(&key)).await.is_ok());
    world.set_clock(read_at + 2_592_001);
    assert_eq!(world.refusal("c1", &world.good(&key)).await, Refusal::UnknownKey);
}

#[tokio::test(start_paused = true)]
async fn decisions_are_counted_and_debug_output_names_no_key() {
    let world = World::new().await;
    let key = SigningKey::new("one");
    world.connect("c1", &key).await;
    assert!(world.ask("c1", &world.good(&key)).await.is_ok());
    assert_eq!(world.refusal("c1", "garbage").await, Refusal::Opaque);
    for outcome in ["accepted", "opaque"] {
        assert_eq!(world.metric("cluster_proxy_authentications_total", outcome), 1.0, "{outcome}");
    }
    let shown = format!("{:?}", world.authenticator);
    assert!(shown.starts_with("Authenticator { config: AuthnConfig"), "{shown}");
    assert!(!shown.contains(key.jwk["x"].as_str().unwrap()), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_that_stays_is_counted_each_time_and_logged_once() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let writer = Arc::new(log.reopen().unwrap());
    let subscriber = tracing_subscriber::fmt().with_writer(writer).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let world = World::new().await;
    let (one, two) = (SigningKey::new("one"), SigningKey::new("two"));
    world.connect("c1", &one).await;
    world.connect("c2", &two).await;
    let told = || {
        let lines = std::fs::read_to_string(log.path()).unwrap();
        lines.lines().filter(|line| line.contains("cluster_proxy::alarm")).count()
    };
    assert_eq!(told(), 0);
    world.spoke("c2", |spoke| spoke.published.push(one.clone()));
    world.pass(300).await;
    assert!(world.metric(CONFLICTS, "c2") >= 2.0);
    assert_eq!(told(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_hub_knows_its_own_keys_while_they_cannot_be_read() {
    let world = World::new().await;
    let (one, stranger) = (SigningKey::new("one"), SigningKey::new("stranger"));
    world.connect("c1", &one).await;
    let hub = std::mem::take(&mut *world.hub.keys.lock().unwrap()).remove(0);
    let world = world.restart().await;
    world.tunnels("c1", 0, false);
    world.settle().await;
    let said = |answer| match answer {
        Err(AuthnError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    };
    // Whose it is, it cannot be asked; but it is known to be one of its own.
    let own = said(world.ask("c1", &world.good(&hub)).await);
    assert!(own.contains("whose this token is"), "{own}");
    let strange = said(world.ask("c1", &world.good(&stranger)).await);
    assert!(strange.contains("signing keys"), "{strange}");
}

/// How long an answer took.
async fn took(world: &World, cluster: &str, token: &str) -> (Duration, bool) {
    let asked = Instant::now();
    let answer = world.ask(cluster, token).await;
    (asked.elapsed(), answer.is_ok())
}

#[tokio::test(start_paused = true)]
async fn time_does_not_tell_which_clusters_there_are() {
    let world = World::new().await;
    for cluster in ["c1", "slow", "silent", "offline"] {
        world.connect(cluster, &SigningKey::new(cluster)).await;
    }
    world.spoke("slow", |spoke| spoke.delay = Duration::from_millis(300));
    world.spoke("silent", |spoke| spoke.delay = Duration::from_secs(60));
    world.tunnels("offline", 0, false);
    world.settle().await;
    // Where a read is allowed, soon after, and when it is allowed again.
    for pause in [0, 1, 40] {
        world.pass(pause).await;
        for cluster in ["c1", "slow", "silent", "offline", "nowhere", "nowhere2"] {
            let unknown = world.good(&SigningKey::new("unknown"));
            let forged = world.good(&SigningKey::new(cluster));
            for (token, kind) in [(unknown, "unknown"), (forged, "forged")] {
                let (elapsed, accepted) = took(&world, cluster, &token).await;
                let late = elapsed.checked_sub(REFUSED_AFTER).unwrap();
                assert!(!accepted && late < TICK, "{cluster} {kind}: {elapsed:?}");
            }
        }
    }
    // A key that is new and good is not held up.
    world.pass(40).await;
    let new = SigningKey::new("new");
    world.spoke("slow", |spoke| spoke.published.push(new.clone()));
    let (elapsed, accepted) = took(&world, "slow", &world.good(&new)).await;
    assert!(accepted && elapsed < REFUSED_AFTER / 2, "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn strangers_wait_in_places_of_their_own_and_are_refused_alike_without_one() {
    let world = World::with(AuthnConfig { waiting: 1, ..AuthnConfig::default() }).await;
    let (key, new) = (SigningKey::new("one"), SigningKey::new("new"));
    world.connect("c1", &key).await;
    world.spoke("c1", |spoke| spoke.published.push(new.clone()));
    let stranger = world.good(&SigningKey::new("unknown"));
    let others = async {
        tokio::task::yield_now().await;
        for cluster in ["c1", "nowhere"] {
            let junk = world.good(&SigningKey::new("another"));
            assert_eq!(took(&world, cluster, &junk).await, (Duration::ZERO, false), "{cluster}");
        }
        assert_eq!(took(&world, "c1", &world.good(&key)).await, (Duration::ZERO, true));
        // Nobody waited for it, but it was asked for.
        world.settle().await;
        assert_eq!(took(&world, "c1", &world.good(&new)).await, (Duration::ZERO, true));
    };
    let (refused, ()) = tokio::join!(took(&world, "nowhere", &stranger), others);
    assert!(refused.0 >= REFUSED_AFTER && !refused.1);
}

#[tokio::test(start_paused = true)]
async fn strangers_to_one_cluster_leave_places_to_those_of_others() {
    let world = World::with(AuthnConfig { waiting: 5, ..AuthnConfig::default() }).await;
    for cluster in ["silent", "c1"] {
        world.connect(cluster, &SigningKey::new(cluster)).await;
    }
    let new = SigningKey::new("new");
    world.spoke("c1", |spoke| spoke.published.push(new.clone()));
    world.spoke("silent", |spoke| spoke.delay = Duration::from_secs(60));
    // Each of its own, so that no answer is remembered.
    let stranger = |id: usize| {
        let token = world.good(&SigningKey::new(&format!("unknown-{id}")));
        let world = &world;
        async move { took(world, "silent", &token).await }
    };
    let others = async {
        tokio::task::yield_now().await;
        assert_eq!(stranger(4).await, (Duration::ZERO, false), "its share is taken");
        let (elapsed, accepted) = took(&world, "c1", &world.good(&new)).await;
        assert!(accepted && elapsed < REFUSED_AFTER, "{elapsed:?}");
    };
    let (mut waited, ()) = tokio::join!(join_all((0..4).map(stranger)), others);
    waited.push(stranger(5).await);
    for (elapsed, accepted) in waited {
        assert!(elapsed >= REFUSED_AFTER && !accepted, "{elapsed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_removed_meanwhile_leaves_no_series() {
    let world = World::new().await;
    let key = SigningKey::new("one");
    world.connect("c1", &key).await;
    world.connect("c2", &SigningKey::new("two")).await;
    let shown = |cluster: &str| {
        let families = world.registry.gather();
        let mut labels =
            families.iter().flat_map(|family| family.get_metric()).flat_map(|one| one.get_label());
        labels.any(|label| label.value() == cluster)
    };
    world.spoke("c1", |spoke| spoke.delay = Duration::from_millis(500));
    let stranger = world.good(&SigningKey::new("unknown"));
    let removed = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(shown("c1"));
        world.fleet.send_modify(|fleet| {
            fleet.clusters.remove(&name("c1"));
        });
    };
    let (refused, ()) = tokio::join!(world.refusal("c1", &stranger), removed);
    assert_eq!(refused, Refusal::UnknownKey);
    world.settle().await;
    assert!(!shown("c1"), "a read and a decision ended after it");
    assert!(shown("c2"));
}

/// Timers are that exact.
const TICK: Duration = Duration::from_millis(2);
