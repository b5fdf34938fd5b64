use super::*;
use crate::state::FolderStore;

fn name(name: &str) -> ClusterName {
    ClusterName::parse(name).unwrap()
}

fn state(folder: &tempfile::TempDir) -> State {
    State::new(Arc::new(FolderStore::open(folder.path()).unwrap()))
}

fn enrolment() -> Enrolment {
    Enrolment {
        key_sha256: "ab".into(),
        enrolled_at: 1,
        certificate_expires: 2,
        cluster_uid: None,
        hub_itself: false,
        revoked: false,
    }
}

async fn enrol(state: &State, cluster: &str) {
    let document = Document::Enrolment(name(cluster));
    let write = |_: Option<Enrolment>| Edit::Write(enrolment(), ());
    state.edit(&document, write).await.unwrap();
    let own = |owners: &mut BTreeMap<String, String>| -> Result<(), ()> {
        owners.insert(format!("thumbprint-{cluster}"), key_owner(&name(cluster)));
        owners.insert("thumbprint-hub".into(), "hub".into());
        Ok(())
    };
    state.update(&Document::KeyOwners, own).await.unwrap();
    let token = JoinToken {
        cluster: name(cluster),
        secret_sha256: String::new(),
        expires: u64::MAX,
        hub_itself: false,
    };
    let add = |tokens: &mut BTreeMap<String, JoinToken>| -> Result<(), ()> {
        tokens.insert(format!("id-{cluster}"), token.clone());
        Ok(())
    };
    state.update(&Document::JoinTokens, add).await.unwrap();
}

#[tokio::test]
async fn removal_takes_everything_of_one_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let state = state(&folder);
    enrol(&state, "c1").await;
    enrol(&state, "c2").await;
    for cluster in ["c1", "c2"] {
        let set = Document::KeySet(name(cluster));
        state.store().write(&set, "{}".into(), Expected::Absent).await.unwrap();
    }
    assert!(state.remove(&name("c1")).await.unwrap());
    assert!(!state.remove(&name("c1")).await.unwrap());

    assert_eq!(state.enrolments().await.unwrap().into_keys().collect::<Vec<_>>(), [name("c2")]);
    let owners: BTreeMap<String, String> = state.read(&Document::KeyOwners).await.unwrap().unwrap();
    assert_eq!(owners.into_keys().collect::<Vec<_>>(), ["thumbprint-c2", "thumbprint-hub"]);
    let tokens: BTreeMap<String, JoinToken> =
        state.read(&Document::JoinTokens).await.unwrap().unwrap();
    assert_eq!(tokens.into_keys().collect::<Vec<_>>(), ["id-c2"]);
    assert!(state.store().read(&Document::KeySet(name("c1"))).await.unwrap().is_none());
    assert!(state.store().read(&Document::KeySet(name("c2"))).await.unwrap().is_some());
}

#[tokio::test]
async fn revocation_marks_one_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let state = state(&folder);
    enrol(&state, "c1").await;
    enrol(&state, "c2").await;
    assert!(state.revoke(&name("c1")).await.unwrap());
    assert!(!state.revoke(&name("c3")).await.unwrap());
    assert!(state.enrolment(&name("c1")).await.unwrap().unwrap().revoked);
    assert!(!state.enrolment(&name("c2")).await.unwrap().unwrap().revoked);
    assert!(state.enrolment(&name("c3")).await.unwrap().is_none());
}

#[tokio::test]
async fn a_change_is_seen_although_reading_is_cached() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, command) = (state(&folder), state(&folder));
    enrol(&command, "c1").await;
    assert_eq!(hub.enrolments().await.unwrap().len(), 1);
    // A folder that has not changed for a while is one that the hub remembers.
    let old = SystemTime::now() - Duration::from_secs(60);
    let enrolments = std::fs::File::open(folder.path().join("enrolments")).unwrap();
    enrolments.set_modified(old).unwrap();
    assert_eq!(hub.enrolments().await.unwrap().len(), 1);
    assert!(hub.recent.lock().unwrap().is_some());
    command.revoke(&name("c1")).await.unwrap();
    assert!(hub.enrolments().await.unwrap()[&name("c1")].revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let writers = (0..8).map(|_| {
        let state = state(&folder);
        tokio::spawn(async move {
            let add = |counts: &mut BTreeMap<String, u64>| -> Result<(), ()> {
                *counts.entry("n".into()).or_default() += 1;
                Ok(())
            };
            state.update(&Document::KeyOwners, add).await.unwrap();
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let counts: BTreeMap<String, u64> =
        state(&folder).read(&Document::KeyOwners).await.unwrap().unwrap();
    assert_eq!(counts["n"], 8);
}

#[tokio::test]
async fn damage_is_named_and_not_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let state = state(&folder);
    let document = Document::Enrolment(name("c1"));
    let broken = r#"{"keySha256": "private"}"#;
    state.store().write(&document, broken.into(), Expected::Absent).await.unwrap();
    let message = state.enrolment(&name("c1")).await.unwrap_err().to_string();
    assert!(message.contains("enrolments/c1.json"), "{message}");
    assert!(!message.contains("private"), "{message}");
}

#[tokio::test]
async fn one_damaged_enrolment_takes_no_other_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = state(&folder);
    enrol(&state, "c1").await;
    enrol(&state, "c2").await;
    std::fs::write(folder.path().join("enrolments/c1.json"), "{").unwrap();

    assert_eq!(state.enrolments().await.unwrap().into_keys().collect::<Vec<_>>(), [name("c2")]);
    // Asked for by name, it is no "not enrolled".
    assert!(matches!(state.enrolment(&name("c1")).await, Err(StateError::Damaged { .. })));
    assert!(state.revoke(&name("c2")).await.unwrap());
    assert!(state.enrolments().await.unwrap()[&name("c2")].revoked);
}
