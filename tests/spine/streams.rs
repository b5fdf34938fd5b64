//! Watches, logs, upgrades, and readers that stop.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::client::empty;
use crate::support::fleet::Fleet;
use crate::support::session::GOODBYE;
use crate::support::{PATIENCE, eventually, within};

const POD: &str = "/c1/api/v1/namespaces/default/pods/p";
/// Bytes: far more than one buffer on the way holds.
const LARGE: u32 = 3 << 20;
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

/// Upgrades to each protocol in turn.
async fn sessions(
    fleet: &Fleet,
    subresource: &str,
    mut check: impl AsyncFnMut(TokioIo<hyper::upgrade::Upgraded>),
) {
    let client = fleet.client("c1");
    for (method, protocol) in [("POST", "SPDY/3.1"), ("GET", "websocket")] {
        let mut request = client.request(method, &format!("{POD}/{subresource}?x=y"), empty());
        request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
        request.headers_mut().insert("upgrade", protocol.parse().unwrap());
        let response = client.open(request).await.unwrap();
        assert_eq!(response.status(), 101, "{protocol}");
        assert_eq!(response.headers()["upgrade"], protocol);
        check(TokioIo::new(hyper::upgrade::on(response).await.unwrap())).await;
    }
}

/// Bytes that are not the same everywhere.
fn bytes(size: u32) -> Vec<u8> {
    (0..size).map(|index| index.to_le_bytes()[0]).collect()
}

#[tokio::test]
async fn an_upgrade_is_a_pipe_of_bytes() {
    let fleet = Fleet::start(&["c1"]).await;
    sessions(&fleet, "exec", async |mut pipe| {
        for size in [1, 70_000] {
            let sent = bytes(size);
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
    })
    .await;
}

#[tokio::test]
async fn a_client_that_has_ended_its_side_still_hears_everything() {
    let fleet = Fleet::start(&["c1"]).await;
    // The server says its first word only after our last.
    sessions(&fleet, "attach", async |mut pipe| {
        let sent = bytes(LARGE);
        pipe.write_all(&sent).await.unwrap();
        pipe.shutdown().await.unwrap();
        let mut got = Vec::new();
        within("all of it", PATIENCE, pipe.read_to_end(&mut got)).await.unwrap();
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    })
    .await;
}

#[tokio::test]
async fn a_server_that_has_ended_its_side_still_hears_everything() {
    let fleet = Fleet::start(&["c1"]).await;
    let mut expected = Vec::new();
    sessions(&fleet, "portforward", async |mut pipe| {
        let mut got = Vec::new();
        within("its end", PATIENCE, pipe.read_to_end(&mut got)).await.unwrap();
        assert_eq!(got, GOODBYE);
        let sent = bytes(LARGE);
        within("all of it is taken", PATIENCE, pipe.write_all(&sent)).await.unwrap();
        pipe.shutdown().await.unwrap();
        expected.extend(sent);
        let api = &fleet.spoke("c1").api;
        eventually("the server has heard all of it", PATIENCE, || async {
            (api.heard() == expected).then_some(())
        })
        .await;
    })
    .await;
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
    eventually("the stream ends", PATIENCE, || async { (live().await < before).then_some(()) })
        .await;
}
