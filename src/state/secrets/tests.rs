//! What only this home can go wrong with; what every home must do is in the tests of the crate.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::*;
use crate::miniapi::store::{Key, Mode};
use crate::miniapi::testing::{Fault, InMemory, Wire};
use crate::state::State;

const SECOND: Duration = Duration::from_secs(1);

fn store(wire: &Wire) -> SecretStore {
    SecretStore::new(wire.client(), "default")
}

fn replica(id: &str) -> Replica {
    Replica::new(id.to_owned(), 1)
}

async fn living(store: &SecretStore) -> Vec<String> {
    let replicas = store.replicas().await.unwrap();
    replicas.into_iter().map(|replica| replica.id).collect()
}

/// Looks every two seconds, as a hub does, until exactly `ids` live; returns how long that took.
async fn until(store: &SecretStore, ids: &[&str]) -> Duration {
    let start = Instant::now();
    while living(store).await != ids {
        assert!(start.elapsed() < 60 * SECOND, "{:?}", living(store).await);
        sleep(2 * SECOND).await;
    }
    start.elapsed()
}

fn lease(api: &InMemory, id: &str) -> Option<Arc<Value>> {
    let name = format!("cluster-proxy-hub-{id}");
    api.handle.store().get(&Key::new("coordination.k8s.io", "leases", "default", &name))
}

