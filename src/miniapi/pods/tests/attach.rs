//! attach, over both carriers.

use super::super::spdy::testing::Event;
use super::*;

/// The next output of a stream that is no tick.
async fn said(client: &mut spdy::Spdy, stream: u32) -> String {
    loop {
        match client.next().await {
            Some(Event::Data(from, piece, false)) if from == stream => {
                let text = String::from_utf8(piece.to_vec()).unwrap();
                let text: String =
                    text.split_inclusive('\n').filter(|line| !line.starts_with("tick")).collect();
                if !text.is_empty() {
                    return text;
                }
            }
            Some(Event::Reply(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn everybody_attached_sees_what_one_says() {
    let (runtime, _directory) = runtime();
    let types = ["error", "stdin", "stdout"];
    let query = "stdin=1&stdout=1";
    let mut speaks = spdy::session(&runtime, Subresource::Attach, query, &types).await;
    let mut hears = upgrade(&runtime, Subresource::Attach, V5, "stdout=1").await.unwrap();
    // The first message says that the session is on.
    let first = hears.next().await.unwrap().unwrap();
    assert_eq!(first, Message::binary(vec![1]));
    // A line is one when it ends, and the end of standard input ends nothing else.
    speaks.data(3, b"hel").await;
    speaks.data(3, b"lo\nunfinished").await;
    speaks.fin(3).await;
    let heard = tokio::time::timeout(PATIENCE, said(&mut speaks, 5)).await.unwrap();
    assert_eq!(heard, "read hello\n");
    while line(&mut hears).await.lines().last() != Some("read hello") {}
    let log = runtime.logs("default", "web", None, &LogOptions::default()).unwrap();
    let log = log.collect().await.unwrap().to_bytes();
    assert!(log.windows(11).any(|text| text == b"read hello\n"));

    runtime.stop("default", "web");
    let mut ended = tokio::time::timeout(PATIENCE, speaks.until_ended(3)).await.unwrap();
    let verdict: Value = serde_json::from_slice(&ended.remove(&1).unwrap()).unwrap();
    assert_eq!(verdict["status"], "Success");
    assert_eq!(outcome(hears).await.status["status"], "Success");
}

#[tokio::test]
async fn a_terminal_echoes_and_is_left_with_control_c() {
    let (runtime, _directory) = runtime();
    let types = ["error", "stdin", "stdout", "resize"];
    let query = "stdin=1&stdout=1&tty=1";
    let mut client = spdy::session(&runtime, Subresource::Attach, query, &types).await;
    client.data(3, b"a").await;
    assert_eq!(said(&mut client, 5).await, "a");
    client.data(3, b"b\r").await;
    let mut text = String::new();
    while !text.ends_with("read ab\r\n") {
        text.push_str(&said(&mut client, 5).await);
    }
    assert!(text.starts_with("b\r\n"), "{text:?}");
    client.data(3, &[3]).await;
    let ended = tokio::time::timeout(PATIENCE, client.until_ended(4)).await.unwrap();
    assert!(String::from_utf8_lossy(&ended[&1]).contains("Success"));
    // The program goes on without that client.
    assert!(runtime.logs("default", "web", None, &LogOptions::default()).is_ok());
}

#[tokio::test]
async fn what_cannot_be_attached_to() {
    let (runtime, _directory) = runtime();
    let refused = async |query: &str| {
        spdy::upgrade(&runtime, Subresource::Attach, &[V4], query).await.err().map(|error| error.0)
    };
    assert_eq!(refused("stdout=1&container=other").await.unwrap(), 400);
    assert_eq!(refused("tty=1").await.unwrap(), 400);
    assert_eq!(refused("stdout=1&container=main").await, None);
}
