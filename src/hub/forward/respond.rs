//! Failures -> `Status` bodies, status codes and retry hints. The only such place.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use super::body::ResponseBody;
use crate::hub::authn::AuthnError;
use crate::hub::failure::Failure;
use crate::hub::front::head::HeadTooLarge;
use crate::hub::headers::{HeaderError, X_REQUEST_ID};
use crate::hub::hosts::HostError;
use crate::hub::policy::Denied;
use crate::hub::route::RouteError;
use crate::hub::services::{NotExposed, ServicePathError};
use crate::tunnel::headers::Fault;

/// The answer to a request that failed: a Kubernetes `Status` (`meta/v1`), as client-go expects.
pub(crate) fn respond(failure: &Failure, request_id: &HeaderValue) -> Response<ResponseBody> {
    let (code, reason) = code(failure);
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message(failure),
        "reason": reason,
        "details": { "causes": [{ "reason": "Hop", "message": failure.hop().label() }] },
        "code": code.as_u16(),
    });
    let mut body = status.to_string();
    body.push('\n');
    let mut response = Response::new(ResponseBody::full(Full::new(Bytes::from(body))));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_REQUEST_ID, request_id.clone());
    if code == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if retry_helps(failure) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
    }
    response
}

/// client-go sleeps this long and repeats, POST included, up to ten times.
const RETRY_AFTER_SECONDS: &str = "1";

fn code(failure: &Failure) -> (StatusCode, &'static str) {
    match failure {
        Failure::Route(RouteError::Method(_)) => {
            (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed")
        }
        Failure::Route(RouteError::OwnPage)
        | Failure::NoCluster(_)
        | Failure::ServiceFault { fault: Fault::NoService, .. } => {
            (StatusCode::NOT_FOUND, "NotFound")
        }
        Failure::Host(HostError::NotServed) => {
            (StatusCode::MISDIRECTED_REQUEST, "MisdirectedRequest")
        }
        Failure::Headers(HeaderError::Expectation) => {
            (StatusCode::EXPECTATION_FAILED, "ExpectationFailed")
        }
        Failure::Loop(_) => (StatusCode::LOOP_DETECTED, "LoopDetected"),
        Failure::Route(_)
        | Failure::Host(HostError::Ambiguous)
        | Failure::Headers(_)
        | Failure::Body(_)
        | Failure::Service(ServicePathError::Name { .. })
        | Failure::Upgrade(_) => (StatusCode::BAD_REQUEST, "BadRequest"),
        Failure::Authn(AuthnError::Unavailable(_))
        | Failure::Denied(Denied::Unread | Denied::Unasked(_))
        | Failure::NotExposed(NotExposed::Unread)
        | Failure::NoTunnel { .. } => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
        Failure::Authn(AuthnError::Unwritable(_))
        | Failure::Service(ServicePathError::ApiServer)
        | Failure::NotExposed(_)
        | Failure::ServiceFault { fault: Fault::ServiceRefused, .. }
        | Failure::Denied(_) => (StatusCode::FORBIDDEN, "Forbidden"),
        Failure::Authn(_) => (StatusCode::UNAUTHORIZED, "Unauthorized"),
        Failure::Head(HeadTooLarge::Target { .. }) => {
            (StatusCode::URI_TOO_LONG, "RequestURITooLong")
        }
        Failure::BodyTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge"),
        Failure::Head(_) => {
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "RequestHeaderFieldsTooLarge")
        }
        Failure::Full(_) | Failure::TooMany(_) | Failure::TooManyTokens(_) => {
            (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests")
        }
        Failure::Fault { fault: Fault::NotImpersonated, .. } => {
            (StatusCode::FORBIDDEN, "Forbidden")
        }
        Failure::TunnelLost { .. }
        | Failure::Reset { .. }
        | Failure::Fault { .. }
        | Failure::ServiceFault { .. } => (StatusCode::BAD_GATEWAY, "BadGateway"),
        Failure::HeadTimeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "Timeout"),
    }
}

