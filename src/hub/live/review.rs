//! TokenReview on a spoke, through its tunnel and under the agent's ServiceAccount.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use zeroize::{Zeroize as _, Zeroizing};

use super::schedule::Verdict;
use crate::hub::authn::SpokeApi;
use crate::name::ClusterName;

/// Asks `cluster` whether it accepts `token` now.
pub(super) async fn review(api: &dyn SpokeApi, cluster: &ClusterName, token: &str) -> Verdict {
    let Some(body) = request(token) else { return Verdict::Failed };
    let answer = api.request(cluster, Method::POST, PATH, Some(body), MAX_ANSWER, DEADLINE).await;
    match answer {
        Ok((status, body)) => {
            let verdict = verdict(status, &body);
            if verdict == Verdict::Failed {
                tracing::debug!(%cluster, %status, "a TokenReview was not answered");
            }
            wipe(body);
            verdict
        }
        Err(error) => {
            tracing::debug!(%cluster, %error, "a TokenReview failed");
            Verdict::Failed
        }
    }
}

/// What an answer says. Anything that is no TokenReview says nothing.
fn verdict(status: StatusCode, body: &[u8]) -> Verdict {
    if status == StatusCode::FORBIDDEN {
        return Verdict::Forbidden;
    }
    if !status.is_success() {
        return Verdict::Failed;
    }
    match serde_json::from_slice(body) {
        Ok(Review { kind, status }) if kind == KIND => {
            if status.authenticated {
                Verdict::Accepted
            } else {
                Verdict::Refused
            }
        }
        _ => Verdict::Failed,
    }
}

/// The body of a TokenReview. No reallocation leaves a copy of the token behind.
fn request(token: &str) -> Option<Bytes> {
    // As the credential was parsed: nothing in it means anything to JSON.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if !token.bytes().all(plain) {
        return None;
    }
    let mut body = Zeroizing::new(Vec::with_capacity(BEFORE.len() + token.len() + AFTER.len()));
    body.extend_from_slice(BEFORE.as_bytes());
    body.extend_from_slice(token.as_bytes());
    body.extend_from_slice(AFTER.as_bytes());
    Some(Bytes::from_owner(body))
}

/// An API server sends the token back.
fn wipe(body: Bytes) {
    if let Ok(mut body) = body.try_into_mut() {
        body.as_mut().zeroize();
    }
}

#[derive(Deserialize)]
struct Review {
    kind: String,
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    /// Left out where it is false.
    #[serde(default)]
    authenticated: bool,
}

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

const KIND: &str = "TokenReview";

const BEFORE: &str = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","metadata":{},"spec":{"token":""#;

const AFTER: &str = r#""}}"#;

/// The token, and a user with many groups.
const MAX_ANSWER: usize = 128 * 1024;

/// An API server answers in milliseconds; what takes longer is asked again.
const DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(status: u16, body: &Value) -> Verdict {
        verdict(StatusCode::from_u16(status).unwrap(), body.to_string().as_bytes())
    }

    #[test]
    fn only_a_token_review_is_an_answer() {
        let review = |status: Value| json!({"kind": "TokenReview", "spec": {}, "status": status});
        let yes = review(json!({"authenticated": true, "user": {"username": "x"}}));
        let no = review(json!({"user": {}, "error": "invalid bearer token"}));
        assert_eq!(of(201, &yes), Verdict::Accepted);
        assert_eq!(of(200, &yes), Verdict::Accepted);
        assert_eq!(of(201, &no), Verdict::Refused);
        assert_eq!(of(201, &review(json!({"authenticated": false}))), Verdict::Refused);
        assert_eq!(of(403, &no), Verdict::Forbidden);
        for status in [401, 404, 409, 429, 500, 503, 302] {
            assert_eq!(of(status, &no), Verdict::Failed, "{status}");
        }
        for body in [
            json!({"kind": "Status", "status": {}}),
            json!({"kind": "Status", "status": "Failure"}),
            json!({"kind": "TokenReview", "spec": {"token": "t"}}),
            json!({"kind": "TokenReview", "status": null}),
            review(json!({"authenticated": "no"})),
            json!({"status": {"authenticated": false}}),
            json!([]),
        ] {
            assert_eq!(of(201, &body), Verdict::Failed, "{body}");
        }
        assert_eq!(verdict(StatusCode::CREATED, b"{"), Verdict::Failed);
    }

    #[test]
    fn a_request_is_json_whatever_the_token() {
        let body: Value = serde_json::from_slice(&request("a.b-c_d~+/=").unwrap()).unwrap();
        assert_eq!(body["spec"]["token"], "a.b-c_d~+/=");
        assert_eq!(body["kind"], "TokenReview");
        for forged in ["a\"}", "a b", "a\n", "ä"] {
            assert!(request(forged).is_none(), "{forged}");
        }
    }
}
