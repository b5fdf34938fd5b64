//! What every home of state must do, whatever keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::join_all;
use serde_json::json;

use cluster_proxy::name::ClusterName;
use cluster_proxy::pki::authorities;
use cluster_proxy::pki::token::{DEFAULT_LIFE, Token};
use cluster_proxy::state::{Document, Expected, Replica, SecretStore, State, StateError, Store};

use super::{PATIENCE, eventually};

/// The suite on Secrets of `namespace`, which exists and is empty.
pub(crate) async fn suite_of_secrets(client: kube::Client, namespace: &str) {
    suite(|| Arc::new(SecretStore::new(client.clone(), namespace))).await;
}

/// The suite on an empty home. `open` opens it as one more process would.
pub(crate) async fn suite(open: impl Fn() -> Arc<dyn Store>) {
    documents_are_written_over_what_was_read(&*open()).await;
    documents_are_bytes(&*open()).await;
    of_two_writers_one_wins(&open).await;
    no_update_is_lost(&open).await;
    a_change_is_seen_by_others(&open).await;
    damage_is_named_and_not_quoted(&State::new(open())).await;
    removal_takes_everything_of_one_cluster(&State::new(open())).await;
    revocation_marks_one_cluster(&State::new(open())).await;
    authorities_are_made_once(&State::new(open())).await;
    the_living_are_listed_with_what_they_say(&open).await;
}

fn name(name: &str) -> ClusterName {
    ClusterName::parse(name).unwrap()
}

fn enrolment(cluster: &str) -> Document {
    Document::Enrolment(name(cluster))
}

/// Enrols a cluster with all that belongs to it.
async fn enrol(state: &State, cluster: &str) {
    let record = json!({"keySha256": "ab", "enrolledAt": 1, "certificateExpires": 2,
        "clusterUid": null});
    let store = state.store();
    store.write(&enrolment(cluster), record.to_string().into(), Expected::Absent).await.unwrap();
    let set = Document::KeySet(name(cluster));
    store.write(&set, "{}".into(), Expected::Absent).await.unwrap();
    let owner = cluster_proxy::state::key_owner(&name(cluster));
    let own = |owners: &mut BTreeMap<String, String>| -> Result<(), ()> {
        owners.insert(format!("thumbprint-{cluster}"), owner.clone());
        owners.insert("thumbprint-hub".into(), "hub".into());
        Ok(())
    };
    state.update(&Document::KeyOwners, own).await.unwrap();
    Token::create(state, name(cluster), DEFAULT_LIFE, false, SystemTime::now()).await.unwrap();
}

async fn remove(state: &State, clusters: &[&str]) {
    for cluster in clusters {
        state.remove(&name(cluster)).await.unwrap();
    }
    for document in [Document::KeyOwners, Document::JoinTokens] {
        state.store().delete(&document).await.unwrap();
    }
}

async fn enrolled(state: &State) -> Vec<ClusterName> {
    state.enrolments().await.unwrap().into_keys().collect()
}

async fn tokens(state: &State) -> Vec<String> {
    let tokens: Option<BTreeMap<String, serde_json::Value>> =
        state.read(&Document::JoinTokens).await.unwrap();
    let tokens = tokens.unwrap_or_default().into_values();
    tokens.map(|token| token["cluster"].as_str().unwrap().to_owned()).collect()
}

async fn documents_are_written_over_what_was_read(store: &dyn Store) {
    let document = enrolment("c1");
    assert!(store.read(&document).await.unwrap().is_none());
    assert!(store.enrolments().await.unwrap().is_empty());
    let first = store.write(&document, "1".into(), Expected::Absent).await.unwrap();
    let second =
        store.write(&document, "2".into(), Expected::Version(first.clone())).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(store.read(&document).await.unwrap().unwrap().version, second);

    let conflict = |written: Result<_, StateError>| matches!(written, Err(StateError::Conflict(_)));
    assert!(conflict(store.write(&document, "3".into(), Expected::Version(first)).await));
    assert!(conflict(store.write(&document, "3".into(), Expected::Absent).await));
    assert_eq!(&store.read(&document).await.unwrap().unwrap().contents[..], b"2");
    let listed = store.enrolments().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].0, &listed[0].1.as_ref().unwrap()[..]), (&name("c1"), &b"2"[..]));

    store.delete(&document).await.unwrap();
    store.delete(&document).await.unwrap();
    assert!(store.enrolments().await.unwrap().is_empty());
    // What was deleted is not brought back by who had read it.
    assert!(conflict(store.write(&document, "3".into(), Expected::Version(second)).await));
    assert!(store.read(&document).await.unwrap().is_none());
}

async fn documents_are_bytes(store: &dyn Store) {
    let large: Vec<u8> = (0..512 << 10).map(|index: u32| (index % 251) as u8).collect();
    for contents in [Vec::new(), vec![0, 255, b'\n'], large] {
        let document = Document::HubKeySet;
        store.write(&document, contents.clone().into(), Expected::Absent).await.unwrap();
        let found = store.read(&document).await.unwrap().unwrap().contents;
        assert!(found == contents, "{} bytes", contents.len());
        store.delete(&document).await.unwrap();
    }
}

async fn of_two_writers_one_wins(open: &impl Fn() -> Arc<dyn Store>) {
    let stores = [(); 8].map(|()| open());
    let writes = stores.iter().enumerate().map(|(number, store)| {
        store.write(&Document::KeyOwners, number.to_string().into(), Expected::Absent)
    });
    let written = join_all(writes).await;
    assert_eq!(written.iter().filter(|result| result.is_ok()).count(), 1);
    stores[0].delete(&Document::KeyOwners).await.unwrap();
}

