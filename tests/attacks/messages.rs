//! Messages in frames that must not become messages of HTTP/1: cases 81, 82 and 84.

use tokio::net::TcpStream;

use crate::frames::{self, DATA, END_STREAM, Outcome, Peer, frame, headers, settings};
use crate::ground::Ground;

pub(crate) type Fields<'a> = Vec<(&'a str, &'a str)>;

/// A request that the API server answers.
pub(crate) fn request<'a>(method: &'a str, path: &'a str, bearer: &'a str) -> Fields<'a> {
    vec![
        (":method", method),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
        ("authorization", bearer),
    ]
}

pub(crate) fn get<'a>(path: &'a str, bearer: &'a str) -> Fields<'a> {
    request("GET", path, bearer)
}

#[tokio::test]
async fn s81_what_http_1_would_read_otherwise() {
    let ground = Ground::start().await;
    let path = ground.path("s81");
    let post = request("POST", &path, &ground.bearer);
    let tricks: [(&str, &str); 12] = [
        ("x-a", "b\r\nx-remote-user: admin"),
        ("x-a", "b\nc"),
        ("x-a", "b\0c"),
        ("x-a\r\nx-b", "c"),
        ("x:a", "b"),
        ("x a", "b"),
        ("X-A", "b"),
        ("", "b"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
    ];
    for (name, value) in tricks {
        let mut peer = ground.peer().await;
        let mut fields = post.clone();
        fields.push((name, value));
        let mut bytes = headers(0, 1, &fields);
        bytes.extend(frame(DATA, END_STREAM, 1, b"12345"));
        peer.send(&bytes).await.unwrap();
        let outcome = peer.outcome(1).await;
        assert!(outcome.is_refusal(), "{name:?}: {value:?}: {outcome:?}");
    }
    assert_eq!(ground.reached("s81"), 0);
    for (length, works) in
        [("4", false), ("6", false), ("+5", false), ("5, 5", false), ("x", false), ("5", true)]
    {
        let mut peer = ground.peer().await;
        let mut fields = post.clone();
        fields.push(("content-length", length));
        let mut bytes = headers(0, 1, &fields);
        bytes.extend(frame(DATA, END_STREAM, 1, b"12345"));
        peer.send(&bytes).await.unwrap();
        let outcome = peer.outcome(1).await;
        assert_eq!(outcome == Outcome::Status(200), works, "{length}: {outcome:?}");
        assert!(works || outcome.is_refusal(), "{length}: {outcome:?}");
        assert_eq!(ground.complete("s81"), usize::from(works), "{length}");
    }
}

#[tokio::test]
async fn s82_pseudo_headers() {
    let ground = Ground::start().await;
    let path = ground.path("s82");
    let good = get(&path, &ground.bearer);
    let with = |name: &str, value| -> Fields<'_> {
        good.iter().map(|field| if field.0 == name { (field.0, value) } else { *field }).collect()
    };
    let and = |field| [good.clone(), vec![field]].concat();
    let first = |field| [vec![field], good.clone()].concat();
    let without =
        |name: &str| -> Fields<'_> { good.iter().filter(|one| one.0 != name).copied().collect() };
    let connect = {
        let mut fields = with(":method", "CONNECT");
        fields.insert(0, (":protocol", "connect-udp"));
        fields
    };
    let refused = [
        ("two methods", first((":method", "GET"))),
        ("two paths", first((":path", "/c2/api"))),
        ("two authorities", first((":authority", "localhost"))),
        ("after the headers", and((":path", "/c2/api"))),
        ("unknown", first((":status", "200"))),
        ("made up", first((":cluster", "c2"))),
        ("no method", without(":method")),
        ("no path", without(":path")),
        ("no scheme", without(":scheme")),
        ("empty path", with(":path", "")),
        ("star", with(":path", "*")),
        ("no slash", with(":path", "c1/api")),
        ("whole URL", with(":path", "https://localhost/c1/api")),
        ("file", with(":scheme", "file")),
        ("request line", with(":method", "GET / HTTP/1.1")),
        ("empty method", with(":method", "")),
        ("userinfo", with(":authority", "c2@localhost")),
        ("another host", and(("host", "elsewhere"))),
        ("connect-udp", connect),
    ];
    for (what, fields) in refused {
        let mut peer = ground.peer().await;
        peer.send(&headers(END_STREAM, 1, &fields)).await.unwrap();
        let outcome = peer.outcome(1).await;
        assert!(outcome.is_refusal(), "{what}: {outcome:?}");
    }
    assert_eq!(ground.reached("s82"), 0);
    for fields in [good.clone(), and(("host", "localhost"))] {
        let mut peer = ground.peer().await;
        peer.send(&headers(END_STREAM, 1, &fields)).await.unwrap();
        assert_eq!(peer.outcome(1).await, Outcome::Status(200), "{fields:?}");
    }
    assert_eq!(ground.reached("s82"), 2);
}

#[tokio::test]
async fn s84_the_wrong_protocol_for_the_connection() {
    let ground = Ground::start().await;
    let path = ground.path("s84");
    let plain = TcpStream::connect(ground.fleet.hub.addresses.user).await.unwrap();
    let mut peer = Peer::silent(plain);
    let mut bytes = frames::PREFACE.to_vec();
    bytes.extend(settings(&[]));
    bytes.extend(headers(END_STREAM, 1, &get(&path, &ground.bearer)));
    let _ = peer.send(&bytes).await;
    // An alert of TLS is no frame.
    assert_eq!(peer.outcome(1).await, Outcome::Closed);

    let mut peer = Peer::silent(ground.session(b"http/1.1").await);
    let _ = peer.send(&bytes).await;
    assert_eq!(peer.outcome(1).await, Outcome::Closed);

    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: {}\r\n\r\n",
        ground.bearer
    );
    let mut peer = Peer::silent(ground.session(b"h2").await);
    let _ = peer.send(head.as_bytes()).await;
    assert!(peer.outcome(1).await.is_end());
    assert_eq!(ground.reached("s84"), 0);

    // Each on the connection that it belongs to.
    let mut peer = Peer::silent(ground.session(b"h2").await);
    peer.send(&bytes).await.unwrap();
    assert_eq!(peer.outcome(1).await, Outcome::Status(200));
    assert_eq!(ground.client().get(&path).await.status, 200);
    assert_eq!(ground.reached("s84"), 2);
}
