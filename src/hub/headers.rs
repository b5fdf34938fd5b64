//! Which headers cross, in both directions. Pure.
//!
//! Every leg is framed anew, so hop-by-hop headers (RFC 9110 section 7.6.1) end here. What a caller
//! must not forge is removed; what would let a spoke act in the hub's name is removed from answers.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::telemetry::trace::Step;
use crate::tunnel::headers::PREFIX;

/// The request's name in every log it passes, ours and the API server's.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Why a request's headers are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// Two, or one that disagrees with the target.
    #[error("the request must name its host once, and the same way everywhere")]
    Host,
    /// `Impersonate_User` and its kin: some servers read `_` as `-`.
    #[error("the header {0} is written with '_' where a header that carries identity has '-'")]
    Underscore(HeaderName),
    /// An expectation other than `100-continue`.
    #[error("the only expectation served here is 100-continue")]
    Expectation,
}

/// Checks what must be right before anything else looks at the headers.
pub(crate) fn check(headers: &HeaderMap, authority: Option<&str>) -> Result<(), HeaderError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(HeaderError::Host);
    }
    match (host.map(HeaderValue::as_bytes), authority) {
        (Some(host), Some(authority)) if !host.eq_ignore_ascii_case(authority.as_bytes()) => {
            return Err(HeaderError::Host);
        }
        (None, None) => return Err(HeaderError::Host),
        _ => {}
    }
    // A user before the host included: HTTP has none there (RFC 9113 section 8.3.1).
    let named = [host.map(HeaderValue::as_bytes), authority.map(str::as_bytes)];
    if named.into_iter().flatten().flatten().any(|byte| !is_host_byte(*byte)) {
        return Err(HeaderError::Host);
    }
    for name in headers.keys() {
        let name_text = name.as_str();
        if !is_identity(name_text) && is_identity(&name_text.replace('_', "-")) {
            return Err(HeaderError::Underscore(name.clone()));
        }
    }
    match headers.get(header::EXPECT) {
        Some(expect) if !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(HeaderError::Expectation)
        }
        _ => Ok(()),
    }
}

/// Turns a client's headers into those of the upstream request, in place. `authorization` is what
/// authentication has verified: it crosses whatever `Connection` says of it.
pub(crate) fn upstream(
    headers: &mut HeaderMap,
    authorization: Option<HeaderValue>,
    client: std::net::IpAddr,
    request_id: &HeaderValue,
    step: &Step,
) {
    remove_hop_by_hop(headers);
    let forged = |name: &&HeaderName| {
        let name = name.as_str();
        name.starts_with(PREFIX) || name.starts_with("x-remote-") || NOT_UPSTREAM.contains(&name)
    };
    for name in headers.keys().filter(forged).cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
    if let Some(mut authorization) = authorization {
        // Not for HPACK tables, nor for anybody's Debug output.
        authorization.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, authorization);
    }
    headers.insert(X_REQUEST_ID, request_id.clone());
    step.pass_on(headers);
    if let Ok(client) = HeaderValue::from_str(&client.to_canonical().to_string()) {
        headers.insert(HeaderName::from_static("x-forwarded-for"), client);
    }
}

/// Turns a spoke's answer into the client's, in place.
pub(crate) fn downstream(headers: &mut HeaderMap, request_id: &HeaderValue) {
    remove_hop_by_hop(headers);
    let ours = |name: &&HeaderName| {
        let name = name.as_str();
        name.starts_with(PREFIX)
            || name.starts_with("access-control-")
            || NOT_DOWNSTREAM.contains(&name)
    };
    for name in headers.keys().filter(ours).cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
    headers.insert(X_REQUEST_ID, request_id.clone());
}

/// The client's own request id where it is short and plain, else a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match headers.get(X_REQUEST_ID) {
        Some(id)
            if (1..=LONGEST_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(plain) =>
        {
            id.clone()
        }
        _ => {
            let id = uuid::Uuid::new_v4().hyphenated().to_string();
            // Invariant: a UUID is hexadecimal digits and hyphens.
            HeaderValue::from_str(&id).expect("a uuid is a header value")
        }
    }
}

/// A UUID has 36 characters; some tracing systems write longer ones.
const LONGEST_REQUEST_ID: usize = 128;

/// Removed from requests: claims about the way a request came are ours to make, cookies are
/// nothing an API server reads, and `Expect` is settled between client and hub.
const NOT_UPSTREAM: [&str; 12] = [
    "cookie",
    "expect",
    "forwarded",
    "host",
    "x-csrf-token",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-uri",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];

/// Removed from answers: with these one spoke would speak for the hub's whole origin.
const NOT_DOWNSTREAM: [&str; 4] =
    ["alt-svc", "clear-site-data", "set-cookie", "strict-transport-security"];

/// Headers of one hop only.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Removes hop-by-hop headers and those that `Connection` names, except headers of identity:
/// naming one there must not take it from us.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let mut named: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',') {
            if let Ok(name) = HeaderName::from_bytes(token.trim_ascii())
                && !is_identity(name.as_str())
                && !END_TO_END.contains(&name)
            {
                named.push(name);
            }
        }
    }
    let trailers = headers.get(header::TE).is_some_and(|te| te == "trailers");
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Headers that say what a body is: `Connection` cannot make them vanish.
const END_TO_END: [HeaderName; 4] =
    [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING, header::HOST];

fn is_identity(name: &str) -> bool {
    name == "authorization"
        || name.starts_with("impersonate-")
        || name.starts_with("x-remote-")
        || name.starts_with(PREFIX)
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']')
}

#[cfg(test)]
mod tests;
