//! Tokens of ServiceAccounts: asked for, reviewed, bound, and their end.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::client::{Api, fields};
use crate::support::{PATIENCE, eventually};

pub(super) async fn all(api: &Api) {
    requests(api).await;
    reviews(api).await;
    tokens_end_with_what_they_are_bound_to(api).await;
    tokens_end_with_their_account(api).await;
    keys_are_published(api).await;
}

/// Makes a ServiceAccount in namespace `default`, and returns a token of it.
pub(super) async fn of_a_new_account(api: &Api, name: &str) -> String {
    let account = json!({"metadata": {"name": name}});
    api.post(ACCOUNTS, account).await.is(201);
    request(api, name, json!({})).await
}

async fn request(api: &Api, name: &str, spec: Value) -> String {
    let path = format!("{ACCOUNTS}/{name}/token");
    let answer = api.post(&path, json!({"spec": spec})).await.is(201);
    answer["status"]["token"].as_str().unwrap().to_owned()
}

async fn requests(api: &Api) {
    api.post(ACCOUNTS, json!({"metadata": {"name": "robot"}})).await.is(201);
    let path = format!("{ACCOUNTS}/robot/token");
    let granted = api.post(&path, json!({"spec": {}})).await.is(201);
    let known = fields(&granted, &["/kind", "/spec/audiences", "/spec/expirationSeconds"]);
    assert_eq!(known, json!(["TokenRequest", [ISSUER], 3600]));
    assert!(granted["status"]["expirationTimestamp"].is_string());
    let claims = claims(granted["status"]["token"].as_str().unwrap());
    let wanted = json!([ISSUER, [ISSUER], "system:serviceaccount:default:robot", "robot"]);
    let account = "/kubernetes.io/serviceaccount/name";
    assert_eq!(fields(&claims, &["/iss", "/aud", "/sub", account]), wanted);
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
    for claim in ["iat", "nbf", "jti"] {
        assert!(!claims[claim].is_null(), "{claim}");
    }

    for (spec, code, reason, said) in [
        (json!({"expirationSeconds": 600}), 201, "", ""),
        (json!({"expirationSeconds": 599}), 422, "Invalid", "less than 10 minutes"),
        (json!({"expirationSeconds": 1_u64 << 32}), 201, "", ""),
        (json!({"expirationSeconds": (1_u64 << 32) + 1}), 422, "Invalid", "larger than 2^32"),
        (json!({"boundObjectRef": pod("absent", None)}), 404, "NotFound", "absent"),
        (
            json!({"boundObjectRef": {"kind": "ConfigMap", "apiVersion": "v1", "name": "c"}}),
            400,
            "BadRequest",
            "cannot bind token",
        ),
    ] {
        let answer = api.post(&path, json!({"spec": spec})).await;
        if code == 201 {
            answer.is(201);
        } else {
            let found = answer.refused(code, reason);
            assert!(found.contains(said), "{spec}: {found}");
        }
    }
    let absent = format!("{ACCOUNTS}/nobody/token");
    api.post(&absent, json!({"spec": {}})).await.refused(404, "NotFound");
}