async fn no_update_is_lost(open: &impl Fn() -> Arc<dyn Store>) {
    let states = [(); 8].map(|()| State::new(open()));
    let add = |counts: &mut BTreeMap<String, u64>| -> Result<(), ()> {
        *counts.entry("n".into()).or_default() += 1;
        Ok(())
    };
    let updates = states.iter().map(|state| state.update(&Document::KeyOwners, add));
    assert!(join_all(updates).await.iter().all(Result::is_ok));
    let counts: BTreeMap<String, u64> =
        states[0].read(&Document::KeyOwners).await.unwrap().unwrap();
    assert_eq!(counts["n"], 8);
    states[0].store().delete(&Document::KeyOwners).await.unwrap();
}

async fn a_change_is_seen_by_others(open: &impl Fn() -> Arc<dyn Store>) {
    let (hub, command) = (State::new(open()), State::new(open()));
    let mark = async || hub.store().enrolments_mark().await.unwrap();
    let mut before = mark().await;
    for cluster in ["c1", "c2"] {
        enrol(&command, cluster).await;
        let now = mark().await;
        assert!(now.is_none() || now != before, "{cluster}");
        before = now;
        assert!(hub.enrolments().await.unwrap().contains_key(&name(cluster)));
    }
    assert!(command.revoke(&name("c1")).await.unwrap());
    assert!(hub.enrolments().await.unwrap()[&name("c1")].revoked);
    command.remove(&name("c1")).await.unwrap();
    assert_eq!(enrolled(&hub).await, [name("c2")]);
    remove(&command, &["c2"]).await;
    assert!(enrolled(&hub).await.is_empty());
}

async fn damage_is_named_and_not_quoted(state: &State) {
    enrol(state, "c1").await;
    let broken = r#"{"keySha256": "private"}"#;
    let damaged = enrolment("c2");
    state.store().write(&damaged, broken.into(), Expected::Absent).await.unwrap();
    // Asked for by name, it is no "not enrolled".
    let error = state.enrolment(&name("c2")).await.unwrap_err();
    assert!(matches!(error, StateError::Damaged { .. }));
    let message = error.to_string();
    assert!(message.contains("enrolments/c2.json") && !message.contains("private"), "{message}");
    // It takes no other with it.
    assert_eq!(enrolled(state).await, [name("c1")]);
    assert!(state.revoke(&name("c1")).await.unwrap());
    assert!(state.enrolments().await.unwrap()[&name("c1")].revoked);
    remove(state, &["c1", "c2"]).await;
}

async fn removal_takes_everything_of_one_cluster(state: &State) {
    enrol(state, "c1").await;
    enrol(state, "c2").await;
    assert!(state.remove(&name("c1")).await.unwrap());
    assert!(!state.remove(&name("c1")).await.unwrap());

    assert_eq!(enrolled(state).await, [name("c2")]);
    let owners: BTreeMap<String, String> = state.read(&Document::KeyOwners).await.unwrap().unwrap();
    assert_eq!(owners.into_keys().collect::<Vec<_>>(), ["thumbprint-c2", "thumbprint-hub"]);
    assert_eq!(tokens(state).await, ["c2"]);
    assert!(state.store().read(&Document::KeySet(name("c1"))).await.unwrap().is_none());
    assert!(state.store().read(&Document::KeySet(name("c2"))).await.unwrap().is_some());
    remove(state, &["c2"]).await;
}

async fn revocation_marks_one_cluster(state: &State) {
    enrol(state, "c1").await;
    enrol(state, "c2").await;
    assert!(state.revoke(&name("c1")).await.unwrap());
    assert!(!state.revoke(&name("c3")).await.unwrap());
    assert!(state.enrolment(&name("c1")).await.unwrap().unwrap().revoked);
    assert!(!state.enrolment(&name("c2")).await.unwrap().unwrap().revoked);
    assert!(state.enrolment(&name("c3")).await.unwrap().is_none());
    assert_eq!(tokens(state).await, ["c2"]);
    remove(state, &["c1", "c2"]).await;
}

async fn authorities_are_made_once(state: &State) {
    let names = ["localhost".to_owned()];
    authorities::init(state, &names).await.unwrap();
    let error = authorities::init(state, &names).await.unwrap_err().to_string();
    assert!(error.contains("serving-ca.crt exists already"), "{error}");
    assert_eq!(authorities::serving_names(state).await.unwrap(), names);
    for document in [Document::ServingCaKey, Document::ServingKey, Document::AgentCaKey] {
        let key = state.store().read(&document).await.unwrap().unwrap().contents;
        assert!(key.starts_with(b"-----BEGIN"), "{document}");
    }
}

async fn the_living_are_listed_with_what_they_say(open: &impl Fn() -> Arc<dyn Store>) {
    let (first, second) = (open(), open());
    let ids = async || {
        let replicas = second.replicas().await.unwrap();
        replicas.into_iter().map(|replica| replica.id).collect::<Vec<_>>()
    };
    assert!(ids().await.is_empty());
    let one = first.register(Replica::new("one".into(), 1)).await.unwrap();
    let two = second.register(Replica::new("two".into(), 2)).await.unwrap();
    assert_eq!(ids().await, ["one", "two"]);
    assert!(first.register(Replica::new("two".into(), 2)).await.is_err(), "one name, one process");

    let connected = [name("c1")].into();
    let said = Replica { settled: true, connected, ..Replica::new("one".into(), 1) };
    one.update(said.clone()).await.unwrap();
    assert_eq!(second.replicas().await.unwrap()[0], said);
    // Who leaves is gone soon, and nobody else is.
    for (left, rest) in [(one, vec!["two"]), (two, vec![])] {
        drop(left);
        eventually("it is off the list", PATIENCE, || async {
            (ids().await == rest).then_some(())
        })
        .await;
    }
}
