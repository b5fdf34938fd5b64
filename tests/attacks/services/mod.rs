//! Services: nobody reaches one whom the hub does not know, and what reaches it is nobody's word for
//! a user. Cases 42 to 44, 48, 50, 52 to 58, 66, 67, 70, 71, 73, 101 and 102, at both ends.

mod ground;
mod streams;

use http_body_util::BodyExt as _;
use serde_json::json;

use self::ground::{Ground, POLICY, Seen};
use crate::support::client::{Client, empty};
use crate::support::token::{SigningKey, claims, unsigned};
use crate::support::{PATIENCE, eventually, within};

const SERVICES: &str = "
- {namespace: shop, service: web, port: 8080, protocol: http}
- {namespace: shop, service: trusted, passToken: true}
- {namespace: shop, service: elsewhere, clusters: [c2]}
- {namespace: default, service: kubernetes}
- {namespace: back, service: office}
";

const WEB: &str = "/c1/api/v1/namespaces/shop/services/http:web:8080/proxy-service";
const TRUSTED: &str = "/c1/api/v1/namespaces/shop/services/trusted/proxy-service";

fn one(mut seen: Vec<Seen>) -> Seen {
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen.remove(0)
}

#[tokio::test]
async fn s101_a_service_is_named_to_nobody_unknown() {
    let ground = Ground::start(SERVICES).await;
    let anonymous = ground.fleet.anonymous();
    let expected = anonymous.get("/c1/api/v1/pods").await;
    assert_eq!(expected.status, 401);
    for (path, code, says) in [
        (format!("{WEB}/"), 200, "hello"),
        (format!("{WEB}?q=/x/"), 200, "hello"),
        (format!("{TRUSTED}/"), 200, "hello"),
        (service("shop", "ftp:web:80"), 400, "names no service: \\\"ftp:web:80\\\""),
        (service("shop", "web%2Fx"), 400, "names no service"),
        (service("shop", "web"), 403, "service https:shop/web:443 of cluster c1 is not in"),
        (service("shop", "http:web:80"), 403, "is not in the hub's list"),
        (service("shop", "elsewhere"), 403, "is not in the hub's list"),
        (service("default", "kubernetes"), 403, "the API server is no exposed service"),
        (service("DEFAULT", "Kubernetes:https"), 403, "the API server is no exposed service"),
        // Case 102: names that are addresses, or lead elsewhere.
        (service("shop", "169.254.169.254"), 400, "names no service"),
        (service("shop", "metadata.google.internal"), 400, "names no service"),
        (service("default", "kubernetes.default.svc.cluster.local."), 400, "names no service"),
        (service("shop", "localhost:6443"), 403, "is not in the hub's list"),
        (service("shop", "web:0"), 400, "names no service"),
        (service("shop", "web:65536"), 400, "names no service"),
    ] {
        let answer = anonymous.get(&path).await;
        assert_eq!((answer.status, &answer.body), (expected.status, &expected.body), "{path}");
        assert!(ground.seen().is_empty(), "{path}");

        let answer = ground.client().get(&path).await;
        assert_eq!(answer.status.as_u16(), code, "{path}: {}", answer.text());
        assert!(answer.text().contains(says), "{path}: {}", answer.text());
        assert_eq!(ground.seen().len(), usize::from(code == 200), "{path}");
    }
}

fn service(namespace: &str, segment: &str) -> String {
    format!("/c1/api/v1/namespaces/{namespace}/services/{segment}/proxy-service/")
}

/// U37 and U38 on the wire, and percent-encoding, which upstream doubles.
#[tokio::test]
async fn the_agent_is_told_the_service_and_the_path_that_it_shall_see() {
    let ground = Ground::start(SERVICES).await;
    for (behind, upstream) in [
        ("/index.html?timeout=32s", "/index.html?timeout=32s"),
        ("", "/"),
        ("?a=b", "/?a=b"),
        ("/a%2Fb%20c%252e//d;x=1?y=%zz/..", "/a%2Fb%20c%252e//d;x=1?y=%zz/.."),
    ] {
        for base in [WEB.to_owned(), WEB.replace("http:web:8080", "http%3Aweb%3A8080")] {
            assert_eq!(ground.client().get(&format!("{base}{behind}")).await.status, 200);
            let seen = one(ground.seen());
            assert_eq!(seen.target, upstream);
            assert_eq!(seen.headers["cluster-proxy-mode"], "service");
            assert_eq!(seen.headers["cluster-proxy-service"], "http:shop/web:8080");
        }
    }
    // Upstream takes it for a path of the API server, past the list; a query is no path either.
    for path in ["/c1/api/v1/pods?x=/1/2/3/4/5/6/7/proxy-service/y", "/c1/api/v1/pods"] {
        assert_eq!(ground.client().get(path).await.status, 200);
        let seen = one(ground.seen());
        assert_eq!(seen.headers["cluster-proxy-mode"], "caller");
        assert!(!seen.headers.contains_key("cluster-proxy-service"));
    }
}

