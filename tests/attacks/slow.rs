//! Clients that take their time, and heads that are too large: cases 85 to 87, 89 and 90.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Response;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use cluster_proxy::hub::limits::Limits;

use crate::agent::Script;
use crate::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, block, frame, headers};
use crate::ground::Ground;
use crate::messages::{get, request};
use crate::support::client::full;
use crate::support::{PATIENCE, within};
use crate::tunnel::Field;

/// Deadlines that a test can wait for.
fn hasty() -> Limits {
    Limits { head_timeout: DEADLINE, handshake_timeout: DEADLINE, ..Limits::default() }
}

/// What comes until the other side ends the connection.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = within("the end", PATIENCE, stream.read_to_end(&mut bytes)).await;
    bytes
}

#[tokio::test]
async fn s85_slowloris() {
    let ground = Ground::limited(hasty()).await;
    let path = ground.path("s85");
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: {}\r\nconnection: close\r\n\r\n",
        ground.bearer
    );
    // A byte now and then keeps nobody in.
    let slow = (0..50).map(|number| {
        let (ground, head) = (&ground, head.as_bytes());
        async move {
            let mut stream = ground.session(b"http/1.1").await;
            stream.write_all(&head[..20 + number]).await.unwrap();
            let (mut read, mut write) = tokio::io::split(stream);
            let drip = async {
                for byte in &head[20 + number..] {
                    sleep(DEADLINE / 10).await;
                    if write.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                }
                std::future::pending().await
            };
            tokio::select! {
                answer = rest(&mut read) => answer,
                never = drip => never,
            }
        }
    });
    let (answers, ordinary) = tokio::join!(join_all(slow), async {
        let client = ground.client();
        for _ in 0..20 {
            assert_eq!(client.get(&ground.path("other")).await.status, 200);
        }
    });
    let () = ordinary;
    for answer in answers {
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(ground.reached("s85"), 0);

    // The same over HTTP/2: a head that never ends.
    let mut peer = ground.peer().await;
    let fields = block(&get(&path, &ground.bearer));
    peer.send(&frame(HEADERS, END_STREAM, 1, &fields)).await.unwrap();
    assert!(peer.outcome(1).await.is_end());
    assert_eq!(ground.reached("s85"), 0);

    // In two pieces, and in time.
    let mut stream = ground.session(b"http/1.1").await;
    let (first, second) = head.split_at(30);
    stream.write_all(first.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    stream.write_all(second.as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with(b"HTTP/1.1 200"));
    let mut peer = ground.peer().await;
    peer.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields)).await.unwrap();
    assert_eq!(peer.outcome(1).await, Outcome::Status(200));
    assert_eq!(ground.reached("s85"), 2);
}

#[tokio::test]
async fn s86_a_handshake_that_stops() {
    let ground = Ground::limited(hasty()).await;
    let addresses = &ground.fleet.hub.addresses;
    for listener in [addresses.user, addresses.agents] {
        for bytes in [&b""[..], &[22], &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]] {
            let mut socket = TcpStream::connect(listener).await.unwrap();
            socket.write_all(bytes).await.unwrap();
            let began = Instant::now();
            let answer = rest(&mut socket).await;
            assert!(answer.len() < 100, "{answer:?}");
            // Not at once: it had its time.
            assert!(began.elapsed() >= DEADLINE / 2, "{bytes:?}");
        }
    }
    assert_eq!(ground.client().get(&ground.path("s86")).await.status, 200);
}

#[tokio::test]
async fn s87_a_body_may_take_its_time() {
    let ground = Ground::limited(hasty()).await;
    let path = ground.path("s87");
    let mut peer = ground.peer().await;
    peer.send(&headers(0, 1, &request("POST", &path, &ground.bearer))).await.unwrap();
    let began = Instant::now();
    // Longer than every deadline that a head or a handshake has.
    while began.elapsed() < 3 * DEADLINE {
        peer.send(&frame(DATA, 0, 1, b"1")).await.unwrap();
        sleep(DEADLINE / 5).await;
    }
    assert_eq!(ground.complete("s87"), 0);
    peer.send(&frame(DATA, END_STREAM, 1, b"")).await.unwrap();
    assert_eq!(peer.outcome(1).await, Outcome::Status(200));
    assert_eq!(ground.complete("s87"), 1);
}

#[tokio::test]
async fn s89_heads_that_are_too_large() {
    let ground = Ground::start().await;
    let path = ground.path("s89");
    let limits = Limits::default();
    let most = usize::try_from(limits.header_bytes).unwrap();
    let mut served = 0;
    for http2 in [false, true] {
        let client = if http2 { ground.client().http2() } else { ground.client() };
        for (headers, size, code) in [
            (200, 10, 200),
            (limits.header_count + 1, 10, 431),
            (1, 10_000, 200),
            (1, most, 431),
            (60, most / 60, 431),
            (80, 100_000, 431),
        ] {
            let mut asked = client.request("GET", &path, full(""));
            for number in 0..headers {
                let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
                asked.headers_mut().insert(name, "y".repeat(size).parse().unwrap());
            }
            let what = format!("{headers} headers of {size} bytes, HTTP/2: {http2}");
            match within(&what, PATIENCE, client.open(asked)).await {
                Ok(answer) => assert_eq!(answer.status(), code, "{what}"),
                // Far past the limit the connection goes while we still write.
                Err(error) => assert!(code == 431 && size * headers > 2 * most, "{what}: {error}"),
            }
            served += usize::from(code == 200);
            assert_eq!(ground.reached("s89"), served, "{what}");
        }
    }
}

#[tokio::test]
async fn s90_compressed_bytes_are_bytes() {
    let field = Field::start().await;
    // Ten zeros for a gigabyte, or no gzip at all: nobody looks.
    let bomb = Bytes::from([&[0x1f, 0x8b, 8, 0][..], &[0xff; 3_000]].concat());
    let answer = bomb.clone();
    let script = Script::new(&field.signer, move |_request, mut respond| {
        let head = Response::builder().header("content-encoding", "gzip").body(()).unwrap();
        if let Ok(mut send) = respond.send_response(head, false) {
            let _ = send.send_data(answer.clone(), true);
        }
    });
    let _agent = field.agent(script).await;
    let got = field.caller().get("/c1/mine").await;
    assert_eq!(got.headers["content-encoding"], "gzip");
    assert_eq!(got.body, bomb);

    let client = field.fleet.client("c2");
    let sink = "/c2/api/v1/namespaces/default/services/x/proxy/sink";
    let mut asked = client.request("POST", sink, full(bomb.clone()));
    asked.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    assert_eq!(client.send(asked).await.json()["bytes"], bomb.len());
}

const DEADLINE: Duration = Duration::from_millis(700);