#[tokio::test(start_paused = true)]
async fn a_document_is_a_labelled_secret_and_others_may_add_to_it() {
    let api = InMemory::start().await;
    let store = store(&api.wire());
    let document = Document::Enrolment(ClusterName::parse("c1").unwrap());
    let first = store.write(&document, "1".into(), Expected::Absent).await.unwrap();
    let key = Key::new("", "secrets", "default", "cluster-proxy-enrolment-c1");
    let secret = api.handle.store().get(&key).unwrap();
    assert_eq!(
        (&secret["type"], &secret["data"]),
        (&json!("Opaque"), &json!({"enrolment.json": "MQ=="}))
    );
    let labels = json!({"app.kubernetes.io/managed-by": "cluster-proxy",
        "app.kubernetes.io/component": "enrolment"});
    assert_eq!(secret["metadata"]["labels"], labels);

    let annotated = api.handle.store().modify(&key, Mode::Commit, |secret| {
        let mut secret = secret.clone();
        secret["metadata"]["annotations"]["backup"] = "nightly".into();
        Ok(secret)
    });
    annotated.unwrap();
    let late = store.write(&document, "2".into(), Expected::Version(first)).await;
    assert!(matches!(late, Err(StateError::Conflict(_))));
    let version = store.read(&document).await.unwrap().unwrap().version;
    store.write(&document, "2".into(), Expected::Version(version)).await.unwrap();
    let secret = api.handle.store().get(&key).unwrap();
    assert_eq!(secret["metadata"]["annotations"]["backup"], "nightly");
    assert_eq!(secret["data"]["enrolment.json"], "Mg==");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_does_not_exist_is_named() {
    let api = InMemory::start().await;
    let store = SecretStore::new(api.client(), "nowhere");
    assert!(store.read(&Document::KeyOwners).await.unwrap().is_none());
    let write = || store.write(&Document::KeyOwners, "{}".into(), Expected::Absent);
    let error = write().await.unwrap_err().to_string();
    assert!(error.contains("namespaces \"nowhere\" not found"), "{error}");
    api.namespace("nowhere");
    assert!(write().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_secret_without_its_key_is_damaged_and_takes_no_other_with_it() {
    let api = InMemory::start().await;
    let store = store(&api.wire());
    let [c1, c2] = ["c1", "c2"].map(|name| ClusterName::parse(name).unwrap());
    for cluster in [&c1, &c2] {
        let document = Document::Enrolment(cluster.clone());
        store.write(&document, "{}".into(), Expected::Absent).await.unwrap();
    }
    let key = Key::new("", "secrets", "default", "cluster-proxy-enrolment-c1");
    let broken = api.handle.store().modify(&key, Mode::Commit, |secret| {
        let mut secret = secret.clone();
        secret["data"] = json!({"other": "cHJpdmF0ZQ=="});
        Ok(secret)
    });
    broken.unwrap();
    let error = store.read(&Document::Enrolment(c1.clone())).await.err().unwrap().to_string();
    assert!(error.contains("default/cluster-proxy-enrolment-c1"), "{error}");
    assert!(!error.contains("private"), "{error}");
    let enrolments = store.enrolments().await.unwrap();
    let good: Vec<_> = enrolments.iter().filter(|(_, found)| found.is_ok()).collect();
    assert_eq!((enrolments.len(), good.len()), (2, 1));
    assert_eq!(good[0].0, c2);
}

#[tokio::test(start_paused = true)]
async fn only_what_cannot_be_done_twice_is_not_sent_again() {
    let api = InMemory::start().await;
    let wire = api.wire();
    let store = store(&wire);
    let document = Document::KeyOwners;
    let is_safe = |error: Option<StateError>| match error.unwrap() {
        StateError::Api { retry_is_safe, .. } => retry_is_safe,
        other => panic!("{other}"),
    };
    // Whoever reads may read again, also after silence; the answer of a write may have been lost.
    for fault in [Fault::Refused, Fault::Silent, Fault::AnswerLost] {
        wire.set(fault);
        assert!(is_safe(store.read(&document).await.err()), "{fault:?}");
        assert!(is_safe(store.delete(&document).await.err()), "{fault:?}");
        let written = store.write(&document, "1".into(), Expected::Absent).await;
        assert!(!is_safe(written.err()), "{fault:?}");
        wire.set(Fault::None);
        let there = store.read(&document).await.unwrap().is_some();
        assert_eq!(there, fault == Fault::AnswerLost);
    }

    // A short failure is not even seen.
    wire.set(Fault::Refused);
    let healed = wire.clone();
    tokio::spawn(async move {
        sleep(Duration::from_millis(50)).await;
        healed.set(Fault::None);
    });
    assert!(store.read(&document).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn enrolments_are_read_again_only_after_a_change() {
    let api = InMemory::start().await;
    let (own, other) = (api.wire(), api.wire());
    let hub = State::new(Arc::new(store(&own)));
    let command = store(&other);
    let document = Document::Enrolment(ClusterName::parse("c1").unwrap());
    let enrolment = |at: u64| {
        let record = json!({"keySha256": "", "enrolledAt": at, "certificateExpires": 0,
            "clusterUid": null});
        Bytes::from(record.to_string())
    };
    let version = command.write(&document, enrolment(1), Expected::Absent).await.unwrap();
    let seen = async || {
        let enrolments = hub.enrolments().await.unwrap();
        enrolments.into_values().map(|enrolment| enrolment.enrolled_at).collect::<Vec<_>>()
    };
    assert_eq!(seen().await, [1]);
    let before = own.requests();
    assert_eq!(seen().await, [1]);
    assert_eq!(own.requests() - before, 1, "one list of metadata");
    command.write(&document, enrolment(2), Expected::Version(version)).await.unwrap();
    assert_eq!(seen().await, [2]);
    command.delete(&document).await.unwrap();
    assert!(seen().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dead_hub_is_buried_and_a_living_one_is_not() {
    let api = InMemory::start().await;
    let (dying, surviving) = (api.wire(), api.wire());
    let (first, second) = (store(&dying), store(&surviving));
    let dead = first.register(replica("dead")).await.unwrap();
    let living_one = second.register(replica("living")).await.unwrap();
    for _ in 0..60 {
        assert_eq!(living(&second).await, ["dead", "living"]);
        sleep(2 * SECOND).await;
    }

    // It dies: nothing of it arrives any more.
    dying.set(Fault::Silent);
    let took = until(&second, &["living"]).await;
    assert!((10 * SECOND..=18 * SECOND).contains(&took), "{took:?}");
    assert!(lease(&api, "dead").is_none());
    drop(dead);

    // A Lease that somebody deleted comes back, with what was said last.
    let said = Replica { settled: true, ..replica("living") };
    living_one.update(said.clone()).await.unwrap();
    let key = Key::new("coordination.k8s.io", "leases", "default", "cluster-proxy-hub-living");
    api.handle.store().delete(&key, Mode::Commit, |_| Ok(())).unwrap();
    assert!(living(&second).await.is_empty());
    until(&second, &["living"]).await;
    assert_eq!(second.replicas().await.unwrap(), [said]);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_was_away_kills_nobody() {
    let api = InMemory::start().await;
    let wires = [api.wire(), api.wire()];
    let stores = wires.each_ref().map(store);
    let _one = stores[0].register(replica("one")).await.unwrap();
    let _two = stores[1].register(replica("two")).await.unwrap();
    until(&stores[0], &["one", "two"]).await;
    for wire in &wires {
        wire.set(Fault::Refused);
    }
    for _ in 0..30 {
        assert!(stores[0].replicas().await.is_err());
        sleep(2 * SECOND).await;
    }
    for wire in &wires {
        wire.set(Fault::None);
    }
    for _ in 0..30 {
        assert_eq!(living(&stores[0]).await, ["one", "two"]);
        sleep(2 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_left_long_ago_is_not_listed_at_first_sight() {
    let api = InMemory::start().await;
    let key = |id: &str| {
        let name = format!("cluster-proxy-hub-{id}");
        Key::new("coordination.k8s.io", "leases", "default", &name)
    };
    let write = |id: &str, renewed: Value| {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"labels": labels("hub")}, "spec": {"renewTime": renewed}});
        api.handle.store().create(&key(id), lease, Mode::Commit).unwrap();
    };
    write("old", json!("2001-01-01T00:00:00.000000Z"));
    write("odd", Value::Null);
    // Nobody's: without our labels.
    let stranger = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {}});
    api.handle.store().create(&key("stranger"), stranger, Mode::Commit).unwrap();

    let looking = store(&api.wire());
    assert!(living(&looking).await.is_empty());
    assert!(lease(&api, "old").is_some(), "a look buries nobody");
    // Its clock is wrong, and it lives.
    let mut round = 0;
    let mut renew = || {
        round += 1;
        let renewed = api.handle.store().modify(&key("odd"), Mode::Commit, |lease| {
            let mut lease = lease.clone();
            lease["spec"]["renewTime"] = format!("2001-01-01T00:00:{round:02}.000000Z").into();
            Ok(lease)
        });
        renewed.unwrap();
    };
    for _ in 0..10 {
        sleep(2 * SECOND).await;
        renew();
        assert_eq!(living(&looking).await, ["odd"]);
    }
    assert!(lease(&api, "old").is_none());
    assert!(lease(&api, "stranger").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_never_answered_is_made_good_soon() {
    let api = InMemory::start().await;
    let wire = api.wire();
    let _member = store(&wire).register(replica("a")).await.unwrap();
    let version = || lease(&api, "a").unwrap()["metadata"]["resourceVersion"].clone();
    // Whenever the API server falls silent, for one request.
    for offset in 0..6 {
        sleep(offset * SECOND).await;
        let (sent, before, start) = (wire.requests(), version(), Instant::now());
        wire.set(Fault::Silent);
        while wire.requests() == sent {
            sleep(SECOND / 100).await;
        }
        wire.set(Fault::None);
        while version() == before {
            sleep(SECOND / 100).await;
        }
        assert!(start.elapsed() < 7 * SECOND, "{offset}: {:?}", start.elapsed());
    }
    assert_eq!(living(&store(&api.wire())).await, ["a"]);
}
