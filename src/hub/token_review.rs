//! TokenReview (`authentication.k8s.io/v1`): the question and the answers, whoever is asked. Pure.

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use std::collections::BTreeMap;
use zeroize::{Zeroize as _, Zeroizing};

/// Where API servers take it.
pub(crate) const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// The token, and a user with many groups.
pub(crate) const MAX_ANSWER: usize = 128 * 1024;

/// What an API server says of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is this user's.
    Accepted(UserInfo),
    /// Definitely not a good one.
    Refused,
    /// Who asked may not ask.
    Forbidden,
    /// Anything else says nothing.
    Nothing,
}

/// A user, as an API server knows them (`authentication.k8s.io/v1`, `UserInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct UserInfo {
    #[serde(default)]
    pub(crate) username: String,
    #[serde(default)]
    pub(crate) uid: String,
    #[serde(default)]
    pub(crate) groups: Vec<String>,
    #[serde(default)]
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

/// The body of a TokenReview. No reallocation leaves a copy of the token behind. `None` for what no
/// credential parser lets through.
pub(crate) fn request(token: &str) -> Option<Bytes> {
    // Nothing in it means anything to JSON.
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

/// Reads an answer, and wipes it: API servers send the token back.
pub(crate) fn answer(status: StatusCode, body: Bytes) -> Answer {
    let answer = read(status, &body);
    if let Ok(mut body) = body.try_into_mut() {
        body.as_mut().zeroize();
    }
    answer
}

fn read(status: StatusCode, body: &[u8]) -> Answer {
    if status == StatusCode::FORBIDDEN {
        return Answer::Forbidden;
    }
    if !status.is_success() {
        return Answer::Nothing;
    }
    match serde_json::from_slice(body) {
        Ok(Review { kind, status }) if kind == KIND => {
            if status.authenticated {
                Answer::Accepted(status.user)
            } else {
                Answer::Refused
            }
        }
        _ => Answer::Nothing,
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
    #[serde(default)]
    user: UserInfo,
}

const KIND: &str = "TokenReview";
const BEFORE: &str = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","metadata":{},"spec":{"token":""#;
const AFTER: &str = r#""}}"#;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(status: u16, body: &Value) -> Answer {
        answer(StatusCode::from_u16(status).unwrap(), body.to_string().into())
    }

    #[test]
    fn only_a_token_review_is_an_answer() {
        let review = |status: Value| json!({"kind": "TokenReview", "spec": {}, "status": status});
        let user = json!({"username": "x", "uid": "1", "groups": ["g"], "extra": {"k": ["v"]}});
        let yes = review(json!({"authenticated": true, "user": user}));
        let no = review(json!({"user": {}, "error": "invalid bearer token"}));
        let accepted = Answer::Accepted(UserInfo {
            username: "x".to_owned(),
            uid: "1".to_owned(),
            groups: vec!["g".to_owned()],
            extra: BTreeMap::from([("k".to_owned(), vec!["v".to_owned()])]),
        });
        assert_eq!(of(201, &yes), accepted);
        assert_eq!(of(200, &yes), accepted);
        assert_eq!(of(201, &no), Answer::Refused);
        assert_eq!(of(201, &review(json!({"authenticated": false}))), Answer::Refused);
        assert_eq!(of(403, &no), Answer::Forbidden);
        for status in [401, 404, 409, 429, 500, 503, 302] {
            assert_eq!(of(status, &no), Answer::Nothing, "{status}");
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
            assert_eq!(of(201, &body), Answer::Nothing, "{body}");
        }
        assert_eq!(answer(StatusCode::CREATED, Bytes::from_static(b"{")), Answer::Nothing);
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
