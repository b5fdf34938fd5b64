//! More clients than the process may have open files.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::support::client::empty;
use crate::support::client::plain_get;
use crate::support::processes::Pair;
use crate::support::{PATIENCE, within};

#[tokio::test]
async fn a_thousand_clients_at_256_open_files() {
    let mut pair = Pair::start().await;
    pair.hub.kill();
    pair.start_hub_within(256);
    pair.wait_serves(PATIENCE).await;

    let client = pair.client();
    let stream = TokioIo::new(client.connect(b"http/1.1").await.unwrap());
    let (mut early, connection) = http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut get = async || {
        let request = client.request("GET", "/c1/version", empty());
        let answer = within("an open connection", PATIENCE, early.send_request(request)).await;
        let answer = answer.unwrap();
        let status = answer.status();
        answer.into_body().collect().await.unwrap();
        status
    };
    let mut crowd = Vec::new();
    for _ in 0..1000 {
        // A refusal is an answer as well; what counts is what the others get.
        crowd.extend(TcpStream::connect(pair.user).await.ok());
    }
    assert!(crowd.len() > 256, "only {} connected", crowd.len());

    let before = pair.hub.cpu();
    for _ in 0..4 {
        assert_eq!(get().await, 200);
        let health = within("health", PATIENCE, plain_get(pair.admin, "/livez")).await;
        assert!(health.is_ok(), "{health:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // A loop that spins takes all of the two seconds.
    let spent = pair.hub.cpu() - before;
    assert!(spent < Duration::from_secs(1), "{spent:?} of CPU with nothing to do");

    drop(crowd);
    pair.wait_serves(PATIENCE).await;
    assert!(!pair.hub.has_ended(), "no restart was needed");
}
