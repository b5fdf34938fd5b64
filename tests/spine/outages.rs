//! Parts that die, come back, or are told to go.

use std::time::{Duration, SystemTime};

use http_body_util::BodyExt as _;
use tokio::time::Instant;

use cluster_proxy::name::ClusterName;
use cluster_proxy::pki::authorities::{self, Role};

use crate::support::client::empty;
use crate::support::fleet::Fleet;
use crate::support::{PATIENCE, eventually, within};

const WATCH: &str = "/c1/api/v1/configmaps?watch=true";

#[tokio::test]
async fn no_tunnel_is_503_at_once() {
    let mut fleet = Fleet::start(&["c1", "c2"]).await;
    fleet.spoke_mut("c1").stop_agent().await;
    fleet.hub.wait_tunnels("c1", 0, PATIENCE).await;

    let client = fleet.client("c1");
    let start = Instant::now();
    let answer = client.get("/c1/api/v1/pods").await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let message = answer.assert_status(503, "ServiceUnavailable");
    assert!(message.contains("c1"), "it says which cluster: {message}");
    // The other cluster is not concerned, nor is who may know about the outage.
    assert_eq!(fleet.client("c2").get("/c2/api/v1/pods").await.status, 200);
    assert_eq!(fleet.anonymous().get("/c1/api/v1/pods").await.status, 401);

    // A cluster that stays away fails fast: clients sleep and repeat on Retry-After, so it is for
    // a tunnel lost a moment ago and for a hub that has just started.
    eventually("no Retry-After", Duration::from_secs(40), || async {
        let answer = client.get("/c1/api/v1/pods").await;
        answer.assert_status(503, "ServiceUnavailable");
        (!answer.headers.contains_key("retry-after")).then_some(())
    })
    .await;

    let hub = fleet.hub.addresses.agents;
    fleet.spoke_mut("c1").start_agent(hub);
    fleet.wait_serves("c1", PATIENCE).await;
}