/// Only where nothing of the request was written and a second later is likely to be better: a dead
/// cluster must fail fast, not ten seconds late.
fn retry_helps(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::NoTunnel { soon: true, .. }
            | Failure::Full(_)
            | Failure::TooMany(_)
            | Failure::TooManyTokens(_)
    )
}

/// Says which hop failed, then what happened. The common 401 says nothing more than its name:
/// callers must not be able to tell one refusal from another.
fn message(failure: &Failure) -> String {
    match failure {
        Failure::Authn(AuthnError::Unauthorized(_)) => failure.to_string(),
        failure => format!("cluster-proxy: {}: {failure}", failure.hop().label()),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::hub::via::Loop;
    use crate::name::ClusterName;
    use crate::tunnel::impersonation::Unwritable;

    async fn answer(failure: Failure) -> (StatusCode, Option<HeaderValue>, serde_json::Value) {
        let response = respond(&failure, &HeaderValue::from_static("id"));
        let retry = response.headers().get(header::RETRY_AFTER).cloned();
        let code = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, retry, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_dead_cluster_fails_fast_and_a_lost_tunnel_asks_for_another_try() {
        let cluster = ClusterName::parse("c1").unwrap();
        let dead = Failure::NoTunnel { cluster: cluster.clone(), soon: false };
        let (code, retry, body) = answer(dead).await;
        assert_eq!((code, retry), (StatusCode::SERVICE_UNAVAILABLE, None));
        assert_eq!(body["reason"], "ServiceUnavailable");
        let message = body["message"].as_str().unwrap();
        assert!(message.starts_with("cluster-proxy: tunnel: cluster c1 has no"), "{message}");

        let (code, retry, _) = answer(Failure::NoTunnel { cluster, soon: true }).await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(retry.unwrap(), "1");
    }

    #[tokio::test]
    async fn each_code_once() {
        let cluster = || ClusterName::parse("c1").unwrap();
        let fault = |fault| Failure::Fault { cluster: cluster(), fault };
        let service_fault = |fault| {
            let service = Box::new("https:shop/web:443".parse().unwrap());
            Failure::ServiceFault { cluster: cluster(), service, fault }
        };
        let of_path = |path: &'static str| {
            let path = http::uri::PathAndQuery::from_static(path);
            Failure::from(crate::hub::services::service(&path).unwrap_err())
        };
        let lost = Failure::TunnelLost { cluster: cluster(), reason: "x".into() };
        let late =
            Failure::HeadTimeout { cluster: cluster(), after: std::time::Duration::from_secs(70) };
        for (failure, code) in [
            (Failure::Route(RouteError::Form), 400),
            (Failure::Route(RouteError::OwnPage), 404),
            (Failure::Route(RouteError::Method(http::Method::TRACE)), 405),
            (HostError::Ambiguous.into(), 400),
            (HostError::NotServed.into(), 421),
            (Loop.into(), 508),
            (Failure::Authn(AuthnError::Unavailable("x".into())), 503),
            (Failure::Authn(Unwritable("a group").into()), 403),
            (Denied::NoPolicy.into(), 403),
            (Denied::Unread.into(), 503),
            (Denied::Unasked("no answer".to_owned()).into(), 503),
            (Failure::NoCluster(cluster()), 404),
            (Failure::Full(cluster()), 429),
            (Failure::TooManyTokens(cluster()), 429),
            (fault(Fault::Unreachable), 502),
            (fault(Fault::AgentRefused), 502),
            (fault(Fault::NotImpersonated), 403),
            (ServicePathError::ApiServer.into(), 403),
            (of_path("/api/v1/namespaces/a/services/B/proxy-service"), 400),
            (NotExposed::NoList.into(), 403),
            (NotExposed::Unread.into(), 503),
            (service_fault(Fault::ServiceRefused), 403),
            (service_fault(Fault::NoService), 404),
            (service_fault(Fault::ServiceUnreachable), 502),
            (service_fault(Fault::ServiceUntrusted), 502),
            (service_fault(Fault::Refused), 502),
            (lost, 502),
            (late, 504),
        ] {
            let text = failure.to_string();
            let (got, _, body) = answer(failure).await;
            assert_eq!(got.as_u16(), code, "{text}");
            assert_eq!(body["code"], code);
        }
    }
}