#[tokio::test]
async fn s42_s43_s44_s48_s50_what_reaches_a_service_and_what_comes_back() {
    let ground = Ground::start(SERVICES).await;
    let lines = [
        ("Impersonate-User", "evil"),
        ("IMPERSONATE-GROUP", "evil"),
        ("Impersonate-Extra-%2f", "evil"),
        ("X-Remote-User", "evil"),
        ("X-Remote-Extra-a", "evil"),
        ("Cluster-Proxy-Service", "https:evil/evil:1"),
        ("Cluster-Proxy-Mode", "agent"),
        ("Cluster-Proxy-Namespace", "evil"),
        ("X-Forwarded-Host", "evil"),
        ("Cookie", "a=1"),
        ("Cookie", "b=2"),
        ("X-Csrf-Token", "c"),
        ("X-Mine", "d"),
    ];
    *ground.said.answer.lock().unwrap() = [
        ("set-cookie", "a=1; Path=/"),
        ("set-cookie", "b=2"),
        ("access-control-allow-origin", "*"),
        ("location", "/login?next=/"),
        ("strict-transport-security", "max-age=1"),
        ("alt-svc", "h3=\":443\""),
        ("clear-site-data", "\"*\""),
        ("cluster-proxy-mode", "agent"),
        ("x-theirs", "e"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into();
    let answer = Ground::get(&ground.client(), &format!("{WEB}/"), &lines).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = one(ground.seen());
    assert!(!format!("{:?}", seen.headers).contains("evil"), "{seen:?}");
    assert!(!seen.headers.contains_key("authorization"), "{seen:?}");
    let cookies: Vec<_> = seen.headers.get_all("cookie").iter().collect();
    assert!(cookies == ["a=1", "b=2"] || cookies == ["a=1; b=2"], "{cookies:?}");
    assert_eq!(
        (&seen.headers["x-csrf-token"], &seen.headers["x-mine"]),
        (&"c".parse().unwrap(), &"d".parse().unwrap())
    );

    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1; Path=/", "b=2"]);
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    assert_eq!(answer.headers["x-theirs"], "e");
    assert_eq!(answer.headers["location"], format!("{WEB}/login?next=/").as_str());
    for gone in ["strict-transport-security", "alt-svc", "clear-site-data", "cluster-proxy-mode"] {
        assert!(!answer.headers.contains_key(gone), "{gone}");
    }
    // A path that names no cluster goes home, and so does its redirect.
    let at_home = WEB.trim_start_matches("/c1");
    let answer = ground.client().get(at_home).await;
    assert_eq!(answer.headers["location"], format!("{at_home}/login?next=/").as_str());
    // The same answer of an API server.
    let answer = ground.client().get("/c1/api/v1/pods").await;
    assert!(!answer.headers.contains_key("set-cookie"));
    assert_eq!(answer.headers["location"], "/c1/login?next=/");
}

#[tokio::test]
async fn a_token_reaches_a_service_only_where_its_entry_says_so_and_one_of_the_hub_never() {
    let ground = Ground::start(SERVICES).await;
    let bearer = format!("Bearer {}", ground.token);
    let passed = |seen: &Seen| seen.headers.get("authorization").cloned();
    for (client, path, passes) in [
        (ground.client(), WEB, false),
        (ground.client(), TRUSTED, true),
        (ground.of_hub(), TRUSTED, false),
    ] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
        let seen = one(ground.seen());
        assert_eq!(passed(&seen).is_some_and(|token| token == *bearer), passes, "{seen:?}");
        assert!(passes || passed(&seen).is_none(), "{seen:?}");
        let text = format!("{:?}", seen.headers);
        assert!(!text.contains(ground.hub_token.rsplit('.').next().unwrap()), "{text}");
        assert!(!text.to_lowercase().contains("impersonate"), "{text}");
    }
    // In a WebSocket's subprotocol, too, it is a token.
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&ground.token);
    let protocols = format!("base64url.bearer.authorization.k8s.io.{encoded}, chat");
    let lines = [("sec-websocket-protocol", protocols.as_str())];
    assert_eq!(Ground::get(&ground.fleet.anonymous(), WEB, &lines).await.status, 200);
    let seen = one(ground.seen());
    assert_eq!(seen.headers["sec-websocket-protocol"], "chat");
    assert!(!format!("{:?}", seen.headers).contains(&encoded) && passed(&seen).is_none());
}

