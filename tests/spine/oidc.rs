//! Callers whom an OpenID Connect issuer vouches for: who they are on a spoke, and what ends it.

use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use cluster_proxy::hub::Source;
use cluster_proxy::hub::authn::oidc::{ClaimMapping, IssuerConfig, Issuers};

use crate::support::client::{Client, empty};
use crate::support::fleet::Fleet;
use crate::support::issuer::{CLIENT, Issuer};
use crate::support::token::{SigningKey, unsigned};
use crate::support::{PATIENCE, eventually, within};

const ECHO: &str = "/c1/api/v1/namespaces/default/services/x/proxy/echo";

/// A hub with a policy for jane and the group dev, whose issuers come from `issuers`.
async fn fleet(issuers: Issuers) -> Fleet {
    let mut fleet = Fleet::hub_only().await;
    let policy = fleet.dir.path().join("policy.json");
    let rules = json!({"rules": [
        {"users": ["cluster:oidc:jane"], "clusters": ["*"], "nonResourceURLs": ["*"]},
        {"users": ["cluster:oidc:jane"], "clusters": ["c1"]},
        {"groups": ["cluster:oidc:dev"], "clusters": ["c1"]},
    ]});
    std::fs::write(&policy, rules.to_string()).unwrap();
    fleet.hub.stop().await;
    fleet.hub.policy = Source::File(policy);
    fleet.hub.issuers = issuers;
    fleet.hub.start().await;
    fleet.add("c1").await;
    fleet.hub.wait_healthy("c1").await;
    fleet
}

fn with_groups(issuer: &Issuer) -> IssuerConfig {
    let (claim, prefix) = ("groups".to_owned(), "cluster:oidc:".to_owned());
    IssuerConfig { groups: Some(ClaimMapping { claim, prefix }), ..issuer.config() }
}

