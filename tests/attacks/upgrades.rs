//! Upgrades and redirects: cases 19 to 25, in bytes at both ends.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::frames::{self, settings};
use crate::scripted::{Scripted, line};
use crate::support::{PATIENCE, within};

const WEBSOCKET: &str = "connection: Upgrade\r\nupgrade: websocket\r\n";

fn exec(case: &str, script: &str) -> String {
    format!("/c1/api/v1/namespaces/n/pods/{case}/exec?command=sh&script={script}")
}

#[tokio::test]
async fn s19_s20_bytes_before_the_answer() {
    let ground = Scripted::start().await;
    // Were they a request, it would be a good one.
    let early = ground.get("/c1/evil19", "");
    for code in [200, 302, 403, 500] {
        let case = format!("s20-{code}");
        let head = ground.get(&exec(&case, &format!("status:{code}")), WEBSOCKET);
        let reply = ground.closed(format!("{head}{early}")).await;
        assert_eq!((reply.code(), reply.answers()), (code, 1), "{}", reply.0);
        assert!(reply.0.ends_with("as asked"), "{}", reply.0);
        assert_eq!(ground.seen(&case).len(), 1);
    }
    // The hub's own refusals are no other.
    let head =
        ground.bare("GET", &exec("s20-401", "101"), &format!("host: localhost\r\n{WEBSOCKET}"));
    let reply = ground.closed(format!("{head}{early}")).await;
    assert_eq!((reply.code(), reply.answers()), (401, 1), "{}", reply.0);
    assert_eq!((ground.seen("s20-401").len(), ground.seen("evil19").len()), (0, 0));

    // After a 101 they belong to the protocol, in order.
    let mut session = ground.fleet.anonymous().connect(b"http/1.1").await.unwrap();
    let head = ground.get(&exec("s19-101", "101"), WEBSOCKET);
    session.write_all(format!("{head}early ").as_bytes()).await.unwrap();
    session.write_all(b"and late").await.unwrap();
    session.flush().await.unwrap();
    let mut answer = Vec::new();
    within("everything comes back", PATIENCE, async {
        while !answer.ends_with(b"early and late") {
            answer.push(session.read_u8().await.unwrap());
        }
    })
    .await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, said) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(said, "early and late");
    assert!(!head.contains("set-cookie"), "{head}");

    // And what was no wish for an upgrade keeps its connection.
    let two = ground.get("/c1/s19-a?script=status:403", "")
        + &ground.get("/c1/s19-b", "connection: close\r\n");
    assert_eq!(ground.closed(two).await.answers(), 2);
}

#[tokio::test]
async fn s21_redirects_lead_nowhere_else() {
    let ground = Scripted::start().await;
    let table: [(&str, Option<&str>); 8] = [
        ("/api/lure", Some("/c1/api/lure")),
        ("lure?x=https://evil/", Some("lure?x=https://evil/")),
        ("/c2/lure", Some("/c1/c2/lure")),
        ("https://evil.example/lure", None),
        ("//evil.example/lure", None),
        ("https://127.0.0.1:6443/lure", None),
        ("/../c2/lure", None),
        ("../../c2/lure", None),
    ];
    for (index, (to, told)) in table.into_iter().enumerate() {
        let script = format!("location:{}", to.replace('?', "%3F"));
        for (target, lines) in [
            (format!("/c1/s21-{index}-get?script={script}"), ""),
            (exec(&format!("s21-{index}-exec"), &script), WEBSOCKET),
        ] {
            let reply =
                ground.closed(ground.get(&target, &format!("{lines}{}", closing(lines)))).await;
            assert_eq!(reply.code(), 302, "{target}: {}", reply.0);
            assert_eq!(reply.header("location"), told, "{target}");
        }
    }
    let followed =
        |head: &&String| head.split(' ').nth(1).is_some_and(|target| !target.contains("s21"));
    let lured = ground.seen("lure");
    assert_eq!(lured.iter().filter(followed).count(), 0, "{lured:?}");
    assert_eq!(lured.len(), 16);
    // A path of the API server, asked without a cluster, stays as it is.
    let reply = ground.ask("/api/s21-home?script=location:/api/lure", "").await;
    assert_eq!((reply.code(), reply.header("location")), (302, Some("/api/lure")));
}

/// An upgrade that is refused closes by itself.
fn closing(lines: &str) -> &'static str {
    if lines.is_empty() { "connection: close\r\n" } else { "" }
}

