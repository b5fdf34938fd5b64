use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use serde_json::json;

use self::world::{SigningKey, World, claims, name};
use super::*;
use crate::tunnel::headers::Mode;

mod of_hub;
mod opaque;
mod reads;
mod world;

const CONFLICTS: &str = "cluster_proxy_key_conflicts_total";

fn unavailable(answer: &Result<Arc<Identity>, AuthnError>) -> bool {
    matches!(answer, Err(AuthnError::Unavailable(_)))
}

#[tokio::test(start_paused = true)]
async fn a_token_is_good_on_its_own_cluster_only() {
    let world = World::new().await;
    let (one, two) = (SigningKey::new("one"), SigningKey::new("two"));
    world.connect("c1", &one).await;
    world.connect("c2", &two).await;
    let token = world.good(&one);
    let identity = world.ask("c1", &token).await.unwrap();
    assert_eq!(identity.user, "system:serviceaccount:apps:reader");
    assert_eq!(identity.mode(), Mode::Caller);
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(world.now() + 3600 + 61);
    assert_eq!(identity.expires, Some(end));
    // Twice: the second answer may come from a cache.
    for _ in 0..2 {
        assert_eq!(world.refusal("c2", &token).await, Refusal::UnknownKey);
        assert_eq!(world.refusal("nowhere", &token).await, Refusal::UnknownKey);
        assert!(world.ask("c1", &token).await.is_ok());
    }
    assert!(world.ask("c2", &world.good(&two)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_token_finds_its_own_cluster() {
    let world = World::new().await;
    let (k1, k2) = (SigningKey::new("k1"), SigningKey::new("k2"));
    world.connect("c1", &k1).await;
    world.connect("c2", &k2).await;
    let home = async |token: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        let answer = world.authenticator.authenticate_at_home(&mut headers).await;
        answer.map(|(cluster, _)| cluster.to_string())
    };
    assert_eq!(home(&world.good(&k1)).await.unwrap(), "c1");
    assert_eq!(home(&world.good(&k2)).await.unwrap(), "c2");
    // The same name, another key; and a key that nobody has.
    let forged = SigningKey::new("k1");
    for key in [forged, SigningKey::new("k3")] {
        let refused = home(&world.good(&key)).await;
        assert!(matches!(refused, Err(AuthnError::Unauthorized(_))), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn bad_tokens_differ_from_a_good_one_in_one_thing() {
    let world = World::new().await;
    let key = SigningKey::new("one");
    world.connect("c1", &key).await;
    let good = world.good(&key);
    assert!(world.ask("c1", &good).await.is_ok());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (_, payload) = message.split_once('.').unwrap();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);

    let none = format!("{}.{payload}.", encode(br#"{"alg":"none","kid":"one"}"#));
    assert_eq!(world.refusal("c1", &none).await, Refusal::Algorithm);
    let header = jsonwebtoken::Header {
        kid: Some("one".to_owned()),
        ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256)
    };
    let secret = jsonwebtoken::EncodingKey::from_secret(key.jwk.to_string().as_bytes());
    let confused = jsonwebtoken::encode(&header, &claims(world.now()), &secret).unwrap();
    assert_eq!(world.refusal("c1", &confused).await, Refusal::Algorithm);
    let other = format!("{}.{payload}.{signature}", encode(br#"{"alg":"RS256","kid":"one"}"#));
    assert_eq!(world.refusal("c1", &other).await, Refusal::Signature);

    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let half = |bytes: &[u8]| [&[2, 33, 0][..], bytes].concat();
    let der = [&[48, 70][..], &half(&raw[..32]), &half(&raw[32..])].concat();
    let zero_s = [&raw[..32], &[0; 32]].concat();
    for forged in [vec![0; 64], zero_s, der, raw[..63].to_vec()] {
        let token = format!("{message}.{}", encode(&forged));
        assert_eq!(world.refusal("c1", &token).await, Refusal::Signature);
    }
    for name in ["one", "hub"] {
        let thief = SigningKey::new(name);
        assert_eq!(world.refusal("c1", &world.good(&thief)).await, Refusal::Signature);
    }
    let stranger = SigningKey::new("stranger");
    assert_eq!(world.refusal("c1", &world.good(&stranger)).await, Refusal::UnknownKey);
    assert_eq!(world.refusal("c1", "garbage").await, Refusal::Opaque);

    let late = json!({ "exp": world.now() - 61 });
    for (claim, value, refusal) in [
        ("exp", late["exp"].clone(), Refusal::Expired),
        ("exp", json!(null), Refusal::Claims),
        ("iss", json!("https://c2"), Refusal::Issuer),
        ("aud", json!(["other"]), Refusal::Audience),
        ("sub", json!("system:admin"), Refusal::Subject),
    ] {
        let mut changed = claims(world.now());
        changed[claim] = value;
        assert_eq!(world.refusal("c1", &key.sign(&changed)).await, refusal, "{claim}");
    }
    let refused = world.authenticator.authenticate(&name("c1"), &mut HeaderMap::new()).await;
    assert_eq!(refused, Err(Refusal::Missing.into()));
}

#[tokio::test(start_paused = true)]
async fn a_removed_cluster_does_not_take_its_keys_back() {
    let world = World::new().await;
    let (one, two) = (SigningKey::new("one"), SigningKey::new("two"));
    world.connect("c1", &one).await;
    world.connect("c2", &two).await;
    // Removed by a command; the fleet does not know yet, and the agent still publishes.
    world.state.remove(&name("c1")).await.unwrap();
    world.pass(120).await;
    let owners: serde_json::Value =
        world.state.read(&crate::state::Document::KeyOwners).await.unwrap().unwrap();
    let owned = |of: &str| owners.as_object().unwrap().values().any(|owner| owner == of);
    assert!(!owned("cluster/c1"), "{owners}");
    assert!(owned("cluster/c2"), "{owners}");
}

#[tokio::test(start_paused = true)]
async fn what_is_said_by_name_is_said_to_genuine_tokens_only() {
    let managed =
        AuthnConfig { managed_only: Some("managed".to_owned()), ..AuthnConfig::default() };
    let world = World::with(managed).await;
    let (key, thief) = (SigningKey::new("one"), SigningKey::new("one"));
    world.connect("c1", &key).await;
    let explained = world.ask("c1", &world.good(&key)).await;
    assert_eq!(explained, Err(AuthnError::Explained(Explanation::NotManaged)));
    assert_eq!(world.refusal("c1", &world.good(&thief)).await, Refusal::Signature);
    let legacy = json!({ "iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:a:b" });
    let explained = world.ask("c1", &key.sign(&legacy)).await;
    assert_eq!(explained, Err(AuthnError::Explained(Explanation::LegacyToken)));
    assert_eq!(world.refusal("c1", &thief.sign(&legacy)).await, Refusal::Signature);
}

#[tokio::test(start_paused = true)]
async fn a_published_key_of_somebody_else_changes_nothing() {
    let world = World::new().await;
    let (one, two) = (SigningKey::new("one"), SigningKey::new("two"));
    let hub = world.hub.keys.lock().unwrap()[0].clone();
    world.connect("c1", &one).await;
    world.connect("c2", &two).await;
    world.spoke("c1", |spoke| spoke.published.extend([hub.clone(), two.clone()]));
    world.pass(70).await;
    assert!(world.metric(CONFLICTS, "c1") >= 2.0);
    assert_eq!(world.metric(CONFLICTS, "c2"), 0.0);
    assert_eq!(world.refusal("c1", &world.good(&hub)).await, Refusal::HubRefused);
    assert_eq!(world.refusal("c1", &world.good(&two)).await, Refusal::UnknownKey);
    assert!(world.ask("c1", &world.good(&one)).await.is_ok());
    assert!(world.ask("c2", &world.good(&two)).await.is_ok());
    // It was asked to prove c2's key and signed with its own; the hub's key cannot be proven.
    assert_eq!(world.spokes.proofs.load(Ordering::Relaxed), 1);
    world.pass(300).await;
    assert_eq!(world.spokes.proofs.load(Ordering::Relaxed), 1);
    world.pass(400).await;
    assert_eq!(world.spokes.proofs.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_proof_moves_a_key_to_the_cluster_that_signs_with_it() {
    let world = World::new().await;
    let (one, two) = (SigningKey::new("one"), SigningKey::new("two"));
    world.connect("c1", &one).await;
    world.spoke("c1", |spoke| spoke.published.push(two.clone()));
    world.pass(70).await;
    let token = world.good(&two);
    assert!(world.ask("c1", &token).await.is_ok(), "first come, and nobody else claims it");
    world.connect("c2", &two).await;
    world.pass(10).await;
    assert!(world.ask("c2", &token).await.is_ok());
    assert_eq!(world.refusal("c1", &token).await, Refusal::UnknownKey);
    assert!(world.metric(CONFLICTS, "c2") >= 1.0);
}

#[tokio::test(start_paused = true)]
async fn removing_a_cluster_frees_its_keys_and_ends_its_tokens() {
    let world = World::new().await;
    let key = SigningKey::new("one");
    world.connect("c1", &key).await;
    assert!(world.ask("c1", &world.good(&key)).await.is_ok());
    assert!(world.state.remove(&name("c1")).await.unwrap());
    world.fleet.send_modify(|fleet| fleet.clusters.clear());
    world.settle().await;
    assert_eq!(world.refusal("c1", &world.good(&key)).await, Refusal::UnknownKey);
    world.pass(10).await;
    world.connect("c2", &key).await;
    assert!(world.ask("c2", &world.good(&key)).await.is_ok());
    assert_eq!(world.metric(CONFLICTS, "c2"), 0.0);
}

/// As one that Open Cluster Management accepts again.
#[tokio::test(start_paused = true)]
async fn a_cluster_that_comes_back_is_known_before_its_agent_is_there() {
    let world = World::new().await;
    let key = SigningKey::new("one");
    world.connect("c1", &key).await;
    let gone = async || {
        world.fleet.send_modify(|fleet| fleet.clusters.clear());
        world.settle().await;
        assert_eq!(world.refusal("c1", &world.good(&key)).await, Refusal::UnknownKey);
    };
    gone().await;
    world.tunnels("c1", 0, false);
    world.settle().await;
    assert!(world.ask("c1", &world.good(&key)).await.is_ok());
    // One that was removed meanwhile is another cluster.
    gone().await;
    assert!(world.state.remove(&name("c1")).await.unwrap());
    world.tunnels("c1", 0, false);
    world.settle().await;
    assert_eq!(world.refusal("c1", &world.good(&key)).await, Refusal::UnknownKey);
}

#[tokio::test(start_paused = true)]
async fn the_hubs_keys_are_its_own_whoever_came_first() {
    let world = World::new().await;
    let (one, rotated) = (SigningKey::new("one"), SigningKey::new("rotated"));
    world.connect("c1", &one).await;
    // Both publish a new key of the hub; the spoke is read first.
    world.hub.keys.lock().unwrap().push(rotated.clone());
    world.spoke("c1", |spoke| spoke.published.push(rotated.clone()));
    assert_eq!(world.refusal("c1", &world.good(&rotated)).await, Refusal::HubRefused);
    // The hub's own cluster shares them.
    world.connect("local", &rotated).await;
    assert_eq!(world.refusal("local", &world.good(&rotated)).await, Refusal::HubRefused);
    world.tunnels("local", 2, true);
    world.settle().await;
    let told = world.metric(CONFLICTS, "local");
    assert!(told >= 1.0);
    world.pass(70).await;
    assert_eq!(world.metric(CONFLICTS, "local"), told, "its own from now on");
    assert!(world.ask("local", &world.good(&rotated)).await.is_ok());
    assert_eq!(world.refusal("c1", &world.good(&rotated)).await, Refusal::HubRefused);
}

#[tokio::test(start_paused = true)]
async fn while_the_hubs_keys_are_unknown_new_keys_wait() {
    let world = World::new().await;
    let (one, two) = (SigningKey::new("one"), SigningKey::new("two"));
    world.connect("c1", &one).await;
    let keys = std::mem::take(&mut *world.hub.keys.lock().unwrap());
    world.pass(70).await;
    // A key that the kept owners know goes on; a new one, and junk, get 503 on every path.
    assert!(world.ask("c1", &world.good(&one)).await.is_ok());
    world.connect("c2", &two).await;
    for cluster in ["c1", "c2", "nowhere"] {
        assert!(unavailable(&world.ask(cluster, &world.good(&two)).await), "{cluster}");
    }
    assert_eq!(world.refusal("c1", "garbage").await, Refusal::Opaque);
    *world.hub.keys.lock().unwrap() = keys;
    world.pass(70).await;
    assert!(world.ask("c2", &world.good(&two)).await.is_ok());
    assert_eq!(world.refusal("c1", &world.good(&two)).await, Refusal::UnknownKey);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_hub_knows_the_keys_of_an_offline_cluster() {
    let world = World::new().await;
    let (one, two) = (SigningKey::new("one"), SigningKey::new("two"));
    world.connect("c1", &one).await;
    let world = world.restart().await;
    world.tunnels("c1", 0, false);
    world.settle().await;
    assert!(world.ask("c1", &world.good(&one)).await.is_ok());
    assert_eq!(world.refusal("c1", &world.good(&two)).await, Refusal::UnknownKey);
    assert_eq!(world.spokes.reads.load(Ordering::Relaxed), 0);
    // Kept, and not for ever.
    world.set_clock(world.now() + 31 * 24 * 3600);
    world.pass(70).await;
    assert_eq!(world.refusal("c1", &world.good(&one)).await, Refusal::UnknownKey);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_unknown_keys_cause_one_read_per_interval() {
    let world = World::new().await;
    let (one, two) = (SigningKey::new("one"), SigningKey::new("two"));
    world.connect("c1", &one).await;
    world.connect("c2", &two).await;
    let reads = || world.spokes.reads.load(Ordering::Relaxed);
    let before = reads();
    let now = world.now();
    let junk = |number: usize| {
        let header = json!({ "alg": "ES256", "kid": format!("../../etc/passwd{number}") });
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.{}", encode(&header), encode(&claims(now)), URL_SAFE_NO_PAD.encode([1; 64]))
    };
    let junks: Vec<_> = (0..10_000).map(junk).collect();
    let refusals = join_all(junks.iter().map(|junk| world.refusal("c1", junk))).await;
    assert!(refusals.iter().all(|refusal| *refusal == Refusal::UnknownKey));
    assert_eq!(reads(), before + 1);
    assert!(world.ask("c1", &world.good(&one)).await.is_ok());
    world.pass(31).await;
    let before = reads();
    assert_eq!(world.refusal("c1", &junk(10_000)).await, Refusal::UnknownKey);
    assert!(reads() <= before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_key_works_at_its_first_use_and_a_thousand_share_the_read() {
    let world = World::new().await;
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    world.connect("c1", &old).await;
    assert!(world.ask("c1", &world.good(&old)).await.is_ok());
    let reads = || world.spokes.reads.load(Ordering::Relaxed);
    let before = reads();
    world.spoke("c1", |spoke| {
        spoke.published = vec![new.clone()];
        spoke.delay = Duration::from_millis(800);
    });
    let token = world.good(&new);
    let answers = join_all((0..1_000).map(|_| world.ask("c1", &token))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(reads(), before + 1);
    // The key that was withdrawn stopped at once, cached answers included.
    assert_eq!(world.refusal("c1", &world.good(&old)).await, Refusal::UnknownKey);
}

#[tokio::test(start_paused = true)]
async fn a_key_set_that_cannot_be_read_leaves_the_last_good_one() {
    let world = World::new().await;
    let (one, two) = (SigningKey::new("one"), SigningKey::new("two"));
    world.connect("c1", &one).await;
    type Change = fn(&mut world::Spoke);
    let broken: [Change; 3] = [
        |spoke| spoke.status = StatusCode::INTERNAL_SERVER_ERROR,
        |spoke| spoke.status = StatusCode::FOUND,
        |spoke| spoke.delay = Duration::from_secs(60),
    ];
    for change in broken {
        world.spoke("c1", change);
        world.pass(80).await;
        assert!(world.ask("c1", &world.good(&one)).await.is_ok());
        assert_eq!(world.refusal("c1", &world.good(&two)).await, Refusal::UnknownKey);
        assert!(world.metric("cluster_proxy_key_set_refreshes_total", "failed") >= 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cached_answer_ends_with_the_token_and_not_with_the_clock() {
    let world = World::new().await;
    let key = SigningKey::new("one");
    world.connect("c1", &key).await;
    let mut short = claims(world.now());
    short["exp"] = json!(world.now() + 5);
    let token = key.sign(&short);
    let hits = || world.metric("cluster_proxy_authentication_cache_hits_total", "accepted");
    assert!(world.ask("c1", &token).await.is_ok());
    assert!(world.ask("c1", &token).await.is_ok());
    assert_eq!(hits(), 1.0);
    world.pass(11).await;
    world.set_clock(world.now() - 3600);
    assert_eq!(world.refusal("c1", &token).await, Refusal::NotYetValid, "decided anew");
    assert_eq!(hits(), 1.0);
    world.pass(3600 + 56).await;
    assert_eq!(world.refusal("c1", &token).await, Refusal::Expired);
}
