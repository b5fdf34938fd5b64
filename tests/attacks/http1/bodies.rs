//! Cases 12 to 16: what a body holds is never a request, and what follows it is another one.

use super::wire::Wire;
use super::{Entry, Want, fill, get, post, run};
use crate::ground::Ground;
use crate::support::PATIENCE;
use crate::support::eventually;

pub(super) fn bodies() -> Vec<Entry> {
    const HIDDEN: &str =
        "GET /c1/api/v1/namespaces/s12-smuggled/configmaps HTTP/1.1\r\nHost: h\r\n\r\n";
    let trailers =
        "Authorization: Bearer x\r\nImpersonate-User: admin\r\nContent-Length: 9\r\nX-A: 1\r\n";
    let length = HIDDEN.len();
    vec![
        Entry {
            case: 12,
            attack: get(&format!("Content-Length: {length}\r\n\r\n{HIDDEN}")),
            want: Want::One(HIDDEN),
            paired: get("\r\n"),
        },
        Entry {
            case: 16,
            attack: post(&format!(
                "Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n5\r\nhello\r\n0\r\n{trailers}\r\n"
            )),
            want: Want::One("hello"),
            paired: post("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        },
    ]
}

#[tokio::test]
async fn s12_s16_a_body_is_a_body() {
    let ground = Ground::start().await;
    run(&ground, &bodies()).await;
    let arrived = ground.arrived("s16-1").remove(0);
    assert_eq!(arrived.headers["authorization"], ground.bearer.as_str());
    for name in ["impersonate-user", "x-a", "trailer"] {
        assert!(!arrived.headers.contains_key(name), "{arrived:?}");
    }
}

#[tokio::test]
async fn s13_an_early_no_and_what_follows_the_body() {
    let ground = Ground::start().await;
    let hidden =
        String::from_utf8(fill(&get("\r\n"), &ground.path("s13"), &ground.bearer)).unwrap();
    let body = |bearer: &str| {
        let rest = format!("Content-Length: {}\r\n\r\n{hidden}", hidden.len());
        fill(&post(&rest), &ground.path("s13-outer"), bearer)
    };
    let mut wire = Wire::start(&ground).await;
    wire.send(&body("Bearer no")).await;
    assert_eq!(wire.answer().await.unwrap().status, 401);
    // Read and thrown away: the next answer is that of the next request.
    let after = "s13-after";
    wire.send(&fill(&get("Connection: close\r\n\r\n"), &ground.path(after), &ground.bearer)).await;
    assert_eq!(wire.answer().await.unwrap().status, 200);
    assert!(wire.rest().await.is_empty(), "the body is no request");
    assert_eq!((ground.reached("s13"), ground.complete(after)), (0, 1));

    let mut wire = Wire::start(&ground).await;
    let mut bytes = body(&ground.bearer);
    bytes.extend(hidden.as_bytes());
    wire.send(&bytes).await;
    for _ in 0..2 {
        assert_eq!(wire.answer().await.unwrap().status, 200);
    }
    assert_eq!((ground.complete("s13-outer"), ground.complete("s13")), (1, 1));
}

#[tokio::test]
async fn s13_an_early_no_is_heard_by_those_who_still_write() {
    let ground = Ground::start().await;
    let length = 12 << 20;
    let upload = post(&format!("Content-Length: {length}\r\n\r\n"));
    let upgrade = get("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    for (head, bearer, status) in [
        (&upload, "Bearer no", 401),
        (&upgrade, "Bearer no", 401),
        (&upload, ground.bearer.as_str(), 200),
    ] {
        let mut wire = Wire::start(&ground).await;
        let mut bytes = fill(head, &ground.path("s13-large"), bearer);
        bytes.extend(vec![b'x'; length]);
        // Everything is written before anything is read. On a system that forgets what it has
        // received when the connection is reset, a write that fails is an answer that is lost.
        let written = wire.write(&bytes).await;
        assert!(written.is_ok(), "{status} {head:?}: {written:?}");
        assert_eq!(wire.answer().await.expect("the answer is not lost").status, status);
    }
}

#[tokio::test]
async fn s14_expectations() {
    let ground = Ground::start().await;
    let head = |expect: &str, bearer: &str| {
        let rest = format!("Expect: {expect}\r\nContent-Length: 5\r\n\r\n");
        fill(&post(&rest), &ground.path("s14"), bearer)
    };
    // Bad token: no word of going on.
    let mut wire = Wire::start(&ground).await;
    wire.send(&head("100-continue", "Bearer no")).await;
    assert_eq!(wire.answer().await.unwrap().status, 401);
    assert!(wire.rest().await.is_empty());
    // Nobody knows what else could be expected (RFC 9110 section 10.1.1).
    let mut wire = Wire::start(&ground).await;
    wire.send(&head("the-unexpected", &ground.bearer)).await;
    let answer = wire.answer().await.unwrap();
    assert_eq!((answer.status, answer.json()["kind"].as_str()), (417, Some("Status")));
    assert_eq!(ground.reached("s14"), 0);

    let mut wire = Wire::start(&ground).await;
    wire.send(&head("100-continue", &ground.bearer)).await;
    assert_eq!(wire.answer().await.unwrap().status, 100);
    wire.send(b"hello").await;
    assert_eq!(wire.answer().await.unwrap().status, 200);
    assert_eq!(ground.arrived("s14")[0].body, "hello");
    assert!(!ground.arrived("s14")[0].headers.contains_key("expect"));
}

#[tokio::test]
async fn s15_pipelined_requests_are_strangers_to_each_other() {
    let ground = Ground::start().await;
    let good = fill(&get("\r\n"), &ground.path("s15"), &ground.bearer);
    let nobody = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", ground.path("s15-nobody"));
    let mut wire = Wire::start(&ground).await;
    wire.send(&[&good, nobody.as_bytes(), &good].concat()).await;
    for status in [200, 401, 200] {
        assert_eq!(wire.answer().await.unwrap().status, status);
    }
    assert_eq!((ground.complete("s15"), ground.reached("s15-nobody")), (2, 0));
    eventually("nothing is left", PATIENCE, || async {
        (ground.reached("s15") == 2).then_some(())
    })
    .await;
}