#[tokio::test]
async fn s52_to_s58_s67_a_bad_token_reaches_neither_service_nor_review() {
    let ground = Ground::start(SERVICES).await;
    assert_eq!(ground.client().get(WEB).await.status, 200);
    ground.seen();
    let good = claims("default", "test", 3600);
    let with = |claim: &str, value: serde_json::Value| {
        let mut claims = good.clone();
        claims[claim] = value;
        ground.signer.sign(&claims)
    };
    let stranger = SigningKey::generate("c1-key");
    for (what, bad) in [
        ("alg none", unsigned(&good)),
        ("HS256 with a public key", ground.signer.sign_hs256_with_public_key(&good)),
        ("another cluster's key under this id", stranger.sign(&good)),
        ("an unknown key", SigningKey::generate("c2-key").sign(&good)),
        ("expired", ground.signer.sign(&claims("default", "test", -3600))),
        ("no end", with("exp", serde_json::Value::Null)),
        ("an end that is no number", with("exp", json!("never"))),
        ("not yet valid", with("nbf", json!(u32::MAX))),
        ("another issuer", with("iss", json!("https://c2"))),
        ("another audience", with("aud", json!(["elsewhere"]))),
        ("no ServiceAccount", with("sub", json!("admin"))),
        ("nothing", String::new()),
    ] {
        let answer = ground.fleet.anonymous().token(&bad).get(WEB).await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
        assert!(answer.text().contains("\"message\":\"Unauthorized\""), "{what}");
        assert!(ground.seen().is_empty() && !ground.is_reviewed(&bad), "{what}");
    }
    let fresh = ground.signer.sign(&claims("default", "other", 3600));
    assert_eq!(ground.fleet.anonymous().token(&fresh).get(WEB).await.status, 200);
    assert!(ground.seen().len() == 1 && ground.is_reviewed(&fresh));
}

#[tokio::test]
async fn s66_s70_s71_the_cluster_confirms_its_own_token_before_a_service_sees_anything() {
    let ground = Ground::start(SERVICES).await;
    let client = |name: &str| {
        let token = ground.signer.sign(&claims("default", name, 3600));
        ground.fleet.anonymous().token(&token)
    };
    let say = |review: Option<serde_json::Value>| *ground.said.review.lock().unwrap() = review;
    // An outage is no refusal, and is asked about again.
    let outage = json!({"kind": "Status", "status": "Failure"});
    say(Some(outage.clone()));
    let answer = client("a").get(WEB).await;
    let message = answer.assert_status(503, "ServiceUnavailable");
    assert!(message.contains("cluster c1 could not confirm the token"), "{message}");
    say(None);
    for _ in 0..3 {
        assert_eq!(client("a").get(WEB).await.status, 200);
    }
    assert_eq!(ground.seen().len(), 3);
    // A definite no is the common refusal.
    say(Some(json!({"kind": "TokenReview", "status": {"error": "invalid bearer token"}})));
    let refused = client("b").get(WEB).await;
    let bad = ground.fleet.anonymous().get(WEB).await;
    assert_eq!((refused.status.as_u16(), &refused.body), (401, &bad.body));
    assert!(ground.seen().is_empty());
    // Its own API server would say so itself: nothing is asked there.
    assert_eq!(client("b").get("/c1/api/v1/pods").await.status, 200);
    assert_eq!(ground.seen().len(), 1);
}

#[tokio::test]
async fn identities_of_the_hub_reach_what_policy_and_list_allow() {
    let ground = Ground::start(SERVICES).await;
    let client = ground.of_hub();
    assert_eq!(client.get(WEB).await.status, 200);
    assert_eq!(one(ground.seen()).headers["cluster-proxy-mode"], "service");
    for (method, path, code, says) in [
        (
            "GET",
            service("back", "office"),
            403,
            "get services/proxy-service of office in namespace back on cluster c1",
        ),
        ("POST", format!("{WEB}/"), 403, "create services/proxy-service of web in namespace shop"),
        ("GET", service("shop", "other"), 403, "is not in the hub's list"),
        ("GET", service("back", "office").replace("/c1/", "/c9/"), 403, "on cluster c9"),
        ("GET", WEB.replace("/c1/", "/c9/"), 404, "no cluster c9"),
        ("GET", service("default", "kubernetes"), 403, "no exposed service"),
    ] {
        let answer = client.send(client.request(method, &path, empty())).await;
        assert_eq!(answer.status.as_u16(), code, "{path}: {}", answer.text());
        assert!(answer.text().contains(says), "{path}: {}", answer.text());
    }
    let forged = [("impersonate-user", "admin")];
    assert_eq!(Ground::get(&client, WEB, &forged).await.status, 403);
    assert!(ground.seen().is_empty() && !ground.is_reviewed(&ground.hub_token));
    let other = Ground::get(&client, WEB, &[("x-mine", "admin")]).await;
    assert_eq!((other.status.as_u16(), ground.seen().len()), (200, 1));
    // An account that is gone: its token is the hub's to refuse.
    let leaver = ground.api.account("default", "leaver").await;
    ground.api.delete("/api/v1/namespaces/default/serviceaccounts/leaver").await;
    assert_eq!(ground.fleet.anonymous().token(&leaver).get(WEB).await.status, 401);
}

