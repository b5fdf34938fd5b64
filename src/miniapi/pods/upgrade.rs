//! What a client wants to switch to, and the answer that agrees. Pure.
//!
//! A WebSocket names what is spoken inside as its subprotocol (RFC 6455 section 4.2), SPDY in
//! `X-Stream-Protocol-Version`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::miniapi::response::{Body, MiniStatus};

/// What carries a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    WebSocket,
    Spdy,
}

/// A protocol that an endpoint speaks: what carries it, and its name there.
pub(super) type Protocol = (Carrier, &'static str);

/// Chooses the first protocol of the client's that is one of `known`, and says so.
///
/// # Errors
/// A `Status` for a request that is no such upgrade.
pub(super) fn negotiate(
    method: &Method,
    headers: &HeaderMap,
    known: &[Protocol],
) -> Result<(Protocol, Response<Body>), MiniStatus> {
    if !tokens(headers, CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return Err(MiniStatus::bad_request("Upgrade request required"));
    }
    let upgrades =
        |wanted: &str| tokens(headers, UPGRADE).any(|token| token.eq_ignore_ascii_case(wanted));
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let agreed = if upgrades("websocket") {
        let accept = accept_key(method, headers)?;
        let agreed = choose(headers, SEC_WEBSOCKET_PROTOCOL, Carrier::WebSocket, known)?;
        answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
        answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(agreed.1));
        agreed
    } else if upgrades(SPDY) {
        let agreed = choose(headers, STREAM_PROTOCOL, Carrier::Spdy, known)?;
        answer.insert(UPGRADE, HeaderValue::from_static(SPDY));
        answer.insert(STREAM_PROTOCOL, HeaderValue::from_static(agreed.1));
        agreed
    } else {
        let why = format!("only upgrades to websocket and {SPDY} are offered here");
        return Err(MiniStatus::bad_request(why));
    };
    Ok((agreed, response))
}

/// The client lists what it can speak, the best first.
fn choose(
    headers: &HeaderMap,
    name: HeaderName,
    carrier: Carrier,
    known: &[Protocol],
) -> Result<Protocol, MiniStatus> {
    let known = || known.iter().filter(|(carries, _)| *carries == carrier);
    let mut offered = tokens(headers, name.clone());
    let agreed = offered.find_map(|offer| known().find(|(_, protocol)| *protocol == offer));
    agreed.copied().ok_or_else(|| {
        let known: Vec<&str> = known().map(|(_, protocol)| *protocol).collect();
        let why = format!("unable to upgrade: {name} must offer {}", known.join(" or "));
        match carrier {
            Carrier::WebSocket => MiniStatus::bad_request(why),
            // As the kubelet says it.
            Carrier::Spdy => MiniStatus::new(403, "Forbidden", why),
        }
    })
}

fn accept_key(method: &Method, headers: &HeaderMap) -> Result<HeaderValue, MiniStatus> {
    if method != Method::GET {
        return Err(MiniStatus::bad_request("a WebSocket is opened with GET"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(MiniStatus::bad_request("Sec-WebSocket-Version must be 13"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let key = key
        .filter(|key| STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == NONCE))
        .ok_or_else(|| MiniStatus::bad_request("Sec-WebSocket-Key must be 16 bytes in base64"))?;
    HeaderValue::try_from(derive_accept_key(key))
        .map_err(|_| MiniStatus::bad_request("Sec-WebSocket-Key makes no accept key"))
}

/// The comma-separated tokens of all headers of a name.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

const SPDY: &str = "SPDY/3.1";

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Bytes of the random value in `Sec-WebSocket-Key`.
const NONCE: usize = 16;
