//! Request targets, cluster names and hosts: cases 27 to 41, in bytes at both ends.

use crate::scripted::{Scripted, line};

#[tokio::test]
async fn s27_s28_s30_s36_targets_that_are_refused() {
    let ground = Scripted::start().await;
    let long = format!("/{}/evil", "a".repeat(64));
    let refused: [&[u8]; 34] = [
        b"//c1/api/evil",
        b"/./c1/api/evil",
        b"/x/../c1/api/evil",
        b"/c1/../c2/api/evil",
        b"/c1/api/../../c2/evil",
        b"/c1/%2e%2e/c2/evil",
        b"/c1/%2E./c2/evil",
        b"/c1/.%2e/c2/evil",
        b"/c1/x%2f..%2fevil",
        b"/c1/x%5c..%5cevil",
        b"/c1/..;/c2/evil",
        b"/c1/..;a=b/evil",
        b"/c1/%2e%2e%3bx/evil",
        b"/c1\\api/evil",
        b"/c1/..\\evil",
        b"/c1;a=b/api/evil",
        b"/c1%2fapi/evil",
        b"/c1%00/evil",
        b"/c1/a%00/evil",
        b"/c1/a\0/evil",
        b"/c1/evil%",
        b"/c1/evil%2",
        b"/c1/%zz/evil",
        b"/c1/\xc3\xa9/evil",
        b"/c1/\xff/evil",
        b"/c1/a b/evil",
        b"/C1/api/evil",
        b"/c1./api/evil",
        b"/c1%20/api/evil",
        b"/cl\xc4\xb1/api/evil",
        b"/\xef\xbd\x83\xef\xbc\x91/api/evil",
        b"/-a/evil",
        b"c1/api/evil",
        long.as_bytes(),
    ];
    for target in refused {
        let shown = target.escape_ascii();
        let mut head = b"GET ".to_vec();
        head.extend(target);
        let rest = ground.get("", "connection: close\r\n");
        head.extend(rest.strip_prefix("GET ").unwrap().as_bytes());
        let reply = ground.closed(head).await;
        assert_eq!(reply.code(), 400, "{shown}: {}", reply.0);
    }
    // Names of the grammar that nobody has, or that are ours, are the common 401.
    for target in ["/c1x/api/evil", "/xn--c1/api/evil", "/_fleet/evil", "/apix/evil"] {
        assert_eq!(ground.ask(target, "").await.code(), 401, "{target}");
    }
    assert_eq!(ground.seen("evil").len(), 0);
}

#[tokio::test]
async fn s29_s31_s32_s33_s38_s41_targets_that_pass_byte_for_byte() {
    let ground = Scripted::start().await;
    let parameters = format!("/c1/api/good41?{}", "a=1&".repeat(10_001));
    for target in [
        "/c1/api/good",
        "/c1/x/good",
        "/c1//api/good",
        "/c1/a..b/...good",
        "/c1/a;a=b/good",
        "/c1/a%2fgood",
        "/c1/a%20good",
        "/c1/api/v1/namespaces/n/services/https:s:443/proxy/a%2Fb/good",
        "/c1/%252e%252e/good",
        "/c1/api/v1/pods?x=/1/2/3/../5/6/7/proxy-service/good",
        "/c1/good?a=1&a=2;b=3&&=&%zz&%ff&c=%00#cut",
        "/c1/good33#/../c2",
        &parameters,
    ] {
        let reply = ground.ask(target, "").await;
        assert_eq!(reply.code(), 200, "{target}: {}", reply.0);
        // A fragment is nobody's: RFC 9112 has none in a target.
        let upstream = target.strip_prefix("/c1").unwrap().split('#').next().unwrap();
        assert_eq!(ground.seen(&format!("GET {upstream} HTTP/1.1\r\n")).len(), 1, "{target}");
    }
    for (times, target) in [(1, "/c1"), (2, "/c1/")] {
        assert_eq!(ground.ask(target, "").await.code(), 200, "{target}");
        assert_eq!(ground.seen("GET / HTTP/1.1\r\n").len(), times);
    }
}