/// Waits until the issuer's keys are known.
async fn known(client: &Client) {
    eventually("the issuer is believed", PATIENCE, || async {
        (client.get("/c1/version").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_user_of_an_issuer_is_who_its_claims_say() {
    let issuer = Issuer::start().await;
    let fleet = fleet(Issuers::of(vec![with_groups(&issuer)])).await;
    let token = issuer.token("jane", 600, &json!({"groups": ["dev", "ops"]}));
    let jane = fleet.anonymous().token(&token);
    known(&jane).await;

    let echo = jane.get(ECHO).await.json();
    let all = |name: &str| -> Vec<&str> {
        let headers = echo["headers"].as_array().unwrap().iter();
        let found = headers.filter(|header| header[0] == name);
        found.map(|header| header[1].as_str().unwrap()).collect()
    };
    assert_eq!(all("impersonate-user"), ["cluster:oidc:jane"]);
    assert_eq!(all("impersonate-group"), ["cluster:oidc:dev", "cluster:oidc:ops"]);
    assert!(all("impersonate-uid").is_empty());
    assert_eq!(echo["user"], "system:serviceaccount:cluster-proxy:agent");
    assert!(!echo.to_string().contains(&token), "the token stays on the hub");

    // Who is allowed by a group, and who by nothing; whether there is a cluster makes no difference.
    let by_group = issuer.token("joe", 600, &json!({"groups": "dev"}));
    assert_eq!(fleet.anonymous().token(&by_group).get(ECHO).await.status, 200);
    let nobody = fleet.anonymous().token(&issuer.token("joe", 600, &json!({})));
    for path in [ECHO, &ECHO.replace("c1", "c9")] {
        nobody.get(path).await.assert_status(403, "Forbidden");
    }
    assert_eq!(jane.get("/c9/version").await.status, 404, "only who is allowed it learns this");
    let mut request = jane.request("GET", ECHO, empty());
    request.headers_mut().insert("impersonate-user", "cluster:oidc:other".parse().unwrap());
    assert_eq!(jane.send(request).await.status, 403);
}

#[tokio::test]
async fn tokens_that_no_issuer_stands_by_get_the_common_401() {
    let issuer = Issuer::start().await;
    let required = vec![("hd".to_owned(), "example.com".to_owned())];
    let config = IssuerConfig { required, ..issuer.config() };
    let fleet = fleet(Issuers::of(vec![config])).await;
    let good = json!({"hd": "example.com"});
    let token = |life, more: &Value| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        issuer.token("jane", life, &claims)
    };
    known(&fleet.anonymous().token(&token(600, &json!({})))).await;

    let stranger = SigningKey::generate(&issuer.key().id);
    let claims = json!({"iss": issuer.url, "aud": CLIENT, "sub": "jane", "exp": 4_000_000_000_u64,
        "hd": "example.com"});
    assert_eq!(fleet.anonymous().token(&issuer.key().sign(&claims)).get(ECHO).await.status, 200);
    for (what, token) in [
        ("expired", token(-120, &json!({}))),
        ("another audience", token(600, &json!({"aud": "other"}))),
        ("another issuer", token(600, &json!({"iss": "https://elsewhere"}))),
        ("a slash more", token(600, &json!({"iss": format!("{}/", issuer.url)}))),
        ("required claim", token(600, &json!({"hd": "example.org"}))),
        ("not yet", token(600, &json!({"nbf": 4_000_000_000_u64}))),
        ("no name", token(600, &json!({"sub": ""}))),
        ("a name that is none", token(600, &json!({"sub": null}))),
        ("a stranger's key", stranger.sign(&claims)),
        ("HS256", issuer.key().sign_hs256_with_public_key(&claims)),
        ("no signature", unsigned(&claims)),
    ] {
        let answer = fleet.anonymous().token(&token).get(ECHO).await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
    }
    // An issuer's key is nobody else's, whoever publishes it: it signs no account of the cluster.
    fleet.spoke("c1").api.publish(issuer.key().jwk());
    let account = crate::support::token::claims("default", "test", 600);
    let forged = issuer.key().sign(&account);
    fleet.spoke("c1").api.accept(&forged, "system:serviceaccount:default:test");
    assert_eq!(fleet.anonymous().token(&forged).get(ECHO).await.status, 401);
    assert_eq!(fleet.client("c1").get(ECHO).await.status, 200);
}

#[tokio::test]
async fn keys_rotate_and_strangers_cause_no_reads() {
    let issuer = Issuer::start().await;
    let fleet = fleet(Issuers::of(vec![issuer.config()])).await;
    let jane = |issuer: &Issuer| fleet.anonymous().token(&issuer.token("jane", 600, &json!({})));
    known(&jane(&issuer)).await;

    issuer.rotate();
    assert_eq!(jane(&issuer).get(ECHO).await.status, 200, "a new key works at its first use");
    let reads = issuer.reads();
    for number in 0..20 {
        let stranger = SigningKey::generate(&format!("stranger-{number}"));
        let claims = json!({"iss": issuer.url, "aud": CLIENT, "sub": "jane"});
        let answer = fleet.anonymous().token(&stranger.sign(&claims)).get(ECHO).await;
        assert_eq!(answer.status, 401);
    }
    assert!(issuer.reads() <= reads + 1, "{} reads", issuer.reads() - reads);
    assert_eq!(jane(&issuer).get(ECHO).await.status, 200);
}

#[tokio::test]
async fn an_issuer_that_cannot_be_asked_is_503_and_never_401() {
    let issuer = Issuer::start().await;
    issuer.down(true);
    let fleet = fleet(Issuers::of(vec![issuer.config()])).await;
    let jane = fleet.anonymous().token(&issuer.token("jane", 600, &json!({})));
    let message = jane.get(ECHO).await.assert_status(503, "ServiceUnavailable");
    assert!(message.contains("OpenID Connect"), "{message}");
    assert_eq!(fleet.client("c1").get(ECHO).await.status, 200, "whom a cluster knows is let in");

    issuer.down(false);
    known(&jane).await;
    // What was read before goes on.
    issuer.down(true);
    assert_eq!(jane.get(ECHO).await.status, 200);
}

#[tokio::test]
async fn a_list_of_issuers_is_followed_and_streams_end_with_their_issuer() {
    let (first, second) = (Issuer::start().await, Issuer::start().await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("issuers.json");
    let write = |issuers: &[&Issuer]| {
        let jwt = issuers.iter().map(|issuer| {
            json!({
                "issuer": {"url": issuer.url, "audiences": [CLIENT],
                    "certificateAuthority": issuer.ca_pem},
                "claimMappings": {"username": {"claim": "sub", "prefix": "cluster:oidc:"}},
            })
        });
        let list = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": jwt.collect::<Vec<_>>(),
        });
        std::fs::write(&file, list.to_string()).unwrap();
    };
    write(&[&first]);
    let fleet = fleet(Issuers::of_file(&file).unwrap()).await;
    let jane = |issuer: &Issuer| fleet.anonymous().token(&issuer.token("jane", 600, &json!({})));
    let one = jane(&first);
    known(&one).await;
    assert_eq!(jane(&second).get(ECHO).await.status, 401);

    let watch = one.request("GET", "/c1/api/v1/configmaps?watch=true", empty());
    let watch = one.open(watch).await.unwrap();
    assert_eq!(watch.status(), 200);
    let log = one.request("GET", "/c1/api/v1/namespaces/default/pods/x/log?follow=true", empty());
    let log = one.open(log).await.unwrap();
    assert_eq!(log.status(), 200);

    std::fs::write(&file, "{}").unwrap();
    eventually("a bad list is reported", PATIENCE, || async {
        let failures = "cluster_proxy_authentication_config_reload_failures_total";
        (fleet.hub.metric(failures, &[]).await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(one.get(ECHO).await.status, 200, "the last good one is kept");

    write(&[&second]);
    known(&jane(&second)).await;
    assert_eq!(one.get(ECHO).await.status, 401);
    // A watch ends as a whole, a log is cut.
    let ended = |body: hyper::body::Incoming| within("the stream ends", PATIENCE, body.collect());
    assert!(ended(watch.into_body()).await.is_ok());
    assert!(ended(log.into_body()).await.is_err());
}