#[tokio::test]
async fn s22_s23_what_is_no_upgrade() {
    let ground = Scripted::start().await;
    let plain = [
        (
            "h2c",
            "connection: Upgrade, HTTP2-Settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
        ),
        ("foo", "connection: Upgrade, close\r\nupgrade: foo\r\n"),
        ("list", "connection: Upgrade, close\r\nupgrade: websocket, SPDY/3.1\r\n"),
        ("twice", "connection: Upgrade, close\r\nupgrade: websocket\r\nupgrade: SPDY/3.1\r\n"),
        ("unnamed", "connection: close\r\nupgrade: websocket\r\n"),
    ];
    for (case, lines) in plain {
        let case = format!("s22-{case}");
        let reply = ground.closed(ground.get(&exec(&case, "none"), lines)).await;
        assert_eq!(reply.code(), 200, "{case}: {}", reply.0);
        let seen = ground.seen(&case);
        assert_eq!(seen.len(), 1, "{case}");
        for name in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(line(&seen[0], name), None, "{case}: {}", seen[0]);
        }
    }
    for protocol in ["websocket", "SPDY/3.1"] {
        let case = format!("s23-{}", protocol.len());
        let lines = format!("connection: Upgrade\r\nupgrade: {protocol}\r\n");
        let head = ground.get(&exec(&case, "status:403"), &lines);
        assert_eq!(ground.closed(head).await.code(), 403);
        assert_eq!(line(&ground.seen(&case)[0], "upgrade"), Some(protocol));
    }
}

#[tokio::test]
async fn s24_a_token_in_a_subprotocol() {
    let ground = Scripted::start().await;
    let encode = |token: &str| URL_SAFE_NO_PAD.encode(token);
    let offer = |token: &str| {
        let token = encode(token);
        format!(
            "sec-websocket-protocol: v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.{token}\r\n"
        )
    };
    let header = format!("authorization: Bearer {}\r\n", ground.token);
    let (good, bad) = (offer(&ground.token), offer("garbage"));
    for (case, code, lines) in [
        ("s24-good", 403, good.clone()),
        ("s24-garbage", 401, bad.clone()),
        ("s24-both", 401, format!("{header}{good}")),
        ("s24-other", 401, format!("{header}{bad}")),
        ("s24-twice", 401, format!("{good}{good}")),
        ("s24-header", 403, format!("{header}sec-websocket-protocol: v5.channel.k8s.io\r\n")),
    ] {
        let lines = format!("host: localhost\r\n{WEBSOCKET}{lines}");
        let head = ground.bare("GET", &exec(case, "status:403"), &lines);
        let reply = ground.closed(head).await;
        assert_eq!(reply.code(), code, "{case}: {}", reply.0);
        let seen = ground.seen(case);
        assert_eq!(seen.len(), usize::from(code == 403), "{case}");
        if let Some(head) = seen.first() {
            let bearer = format!("Bearer {}", ground.token);
            assert_eq!(line(head, "authorization"), Some(bearer.as_str()), "{case}");
            assert_eq!(line(head, "sec-websocket-protocol"), Some("v5.channel.k8s.io"), "{case}");
        }
    }
    // Written down by nobody.
    let log = std::fs::read_to_string(&ground.fleet.hub.access_log).unwrap();
    for secret in [ground.token.clone(), encode(&ground.token), encode("garbage")] {
        assert!(!log.contains(&secret));
    }
}

#[tokio::test]
async fn s25_extended_connect_is_not_offered() {
    let ground = Scripted::start().await;
    let mut session = ground.fleet.anonymous().connect(b"h2").await.unwrap();
    let mut hello = frames::PREFACE.to_vec();
    hello.extend(settings(&[]));
    session.write_all(&hello).await.unwrap();
    session.flush().await.unwrap();
    let mut head = [0; 9];
    within("the hub's SETTINGS", PATIENCE, session.read_exact(&mut head)).await.unwrap();
    assert_eq!(head[3], SETTINGS, "RFC 9113 section 3.4: the first frame");
    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    within("its values", PATIENCE, session.read_exact(&mut payload)).await.unwrap();
    let ids: Vec<u8> = payload.chunks(6).map(|setting| setting[1]).collect();
    assert!(!ids.is_empty() && !ids.contains(&ENABLE_CONNECT_PROTOCOL), "{ids:?}");
}

const SETTINGS: u8 = 4;
/// RFC 8441 section 3.
const ENABLE_CONNECT_PROTOCOL: u8 = 8;
