//! Watches, logs, upgrades, and readers that stop.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::client::empty;
use crate::support::fleet::Fleet;
use crate::support::{PATIENCE, within};

const POD: &str = "/c1/api/v1/namespaces/default/pods/p";
const SERVICE: &str = "/c1/api/v1/namespaces/default/services/x/proxy";

#[tokio::test]
async fn a_watch_delivers_at_once() {
    let fleet = Fleet::start(&["c1"]).await;
    for client in [fleet.client("c1"), fleet.client("c1").http2()] {
        let request = client.request("GET", "/c1/api/v1/configmaps?watch=true", empty());
        let response =
            within("the head", Duration::from_secs(1), client.open(request)).await.unwrap();
        let mut body = response.into_body();
        let event = within("an event", Duration::from_secs(1), body.frame()).await.unwrap();
        let event = event.unwrap().into_data().unwrap();
        assert!(event.ends_with(b"\n") && event.windows(5).any(|part| part == b"ADDED"));
    }
}

#[tokio::test]
async fn log_lines_arrive_one_by_one() {
    let fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let request = client.request("GET", &format!("{POD}/log?follow=true"), empty());
    let mut body = client.open(request).await.unwrap().into_body();
    for line in 0..5 {
        let frame = within("a line", Duration::from_secs(2), body.frame()).await.unwrap();
        let text = frame.unwrap().into_data().unwrap();
        assert_eq!(text, format!("line {line}\n"), "not held back, not merged");
    }
}

#[tokio::test]
async fn an_upgrade_is_a_pipe_of_bytes() {
    let fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    for (method, protocol) in [("POST", "SPDY/3.1"), ("GET", "websocket")] {
        let mut request = client.request(method, &format!("{POD}/exec?command=sh"), empty());
        request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
        request.headers_mut().insert("upgrade", protocol.parse().unwrap());
        let response = client.open(request).await.unwrap();
        assert_eq!(response.status(), 101, "{protocol}");
        assert_eq!(response.headers()["upgrade"], protocol);
        let mut pipe = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        for size in [1, 70_000] {
            let sent: Vec<u8> = (0..size).map(|index: u32| index.to_le_bytes()[0]).collect();
            pipe.write_all(&sent).await.unwrap();
            let mut got = vec![0; sent.len()];
            within("the echo", PATIENCE, pipe.read_exact(&mut got)).await.unwrap();
            assert_eq!(got, sent);
        }
        // The end of our side reaches the far end, whose end comes back.
        pipe.shutdown().await.unwrap();
        let mut rest = Vec::new();
        within("the end", PATIENCE, pipe.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty());
    }
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let mut request = client.request("POST", "/c1/api/v1/secrets", empty());
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "SPDY/3.1".parse().unwrap());
    let answer = client.send(request).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(answer.json()["reason"], "Forbidden");
}

#[tokio::test]
async fn a_reader_that_stops_stops_only_itself() {
    let fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let path = format!("{SERVICE}/firehose");
    let mut stalled = Vec::new();
    for index in 0..20 {
        let client = if index % 2 == 0 { client.clone() } else { client.http2() };
        let mut body =
            client.open(client.request("GET", &path, empty())).await.unwrap().into_body();
        assert!(body.frame().await.unwrap().is_ok());
        stalled.push(body);
    }
    // Long enough for every window and buffer on the way to fill.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..10 {
        let answer = within("a request", Duration::from_secs(2), client.get("/c1/version")).await;
        assert_eq!(answer.status, 200);
    }
    // They have lost nothing and go on where they stopped.
    for body in &mut stalled {
        let frame = within("the next bytes", PATIENCE, body.frame()).await.unwrap();
        assert!(!frame.unwrap().into_data().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_stream_at_the_hub() {
    let fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let live = || async { fleet.hub.metric("cluster_proxy_live_streams", &["c1"]).await };
    let request = client.request("GET", "/c1/api/v1/configmaps?watch=true", empty());
    let mut body = client.open(request).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok());
    let before = live().await;
    drop(body);
    crate::support::eventually("the stream ends", PATIENCE, || async {
        (live().await < before).then_some(())
    })
    .await;
}
