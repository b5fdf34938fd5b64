//! Headers that carry identity, headers of one hop, and log lines: cases 42 to 51, in bytes at both
//! ends.

use crate::scripted::{Scripted, line};
use crate::support::{PATIENCE, eventually};

#[tokio::test]
async fn s42_s43_impersonation_is_for_the_spoke_and_spelt_as_such() {
    let ground = Scripted::start().await;
    for (index, (code, name)) in [
        (200, "Impersonate-User"),
        (200, "IMPERSONATE-GROUP"),
        (200, "Impersonate-Extra-%2f"),
        (400, "Impersonate_User"),
        // A prefix whose rest may be anything.
        (200, "impersonate-extra-a_b"),
        (400, "X_Remote-User"),
        (400, "Cluster_Proxy_Mode"),
        (200, "x_mine"),
    ]
    .into_iter()
    .enumerate()
    {
        let case = format!("s43-{index}-");
        let reply = ground.ask(&format!("/c1/{case}"), &format!("{name}: admin\r\n")).await;
        assert_eq!(reply.code(), code, "{name}: {}", reply.0);
        let seen = ground.seen(&case);
        assert_eq!(seen.len(), usize::from(code == 200), "{name}");
        if let Some(head) = seen.first() {
            assert_eq!(line(head, name), Some("admin"), "{name}: {head}");
        }
    }
    let groups = |count: usize| "impersonate-group: a\r\n".repeat(count);
    assert_eq!(ground.ask("/c1/s43-many", &groups(500)).await.code(), 431);
    assert_eq!(ground.seen("s43-many").len(), 0);
    assert_eq!(ground.ask("/c1/s43-some", &groups(200)).await.code(), 200);
}

