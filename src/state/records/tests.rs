//! What is remembered between two looks. What every home must do is in the tests of the crate.

use super::*;
use crate::state::FolderStore;

fn state(folder: &tempfile::TempDir) -> State {
    State::new(Arc::new(FolderStore::open(folder.path()).unwrap()))
}

#[tokio::test]
async fn a_change_is_seen_although_reading_is_cached() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, command) = (state(&folder), state(&folder));
    let name = ClusterName::parse("c1").unwrap();
    let enrolment = Enrolment {
        key_sha256: "ab".into(),
        enrolled_at: 1,
        certificate_expires: 2,
        cluster_uid: None,
        hub_itself: false,
        revoked: false,
        replaces: None,
    };
    let write = |_: Option<Enrolment>| Edit::Write(enrolment.clone(), ());
    command.edit(&Document::Enrolment(name.clone()), write).await.unwrap();
    assert_eq!(hub.enrolments().await.unwrap().len(), 1);
    // A folder that has not changed for a while is one that the hub remembers.
    let old = SystemTime::now() - Duration::from_secs(60);
    let enrolments = std::fs::File::open(folder.path().join("enrolments")).unwrap();
    enrolments.set_modified(old).unwrap();
    assert_eq!(hub.enrolments().await.unwrap().len(), 1);
    assert!(hub.recent.lock().unwrap().is_some());
    command.revoke(&name).await.unwrap();
    assert!(hub.enrolments().await.unwrap()[&name].revoked);
}

#[tokio::test]
async fn an_edit_in_place_is_seen_in_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    let document = Document::Enrolment(ClusterName::parse("c1").unwrap());
    store.write(&document, "1".into(), Expected::Absent).await.unwrap();
    let enrolments = std::fs::File::open(folder.path().join("enrolments")).unwrap();
    let mut marks = Vec::new();
    for age in [60, 61, 66] {
        enrolments.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        let mark = store.enrolments_mark().await.unwrap().unwrap();
        // Without the time itself, which is another one each time here.
        marks.push(mark.rsplit('.').next().unwrap().to_owned());
    }
    assert_eq!(marks, ["12", "12", "13"]);
}
