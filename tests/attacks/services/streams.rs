//! Bodies of services, whatever their size and pace, and WebSockets.

use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::ground::Ground;
use super::{BOUND, SERVICES, WEB, one};
use crate::support::bodies::{digest, source_body, stream_body};
use crate::support::client::empty;
use crate::support::{PATIENCE, eventually, within};

#[tokio::test]
async fn a_mebibyte_goes_up_and_comes_down() {
    const BYTES: u64 = 1 << 20;

    let ground = Ground::start(SERVICES).await;
    let expected = digest(source_body(BYTES)).await.unwrap();
    for client in [ground.client(), ground.client().http2()] {
        let request = client.request("POST", &format!("{WEB}/echo"), source_body(BYTES));
        let answer = client.open(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let echoed = within("the echo", PATIENCE, digest(answer.into_body())).await;
        assert_eq!(echoed.unwrap(), expected);
        assert_eq!(one(ground.seen()).method, "POST");
    }
}

#[tokio::test]
async fn each_side_hears_the_other_as_it_speaks() {
    let ground = Ground::start(SERVICES).await;
    for client in [ground.client(), ground.client().http2()] {
        let (say, said) = mpsc::channel::<Bytes>(1);
        let said = stream::unfold(said, |mut said| async { Some((said.recv().await?, said)) });
        let request = client.request("POST", &format!("{WEB}/echo"), stream_body(said));
        let answer = within("the head", PATIENCE, client.open(request)).await.unwrap();
        let mut body = answer.into_body();
        for word in ["one", "two", "three"] {
            say.send(Bytes::from(word)).await.unwrap();
            let heard = within(word, PATIENCE, body.frame()).await.unwrap().unwrap();
            assert_eq!(heard.into_data().unwrap(), word);
        }
        drop(say);
        assert!(within("the end", PATIENCE, body.collect()).await.is_ok());
    }
}

#[tokio::test]
async fn a_websocket_passes_and_ends_with_its_entry() {
    let ground = Ground::start(SERVICES).await;
    let client = ground.client();
    let mut request = client.request("GET", &format!("{WEB}/echo?x=1"), empty());
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "chat"),
        ("cookie", "a=1"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = client.open(request).await.unwrap();
    assert_eq!(answer.status(), 101);
    let seen = one(ground.seen());
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("CONNECT", "/echo?x=1"));
    for (name, value) in [
        ("cluster-proxy-mode", "service"),
        ("cluster-proxy-service", "http:shop/web:8080"),
        ("cluster-proxy-method", "GET"),
        ("cluster-proxy-upgrade", "websocket"),
        ("sec-websocket-protocol", "chat"),
        ("cookie", "a=1"),
    ] {
        assert_eq!(seen.headers[name], value, "{name}");
    }
    assert!(!seen.headers.contains_key("authorization"));

    let mut session = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let mut heard = [0; 4];
    for word in [b"ping", b"pong"] {
        session.write_all(word).await.unwrap();
        within("the echo", PATIENCE, session.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, word);
    }
    ground.expose("[]");
    // A reset or an end: the client's library says which.
    let _ = within("the end", BOUND, session.read_to_end(&mut Vec::new())).await;
    eventually("the end is counted", PATIENCE, || async {
        let labels = ["cluster=\"c1\"", "reason=\"service-not-exposed\""];
        let ended = ground.fleet.hub.metric("cluster_proxy_streams_ended_total", &labels).await;
        (ended == 1.0).then_some(())
    })
    .await;
    let refused = client.get(&format!("{WEB}/echo")).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
}