#[tokio::test]
async fn s44_to_s48_what_never_crosses() {
    let ground = Scripted::start().await;
    let removed = [
        "x-remote-user",
        "x-remote-group",
        "x-remote-uid",
        "x-remote-extra-a",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-uri",
        "x-forwarded-user",
        "forwarded",
        "x-real-ip",
        "x-original-url",
        "x-rewrite-url",
        "proxy-authorization",
        "proxy-connection",
        "keep-alive",
        "cluster-proxy-mode",
        "cluster-proxy-fault",
        "cluster-proxy-new",
        "cookie",
        "x-csrf-token",
        "trailer",
        "http2-settings",
        "proxy-authenticate",
    ];
    for name in removed {
        let target = format!("/c1/s44-{name}-");
        let reply = ground.ask(&target, &format!("{name}: evil\r\nx-kept: {name}\r\n")).await;
        assert_eq!(reply.code(), 200, "{name}: {}", reply.0);
        let head = &ground.seen(&format!("/s44-{name}-"))[0];
        assert!(!head.contains("evil"), "{head}");
        assert_eq!(line(head, "x-kept"), Some(name), "{head}");
    }
    // Set by us, whatever was said.
    let lines = "x-forwarded-for: 10.9.8.7\r\nte: trailers, deflate\r\nvia: 1.1 fred\r\n";
    assert_eq!(ground.ask("/c1/s46-ours", lines).await.code(), 200);
    let head = &ground.seen("s46-ours")[0];
    assert_eq!(line(head, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(line(head, "te"), Some("trailers"));
    assert_eq!(head.matches("x-forwarded-for: ").count(), 1);
    assert!(head.contains("via: 1.1 fred\r\nvia: 1.1 cluster-proxy-"), "{head}");
}

#[tokio::test]
async fn s45_connection_takes_nothing_that_matters() {
    let ground = Scripted::start().await;
    let bearer = format!("Bearer {}", ground.token);
    let named = "connection: close, Authorization, Impersonate-User, X-Remote-User, X-Mine, \
                 x-request-id, via, x-forwarded-for, traceparent\r\n";
    let lines = format!(
        "{named}impersonate-user: jane\r\nx-remote-user: admin\r\nx-mine: 1\r\nx-other: 1\r\n"
    );
    let reply = ground.closed(ground.get("/c1/s45", &lines)).await;
    assert_eq!(reply.code(), 200, "{}", reply.0);
    let head = &ground.seen("/s45")[0];
    assert_eq!(line(head, "authorization"), Some(bearer.as_str()));
    assert_eq!(line(head, "impersonate-user"), Some("jane"));
    assert_eq!(line(head, "x-other"), Some("1"));
    for ours in ["x-request-id", "x-forwarded-for", "via", "traceparent"] {
        assert!(line(head, ours).is_some(), "{ours}: {head}");
    }
    for gone in ["x-mine", "x-remote-user", "connection"] {
        assert_eq!(line(head, gone), None, "{head}");
    }
}

#[tokio::test]
async fn s49_one_well_formed_bearer() {
    let ground = Scripted::start().await;
    let token = &ground.token;
    for (code, target, lines) in [
        (200, "/c1/s49", format!("authorization: Bearer {token}\r\n")),
        (
            401,
            "/c1/s49",
            format!("authorization: Bearer {token}\r\nauthorization: Bearer {token}\r\n"),
        ),
        (401, "/c1/s49", format!("authorization: Bearer {token}\r\nauthorization: Basic eA==\r\n")),
        (401, "/c1/s49", format!("authorization: Bearer  {token}\r\n")),
        (401, "/c1/s49", format!("authorization: bearer {token}\r\n")),
        (401, "/c1/s49", format!("authorization: Bearer\t{token}\r\n")),
        (401, "/c1/s49", format!("authorization: Bearer {token},{token}\r\n")),
        (401, "/c1/s49", format!("authorization: Basic {token}\r\n")),
        (401, "/c1/s49", "authorization: Bearer \r\n".to_owned()),
        (401, "/c1/s49", "authorization:\r\n".to_owned()),
        (401, &*format!("/c1/s49?access_token={token}"), String::new()),
    ] {
        let before = ground.seen("/s49").len();
        let lines = format!("host: localhost\r\nconnection: close\r\n{lines}");
        let reply = ground.closed(ground.bare("GET", target, &lines)).await;
        assert_eq!(reply.code(), code, "{}", lines.replace(token, "TOKEN"));
        assert_eq!(ground.seen("/s49").len() - before, usize::from(code == 200));
    }
}

#[tokio::test]
async fn s48_s50_what_an_answer_must_not_say() {
    let ground = Scripted::start().await;
    for name in [
        "set-cookie",
        "strict-transport-security",
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "alt-svc",
        "clear-site-data",
        "keep-alive",
        "proxy-authenticate",
        "cluster-proxy-took",
        "cluster-proxy-upgrade",
        "cluster-proxy-fault",
    ] {
        let reply = ground.ask(&format!("/c1/s50?script=header:{name}"), "").await;
        assert_eq!(reply.code(), 200, "{name}: {}", reply.0);
        assert_eq!(reply.header(name), None, "{name}");
    }
    for name in ["warning", "audit-id", "x-kubernetes-pf-flowschema-uid", "etag"] {
        let reply = ground.ask(&format!("/c1/s50?script=header:{name}"), "").await;
        assert_eq!(reply.header(name), Some("1"), "{name}");
    }
}

#[tokio::test]
async fn s51_lines_of_the_access_log() {
    let ground = Scripted::start().await;
    // U+009B is `ESC [` to some terminals; ESC itself is no byte of a head.
    for (target, agent) in
        [(&b"/c1/s51\xc2\x9b31m"[..], &b"\xc2\x9b31m"[..]), (b"/c1/s51-escape", b"\x1b[31m")]
    {
        let parts = [b"GET ", target, b" HTTP/1.1\r\nuser-agent: ", agent, b"\r\n"];
        let mut head = parts.concat();
        head.extend(b"host: localhost\r\nconnection: close\r\n\r\n");
        assert_eq!(ground.closed(head).await.code(), 400);
    }
    assert_eq!(ground.ask("/c1/s51-plain", "user-agent: \u{9b}\u{e9}\r\n").await.code(), 200);
    let log = eventually("both lines", PATIENCE, || async {
        let log = std::fs::read(&ground.fleet.hub.access_log).ok()?;
        let text = String::from_utf8_lossy(&log);
        (text.contains("/c1/s51-plain") && text.contains("/c1/s51\\u")).then_some(log)
    })
    .await;
    assert!(log.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
    for line in log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        serde_json::from_slice::<serde_json::Value>(line).unwrap();
    }
}