async fn reviews(api: &Api) {
    let token = request(api, "robot", json!({})).await;
    let status = review(api, &token, json!(null)).await;
    let user = &status["user"];
    assert_eq!(status["authenticated"], true);
    assert_eq!(user["username"], "system:serviceaccount:default:robot");
    let groups =
        ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"];
    assert_eq!(user["groups"], json!(groups));
    let account = api.get(&format!("{ACCOUNTS}/robot")).await.is(200);
    assert_eq!(user["uid"], account["metadata"]["uid"]);
    let id = user["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap();
    assert_eq!(id, format!("JTI={}", claims(&token)["jti"].as_str().unwrap()));
    assert_eq!(status["audiences"], json!([ISSUER]));

    let known = review(api, &token, json!([ISSUER, "other"])).await;
    assert_eq!(fields(&known, &["/authenticated", "/audiences"]), json!([true, [ISSUER]]));
    let other = request(api, "robot", json!({"audiences": ["other"]})).await;
    let known = review(api, &other, json!(["other"])).await;
    assert_eq!(fields(&known, &["/authenticated", "/audiences"]), json!([true, ["other"]]));
    let (head, signature) = token.rsplit_once('.').unwrap();
    let turned: String = signature.chars().rev().collect();
    for (bad, audiences) in [
        (token.as_str(), json!(["other"])),
        (other.as_str(), json!(null)),
        (&format!("{head}.{turned}"), json!(null)),
        (&format!("{head}."), json!(null)),
        ("garbage", json!(null)),
    ] {
        let refused = review(api, bad, audiences).await;
        assert_ne!(refused["authenticated"], true, "{refused}");
        assert!(!refused["error"].as_str().unwrap_or_default().is_empty(), "{refused}");
    }
    // A good token for somebody else is none here.
    api.holder_of(&other).get("/version").await.refused(401, "Unauthorized");
    api.holder_of(&token).get("/version").await.is(200);
}

async fn tokens_end_with_what_they_are_bound_to(api: &Api) {
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": {"name": "bound"}});
    let secret = api.post(secrets, secret).await.is(201);
    let uid = &secret["metadata"]["uid"];
    let bound = json!({"kind": "Secret", "apiVersion": "v1", "name": "bound", "uid": uid});
    let token = request(api, "robot", json!({"boundObjectRef": bound})).await;
    let claimed = &claims(&token)["kubernetes.io"]["secret"];
    assert_eq!(*claimed, json!({"name": "bound", "uid": uid}));
    assert_eq!(review(api, &token, json!(null)).await["authenticated"], true);
    api.delete(&format!("{secrets}/bound")).await.is(200);
    refused_soon(api, &token).await;

    // A Pod runs under an account, and a token for it is of that one.
    let running = api.get("/api/v1/namespaces/default/pods/hello").await.is(200);
    let spec = json!({"boundObjectRef": pod("hello", running["metadata"]["uid"].as_str())});
    let token = request(api, "default", spec.clone()).await;
    let status = review(api, &token, json!(null)).await;
    let extra = &status["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!(["hello"]));
    let path = format!("{ACCOUNTS}/default/token");
    let before = json!({"boundObjectRef": pod("hello", Some("another"))});
    let before = api.post(&path, json!({"spec": before})).await.refused(409, "Conflict");
    assert!(before.contains("does not match the UID in record"), "{before}");
    let path = format!("{ACCOUNTS}/robot/token");
    let other = api.post(&path, json!({"spec": spec})).await.refused(400, "BadRequest");
    assert!(other.contains("different serviceaccount name"), "{other}");
}

async fn tokens_end_with_their_account(api: &Api) {
    let token = of_a_new_account(api, "leaver").await;
    let leaver = api.holder_of(&token);
    leaver.get("/version").await.is(200);
    api.delete(&format!("{ACCOUNTS}/leaver")).await.is(200);
    refused_soon(api, &token).await;
    // One of the same name is somebody else.
    let new = of_a_new_account(api, "leaver").await;
    api.holder_of(&new).get("/version").await.is(200);
    leaver.get("/version").await.refused(401, "Unauthorized");
}

async fn keys_are_published(api: &Api) {
    let token = request(api, "robot", json!({})).await;
    let head = token.split('.').next().unwrap();
    let head: Value =
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(head).unwrap()).unwrap();
    let request = http::Request::get("/openid/v1/jwks").header("accept", "*/*").body(Vec::new());
    let keys: Value = api.client.request(request.unwrap()).await.unwrap();
    let keys = keys["keys"].as_array().unwrap();
    let key = keys.iter().find(|key| key["kid"] == head["kid"]).unwrap();
    assert_eq!(fields(key, &["/use", "/alg"]), json!(["sig", head["alg"]]));
    let request = http::Request::get("/.well-known/openid-configuration").body(Vec::new());
    let about: Value = api.client.request(request.unwrap()).await.unwrap();
    assert_eq!(about["issuer"], ISSUER);
}

/// An API server remembers a good token for ten seconds.
async fn refused_soon(api: &Api, token: &str) {
    let holder = api.holder_of(token);
    eventually("the token is refused", PATIENCE, || async {
        (holder.get("/version").await.code() == 401).then_some(())
    })
    .await;
    assert_ne!(review(api, token, json!(null)).await["authenticated"], true);
}

async fn review(api: &Api, token: &str, audiences: Value) -> Value {
    let mut spec = json!({"token": token});
    if !audiences.is_null() {
        spec["audiences"] = audiences;
    }
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = api.post(path, json!({"spec": spec})).await.is(201);
    answer["status"].clone()
}

fn claims(token: &str) -> Value {
    let body = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap()
}

fn pod(name: &str, uid: Option<&str>) -> Value {
    let mut pod = json!({"kind": "Pod", "apiVersion": "v1", "name": name});
    if let Some(uid) = uid {
        pod["uid"] = uid.into();
    }
    pod
}

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const ISSUER: &str = "https://kubernetes.default.svc";
