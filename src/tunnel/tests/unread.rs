//! What nobody reads: its window, its memory, its end.

use std::task::{Context, Poll, Waker};

use http_body::Body as _;

use super::*;
use crate::tunnel::pump::Unread;

/// Data that is there now.
fn now(body: &mut ReceiveBody) -> Option<Bytes> {
    match std::pin::Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(frame) => Some(frame.unwrap().unwrap().into_data().unwrap()),
        Poll::Pending => None,
    }
}

/// Waits until the stream holds a whole window.
async fn full(unread: &Unread) -> usize {
    let window = Settings::default().stream_window as usize;
    let held = || unread.look().unwrap().bytes;
    until(|| held() == window).await;
    held()
}

#[tokio::test]
async fn the_window_of_a_lent_chunk_comes_back_with_its_drop() {
    let tunnel = Tunnel::start(Scripted).await;
    for lends in [true, false] {
        let mut opened = tunnel.open(get("/endless"), true).await;
        let body = opened.response.receive().await.unwrap().into_body();
        let mut body = if lends { body.lent() } else { body };
        let unread = body.unread();
        let window = full(&unread).await;
        let mut chunks = Vec::new();
        let mut taken = 0;
        // Ten windows come only if some window goes back.
        while taken < 10 * window {
            let Some(chunk) = now(&mut body) else {
                if full(&unread).await == taken && lends {
                    break;
                }
                continue;
            };
            taken += chunk.len();
            chunks.push(chunk);
        }
        assert_eq!(taken == window, lends);
        chunks.clear();
        let more = async { body.frame().await.unwrap().unwrap() };
        tokio::time::timeout(Duration::from_secs(20), more).await.expect("more comes");
    }
}

#[tokio::test]
async fn what_is_lent_is_seen_after_its_body() {
    let tunnel = Tunnel::start(Scripted).await;
    let mut opened = tunnel.open(get("/trailers"), true).await;
    let mut body = opened.response.receive().await.unwrap().into_body().lent();
    let unread = body.unread();
    let chunk = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
    drop((body, opened));
    tunnel.idle().await;
    let held = unread.look().unwrap();
    assert_eq!((held.bytes, held.over), (4, true));
    let rest = chunk.slice(2..);
    drop(chunk);
    assert!(unread.is_alive(), "a part of it is still held");
    drop(rest);
    assert!(!unread.is_alive() && unread.look().is_none());
}

#[tokio::test]
async fn frames_of_one_byte_are_gathered_in_order() {
    let tunnel = Tunnel::start(Scripted).await;
    let mut opened = tunnel.open(get("/bytes"), true).await;
    let mut body = opened.response.receive().await.unwrap().into_body().lent();
    let unread = body.unread();
    let window = full(&unread).await;
    // One of the chunks that were gathered while they came may be short.
    let mut chunks = 0;
    let mut left = window;
    while left > 0 {
        let chunk = now(&mut body).expect("it is there");
        assert!(chunk.iter().all(|byte| *byte == b'x'));
        left = left.saturating_sub(chunk.len());
        chunks += 1;
    }
    assert!(chunks < 1_000, "{chunks} chunks");
    unread.cut();
    assert!(body.frame().await.unwrap().is_err());
    drop((body, opened));
    tunnel.idle().await;
}

#[tokio::test]
async fn an_error_comes_after_what_was_gathered() {
    let tunnel = Tunnel::start(Scripted).await;
    let mut opened = tunnel.open(get("/watch"), true).await;
    let mut body = opened.response.receive().await.unwrap().into_body();
    let unread = body.unread();
    until(|| unread.look().unwrap().bytes == 5).await;
    tunnel.agent.abort();
    until(|| tunnel.opener.is_closed()).await;
    for _ in 0..3 {
        unread.look();
    }
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "event");
    assert!(body.frame().await.unwrap().is_err());
    assert!(body.frame().await.is_none());
}