#[tokio::test]
async fn a_killed_agent_ends_its_requests_and_comes_back() {
    let mut fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let mut open = client.open(client.request("GET", WATCH, empty())).await.unwrap().into_body();
    assert!(open.frame().await.unwrap().is_ok());
    let waiting = tokio::spawn({
        let client = client.clone();
        let path = "/c1/api/v1/namespaces/default/services/x/proxy/slow?ms=60000";
        async move { client.get(path).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;

    let hub = fleet.hub.addresses.agents;
    let spoke = fleet.spoke_mut("c1");
    spoke.kill_agent();
    let end = within("the watch ends", Duration::from_secs(1), open.frame()).await;
    assert!(end.is_none_or(|frame| frame.is_err()));
    let answer = within("the request ends", Duration::from_secs(1), waiting).await.unwrap();
    assert!(matches!(answer.status.as_u16(), 502 | 503), "{}", answer.text());
    assert!(!answer.headers.contains_key("retry-after"), "it was written: {}", answer.text());

    fleet.spoke_mut("c1").start_agent(hub);
    fleet.wait_serves("c1", Duration::from_secs(5)).await;
}

#[tokio::test]
async fn agents_return_to_a_hub_that_restarts() {
    let mut fleet = Fleet::start(&["c1", "c2"]).await;
    for _ in 0..2 {
        let client = fleet.client("c1");
        let mut watch =
            client.open(client.request("GET", WATCH, empty())).await.unwrap().into_body();
        assert!(watch.frame().await.unwrap().is_ok());
        fleet.hub.stop().await;
        within("the watch ends", PATIENCE, async {
            while let Some(Ok(_)) = watch.frame().await {}
        })
        .await;
        fleet.hub.start().await;
        // Kept key sets: a token that was good before is good at once.
        fleet.wait_serves("c1", PATIENCE).await;
        fleet.wait_serves("c2", PATIENCE).await;
    }
}

#[tokio::test]
async fn a_restarted_hub_knows_an_offline_spokes_tokens() {
    let mut fleet = Fleet::start(&["c1"]).await;
    assert_eq!(fleet.client("c1").get("/c1/version").await.status, 200);
    let good = fleet.client("c1");
    let bad = fleet.anonymous().token("garbage");
    fleet.spoke_mut("c1").stop_agent().await;
    fleet.hub.stop().await;
    fleet.hub.start().await;
    let down = good.get("/c1/version").await;
    down.assert_status(503, "ServiceUnavailable");
    bad.get("/c1/version").await.assert_status(401, "Unauthorized");
}

#[tokio::test]
async fn an_api_server_that_is_down_is_502() {
    let mut fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    assert_eq!(client.get("/c1/version").await.status, 200);
    fleet.spoke_mut("c1").api.kill();
    let answer = within("the answer", Duration::from_secs(6), client.get("/c1/version")).await;
    let message = answer.assert_status(502, "BadGateway");
    assert!(message.contains("API server"), "it says which hop: {message}");
    eventually("the probe says so", PATIENCE, || async {
        (fleet.hub.cluster("c1").await["probe"]["healthy"] == false).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_revoked_cluster_is_gone_within_ten_seconds() {
    let mut fleet = Fleet::start(&["c1", "c2"]).await;
    let client = fleet.client("c1");
    let mut watch = client.open(client.request("GET", WATCH, empty())).await.unwrap().into_body();
    assert!(watch.frame().await.unwrap().is_ok());
    let name = ClusterName::parse("c1").unwrap();
    assert!(fleet.hub.state.revoke(&name).await.unwrap());

    within("its streams end", Duration::from_secs(10), async {
        while let Some(Ok(_)) = watch.frame().await {}
    })
    .await;
    fleet.hub.wait_tunnels("c1", 0, Duration::from_secs(10)).await;
    // The agent keeps trying with its certificate and stays out; the other cluster is untouched.
    tokio::time::sleep(Duration::from_secs(2)).await;
    fleet.hub.wait_tunnels("c1", 0, Duration::from_secs(1)).await;
    assert_eq!(fleet.client("c2").get("/c2/version").await.status, 200);

    // A new join token brings the name back.
    let directory = fleet.spoke("c1").directory.clone();
    let hub = fleet.hub.addresses.agents;
    let kubeconfig = std::fs::read(directory.join("kubeconfig")).unwrap();
    fleet.spoke_mut("c1").stop_agent().await;
    std::fs::remove_dir_all(&directory).unwrap();
    fleet.hub.enrol("c1", &directory).await;
    std::fs::write(directory.join("kubeconfig"), kubeconfig).unwrap();
    fleet.spoke_mut("c1").start_agent(hub);
    fleet.wait_serves("c1", PATIENCE).await;
}

#[tokio::test]
async fn a_removed_cluster_is_unknown() {
    let fleet = Fleet::start(&["c1", "c2"]).await;
    let name = ClusterName::parse("c1").unwrap();
    let client = fleet.client("c1");
    assert_eq!(client.get("/c1/version").await.status, 200);
    assert!(fleet.hub.state.remove(&name).await.unwrap());
    eventually("its tokens are worthless", Duration::from_secs(10), || async {
        (client.get("/c1/version").await.status == 401).then_some(())
    })
    .await;
    assert_eq!(fleet.client("c2").get("/c2/version").await.status, 200);
}

#[tokio::test]
async fn an_agent_that_slept_past_its_certificate_comes_back() {
    let mut fleet = Fleet::start(&["c1"]).await;
    fleet.spoke_mut("c1").stop_agent().await;
    fleet.hub.wait_tunnels("c1", 0, PATIENCE).await;

    // The same key with a certificate of last week, as the hub would have signed it then.
    let directory = fleet.spoke("c1").directory.clone();
    let key_pem = std::fs::read_to_string(directory.join("agent.key")).unwrap();
    let key = rcgen::KeyPair::from_pem(&key_pem).unwrap();
    let authority = authorities::load(&fleet.hub.state, Role::Agent).await.unwrap();
    let week = Duration::from_secs(7 * 86_400);
    let old = authority
        .issue_agent(
            &ClusterName::parse("c1").unwrap(),
            &key,
            SystemTime::now() - week,
            Duration::from_secs(86_400),
        )
        .unwrap();
    let pem = cluster_proxy::pki::ca::pem(&old);
    std::fs::write(directory.join("agent.crt"), pem).unwrap();

    let hub = fleet.hub.addresses.agents;
    fleet.spoke_mut("c1").start_agent(hub);
    fleet.wait_serves("c1", PATIENCE).await;
    let renewed = std::fs::read_to_string(directory.join("agent.key")).unwrap();
    assert_eq!(renewed, key_pem, "the enrolled key is what proved it");
}

#[tokio::test]
async fn a_hub_that_stops_ends_watches_cleanly_and_cuts_logs() {
    let mut fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let log = "/c1/api/v1/namespaces/default/pods/p/log?follow=true";
    let mut watch = client.open(client.request("GET", WATCH, empty())).await.unwrap().into_body();
    let mut log = client.open(client.request("GET", log, empty())).await.unwrap().into_body();
    assert!(watch.frame().await.unwrap().is_ok());
    assert!(log.frame().await.unwrap().is_ok());

    let (watch, log, ()) =
        tokio::join!(watch.collect(), log.collect(), async { fleet.hub.stop().await });
    assert!(watch.is_ok(), "a watcher resumes after a clean end: {:?}", watch.err());
    assert!(log.is_err(), "a log that was cut does not look complete");
}
