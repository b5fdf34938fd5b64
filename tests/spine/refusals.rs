//! Who is let in. Every refusal stands beside a success that differs in one thing.

use std::time::Duration;

use http::HeaderValue;
use serde_json::json;

use cluster_proxy::kubernetes::{self, ApiServer};

use crate::support::client::{Answer, empty};
use crate::support::fleet::Fleet;
use crate::support::token::{SigningKey, claims, unsigned};
use crate::support::{PATIENCE, eventually};

#[tokio::test]
async fn bad_tokens_get_the_common_401() {
    let fleet = Fleet::start(&["c1", "c2"]).await;
    let anonymous = fleet.anonymous();
    let api = &fleet.spoke("c1").api;
    let good = claims("default", "test", 3600);
    let path = "/c1/api/v1/pods";

    // Every bad token below is accepted by the API server: only the hub can have refused it.
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut claims = good.clone();
        change(&mut claims);
        api.sign(&claims)
    };
    let signed = api.sign(&good);
    let (head, signature) = signed.rsplit_once('.').unwrap();
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let stranger = SigningKey::generate(&api.key().id);
    let refused = [
        ("garbage", "garbage".to_owned()),
        ("expired", changed(&|claims| claims["exp"] = json!(claims["nbf"]))),
        ("not yet valid", changed(&|claims| claims["nbf"] = claims["exp"].clone())),
        (
            "no end",
            changed(&|claims| {
                claims.as_object_mut().unwrap().remove("exp");
            }),
        ),
        ("end that is text", changed(&|claims| claims["exp"] = json!("never"))),
        ("ended a moment ago, leeway and all", {
            changed(&|claims| claims["exp"] = json!(claims["iat"].as_i64().unwrap() + 3600 - 65))
        }),
        ("another issuer", changed(&|claims| claims["iss"] = json!("https://elsewhere"))),
        ("another audience", changed(&|claims| claims["aud"] = json!(["https://elsewhere"]))),
        ("no service account", changed(&|claims| claims["sub"] = json!("system:admin"))),
        ("alg none", unsigned(&good)),
        ("HS256 with the public key", api.key().sign_hs256_with_public_key(&good)),
        ("signature changed", format!("{head}.{flipped}{}", &signature[1..])),
        ("a stranger's key under a known id", stranger.sign(&good)),
        ("17 KiB", "a".repeat(17 * 1024)),
    ];
    for (_, token) in &refused {
        api.accept(token, "system:serviceaccount:default:test");
    }
    api.accept(&signed, "system:serviceaccount:default:test");

    assert_eq!(anonymous.token(&signed).get(path).await.status, 200);
    let bare = anonymous.get(path).await;
    common_401(&bare);
    for (what, token) in &refused {
        let answer = anonymous.token(token).get(path).await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
        common_401(&answer);
        assert_eq!(without_request_id(&answer), without_request_id(&bare), "{what}");
    }
    assert_eq!(anonymous.token(&signed).get(path).await.status, 200);
}

#[tokio::test]
async fn a_token_is_worthless_on_another_cluster() {
    let fleet = Fleet::start(&["c1", "c2"]).await;
    let token = fleet.spoke("c1").api.token("test");
    // Both clusters have one issuer string and one audience, and c2 would even let the token in.
    fleet.spoke("c2").api.accept(&token, "system:serviceaccount:default:test");
    let client = fleet.anonymous().token(&token);

    assert_eq!(client.get("/c1/api/v1/pods").await.status, 200);
    let other = client.get("/c2/api/v1/pods").await;
    common_401(&other);
    // Not to be told apart from a cluster that does not exist.
    let unknown = client.get("/nowhere/api/v1/pods").await;
    common_401(&unknown);
    assert_eq!(without_request_id(&other), without_request_id(&unknown));
    assert_eq!(fleet.client("c2").get("/c2/api/v1/pods").await.status, 200);
}

