//! An upgrade request as an extended CONNECT stream (RFC 8441), and back. Pure.
//!
//! ```text
//!   client                        tunnel                            API server
//!   POST /exec HTTP/1.1           CONNECT /exec                     POST /exec HTTP/1.1
//!   Connection: Upgrade           :protocol SPDY/3.1                Connection: Upgrade
//!   Upgrade: SPDY/3.1             cluster-proxy-method: POST        Upgrade: SPDY/3.1
//!                                 cluster-proxy-upgrade: SPDY/3.1
//!   101 Upgrade: SPDY/3.1         200 cluster-proxy-upgrade: ..     101 Upgrade: SPDY/3.1
//!   403                           403                               403
//! ```

use std::str::FromStr;

use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE as UPGRADE_TO,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
};

use super::headers::{METHOD, UPGRADE, single};

/// The byte protocols that an API server switches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upgrade {
    /// RFC 6455; the subprotocol header passes as any other.
    WebSocket,
    /// What kubectl used before 1.31, and what older API servers speak.
    Spdy,
}

/// Why a head is no upgrade that we carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The `Upgrade` header is missing, repeated, or names neither protocol.
    #[error("the upgrade header must name exactly one of websocket and SPDY/3.1")]
    Protocol,
    /// `Connection` does not list `upgrade`.
    #[error("the connection header does not ask for an upgrade")]
    Connection,
    /// The method header of the wire is missing, repeated or no method, or the method is CONNECT.
    #[error("the method of the upgrade is missing or not usable")]
    Method,
    /// The stream is no extended CONNECT, or its `:protocol` differs from the header of the wire.
    #[error("the stream is not an extended CONNECT of one protocol")]
    Stream,
    /// An upgrade request or a 101 cannot have a body.
    #[error("an upgrade cannot carry a body")]
    Body,
    /// The answer switches to another protocol than the one asked for.
    #[error("the answer switches to a protocol that was not asked for")]
    Answer,
    /// The path is missing or not usable.
    #[error("the path of the upgrade is not usable")]
    Path,
}

/// An answer to an upgrade request.
#[derive(Debug)]
pub enum Answer<B> {
    /// The protocol was switched: a complete 101 head. The bytes that follow belong to the protocol.
    Switched(Response<B>),
    /// An ordinary answer (a refusal, mostly); pass it on as it is.
    Plain(Response<B>),
}

/// Whether a request asks for an upgrade at all; [`encode_request`] says whether for one we carry.
pub fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE_TO) && lists_upgrade(headers)
}

/// Hub: a client's upgrade request as the head of a stream. `headers` of ours other than the two of
/// upgrades stay as they are.
pub fn encode_request<B>(request: Request<B>) -> Result<(Request<B>, Upgrade), ConnectError> {
    let (mut head, body) = request.into_parts();
    let upgrade = wanted(&head.headers)?;
    if head.method == Method::CONNECT {
        return Err(ConnectError::Method);
    }
    if has_body(&head.headers) {
        return Err(ConnectError::Body);
    }
    let method = HeaderValue::from_str(head.method.as_str()).map_err(|_| ConnectError::Method)?;
    let path = head.uri.path_and_query().cloned().ok_or(ConnectError::Path)?;
    head.uri = stream_uri(path)?;
    head.method = Method::CONNECT;
    head.version = Version::HTTP_2;
    remove_connection_headers(&mut head.headers);
    // The authority placeholder stands for it; the agent sets the API server's own.
    head.headers.remove(HOST);
    head.headers.insert(METHOD, method);
    head.headers.insert(UPGRADE, upgrade.into());
    head.extensions.insert(Protocol::from_static(upgrade.as_str()));
    Ok((Request::from_parts(head, body), upgrade))
}

/// Whether a stream's head is one that [`decode_request`] should look at.
pub fn is_connect<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT
}

/// Agent: the head of a stream as the HTTP/1.1 upgrade request that the client made, with path and
/// query as its URI and no `Host`.
pub fn decode_request<B>(request: Request<B>) -> Result<(Request<B>, Upgrade), ConnectError> {
    let (mut head, body) = request.into_parts();
    let protocol = head.extensions.remove::<Protocol>().ok_or(ConnectError::Stream)?;
    if head.method != Method::CONNECT {
        return Err(ConnectError::Stream);
    }
    let upgrade: Upgrade = marked(&head.headers)?.ok_or(ConnectError::Protocol)?;
    if protocol.as_str() != upgrade.as_str() {
        return Err(ConnectError::Stream);
    }
    if head.headers.contains_key(CONTENT_LENGTH) || has_body(&head.headers) {
        return Err(ConnectError::Body);
    }
    let method = single(&head.headers, &METHOD).ok_or(ConnectError::Method)?;
    let method = Method::from_str(method).map_err(|_| ConnectError::Method)?;
    if method == Method::CONNECT {
        return Err(ConnectError::Method);
    }
    let path = head.uri.path_and_query().cloned().ok_or(ConnectError::Path)?;
    head.uri = Uri::from(path);
    head.method = method;
    head.version = Version::HTTP_11;
    head.headers.remove(METHOD);
    head.headers.remove(UPGRADE);
    ask(&mut head.headers, upgrade);
    Ok((Request::from_parts(head, body), upgrade))
}

