//! Killed and restarted processes, as callers see them.

use std::process::Stdio;
use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::time::Instant;

use crate::support::api::access::kubeconfig;
use crate::support::client::empty;
use crate::support::process::{Kubectl, signal, text};
use crate::support::processes::Pair;
use crate::support::{PATIENCE, eventually, within};

const WATCH: &str = "/c1/api/v1/configmaps?watch=true";

#[tokio::test]
async fn a_killed_agent_ends_its_streams_within_a_second_and_returns_within_five() {
    let mut pair = Pair::start().await;
    let client = pair.client();
    let mut watch = client.open(client.request("GET", WATCH, empty())).await.unwrap().into_body();
    assert!(watch.frame().await.unwrap().is_ok());
    pair.agent.kill();
    let end = within("the watch ends", Duration::from_secs(1), watch.frame()).await;
    assert!(end.is_none_or(|frame| frame.is_err()));
    pair.start_agent();
    pair.wait_serves(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_frozen_agent_is_found_within_15_seconds() {
    let mut pair = Pair::start().await;
    let client = pair.client();
    let mut watch = client.open(client.request("GET", WATCH, empty())).await.unwrap().into_body();
    assert!(watch.frame().await.unwrap().is_ok());
    signal(pair.agent.id(), "STOP");
    let start = Instant::now();
    let end = within("the watch ends", Duration::from_secs(15), watch.frame()).await;
    assert!(end.is_none_or(|frame| frame.is_err()));
    assert!(start.elapsed() > Duration::from_secs(1), "a hiccup is not an outage");
    let answer = within("the answer", Duration::from_secs(1), client.get("/c1/version")).await;
    answer.assert_status(503, "ServiceUnavailable");
    signal(pair.agent.id(), "CONT");
    pair.wait_serves(PATIENCE).await;
    pair.agent.stop(PATIENCE).await;
}

#[tokio::test]
async fn kubectl_prints_our_message() {
    let mut pair = Pair::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    let server = format!("https://{}/c1", pair.user);
    std::fs::write(&file, kubeconfig(&server, &pair.ca_pem, &pair.api.token("test"))).unwrap();
    let Some(kubectl) = Kubectl::new("kubectl_prints_our_message", &file) else { return };
    assert!(kubectl.run(&["get", "--raw", "/version"]).contains("fake"));

    assert!(pair.agent.stop(PATIENCE).await.success());
    // Past the moments in which a client is asked to come again.
    let client = pair.client();
    eventually("no Retry-After", Duration::from_secs(40), || async {
        let answer = client.get("/c1/version").await;
        (!answer.headers.contains_key("retry-after")).then_some(())
    })
    .await;
    let start = Instant::now();
    let output = kubectl.output(&["get", "--raw", "/version"]);
    let said = text(&output);
    assert!(!output.status.success() && start.elapsed() < Duration::from_secs(5), "{said}");
    assert!(said.contains("c1") && said.contains("agent"), "it names the hop: {said}");
}

#[tokio::test]
async fn a_watch_ends_with_its_hub_and_a_new_one_opens() {
    let mut pair = Pair::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    let server = format!("https://{}/c1", pair.user);
    std::fs::write(&file, kubeconfig(&server, &pair.ca_pem, &pair.api.token("test"))).unwrap();
    let Some(kubectl) = Kubectl::new("a_watch_ends_with_its_hub_and_a_new_one_opens", &file) else {
        return;
    };
    for round in 0..2 {
        let mut watch = kubectl.command(&["get", "--raw", "/api/v1/configmaps?watch=true"]);
        let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(watch.try_wait().unwrap().is_none(), "the watch is open");
        if round == 0 {
            assert!(pair.hub.stop(PATIENCE).await.success());
        } else {
            pair.hub.kill();
        }
        eventually("the watch ends", PATIENCE, || {
            let ended = watch.try_wait().unwrap();
            async move { ended }
        })
        .await;
        pair.start_hub();
        pair.wait_serves(Duration::from_secs(10)).await;
    }
}