#[tokio::test]
async fn exactly_one_well_formed_bearer() {
    let fleet = Fleet::start(&["c1"]).await;
    let token = fleet.spoke("c1").api.token("test");
    let value = |text: String| HeaderValue::from_str(&text).unwrap();
    let anonymous = fleet.anonymous();
    let cases = [
        (200, vec![format!("Bearer {token}")]),
        (401, vec![format!("bearer {token}")]),
        (401, vec![format!("Bearer {token}"), format!("Bearer {token}")]),
        (401, vec![format!("Bearer {token},{token}")]),
        (401, vec![format!("Basic {token}")]),
        (401, vec!["Bearer ".to_owned()]),
        (401, vec![token.clone()]),
    ];
    for (code, headers) in cases {
        let mut request = anonymous.request("GET", "/c1/api/v1/pods", empty());
        for header in &headers {
            request.headers_mut().append("authorization", value(header.clone()));
        }
        let answer = anonymous.send(request).await;
        assert_eq!(answer.status, code, "{} values: {}", headers.len(), answer.text());
    }
    common_401(&anonymous.get(&format!("/c1/api/v1/pods?access_token={token}")).await);
}

#[tokio::test]
async fn a_cluster_cannot_take_anothers_key() {
    let fleet = Fleet::start(&["c1", "c2"]).await;
    // The request makes sure that the hub knows whose key it is before the thief comes.
    assert_eq!(fleet.client("c2").get("/c2/api/v1/pods").await.status, 200);
    let victim = fleet.spoke("c2").api.key().clone();
    let thief = &fleet.spoke("c1").api;
    let token = victim.sign(&claims("default", "test", 3600));
    thief.accept(&token, "system:serviceaccount:default:test");
    fleet.spoke("c2").api.accept(&token, "system:serviceaccount:default:test");
    thief.publish(victim.jwk());

    // A key that it has not seen makes the hub read c1's key set again.
    let client = fleet.anonymous().token(&token);
    common_401(&client.get("/c1/api/v1/pods").await);
    eventually("the alarm is raised", Duration::from_secs(100), || async {
        common_401(&client.get("/c1/api/v1/pods").await);
        let alarms = fleet.hub.metric("cluster_proxy_key_conflicts_total", &["c1"]).await;
        (alarms > 0.0).then_some(())
    })
    .await;
    common_401(&client.get("/c1/api/v1/pods").await);
    assert_eq!(client.get("/c2/api/v1/pods").await.status, 200);
    assert_eq!(fleet.client("c1").get("/c1/api/v1/pods").await.status, 200);
}

