//! Parts that are told to stop: what they go on with, and for how long.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::client::conn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use cluster_proxy::name::ClusterName;

use crate::support::client::empty;
use crate::support::fleet::Fleet;
use crate::support::{PATIENCE, eventually, within};

const WATCH: &str = "/c1/api/v1/configmaps?watch=true";
const POD: &str = "/c1/api/v1/namespaces/default/pods/p";
const SLOW: &str = "/c1/api/v1/namespaces/default/services/x/proxy/slow?ms=4000";

/// A fleet whose hub drains for at least `least` and at most `most`.
async fn fleet(least: Duration, most: Duration) -> Fleet {
    let mut fleet = Fleet::start(&["c1"]).await;
    fleet.hub.stop().await;
    (fleet.hub.min_drain, fleet.hub.drain_timeout) = (least, most);
    fleet.hub.start().await;
    fleet.wait_serves("c1", PATIENCE).await;
    fleet
}

#[tokio::test]
async fn a_hub_that_drains_serves_on_and_then_closes() {
    let fleet = fleet(Duration::from_secs(3), Duration::from_secs(20)).await;
    let client = fleet.client("c1");
    let start = Instant::now();

    // Idle, over HTTP/1.1; busy with a request that outlives the least time, over HTTP/2.
    let idle = TokioIo::new(client.connect(b"http/1.1").await.unwrap());
    let (mut idle, connection) = conn::http1::handshake(idle).await.unwrap();
    let idle_ended = tokio::spawn(connection);
    let answer = idle.send_request(client.request("GET", "/c1/version", empty())).await.unwrap();
    assert!(!answer.headers().contains_key("connection"), "not while it does not drain");
    answer.into_body().collect().await.unwrap();
    let http2 = client.http2();
    let busy = TokioIo::new(http2.connect(b"h2").await.unwrap());
    let (mut busy, connection) = conn::http2::handshake(TokioExecutor::new(), busy).await.unwrap();
    let busy_ended = tokio::spawn(connection);
    let slow = tokio::spawn(busy.send_request(http2.request("GET", SLOW, empty())));

    fleet.hub.ask_to_stop();
    eventually("not ready", PATIENCE, || async {
        (fleet.hub.admin("/readyz").await == "draining\n").then_some(())
    })
    .await;
    // New connections are served, on both protocols, and asked to go elsewhere the next time.
    let answer = client.get("/c1/version").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["connection"], "close");
    assert_eq!(http2.get("/c1/version").await.status, 200);
    assert!(start.elapsed() < Duration::from_secs(3), "a machine too slow for this test");

    within("the idle connection closes", PATIENCE, idle_ended).await.unwrap().unwrap();
    assert!(start.elapsed() >= Duration::from_secs(3), "not before the least time");
    let answer = within("the slow answer", PATIENCE, slow).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.unwrap();
    // Nothing else runs, so it stops long before the most time.
    within("the connection closes", PATIENCE, busy_ended).await.unwrap().unwrap();
    eventually("the port refuses", Duration::from_secs(8), || async {
        client.connect(b"http/1.1").await.is_err().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_drain_keeps_sessions_and_logs_to_its_limit() {
    let fleet = fleet(Duration::from_millis(500), Duration::from_secs(4)).await;
    let client = fleet.client("c1");
    let mut exec = client.request("POST", &format!("{POD}/exec?command=sh"), empty());
    exec.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    exec.headers_mut().insert("upgrade", "SPDY/3.1".parse().unwrap());
    let response = client.open(exec).await.unwrap();
    let mut pipe = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let log = client.request("GET", &format!("{POD}/log?follow=true"), empty());
    let mut log = client.open(log).await.unwrap().into_body();
    let request = client.request(
        "GET",
        "/c1/api/v1/namespaces/default/services/x/proxy/slow?ms=60000",
        empty(),
    );
    let hanging = tokio::spawn({
        let client = client.clone();
        async move { client.open(request).await }
    });
    let watch = client.open(client.request("GET", WATCH, empty())).await.unwrap().into_body();

    let start = Instant::now();
    fleet.hub.ask_to_stop();
    // The watch ends by itself, whole; everything else goes on.
    assert!(within("the watch ends", PATIENCE, watch.collect()).await.is_ok());
    if start.elapsed() < Duration::from_secs(3) {
        pipe.write_all(b"still there").await.unwrap();
        let mut echo = [0; 11];
        within("the echo", PATIENCE, pipe.read_exact(&mut echo)).await.unwrap();
        assert!(log.frame().await.unwrap().is_ok());
    }
    let mut rest = Vec::new();
    let _ = within("the session is cut", PATIENCE, pipe.read_to_end(&mut rest)).await;
    assert!(start.elapsed() >= Duration::from_secs(4), "not before the limit");
    assert!(log.collect().await.is_err(), "a log that was cut does not look complete");
    let hanging = within("the request ends", PATIENCE, hanging).await.unwrap();
    assert!(hanging.is_err(), "the limit bounds a request too");
}

#[tokio::test]
async fn watches_end_between_events() {
    let fleet = fleet(Duration::ZERO, Duration::from_secs(20)).await;
    let client = fleet.client("c1");
    let mut watches = Vec::new();
    for http2 in [false, true].repeat(6) {
        let client = if http2 { client.http2() } else { client.clone() };
        let request = client.request("GET", &format!("{WATCH}&halves"), empty());
        let mut watch = client.open(request).await.unwrap().into_body();
        // Half an event at least: a watch that ends before its first is whole with nothing in it.
        let first = within("bytes", PATIENCE, watch.frame()).await.unwrap().unwrap();
        watches.push((watch, first.into_data().unwrap()));
    }
    fleet.hub.ask_to_stop();
    for (watch, first) in watches {
        let rest = within("the watch ends", PATIENCE, watch.collect()).await.unwrap().to_bytes();
        let all = [first, rest].concat();
        let text = std::str::from_utf8(&all).unwrap();
        assert!(text.ends_with('\n'), "{text}");
    }
}

#[tokio::test]
async fn a_key_that_is_replaced_lets_streams_finish_and_one_that_is_revoked_does_not() {
    let fleet = fleet(Duration::ZERO, Duration::from_secs(60)).await;
    let (client, folder) = (fleet.client("c1"), fleet.spoke("c1").directory.clone());
    let open = async |path: &str| {
        client.open(client.request("GET", path, empty())).await.unwrap().into_body()
    };
    let log = format!("{POD}/log?follow=true");
    let (mut first, watch) = (open(&log).await, open(WATCH).await);
    let slow = tokio::spawn({
        let (client, request) = (client.clone(), client.request("GET", SLOW, empty()));
        async move { client.send(request).await.status }
    });

    // Joined again in its folder: the agent dials with the new key, without a restart.
    fleet.hub.enrol("c1", &folder).await;
    assert!(within("the watch ends", PATIENCE, watch.collect()).await.is_ok());
    fleet.wait_serves("c1", PATIENCE).await;
    assert_eq!(within("a request of before", PATIENCE, slow).await.unwrap(), 200);
    // Two of the new key, and the old one that is still used.
    fleet.hub.wait_tunnels("c1", 3, PATIENCE).await;
    assert!(first.frame().await.unwrap().is_ok(), "a log of before goes on");
    drop(first);
    fleet.hub.wait_tunnels("c1", 2, PATIENCE).await;

    let second = open(&log).await;
    fleet.hub.state.revoke(&ClusterName::parse("c1").unwrap()).await.unwrap();
    fleet.hub.enrol("c1", &folder).await;
    let cut = within("the log of a lost key", Duration::from_secs(10), second.collect()).await;
    assert!(cut.is_err(), "although a new key has come meanwhile");
    fleet.wait_serves("c1", PATIENCE).await;
}

#[tokio::test]
async fn an_agent_that_drains_gets_nothing_new_and_finishes_what_runs() {
    let mut fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let log = client.request("GET", &format!("{POD}/log?follow=true"), empty());
    let mut log = client.open(log).await.unwrap().into_body();
    let watch = client.open(client.request("GET", WATCH, empty())).await.unwrap().into_body();
    assert!(log.frame().await.unwrap().is_ok());

    let second = fleet.spoke("c1").agent_beside(fleet.hub.addresses.agents);
    fleet.hub.wait_tunnels("c1", 4, PATIENCE).await;
    let first = fleet.spoke_mut("c1").take_agent();
    let stopping = tokio::spawn(first.stop(Duration::from_secs(8)));
    // Everything new goes to the other agent, and the log runs on.
    for _ in 0..50 {
        assert_eq!(client.get("/c1/version").await.status, 200);
    }
    assert!(log.frame().await.unwrap().is_ok());
    // The watch is told to move, so that it need not be cut.
    assert!(within("the watch ends", PATIENCE, watch.collect()).await.is_ok());
    let log = within("the log ends", PATIENCE, log.collect()).await;
    assert!(log.is_err(), "at the limit it is cut, and does not look complete");
    stopping.await.unwrap();
    fleet.hub.wait_tunnels("c1", 2, PATIENCE).await;
    assert_eq!(client.get("/c1/version").await.status, 200);

    // With nobody left, callers are told that it will not last.
    second.stop(Duration::from_secs(1)).await;
    let answer = client.get("/c1/version").await;
    answer.assert_status(503, "ServiceUnavailable");
    assert_eq!(answer.headers["retry-after"], "1");
}
