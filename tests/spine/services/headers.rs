//! What a service sees of its caller, and what callers see of a service's headers.

use super::ground::{Ground, header, path};
use crate::support::client::{Answer, Client, empty};

const LIST: &str = "
- {namespace: shop, service: web, port: 80, protocol: http}
- {namespace: shop, service: web, port: 8080, protocol: http, passToken: true}
";

async fn get(client: &Client, path: &str, lines: &[(&str, &str)]) -> Answer {
    let mut request = client.request("GET", path, empty());
    for (name, value) in lines {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    client.send(request).await
}

/// The caller's own token, where the entry says so; the agent's and the hub's, never.
#[tokio::test]
async fn a_token_arrives_only_where_its_entry_says_so() {
    let ground = Ground::start(LIST, &["shop/web"]).await;
    let own = format!("Bearer {}", ground.token);
    for (client, segment, expected) in [
        (&ground.client, "http:web:80", None),
        (&ground.client, "http:web:8080", Some(own)),
        (&ground.of_hub, "http:web:80", None),
        (&ground.of_hub, "http:web:8080", None),
    ] {
        let answer = client.get(&path(segment, "/")).await;
        assert_eq!(answer.status, 200, "{segment}: {}", answer.text());
        assert_eq!(header(&answer, "authorization"), expected, "{segment}");
        let bearers = answer.text().matches("Bearer").count();
        assert_eq!(bearers, usize::from(expected.is_some()), "{}", answer.text());
    }
}

/// Security cases 42 to 44, 48 and 50, the half of services: at both ends of a real agent.
#[tokio::test]
async fn s42_to_s50_cookies_pass_and_nobodys_word_for_a_user_does() {
    let ground = Ground::start(LIST, &["shop/web"]).await;
    let forged = [
        ("impersonate-user", "evil"),
        ("impersonate-group", "evil"),
        ("x-remote-user", "evil"),
        ("x-forwarded-host", "evil"),
        ("x-real-ip", "evil"),
        ("cluster-proxy-mode", "agent"),
        ("cluster-proxy-service", "http:evil/evil:80"),
        ("cluster-proxy-namespace", "evil"),
    ];
    let wanted = [("cookie", "session=1"), ("x-csrf-token", "a"), ("x-mine", "b")];
    let lines = [&forged[..], &wanted[..]].concat();
    for client in [ground.client.clone(), ground.client.http2()] {
        let answer = get(&client, &path("http:web:80", "/"), &lines).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        for (name, value) in wanted {
            assert_eq!(header(&answer, name).as_deref(), Some(value), "{name}");
        }
        let seen = answer.text();
        for word in
            ["evil", "cluster-proxy-mode", "cluster-proxy-service", "impersonate", "x-remote"]
        {
            assert!(!seen.contains(word), "{word}: {seen}");
        }

        let login = get(&client, &path("http:web:80", "/login"), &[]).await;
        assert_eq!(login.status, 302, "{}", login.text());
        let cookies: Vec<_> = login.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["session=1; Path=/; HttpOnly", "theme=dark"]);
        let home = path("http:web:80", "/home?from=/login");
        assert_eq!(login.headers["location"], home.as_str());
        assert_eq!(login.headers["x-theirs"], "kept");
        let away = get(&client, &path("http:web:80", "/away"), &[]).await;
        assert!(away.status == 302 && !away.headers.contains_key("location"), "{away:?}");
        for gone in [
            "strict-transport-security",
            "clear-site-data",
            "alt-svc",
            "cluster-proxy-mode",
            "cluster-proxy-fault",
        ] {
            assert!(!login.headers.contains_key(gone), "{gone}");
        }
    }
}

/// Security cases 22 and 23: what is no upgrade of ours is a plain request.
#[tokio::test]
async fn s22_s23_other_upgrades_do_not_reach_a_service() {
    let ground = Ground::start(LIST, &["shop/web"]).await;
    for (protocol, passes) in
        [("websocket", true), ("h2c", false), ("foo", false), ("websocket, SPDY/3.1", false)]
    {
        let lines = [
            ("connection", "Upgrade, HTTP2-Settings"),
            ("upgrade", protocol),
            ("http2-settings", "AAMAAABkAAQAAP__"),
        ];
        let answer = get(&ground.client, &path("http:web:80", "/"), &lines).await;
        assert_eq!(answer.status, 200, "{protocol}: {}", answer.text());
        let seen = header(&answer, "upgrade");
        assert_eq!(seen.as_deref(), passes.then_some(protocol));
        assert_eq!(header(&answer, "http2-settings"), None, "{protocol}");
    }
}
