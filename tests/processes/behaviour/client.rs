//! Requests as they are on the wire, and answers to compare.

use http::Request;
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::{Value, json};

use crate::support::{PATIENCE, within};
use cluster_proxy::kubernetes::{self, ApiServer, Credentials};

/// A client of one API server.
pub(super) struct Api {
    /// Which test asks.
    pub(super) test: &'static str,
    pub(super) server: ApiServer,
    pub(super) client: kube::Client,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    what: String,
    code: u16,
    body: Value,
}

// === impl Api ===

impl Api {
    pub(super) fn new(test: &'static str, server: ApiServer) -> Self {
        Self { test, client: kubernetes::client(&server).unwrap(), server }
    }

    /// The same server for the holder of a token.
    pub(super) fn holder_of(&self, token: &str) -> Self {
        let credentials = Credentials::Token(token.to_owned().into());
        Self::new(self.test, ApiServer { credentials, ..self.server.clone() })
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, JSON, &Value::Null).await
    }

    pub(super) async fn post(&self, path: &str, object: Value) -> Answer {
        self.send("POST", path, JSON, &object).await
    }

    pub(super) async fn put(&self, path: &str, object: Value) -> Answer {
        self.send("PUT", path, JSON, &object).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, JSON, &Value::Null).await
    }

    /// A patch of a kind: `merge`, `json`, `strategic-merge` or `apply`.
    pub(super) async fn patch(&self, kind: &str, path: &str, patch: Value) -> Answer {
        let content = match kind {
            "apply" => "application/apply-patch+yaml".to_owned(),
            kind => format!("application/{kind}-patch+json"),
        };
        self.send("PATCH", path, &content, &patch).await
    }

    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        content: &str,
        body: &Value,
    ) -> Answer {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("content-type", content);
        let answered = async {
            let answer = self.client.send(request.body(Body::from(bytes)).unwrap()).await.unwrap();
            (answer.status().as_u16(), answer.into_body().collect().await.unwrap().to_bytes())
        };
        let (code, bytes) = within(&format!("{method} {path}"), PATIENCE, answered).await;
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
        Answer { what: format!("{method} {path}: {body:#}"), code, body }
    }
}

// === impl Answer ===

impl Answer {
    /// The body of an answer with this code.
    #[track_caller]
    pub(super) fn is(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.what);
        self.body
    }

    /// The message of a `Status` with this code and reason.
    #[track_caller]
    pub(super) fn refused(self, code: u16, reason: &str) -> String {
        let what = self.what.clone();
        let body = self.is(code);
        let kind = (&body["kind"], &body["apiVersion"], &body["status"], &body["code"]);
        assert_eq!(kind, (&json!("Status"), &json!("v1"), &json!("Failure"), &json!(code)));
        assert_eq!(body["reason"], reason, "{what}");
        body["message"].as_str().unwrap().to_owned()
    }

    pub(super) fn code(&self) -> u16 {
        self.code
    }
}

/// The fields of an object under names like `/spec/replicas`, as one array.
pub(super) fn fields(object: &Value, pointers: &[&str]) -> Value {
    pointers.iter().map(|pointer| object.pointer(pointer).cloned().unwrap_or_default()).collect()
}

const JSON: &str = "application/json";
