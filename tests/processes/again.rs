//! What pods run at every start: making authorities and enrolling, where that is done already.

use std::path::Path;

use crate::support::PATIENCE;
use crate::support::process::{Process, fails, free_port, run};

const INIT: [&str; 6] = ["pki", "init", "--dir", "hub", "--name", "localhost"];
const UNLESS_PRESENT: &str = "--unless-present";
const UNLESS_ENROLLED: &str = "--unless-enrolled";

fn contents(directory: &Path, file: &str) -> Vec<u8> {
    std::fs::read(directory.join(file)).unwrap()
}

#[test]
fn authorities_are_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    let again = [&INIT[..], &[UNLESS_PRESENT]].concat();
    assert!(run(directory, &again).contains("created two authorities"));
    let before = ["hub/serving-ca.key", "hub/agent-ca.key", "hub/serving.key"]
        .map(|file| (file, contents(directory, file)));
    assert!(run(directory, &again).contains("there already"));
    for (file, before) in &before {
        assert_eq!(contents(directory, file), *before, "{file}");
    }
    let said = fails(directory, &INIT);
    assert!(said.contains("exists already"), "{said}");

    // A part of them is no reason to make the rest.
    std::fs::remove_file(directory.join("hub/agent-ca.key")).unwrap();
    let said = fails(directory, &again);
    assert!(said.contains("agent-ca.key does not exist"), "{said}");
    assert!(!directory.join("hub/agent-ca.key").exists());
}

#[tokio::test]
async fn a_cluster_is_enrolled_once() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    run(directory, &INIT);
    let agents = format!("localhost:{}", free_port());
    #[rustfmt::skip]
    let mut hub = Process::start("hub", directory, &[
        "hub", "--dir", "hub", "--listen", "127.0.0.1:0", "--agent-listen",
        &agents.replace("localhost", "127.0.0.1"), "--admin-address", "127.0.0.1:0",
        "--access-log", "off", "--drain-timeout", "2s",
    ]);
    hub.wait_for("listening", PATIENCE).await;
    let printed = run(directory, &["join", "token", "c1", "--dir", "hub", "--hub", &agents]);
    let once: Vec<&str> = printed.split_whitespace().skip(1).collect();
    let again = [&once[..], &[UNLESS_ENROLLED]].concat();
    let place = again.iter().position(|word| *word == "--token").unwrap();
    let without_token = [&again[..place], &again[place + 2..]].concat();

    let said = fails(directory, &without_token);
    assert!(said.contains("--token is needed"), "{said}");
    assert!(run(directory, &again).contains("enrolled c1"));
    let key = contents(directory, "agent/agent.key");
    for words in [&again, &without_token] {
        assert!(run(directory, words).contains("c1 is enrolled already"));
    }
    assert_eq!(contents(directory, "agent/agent.key"), key);
    let said = fails(directory, &once);
    assert!(!said.contains("enrolled already"), "{said}");

    // Nothing is replaced that somebody may still want to mend.
    std::fs::write(directory.join("agent/agent.crt"), "damaged").unwrap();
    let said = fails(directory, &again);
    assert!(said.contains("agent.crt"), "{said}");
    assert_eq!(contents(directory, "agent/agent.key"), key);
    assert!(hub.stop(PATIENCE).await.success());
}
