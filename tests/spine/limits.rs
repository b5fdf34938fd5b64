//! What the hub takes on, and what it answers when that is all. Each limit is reached, and each
//! refusal is paired with a success just below it.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use cluster_proxy::hub::limits::Limits;
use cluster_proxy::pki::tls;

use crate::support::client::{Client, empty};
use crate::support::fleet::Fleet;
use crate::support::{PATIENCE, eventually, within};

pub(crate) const WATCH: &str = "/c1/api/v1/configmaps?watch=true";

/// A hub with these limits, and `c1` behind it.
pub(crate) async fn fleet(limits: Limits) -> Fleet {
    let mut fleet = Fleet::limited(limits).await;
    fleet.add("c1").await;
    fleet.hub.wait_healthy("c1").await;
    fleet
}

/// A client's connection from another address of the loopback.
async fn connect_from(
    source: &str,
    client: &Client,
) -> anyhow::Result<tls::ClientStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(format!("{source}:0").parse()?)?;
    let stream = socket.connect(client.address).await?;
    let config = tls::upstream(&client.ca_pem, None, &[b"http/1.1"])?;
    Ok(tls::connect(&config, "localhost", stream).await?)
}

/// Waits until the peer has closed; how long it took.
async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Duration {
    let start = Instant::now();
    let mut bytes = [0; 1024];
    let end = async {
        loop {
            match stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    within("the connection is closed", PATIENCE, end).await;
    start.elapsed()
}

pub(crate) async fn hits(fleet: &Fleet, limit: &str) -> f64 {
    let label = format!("limit=\"{limit}\"");
    fleet.hub.metric("cluster_proxy_limit_hits_total", &[&label]).await
}

/// Waits until the limit was reached so often: a connection is closed a moment before it is counted.
pub(crate) async fn counted(fleet: &Fleet, limit: &str, times: f64) {
    eventually(&format!("{limit} is counted"), PATIENCE, || async {
        (hits(fleet, limit).await >= times).then_some(())
    })
    .await;
}

#[tokio::test]
async fn heads_over_the_limits_are_refused_with_their_names() {
    let limits = Limits { header_count: 32, header_bytes: 16 << 10, ..Limits::default() };
    let fleet = fleet(limits).await;
    for client in [fleet.client("c1"), fleet.client("c1").http2()] {
        let many = |count: usize| {
            let mut request = client.request("GET", "/c1/version", empty());
            for index in 0..count {
                request.headers_mut().insert(
                    http::HeaderName::try_from(format!("x-h{index}")).unwrap(),
                    "v".parse().unwrap(),
                );
            }
            request
        };
        assert_eq!(client.send(many(28)).await.status, 200);
        let refused = client.send(many(33)).await;
        let message = refused.assert_status(431, "RequestHeaderFieldsTooLarge");
        assert!(message.contains("--max-headers"), "{message}");
    }
    let client = fleet.client("c1");
    let long = |bytes: usize| format!("/c1/version?x={}", "x".repeat(bytes));
    assert_eq!(client.get(&long(14 << 10)).await.status, 200);
    let refused = client.get(&long(17 << 10)).await;
    refused.assert_status(414, "RequestURITooLong");
    let with = |bytes: usize| {
        let mut request = client.request("GET", "/c1/version", empty());
        request.headers_mut().insert("x-long", "x".repeat(bytes).parse().unwrap());
        request
    };
    assert_eq!(client.send(with(14 << 10)).await.status, 200);
    let refused = client.send(with(17 << 10)).await;
    let message = refused.assert_status(431, "RequestHeaderFieldsTooLarge");
    assert!(message.contains("--max-header-bytes"), "{message}");
    // Far above, nothing is parsed: the code alone, or the end while the client still writes.
    if let Ok(answer) = client.open(with(64 << 10)).await {
        assert_eq!(answer.status(), 431);
    }
    assert_eq!(client.http2().send(with(20 << 10)).await.status, 431);
    counted(&fleet, "header-bytes", 2.0).await;
    counted(&fleet, "headers", 2.0).await;
}

#[tokio::test]
async fn a_head_has_a_deadline_and_an_idle_connection_another() {
    let second = Duration::from_secs(1);
    let limits = Limits { head_timeout: second, idle_timeout: 3 * second, ..Limits::default() };
    let fleet = fleet(limits).await;
    let client = fleet.client("c1");

    // A byte at a time, each well before the deadline of all.
    let mut slow = client.connect(b"http/1.1").await.unwrap();
    let mut start = Instant::now();
    let drip = async {
        for byte in b"GET /c1/version HTTP/1.1\r\nx-slow: ".iter().cycle() {
            if slow.write_all(&[*byte]).await.is_err() || slow.flush().await.is_err() {
                return;
            }
            let mut byte = [0];
            let read = tokio::time::timeout(second / 10, slow.read(&mut byte)).await;
            if let Ok(Ok(0) | Err(_)) = read {
                return;
            }
        }
    };
    within("the slow head is cut", PATIENCE, drip).await;
    assert!(start.elapsed() >= second && start.elapsed() < 3 * second, "{:?}", start.elapsed());
    counted(&fleet, "head-timeout", 1.0).await;

    // An idle one lives longer, is used again, and ends by the other deadline. With TLS's goodbye.
    let idle = TokioIo::new(client.connect(b"http/1.1").await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(idle).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..2 {
        tokio::time::sleep(second + second / 2).await;
        let request = client.request("GET", "/c1/version", empty());
        let answer = within("an answer", PATIENCE, sender.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
        start = Instant::now();
    }
    within("the end", PATIENCE, connection).await.unwrap().expect("a goodbye");
    assert!(start.elapsed() >= 3 * second - second / 10, "{:?}", start.elapsed());

    // A preface that never ends is a head as well.
    let mut half = client.connect(b"h2").await.unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    assert!(closed(&mut half).await < 3 * second);
}

#[tokio::test]
async fn http2_without_requests_ends_in_good_order_and_a_watch_goes_on() {
    let limits = Limits { idle_timeout: Duration::from_secs(1), ..Limits::default() };
    let fleet = fleet(limits).await;
    let client = fleet.client("c1").http2();
    let handshake = || async {
        let stream = client.connect(b"h2").await.unwrap();
        h2::client::handshake(stream).await.unwrap()
    };
    // Busy: one watch is enough. Its connection answers pings like the idle one.
    let (busy, connection) = handshake().await;
    let busy_connection = tokio::spawn(connection);
    let mut busy = busy.ready().await.unwrap();
    let (parts, _) = client.request("GET", WATCH, empty()).into_parts();
    let (response, _) = busy.send_request(http::Request::from_parts(parts, ()), true).unwrap();
    let watch = within("the watch", PATIENCE, response).await.unwrap();
    assert_eq!(watch.status(), 200);
    let (_idle, connection) = handshake().await;
    // Its last write may find the connection closed already.
    let _ = within("the idle connection ends", PATIENCE, connection).await;
    assert!(!busy_connection.is_finished(), "a watch is no idleness");
    drop(watch);
    // What the idle one is told: GOAWAY, NO_ERROR.
    let mut raw = client.connect(b"h2").await.unwrap();
    raw.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let goodbye = async {
        loop {
            let mut head = [0; 9];
            raw.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            raw.read_exact(&mut payload).await.unwrap();
            if head[3] == GOAWAY {
                return payload;
            }
        }
    };
    let goodbye = within("GOAWAY", PATIENCE, goodbye).await;
    assert_eq!(goodbye[4..8], [0; 4], "NO_ERROR");
}

/// Type of the frame, RFC 9113 section 6.8.
const GOAWAY: u8 = 7;

#[tokio::test]
async fn a_client_is_told_how_many_streams_it_may_have() {
    let limits = Limits { streams_per_connection: 2, ..Limits::default() };
    let fleet = fleet(limits).await;
    let client = fleet.client("c1").http2();
    let stream = client.connect(b"h2").await.unwrap();
    let (sender, mut connection) = h2::client::handshake(stream).await.unwrap();
    // Settings first: a client that has not read them yet may ask for more.
    let mut pong = connection.ping_pong().unwrap();
    let running = tokio::spawn(connection);
    pong.ping(h2::Ping::opaque()).await.unwrap();
    assert_eq!(sender.current_max_send_streams(), 2);
    running.abort();
}

#[tokio::test]
async fn a_source_has_its_share_of_connections_and_no_more() {
    let limits = Limits { connections_per_source: 4, ..Limits::default() };
    let fleet = fleet(limits).await;
    let client = fleet.client("c1");
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(connect_from("127.0.0.2", &client).await.unwrap());
    }
    // Closed at once: no handshake.
    assert!(connect_from("127.0.0.2", &client).await.is_err());
    counted(&fleet, "connections-per-source", 1.0).await;
    // Others go on, and room that is given back can be used.
    assert_eq!(client.get("/c1/version").await.status, 200);
    held.pop();
    eventually("a slot is free again", PATIENCE, || async {
        connect_from("127.0.0.2", &client).await.ok()
    })
    .await;
}

#[tokio::test]
async fn handshakes_have_a_deadline_and_a_share() {
    let limits = Limits {
        handshakes_per_source: 2,
        handshake_timeout: Duration::from_secs(3),
        ..Limits::default()
    };
    let fleet = fleet(limits).await;
    let client = fleet.client("c1");
    let silent = || async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.3:0".parse().unwrap()).unwrap();
        socket.connect(client.address).await.unwrap()
    };
    let (mut first, _second) = (silent().await, silent().await);
    eventually("the third is turned away", PATIENCE, || async {
        connect_from("127.0.0.3", &client).await.err()
    })
    .await;
    counted(&fleet, "handshakes-per-source", 1.0).await;
    assert_eq!(client.get("/c1/version").await.status, 200, "other sources do not notice");
    closed(&mut first).await;
    counted(&fleet, "handshake-timeout", 1.0).await;
    eventually("the source may come again", PATIENCE, || async {
        connect_from("127.0.0.3", &client).await.ok()
    })
    .await;
}

#[tokio::test]
async fn behind_a_balancer_the_source_is_whom_it_names() {
    let limits = Limits {
        connections_per_source: 2,
        handshake_timeout: Duration::from_secs(1),
        proxies: vec!["127.0.0.9/32".parse().unwrap()],
        ..Limits::default()
    };
    let fleet = fleet(limits).await;
    let client = fleet.client("c1");
    let from = async |source: &str, header: &[u8]| {
        let socket = TcpSocket::new_v4()?;
        socket.bind(format!("{source}:0").parse()?)?;
        let mut stream = socket.connect(client.address).await?;
        stream.write_all(header).await?;
        let config = tls::upstream(&client.ca_pem, None, &[b"http/1.1"])?;
        let stream = tls::connect(&config, "localhost", stream).await?;
        let stream = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        tokio::spawn(connection);
        let path = "/c1/api/v1/namespaces/default/services/x/proxy/echo";
        let answer = sender.send_request(client.request("GET", path, empty())).await?;
        let echo = answer.into_body().collect().await?.to_bytes();
        anyhow::Ok((sender, String::from_utf8(echo.to_vec())?))
    };
    let line = |who: &str| format!("PROXY TCP4 {who} 192.0.2.1 40000 443\r\n").into_bytes();

    let (held, echo) = from("127.0.0.9", &line("198.51.100.7")).await.unwrap();
    assert!(echo.contains("198.51.100.7"), "X-Forwarded-For names the client: {echo}");
    let _second = from("127.0.0.9", &line("198.51.100.7")).await.unwrap();
    assert!(from("127.0.0.9", &line("198.51.100.7")).await.is_err(), "its share is used up");
    let (_other, echo) = from("127.0.0.9", &line("198.51.100.8")).await.unwrap();
    assert!(echo.contains("198.51.100.8"), "{echo}");
    drop(held);
    eventually("the log names the client", PATIENCE, || async {
        let log = std::fs::read_to_string(&fleet.hub.access_log).ok()?;
        log.contains("\"198.51.100.7\"").then_some(())
    })
    .await;

    // A named balancer must say who; nobody else may.
    assert!(from("127.0.0.9", b"").await.is_err());
    let (_plain, echo) = from("127.0.0.10", b"").await.unwrap();
    assert!(echo.contains("127.0.0.10"), "{echo}");
    assert!(from("127.0.0.10", &line("198.51.100.7")).await.is_err());
    // Plain HTTP behind the balancer is told so too.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut plain = socket.connect(client.address).await.unwrap();
    let request = [&line("198.51.100.9")[..], b"GET / HTTP/1.1\r\nhost: hub\r\n\r\n"].concat();
    plain.write_all(&request).await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 400 "), "{answer:?}");
    // A header that never comes has a deadline.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut silent = socket.connect(client.address).await.unwrap();
    assert!(closed(&mut silent).await < Duration::from_secs(5));
    counted(&fleet, "proxy-header-timeout", 1.0).await;
}
