//! Bodies, whatever their size and pace, WebSockets, and answers that break.

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::ground::{Ground, path};
use crate::support::bodies::{digest, source_body, stream_body};
use crate::support::client::{Body, Client, empty};
use crate::support::{PATIENCE, within};

const LIST: &str = "- {namespace: shop, service: web, protocol: http}";
const BOTH: [&str; 1] = ["shop/web"];

/// U10.
#[tokio::test]
async fn get_and_post_reach_the_service_over_both_protocols() {
    const BYTES: u64 = 1 << 20;

    let ground = Ground::start(LIST, &BOTH).await;
    let expected = digest(source_body(BYTES)).await.unwrap();
    for client in [ground.client.clone(), ground.client.http2()] {
        let answer = client.get(&path("http:web:80", "/index.html?a=b")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let head = answer.json();
        assert_eq!((&head["method"], &head["target"]), (&"GET".into(), &"/index.html?a=b".into()));

        let request = client.request("POST", &path("http:web:80", "/echo"), source_body(BYTES));
        let answer = client.open(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let echoed = within("the echo", PATIENCE, digest(answer.into_body())).await;
        assert_eq!(echoed.unwrap(), expected);
    }
    assert_eq!(ground.requests(), 4);
}

#[tokio::test]
async fn each_side_hears_the_other_as_it_speaks() {
    let ground = Ground::start(LIST, &BOTH).await;
    for client in [ground.client.clone(), ground.client.http2()] {
        let (say, said) = mpsc::channel::<Bytes>(1);
        let said = stream::unfold(said, |mut said| async { Some((said.recv().await?, said)) });
        let request = client.request("POST", &path("http:web:80", "/echo"), stream_body(said));
        // The web server answers while the request goes on.
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
async fn a_websocket_passes_both_ways_and_a_refused_one_is_an_answer() {
    let ground = Ground::start(LIST, &BOTH).await;
    let answer = ground
        .client
        .open(upgrade(&ground.client, &path("http:web:80", "/session")))
        .await
        .unwrap();
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["upgrade"], "websocket");
    assert_eq!(answer.headers()["sec-websocket-accept"], "x");
    let mut session = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let mut heard = [0; 4];
    for word in [b"ping", b"pong"] {
        session.write_all(word).await.unwrap();
        within("the echo", PATIENCE, session.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, word);
    }
    // The end of one side is the end of the other, which has said everything by then.
    session.write_all(b"last").await.unwrap();
    session.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within("the end", PATIENCE, session.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"last");

    let mut plain = upgrade(&ground.client, &path("http:web:80", "/session"));
    plain.headers_mut().remove("upgrade");
    let answer = ground.client.send(plain).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (403, "an upgrade alone"));
    let elsewhere =
        ground.client.send(upgrade(&ground.client, &path("http:web:80", "/elsewhere"))).await;
    assert_eq!(elsewhere.status, 200, "{}", elsewhere.text());
    assert_eq!(elsewhere.json()["target"], "/elsewhere");
}

#[tokio::test]
async fn an_answer_that_breaks_does_not_look_complete() {
    let ground = Ground::start(LIST, &BOTH).await;
    for client in [ground.client.clone(), ground.client.http2()] {
        let (say, said) = mpsc::channel::<Bytes>(1);
        let said = stream::unfold(said, |mut said| async { Some((said.recv().await?, said)) });
        let request = client.request("POST", &path("http:web:80", "/broken"), stream_body(said));
        let answer = within("the head", PATIENCE, client.open(request)).await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        let half = within("the half", PATIENCE, body.frame()).await.unwrap().unwrap();
        assert_eq!(half.into_data().unwrap(), "half");
        say.send(Bytes::from("break")).await.unwrap();
        assert!(within("the end", PATIENCE, body.collect()).await.is_err());
        let whole = client.get(&path("http:web:80", "/")).await;
        assert_eq!(whole.status, 200, "{}", whole.text());
    }
}

pub(super) fn upgrade(client: &Client, path: &str) -> Request<Body> {
    let mut request = client.request("GET", path, empty());
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}