#[tokio::test]
async fn s34_s40_hosts() {
    let ground = Scripted::start().await;
    let token = format!("authorization: Bearer {}\r\nconnection: close\r\n", ground.token);
    for (code, target, hosts) in [
        (200, "/c1/host", "host: localhost\r\n"),
        // Not the name in the TLS handshake: legitimate.
        (200, "/c1/host", "host: elsewhere:1\r\n"),
        (200, "/c1/host", "host: [::1]:9092\r\n"),
        (200, "http://elsewhere/c1/host", "host: localhost\r\n"),
        (400, "/c1/host", ""),
        (400, "/c1/host", "host:\r\n"),
        (400, "/c1/host", "host: a\r\nhost: a\r\n"),
        (400, "/c1/host", "host: a\r\nhost: b\r\n"),
        (400, "/c1/host", "host: hub\tx\r\n"),
        (400, "/c1/host", "host: hub x\r\n"),
        (400, "/c1/host", "host: hub:443@evil\r\n"),
        (400, "/c1/host", "host: hub,evil\r\n"),
        (400, "/c1/host", "host: hub:\r\n"),
        (400, "/c1/host", "host: hub/c1\r\n"),
        (400, "http://me@hub/c1/host", "host: hub\r\n"),
        (400, "ftp://hub/c1/host", "host: hub\r\n"),
        (400, "http://hub/c1/host", ""),
    ] {
        let before = ground.seen("GET /host ").len();
        let reply = ground.closed(ground.bare("GET", target, &format!("{hosts}{token}"))).await;
        assert_eq!(reply.code(), code, "{target} {hosts:?}: {}", reply.0);
        let reached = ground.seen("GET /host ").len() - before;
        assert_eq!(reached, usize::from(code == 200), "{target} {hosts:?}");
    }
    // The API server is called by its own name.
    let seen = ground.seen("GET /host ");
    assert!(
        seen.iter().all(|head| line(head, "host").is_some_and(|host| host.starts_with("127.")))
    );
}

#[tokio::test]
async fn s35_methods_and_forms() {
    let ground = Scripted::start().await;
    let lines = format!(
        "host: localhost\r\nauthorization: Bearer {}\r\nconnection: close\r\n",
        ground.token
    );
    for (code, method, target) in [
        (405, "CONNECT", "c1:443"),
        (405, "TRACE", "/c1/form"),
        (405, "TRACK", "/c1/form"),
        (400, "OPTIONS", "*"),
        (200, "OPTIONS", "/c1/form"),
        (200, "GET", "/c1/form"),
    ] {
        let reply = ground.closed(ground.bare(method, target, &lines)).await;
        assert_eq!(reply.code(), code, "{method} {target}: {}", reply.0);
    }
    assert_eq!(ground.seen(" /form ").len(), 2);
}

#[tokio::test]
async fn s39_one_answer_for_what_is_nobodys_business() {
    let ground = Scripted::start().await;
    // Enrolled, and never connected.
    ground.fleet.hub.enrol("c3", &ground.fleet.dir.path().join("c3")).await;
    let with = |token: &str| {
        format!("host: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\n")
    };
    let none = "host: localhost\r\nconnection: close\r\n".to_owned();
    let mut answers = Vec::new();
    for (target, lines) in [
        ("/c1/evil", none.clone()),
        ("/c1/evil", with("garbage")),
        ("/c3/evil", none.clone()),
        ("/c3/evil", with(&ground.token)),
        ("/c9/evil", none),
        ("/c9/evil", with(&ground.token)),
        ("/c9/evil", with("garbage")),
    ] {
        let reply = ground.closed(ground.bare("GET", target, &lines)).await;
        assert_eq!(reply.code(), 401, "{target}: {}", reply.0);
        let dated = reply.header("date").unwrap().to_owned();
        answers.push(reply.0.replace(&dated, "DATE"));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    assert_eq!(ground.seen("evil").len(), 0);
    assert_eq!(ground.ask("/c1/good39", "").await.code(), 200);
}
