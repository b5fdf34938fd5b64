//! Which service a path names, and what that service sees of the path.

use super::ground::{Ground, header, path};

const LIST: &str = "- {namespace: shop, service: web}";

/// U37, U38: numbers, names and defaults, each as the Service has them.
#[tokio::test]
async fn ports_by_number_by_name_and_by_default() {
    let ground = Ground::start(LIST, &["shop/web"]).await;
    for (segment, server, host) in [
        ("http:web:80", "front", "web.shop.svc"),
        ("http:web:", "front", "web.shop.svc"),
        ("http:web:http", "front", "web.shop.svc"),
        ("http:web:8080", "back", "web.shop.svc:8080"),
        ("http:web:admin", "back", "web.shop.svc:8080"),
        ("http%3Aweb%3Aadmin", "back", "web.shop.svc:8080"),
    ] {
        let answer = ground.client.get(&path(segment, "/")).await;
        assert_eq!(answer.status, 200, "{segment}: {}", answer.text());
        assert_eq!(answer.json()["server"], server, "{segment}");
        assert_eq!(header(&answer, "host").as_deref(), Some(host), "{segment}");
    }
    let asked = ground.requests();
    // A port of the Pod is none of the Service.
    let of_pod = format!("http:web:{}", ground.front.address.port());
    for segment in ["http:web:81", "http:web:other", &of_pod] {
        let message = ground.client.get(&path(segment, "/")).await.assert_status(404, "NotFound");
        assert!(message.contains("that it has this port"), "{segment}: {message}");
    }
    assert_eq!(ground.requests(), asked);
}

/// U37, and the escapes that upstream doubles.
#[tokio::test]
async fn what_is_behind_arrives_byte_for_byte() {
    let ground = Ground::start(LIST, &["shop/web"]).await;
    for client in [ground.client.clone(), ground.client.http2()] {
        for (behind, target) in [
            ("", "/"),
            ("/", "/"),
            ("?a=b", "/?a=b"),
            ("/a%2Fb%20c", "/a%2Fb%20c"),
            ("/%252e%252e/x", "/%252e%252e/x"),
            ("//a//;b=c", "//a//;b=c"),
            ("/?x=/1/2/3/../proxy-service/y&x=%zz", "/?x=/1/2/3/../proxy-service/y&x=%zz"),
            (
                "/api/v1/namespaces/a/services/b/proxy-service/c",
                "/api/v1/namespaces/a/services/b/proxy-service/c",
            ),
        ] {
            let answer = client.get(&path("http:web:80", behind)).await;
            assert_eq!(answer.status, 200, "{behind}: {}", answer.text());
            assert_eq!(answer.json()["target"], target, "{behind}");
        }
    }
    let asked = ground.requests();
    let climbing = ground.client.get(&path("http:web:80", "/a/../b")).await;
    assert_eq!(climbing.status, 400, "{}", climbing.text());
    assert_eq!(ground.requests(), asked);
}
