//! Paths that are no resource: health, version, discovery, OpenAPI and the issuer.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::{Answer, Call};
use crate::miniapi::cluster::Cluster;
use crate::miniapi::discovery::{self, aggregated};
use crate::miniapi::openapi;
use crate::miniapi::response::{Body, MiniStatus, json_response, with_type};

/// Whether the path answers somebody without a token.
pub(super) fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/livez" | "/readyz" | "/version")
}

pub(super) fn answer(call: &Call<'_>, headers: &HeaderMap) -> Answer {
    let cluster = call.cluster;
    let path = call.info.path.trim_end_matches('/');
    if !matches!(call.info.verb, "get" | "head") {
        return Err(MiniStatus::method_not_allowed());
    }
    if matches!(path, "/api" | "/apis") {
        return Ok(discover(call, path, headers));
    }
    let value = match path {
        "/healthz" | "/livez" | "/readyz" => {
            return Ok(with_type(StatusCode::OK, "text/plain; charset=utf-8", "ok"));
        }
        "/version" => Some(discovery::version()),
        "" => Some(json!({ "paths": ROOT })),
        "/openapi/v3" => Some(openapi::index(&cluster.store)),
        "/openid/v1/jwks" => Some(cluster.tokens.key_set()),
        "/.well-known/openid-configuration" => Some(cluster.tokens.discovery(&cluster.url)),
        path => deeper(call, path),
    };
    let value = value.ok_or_else(MiniStatus::no_such_path)?;
    let mut response = json_response(StatusCode::OK, &value);
    if path == "/openid/v1/jwks" {
        if !accepts(headers, KEY_SET) {
            return Err(MiniStatus::new(406, "NotAcceptable", format!("only {KEY_SET} is here")));
        }
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(KEY_SET));
    }
    Ok(response)
}

/// Whether a client takes an answer of this type, as kube-apiserver decides it for its issuer.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let Some(accept) = headers.get(header::ACCEPT) else { return true };
    let ranges = accept.to_str().unwrap_or_default().split(',');
    ranges
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .any(|range| matches!(range, "" | "*/*") || range == media_type)
}

/// The two entrances of discovery, in the form that the client prefers.
fn discover(call: &Call<'_>, path: &str, headers: &HeaderMap) -> Response<Body> {
    let Cluster { store, url, .. } = call.cluster;
    let wanted = aggregated::is_wanted(headers);
    let value = match (path, wanted) {
        ("/api", true) => aggregated::core(store),
        (_, true) => aggregated::groups(store),
        ("/api", false) => discovery::core_versions(url.trim_start_matches("https://")),
        (_, false) => discovery::groups(store),
    };
    let mut response = json_response(StatusCode::OK, &value);
    let answer = response.headers_mut();
    // Both forms have one URL.
    answer.insert(header::VARY, HeaderValue::from_static("Accept"));
    if wanted {
        let media_type = HeaderValue::from_static(aggregated::MEDIA_TYPE);
        answer.insert(header::CONTENT_TYPE, media_type);
    }
    response
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

/// The only type that kube-apiserver has for its key set.
const KEY_SET: &str = "application/jwk-set+json";

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
