//! What the fake API server says of tokens, and whose it makes.

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{Shared, protobuf, reply, status};
use crate::support::client::Body;
use crate::support::token::{AUDIENCE, claims};

/// TokenRequest: what the hub asks for when a cluster has to prove that a key is its own.
pub(super) async fn grant(
    request: Request<Incoming>,
    path: &str,
    shared: &Shared,
) -> Response<Body> {
    let mut segments = path.rsplit('/').skip(1);
    let name = segments.next().unwrap_or_default().to_owned();
    let namespace = segments.nth(1).unwrap_or_default().to_owned();
    let Some(mut body) = read_json(request).await else {
        return status(400, "BadRequest", "not JSON");
    };
    let life = body["spec"]["expirationSeconds"].as_i64().unwrap_or(3600);
    let mut claims = claims(&namespace, &name, life);
    if let Some(audiences) = body["spec"]["audiences"].as_array().filter(|list| !list.is_empty()) {
        claims["aud"] = json!(audiences);
    }
    let token = shared.signer.sign(&claims);
    if claims["aud"].as_array().is_some_and(|list| list.iter().any(|one| one == AUDIENCE)) {
        let user = format!("system:serviceaccount:{namespace}:{name}");
        shared.accepted.lock().unwrap().insert(token.clone(), user);
    }
    body["status"] = json!({"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"});
    let mut response = reply(&body);
    *response.status_mut() = StatusCode::CREATED;
    response
}

/// TokenReview.
pub(super) async fn review(request: Request<Incoming>, shared: &Shared) -> Response<Body> {
    let Some(mut body) = read_json(request).await else {
        return status(400, "BadRequest", "not JSON");
    };
    let token = body["spec"]["token"].as_str().unwrap_or_default().to_owned();
    let user = shared.accepted.lock().unwrap().get(&token).cloned();
    body["status"] = match user {
        Some(user) => json!({"authenticated": true, "user": {"username": user},
            "audiences": [AUDIENCE]}),
        None => json!({"authenticated": false}),
    };
    let mut response = reply(&body);
    *response.status_mut() = StatusCode::CREATED;
    response
}

async fn read_json(request: Request<Incoming>) -> Option<Value> {
    let body = request.into_body().collect().await.ok()?.to_bytes();
    protobuf::token_review(&body).or_else(|| serde_json::from_slice(&body).ok())
}
