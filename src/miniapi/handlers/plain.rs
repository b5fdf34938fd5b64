//! Paths that are no resource: health, version, discovery, OpenAPI and the issuer.

use http::StatusCode;
use serde_json::json;

use super::{Answer, Call};
use crate::miniapi::response::{MiniStatus, json_response, with_type};
use crate::miniapi::{discovery, openapi};

/// Whether the path answers somebody without a token.
pub(super) fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/livez" | "/readyz" | "/version")
}

pub(super) fn answer(call: &Call<'_>) -> Answer {
    let cluster = call.cluster;
    let path = call.info.path.trim_end_matches('/');
    if !matches!(call.info.verb, "get" | "head") {
        return Err(MiniStatus::method_not_allowed());
    }
    let value = match path {
        "/healthz" | "/livez" | "/readyz" => {
            return Ok(with_type(StatusCode::OK, "text/plain; charset=utf-8", "ok"));
        }
        "/version" => Some(discovery::version()),
        "" => Some(json!({ "paths": ROOT })),
        "/api" => Some(discovery::core_versions(cluster.url.trim_start_matches("https://"))),
        "/apis" => Some(discovery::groups(&cluster.store)),
        "/openapi/v3" => Some(openapi::index(&cluster.store)),
        "/openid/v1/jwks" => Some(cluster.tokens.key_set()),
        "/.well-known/openid-configuration" => Some(cluster.tokens.discovery(&cluster.url)),
        path => deeper(call, path),
    };
    let value = value.ok_or_else(MiniStatus::no_such_path)?;
    let mut response = json_response(StatusCode::OK, &value);
    if path == "/openid/v1/jwks" {
        let content_type = http::HeaderValue::from_static("application/jwk-set+json");
        response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
    }
    Ok(response)
}

fn deeper(call: &Call<'_>, path: &str) -> Option<serde_json::Value> {
    let store = &call.cluster.store;
    if let Some(path) = path.strip_prefix("/openapi/v3/") {
        return openapi::document(store, path);
    }
    match path.split('/').skip(1).collect::<Vec<_>>()[..] {
        ["api", version] => discovery::resource_list(store, "", version),
        ["apis", group] => discovery::group(store, group),
        ["apis", group, version] => discovery::resource_list(store, group, version),
        _ => None,
    }
}

const ROOT: [&str; 8] = [
    "/.well-known/openid-configuration",
    "/api",
    "/apis",
    "/livez",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/version",
];
