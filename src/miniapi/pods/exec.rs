//! The upgrade of an `exec` request to a WebSocket (RFC 6455 section 4.2).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Shared;
use super::channel::Version;
use super::options::ExecOptions;
use super::session::Session;
use crate::miniapi::response::{Body, MiniStatus};

/// Answers `request` with 101 and runs its session once the connection is ours.
///
/// # Errors
/// A `Status` for a request that cannot become a session; nothing was started then.
pub(super) fn start<B>(
    shared: &Shared,
    mut request: Request<B>,
    namespace: &str,
    name: &str,
) -> Result<Response<Body>, MiniStatus> {
    let options = ExecOptions::parse(request.uri().query().unwrap_or_default())?;
    let (accept, version) = handshake(request.method(), request.headers())?;
    let permit = Arc::clone(&shared.permits).try_acquire_owned().map_err(|_| {
        MiniStatus::new(429, "TooManyRequests", "too many exec sessions in this cluster")
    })?;
    let (scratch, ended) = shared.enter(namespace, name, options.container.as_deref())?;
    let session = Session { version, options, scratch, ended };
    let upgrade = hyper::upgrade::on(&mut request);
    // Ends with the Pod's token, which the runtime cancels when it goes.
    shared.sessions.spawn(async move {
        let _permit = permit;
        let upgraded = tokio::select! {
            upgraded = upgrade => upgraded,
            () = session.ended.cancelled() => return,
        };
        match upgraded {
            Ok(upgraded) => session.run(TokioIo::new(upgraded)).await,
            Err(error) => tracing::debug!(%error, "exec upgrade failed"),
        }
    });
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(version.subprotocol()));
    Ok(response)
}

/// Checks the client's half of the handshake; returns the accept key and the protocol to speak.
fn handshake(method: &Method, headers: &HeaderMap) -> Result<(HeaderValue, Version), MiniStatus> {
    if !tokens(headers, CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return Err(MiniStatus::bad_request("Upgrade request required"));
    }
    if !tokens(headers, UPGRADE).any(|token| token.eq_ignore_ascii_case("websocket")) {
        let why = "only WebSocket upgrades are offered here (v5.channel.k8s.io, v4.channel.k8s.io)";
        return Err(MiniStatus::bad_request(why));
    }
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
    // The client lists what it can speak, the best first.
    let version =
        tokens(headers, SEC_WEBSOCKET_PROTOCOL).find_map(Version::of).ok_or_else(|| {
            MiniStatus::bad_request(
                "Sec-WebSocket-Protocol must offer v5.channel.k8s.io or v4.channel.k8s.io",
            )
        })?;
    let accept = HeaderValue::try_from(derive_accept_key(key))
        .map_err(|_| MiniStatus::bad_request("Sec-WebSocket-Key makes no accept key"))?;
    Ok((accept, version))
}

/// The comma-separated tokens of all headers of a name.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// Bytes of the random value in `Sec-WebSocket-Key`.
const NONCE: usize = 16;