/// Agent: the API server's answer to an upgrade request, for the stream. A 101 becomes a 200 with
/// the marker; anything else stays, so a genuine 200 has no marker.
pub fn encode_response<B>(
    response: Response<B>,
    asked: Upgrade,
) -> Result<Answer<B>, ConnectError> {
    let (mut head, body) = response.into_parts();
    let switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
    if switched && wanted(&head.headers) != Ok(asked) {
        return Err(ConnectError::Answer);
    }
    head.headers.remove(UPGRADE);
    remove_connection_headers(&mut head.headers);
    head.version = Version::HTTP_2;
    if !switched {
        return Ok(Answer::Plain(Response::from_parts(head, body)));
    }
    head.status = StatusCode::OK;
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(UPGRADE, asked.into());
    Ok(Answer::Switched(Response::from_parts(head, body)))
}

/// Hub: the answer on the stream, for the client. A 200 with the marker becomes a 101.
pub fn decode_response<B>(
    response: Response<B>,
    asked: Upgrade,
) -> Result<Answer<B>, ConnectError> {
    let (mut head, body) = response.into_parts();
    head.version = Version::HTTP_11;
    let Some(upgrade) = marked(&head.headers)? else {
        return Ok(Answer::Plain(Response::from_parts(head, body)));
    };
    if head.status != StatusCode::OK || upgrade != asked {
        return Err(ConnectError::Answer);
    }
    if head.headers.contains_key(CONTENT_LENGTH) {
        return Err(ConnectError::Body);
    }
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    head.headers.remove(UPGRADE);
    ask(&mut head.headers, asked);
    Ok(Answer::Switched(Response::from_parts(head, body)))
}

// === impl Upgrade ===

impl Upgrade {
    const ALL: [Self; 2] = [Self::WebSocket, Self::Spdy];

    /// The token of the `Upgrade` header, of `:protocol` and of our own header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Spdy => "SPDY/3.1",
        }
    }
}

impl FromStr for Upgrade {
    type Err = ConnectError;

    /// Tokens compare without case (RFC 9110 section 7.8).
    fn from_str(token: &str) -> Result<Self, ConnectError> {
        let same = |upgrade: &Self| upgrade.as_str().eq_ignore_ascii_case(token);
        Self::ALL.into_iter().find(same).ok_or(ConnectError::Protocol)
    }
}

impl From<Upgrade> for HeaderValue {
    fn from(upgrade: Upgrade) -> Self {
        Self::from_static(upgrade.as_str())
    }
}

/// The upgrade that an HTTP/1.1 head asks for or grants.
fn wanted(headers: &HeaderMap) -> Result<Upgrade, ConnectError> {
    let upgrade = single(headers, &UPGRADE_TO).ok_or(ConnectError::Protocol)?.trim().parse()?;
    if lists_upgrade(headers) { Ok(upgrade) } else { Err(ConnectError::Connection) }
}

/// The upgrade that our own header names: `None` when it is absent, an error when it is nonsense.
fn marked(headers: &HeaderMap) -> Result<Option<Upgrade>, ConnectError> {
    if !headers.contains_key(UPGRADE) {
        return Ok(None);
    }
    single(headers, &UPGRADE).ok_or(ConnectError::Protocol)?.parse().map(Some)
}

fn lists_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut tokens = values.flat_map(|value| value.split(','));
    tokens.any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// client-go sends `Content-Length: 0` on a POST; anything more is a body.
fn has_body(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    headers.contains_key(TRANSFER_ENCODING) || lengths.any(|length| length.as_bytes() != b"0")
}

fn ask(headers: &mut HeaderMap, upgrade: Upgrade) {
    remove_connection_headers(headers);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE_TO, upgrade.into());
}

/// Those that HTTP/2 forbids (RFC 9113 section 8.2.2), and the zero length of an upgrade.
fn remove_connection_headers(headers: &mut HeaderMap) {
    for name in [CONNECTION, UPGRADE_TO, TRANSFER_ENCODING, TE, KEEP_ALIVE, PROXY_CONNECTION] {
        headers.remove(name);
    }
    if headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0") {
        headers.remove(CONTENT_LENGTH);
    }
}

fn stream_uri(path: PathAndQuery) -> Result<Uri, ConnectError> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(Authority::from_static(AUTHORITY));
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|_| ConnectError::Path)
}

/// Names no host: the agent knows its API server.
pub const AUTHORITY: &str = "cluster";

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

#[cfg(test)]
mod tests;
