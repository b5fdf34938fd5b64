//! The one bearer token of a request, wherever a client may put it.
//!
//! Two places exist: `Authorization: Bearer TOKEN` (RFC 6750 section 2.1), and, for browsers, which
//! cannot set that header on a WebSocket, a subprotocol that starts with [`SUBPROTOCOL`] and goes on
//! with the token in unpadded base64url (Kubernetes 1.7, `apiserver/pkg/authentication/request/websocket`).
//!
//! One parser, and a strict one: two parties that read a sloppy header differently are how a token
//! check is passed by one token and used with another. RFC 9110 lets a scheme be written in any
//! case; every Kubernetes client writes `Bearer` and one space, so nothing else is accepted.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use zeroize::Zeroizing;

use super::Refusal;

/// A bearer token: never shown. It shares the bytes of its header, which the request keeps anyway: a
/// copy would cost every request more than finding its caller.
pub(super) struct Token(HeaderValue);

// === impl Token ===

impl Token {
    /// Finds the one token of a request. A token in a subprotocol is moved into `Authorization`,
    /// its subprotocol deleted and the others kept, so that everything behind this point knows
    /// one place only. Headers of a refused request are left as they came.
    pub(super) fn take(headers: &mut HeaderMap) -> Result<Self, Refusal> {
        let authorization = from_authorization(headers)?;
        let subprotocol = from_subprotocols(headers)?;
        match (authorization, subprotocol) {
            (Some(_), Some(_)) => Err(Refusal::Malformed),
            (None, None) => Err(Refusal::Missing),
            (Some(token), None) => {
                if let Some(value) = headers.get_mut(AUTHORIZATION) {
                    value.set_sensitive(true);
                }
                Ok(token)
            }
            (None, Some((token, others))) => {
                headers.insert(AUTHORIZATION, token.0.clone());
                headers.insert(SEC_WEBSOCKET_PROTOCOL, others);
                Ok(token)
            }
        }
    }

    /// The token itself, for verification only.
    pub(super) fn as_str(&self) -> &str {
        let text = self.0.to_str().ok().and_then(|text| text.strip_prefix(SCHEME));
        text.expect("invariant: `parse` saw the scheme, and nothing but ASCII behind it")
    }

    /// The same, without another look at each byte: every request has its token named.
    pub(super) fn as_bytes(&self) -> &[u8] {
        let bytes = self.0.as_bytes().strip_prefix(SCHEME.as_bytes());
        bytes.expect("invariant: `parse` saw the scheme")
    }

    /// Of the value of an `Authorization`.
    fn parse(value: &HeaderValue) -> Result<Self, Refusal> {
        let token = value.as_bytes().strip_prefix(SCHEME.as_bytes()).ok_or(Refusal::Malformed)?;
        if token.len() > MAX_TOKEN {
            return Err(Refusal::TooLarge);
        }
        let padding = token.iter().rev().take_while(|byte| **byte == b'=').count();
        let body = &token[..token.len() - padding];
        if body.is_empty() || !body.iter().all(|byte| TOKEN_BYTES[usize::from(*byte)]) {
            return Err(Refusal::Malformed);
        }
        let mut value = value.clone();
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

fn from_authorization(headers: &HeaderMap) -> Result<Option<Token>, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::Malformed);
    }
    Token::parse(value).map(Some)
}

/// The token among the subprotocols, and the list without it.
fn from_subprotocols(headers: &HeaderMap) -> Result<Option<(Token, HeaderValue)>, Refusal> {
    let mut found = None;
    let mut others = Vec::new();
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        // Not ours to judge: without a token of ours in it, the API server decides.
        let Ok(text) = value.to_str() else {
            return if contains(value.as_bytes(), SUBPROTOCOL.as_bytes()) {
                Err(Refusal::Malformed)
            } else {
                Ok(None)
            };
        };
        for protocol in text.split(',').map(str::trim) {
            match protocol.strip_prefix(SUBPROTOCOL) {
                None => others.push(protocol),
                Some(_) if found.is_some() => return Err(Refusal::Malformed),
                Some(encoded) => found = Some(decode(encoded)?),
            }
        }
    }
    let Some(token) = found else { return Ok(None) };
    // A server must choose one of the offered subprotocols, and it cannot be the deleted one.
    if others.iter().all(|protocol| protocol.is_empty()) {
        return Err(Refusal::Malformed);
    }
    let others = HeaderValue::from_str(&others.join(", ")).map_err(|_| Refusal::Malformed)?;
    Ok(Some((token, others)))
}

fn decode(encoded: &str) -> Result<Token, Refusal> {
    if encoded.len() > MAX_TOKEN * 4 / 3 + 4 {
        return Err(Refusal::TooLarge);
    }
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).map_err(|_| Refusal::Malformed)?);
    let bearer = Zeroizing::new([SCHEME.as_bytes(), &bytes].concat());
    Token::parse(&HeaderValue::from_bytes(&bearer).map_err(|_| Refusal::Malformed)?)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Scheme and the one space behind it.
const SCHEME: &str = "Bearer ";

/// What a subprotocol that carries a token starts with.
const SUBPROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// What a token is made of, before its padding (RFC 6750 section 2.1, `b64token`).
const TOKEN_BYTES: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        allowed[byte] = matches!(
            byte as u8,
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' | b'+' | b'/'
        );
        byte += 1;
    }
    allowed
};

/// Longest token: service account tokens have 1 to 2 KiB, and a header line rarely passes 16 KiB.
const MAX_TOKEN: usize = 16 * 1024;

#[cfg(test)]
mod tests;
