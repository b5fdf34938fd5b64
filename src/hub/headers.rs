//! Which headers cross, in both directions. Pure.
//!
//! Every leg is framed anew, so headers of one hop end here ([`hop`]). What a caller
//! must not forge is removed; what would let a spoke act in the hub's name is removed from answers.

mod location;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::hop::{self, is_identity};
use crate::telemetry::trace::Step;
use crate::tunnel::headers::PREFIX;

/// The request's name in every log it passes, ours and the API server's.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Why a request's headers are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// `Impersonate_User` and its kin: some servers read `_` as `-`.
    #[error("the header {0} is written with '_' where a header that carries identity has '-'")]
    Underscore(HeaderName),
    /// An expectation other than `100-continue`.
    #[error("the only expectation served here is 100-continue")]
    Expectation,
    /// A body in a coding that is not taken off here, or in several.
    #[error("the only transfer coding served here is one chunked")]
    Coding,
}

/// Checks what must be right before anything else looks at the headers.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), HeaderError> {
    for name in headers.keys() {
        let name_text = name.as_str();
        if name_text.contains('_')
            && !is_identity(name_text)
            && is_identity(&name_text.replace('_', "-"))
        {
            return Err(HeaderError::Underscore(name.clone()));
        }
    }
    if !hop::is_plainly_framed(headers) {
        return Err(HeaderError::Coding);
    }
    match headers.get(header::EXPECT) {
        Some(expect) if !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(HeaderError::Expectation)
        }
        _ => Ok(()),
    }
}

/// Who is at the other end of the tunnel: what a service of users needs, no API server reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// The cluster's API server.
    ApiServer,
    /// A service that the hub's operator and the cluster's owner expose.
    Service,
}

/// Turns a client's headers into those of the upstream request, in place. `authorization` is what
/// authentication has verified: it crosses whatever `Connection` says of it.
pub(crate) fn upstream(
    headers: &mut HeaderMap,
    peer: Peer,
    authorization: Option<HeaderValue>,
    client: std::net::IpAddr,
    request_id: &HeaderValue,
    step: &Step,
) {
    hop::clean_request(headers);
    let forged = |name: &&HeaderName| {
        let name = name.as_str();
        FORGED.iter().any(|prefix| name.starts_with(prefix))
            || NOT_UPSTREAM.contains(&name)
            || match peer {
                Peer::ApiServer => NOT_TO_API_SERVER.contains(&name),
                Peer::Service => is_identity(name),
            }
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
    hop::mark_unique(headers);
    if let Ok(client) = HeaderValue::from_str(&client.to_canonical().to_string()) {
        headers.insert(HeaderName::from_static("x-forwarded-for"), client);
    }
}

/// Turns a spoke's answer into the client's, in place. `root` is the part of the client's path that
/// `peer` does not know of, without its first slash; none where there is no such part.
pub(crate) fn downstream(
    headers: &mut HeaderMap,
    peer: Peer,
    root: Option<&str>,
    request_id: &HeaderValue,
) {
    hop::clean_response(headers);
    remove_ours(headers, peer);
    location::settle(headers, root);
    headers.insert(X_REQUEST_ID, request_id.clone());
    hop::mark_unique(headers);
}

/// Turns the trailers of a spoke's answer into the client's, in place: the rule for its head, and
/// nothing that only a head may say (RFC 9110 section 6.5.1).
pub(crate) fn trailers(headers: &mut HeaderMap) {
    hop::clean_response(headers);
    // No trailer sets a cookie, whoever sends it.
    remove_ours(headers, Peer::ApiServer);
    for name in &HEAD_ONLY {
        headers.remove(name);
    }
}

/// Removes from an answer what would speak for the hub.
fn remove_ours(headers: &mut HeaderMap, peer: Peer) {
    let ours = |name: &&HeaderName| {
        let name = name.as_str();
        name.starts_with(PREFIX)
            || NOT_DOWNSTREAM.contains(&name)
            || (peer == Peer::ApiServer
                && (name == header::SET_COOKIE.as_str() || name.starts_with("access-control-")))
    };
    for name in headers.keys().filter(ours).cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
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
            let mut text = uuid::Uuid::encode_buffer();
            let id = uuid::Uuid::new_v4().hyphenated().encode_lower(&mut text);
            // Invariant: a UUID is hexadecimal digits and hyphens.
            HeaderValue::from_str(id).expect("a uuid is a header value")
        }
    }
}

/// A UUID has 36 characters; some tracing systems write longer ones.
const LONGEST_REQUEST_ID: usize = 128;

/// Removed from requests by the beginning of their names: ours, a front proxy's word for a user, and
/// a proxy's word for the way a request came.
const FORGED: [&str; 3] = [PREFIX, "x-remote-", "x-forwarded-"];

/// Removed from requests: claims about the way a request came are ours to make, and `Expect` is
/// settled between client and hub.
const NOT_UPSTREAM: [&str; 6] =
    ["expect", "forwarded", "host", "x-original-url", "x-real-ip", "x-rewrite-url"];

/// Nothing an API server reads: what browsers have of services.
const NOT_TO_API_SERVER: [&str; 2] = ["cookie", "x-csrf-token"];

/// Removed from answers: with these one spoke would speak for the hub's whole origin.
const NOT_DOWNSTREAM: [&str; 3] = ["alt-svc", "clear-site-data", "strict-transport-security"];

/// What frames, types, or leads elsewhere, and what names the request.
const HEAD_ONLY: [HeaderName; 9] = [
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::LOCATION,
    header::WWW_AUTHENTICATE,
    X_REQUEST_ID,
];

#[cfg(test)]
mod tests;