/// Streams of services end with what let them begin, and with the cluster.
#[tokio::test]
async fn s73_a_stream_ends_with_its_entry_its_rule_or_its_token() {
    let ground = Ground::start(SERVICES).await;
    *ground.said.endless.lock().unwrap() = true;
    let open = async |client: &Client, path: &str| {
        let answer = client.open(client.request("GET", path, empty())).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let mut body = answer.into_body();
        let first = within(path, PATIENCE, body.frame()).await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "hello");
        body
    };
    let ended = async |reason: &str, body: hyper::body::Incoming| {
        let rest = within(reason, BOUND, body.collect()).await;
        assert!(rest.is_err(), "{reason}: a cut answer does not look complete");
        let labels = ["cluster=\"c1\"", &format!("reason=\"{reason}\"")];
        eventually("the end is counted", PATIENCE, || async {
            let metric = "cluster_proxy_streams_ended_total";
            (ground.fleet.hub.metric(metric, &labels).await == 1.0).then_some(())
        })
        .await;
    };
    let (own, of_hub) = (ground.client(), ground.of_hub());
    let listed = open(&own, WEB).await;
    let mut of_pod = claims("default", "test", 3600);
    of_pod["kubernetes.io"]["pod"] = json!({"name": "p", "uid": "1"});
    let of_pod = ground.fleet.anonymous().token(&ground.signer.sign(&of_pod));
    let of_pod = open(&of_pod, TRUSTED).await;
    let allowed = open(&of_hub, TRUSTED).await;

    ground.expose(&SERVICES.replace("service: web", "service: web2"));
    ended("service-not-exposed", listed).await;
    ground.set_policy(&POLICY.replace("[shop]", "[back]"));
    ended("policy-denied", allowed).await;
    let short = ground.signer.sign(&claims("default", "short", -57));
    let short = open(&ground.fleet.anonymous().token(&short), TRUSTED).await;
    ended("token-expired", short).await;
    // What a refusal ends is in the book for streams of services as for all others.
    *ground.said.review.lock().unwrap() = Some(json!({"kind": "TokenReview", "status": {}}));
    ended("token-refused", of_pod).await;
    *ground.said.review.lock().unwrap() = None;
    let of_cluster = open(&own, TRUSTED).await;
    assert!(ground.fleet.hub.state.remove(&"c1".parse().unwrap()).await.unwrap());
    let rest = within("the cluster is removed", BOUND, of_cluster.collect()).await;
    assert!(rest.is_err(), "a cut answer does not look complete");
    assert_eq!(own.get(TRUSTED).await.status, 401);
}

/// What an agent says in place of a service is told as such.
#[tokio::test]
async fn faults_of_the_agent_name_the_service_and_the_remedy() {
    let ground = Ground::start(SERVICES).await;
    for (fault, code, hop, says) in [
        ("service-refused", 403, "agent", "--expose-service"),
        ("no-service", 404, "service", "cluster c1 has no service http:shop/web:8080"),
        ("service-unreachable", 502, "service", "cannot reach service http:shop/web:8080"),
        ("service-untrusted", 502, "service", "--additional-service-ca"),
        ("service-misnamed", 502, "service", "is not for web.shop.svc"),
        ("service-expired", 502, "service", "has expired or is not valid yet"),
        ("interrupted", 502, "service", "lost, while the request was under way"),
        ("unreachable", 502, "api-server", "cannot reach its API server"),
        ("refused", 502, "agent", "upgrade it"),
    ] {
        *ground.said.answer.lock().unwrap() = vec![("cluster-proxy-fault", fault.to_owned())];
        let answer = ground.client().get(WEB).await;
        let status = answer.json();
        assert_eq!(answer.status.as_u16(), code, "{fault}: {status}");
        let message = status["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("cluster-proxy: {hop}: ")), "{message}");
        assert!(message.contains(says), "{fault}: {message}");
    }
    ground.said.answer.lock().unwrap().clear();
    assert_eq!(ground.client().get(WEB).await.status, 200);
}

/// Within which a withdrawn right ends a stream, and a little for the machine.
const BOUND: std::time::Duration = std::time::Duration::from_secs(15);