#[tokio::test]
async fn headers_that_a_caller_must_not_forge() {
    let fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let path = "/c1/api/v1/namespaces/default/services/x/proxy/echo";
    let mut request = client.request("GET", path, empty());
    for (name, value) in [
        ("x-remote-user", "admin"),
        ("x-remote-group", "system:masters"),
        ("x-remote-extra-scopes", "all"),
        ("cluster-proxy-mode", "agent"),
        ("cluster-proxy-anything", "x"),
        ("proxy-authorization", "Basic eA=="),
        ("connection", "authorization, x-kept"),
        ("x-passes", "yes"),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let answer = client.send(request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = answer.json();
    let names: Vec<&str> = seen["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|header| header[0].as_str().unwrap())
        .collect();
    for forged in ["x-remote-", "cluster-proxy-", "proxy-authorization"] {
        assert!(!names.iter().any(|name| name.starts_with(forged)), "{forged}: {names:?}");
    }
    // `Connection: authorization` did not talk the hub out of the caller's own token.
    assert!(names.contains(&"authorization") && names.contains(&"x-passes"), "{names:?}");
}

#[tokio::test]
async fn impersonation_is_for_the_spoke_to_decide() {
    let fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let path = "/c1/api/v1/namespaces/default/services/x/proxy/echo";
    let seen = async |name: &'static str| {
        let mut request = client.request("GET", path, empty());
        request.headers_mut().append(name, "somebody".parse().unwrap());
        let answer = client.send(request).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        answer.text().contains("somebody")
    };
    // Any spelling: header names have no case on the wire of HTTP/2, and none in HTTP/1.1.
    assert!(seen("Impersonate-User").await);
    assert!(seen("impersonate-group").await);
    assert!(seen("IMPERSONATE-UID").await);
    assert!(seen("Impersonate-Extra-Scopes").await);
    // Similar, and not one of them: an ordinary header.
    assert!(seen("X-Impersonate-User").await);
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let fleet = Fleet::start(&["c1"]).await;
    let api = &fleet.spoke("c1").api;
    let path = "/c1/api/v1/configmaps?watch=true";
    let short = fleet.anonymous().token(&api.token_for("default", "short", 4 - LEEWAY));
    let long = fleet.anonymous().token(&api.token_for("default", "long", 600));
    // Neither an escape in the query nor a wish for an upgrade that the API server ignores makes
    // of a watch something that may go on.
    let escaped = path.replace("watch", "w%61tch");
    let escaped = short.open(short.request("GET", &escaped, empty())).await.unwrap();
    let mut wish = short.request("GET", path, empty());
    wish.headers_mut().insert("connection", HeaderValue::from_static("Upgrade"));
    wish.headers_mut().insert("upgrade", HeaderValue::from_static("SPDY/3.1"));
    let wish = short.open(wish).await.unwrap();
    let short = short.open(short.request("GET", path, empty())).await.unwrap();
    let long = long.open(long.request("GET", path, empty())).await.unwrap();
    assert_eq!((short.status().as_u16(), long.status().as_u16()), (200, 200));
    assert_eq!((escaped.status().as_u16(), wish.status().as_u16()), (200, 200));

    // A watch ends cleanly, so that its reader resumes with a new token.
    use http_body_util::BodyExt as _;
    for short in [short, escaped, wish] {
        let ended = short.into_body().collect();
        let body = tokio::time::timeout(PATIENCE, ended).await.expect("the stream ends").unwrap();
        assert!(body.to_bytes().starts_with(b"{\"object\""), "the event arrived before");
    }
    let mut long = long.into_body();
    assert!(long.frame().await.unwrap().is_ok());
    let more = tokio::time::timeout(Duration::from_millis(200), long.frame()).await;
    assert!(more.is_err(), "the other watch goes on");
}

/// Seconds by which clocks may differ: a token is good for so long after its `exp`.
const LEEWAY: i64 = 60;

/// One body for everything that is nobody's business.
fn common_401(answer: &Answer) {
    answer.assert_status(401, "Unauthorized");
    assert!(!answer.headers.contains_key("retry-after"));
}

fn without_request_id(answer: &Answer) -> String {
    let id = answer.headers["x-request-id"].to_str().unwrap();
    answer.text().replace(id, "ID")
}

/// An API server prefers a certificate to a token: the agent's must never come with a caller's.
#[tokio::test]
async fn an_agents_admin_certificate_is_no_callers() {
    let mut fleet = Fleet::start(&["c1"]).await;
    let spoke = fleet.spoke_mut("c1");
    spoke.stop_agent().await;
    spoke.api.write_admin_kubeconfig(&spoke.directory.join("kubeconfig"));
    let hub = fleet.hub.addresses.agents;
    fleet.spoke_mut("c1").start_agent(hub);
    fleet.wait_serves("c1", PATIENCE).await;
    // What the hub asks itself is asked as the agent, which may do everything.
    fleet.hub.wait_healthy("c1").await;
    let echo = "/c1/api/v1/namespaces/default/services/x/proxy/echo";
    for client in [fleet.client("c1"), fleet.client("c1").http2()] {
        client.get("/c1/api/v1/secrets").await.assert_status(403, "Forbidden");
        let user = client.get(echo).await.json()["user"].clone();
        assert_eq!(user, "system:serviceaccount:default:test");
    }
    fleet.anonymous().get("/c1/api/v1/secrets").await.assert_status(401, "Unauthorized");
    // The same certificate, without the hub: the administrator.
    let file = fleet.spoke("c1").directory.join("kubeconfig");
    let direct = kubernetes::client(&ApiServer::from_kubeconfig(&file, None).unwrap()).unwrap();
    let request = http::Request::get("/api/v1/secrets").body(Vec::new()).unwrap();
    let list: serde_json::Value = direct.request(request).await.unwrap();
    assert_eq!(list["kind"], "List");
}
