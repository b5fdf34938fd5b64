//! Promises of the parsers that any part of the product may use.

use http::header::{CONNECTION, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Request, Uri, Version};
use rustls_pki_types::CertificateDer;

use super::headers;
use crate::hop;
use crate::hub::fuzzing::first_line;
use crate::listen::proxy_protocol;
use crate::name::ClusterName;
use crate::pki::identity::{self, AgentCertificate};
use crate::pki::token::Token;
use crate::telemetry::trace::TraceParent;
use crate::tunnel::connect::{self, Answer};
use crate::tunnel::hello::{AgentHello, Hello, HubHello, Replicas};
use crate::tunnel::impersonation::Impersonation;

/// One grammar, and one spelling.
pub(super) fn name(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let edge = |letter: Option<char>| {
        letter.is_some_and(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit())
    };
    let inner = |letter: char| edge(Some(letter)) || letter == '-';
    let is_label = text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(inner);
    match ClusterName::parse(&text) {
        Ok(parsed) => {
            assert!(is_label, "{text:?} is no label");
            assert_eq!(parsed.as_str(), text);
            assert_eq!(identity::cluster_of(&identity::uri(&parsed)), Some(parsed));
        }
        // Those that read like an endpoint are labels, too.
        Err(error) => assert!(!is_label || error.to_string().contains("reserved"), "{text:?}"),
    }
}

/// Says again what it was told, within its bounds, and takes its own words.
pub(super) fn hello(bytes: &[u8]) {
    fn check<H: Hello + PartialEq + std::fmt::Debug>(
        bytes: &[u8],
        texts: impl Fn(&H) -> Vec<&String>,
    ) {
        let Ok(hello) = H::decode(bytes) else { return };
        for text in texts(&hello) {
            assert!(text.len() <= 512 && !text.chars().any(char::is_control), "{text:?}");
        }
        // Escapes may make a hello longer than it came.
        if let Ok(json) = hello.encode() {
            assert_eq!(H::decode(&json).unwrap(), hello);
        }
    }
    check::<HubHello>(bytes, |hello| {
        let texts = [&hello.replica, &hello.hub_version, &hello.cluster];
        hello.replicas.iter().chain(texts).collect()
    });
    check::<AgentHello>(bytes, |hello| {
        let texts = [&hello.agent, &hello.agent_version];
        let lists = hello.audiences.iter().chain(&hello.issuers);
        lists.chain(texts).chain(&hello.api_server_version).collect()
    });
    check::<Replicas>(bytes, |said| said.replicas.iter().collect());
}

/// Method and target, then headers: what becomes a stream comes out as the same upgrade and nothing
/// more; what claims to be such a stream is one upgrade, or is refused.
pub(super) fn connect(bytes: &[u8]) {
    let (line, lines) = first_line(bytes);
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method), Uri::try_from(target)) else { return };
    let headers = headers(lines);
    let request = || {
        let mut request = Request::new(());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers.clone();
        request
    };
    if let Ok((stream, upgrade)) = connect::encode_request(request()) {
        assert!(connect::is_connect(&stream));
        for name in [&CONNECTION, &UPGRADE, &TRANSFER_ENCODING] {
            assert!(!stream.headers().contains_key(name), "{name} crosses");
        }
        let (out, again) = connect::decode_request(stream).unwrap();
        assert_eq!((out.method(), again), (&method, upgrade));
        assert_eq!(out.uri().path_and_query(), uri.path_and_query());
        is_one_upgrade(out.headers(), upgrade.as_str());
    }
    let mut hostile = request();
    *hostile.method_mut() = Method::CONNECT;
    let protocol = h2::ext::Protocol::from_static("websocket");
    hostile.extensions_mut().insert(protocol);
    if let Ok((out, upgrade)) = connect::decode_request(hostile) {
        assert_eq!((upgrade.as_str(), out.version()), ("websocket", Version::HTTP_11));
        assert_ne!(out.method(), Method::CONNECT);
        is_one_upgrade(out.headers(), "websocket");
    }
    let mut response = http::Response::new(());
    *response.headers_mut() = headers;
    if let Ok(Answer::Switched(out)) = connect::decode_response(response, connect::Upgrade::Spdy) {
        assert_eq!(out.status(), 101);
        is_one_upgrade(out.headers(), "SPDY/3.1");
    }
}

fn is_one_upgrade(headers: &HeaderMap, protocol: &str) {
    let upgrades: Vec<_> = headers.get_all(UPGRADE).iter().collect();
    assert_eq!(upgrades, [protocol]);
    assert_eq!(headers.get_all(CONNECTION).iter().count(), 1);
    assert!(!headers.contains_key(TRANSFER_ENCODING));
}

/// What ends at a hop is gone, who is asking is not, and a second look changes nothing.
pub(super) fn header_rules(bytes: &[u8]) {
    let before = headers(bytes);
    let mut after = before.clone();
    hop::clean_request(&mut after);
    for name in ["connection", "upgrade", "keep-alive", "transfer-encoding", "proxy-authorization"]
    {
        assert!(!after.contains_key(name), "{name} passes");
    }
    assert!(after.get(TE).is_none_or(|value| value == "trailers"));
    for name in before.keys().filter(|name| hop::is_identity(name.as_str())) {
        let values =
            |headers: &HeaderMap| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(values(&after), values(&before), "{name} was talked away");
    }
    assert!(after.keys().all(|name| before.contains_key(name)), "something came");
    let mut again = after.clone();
    hop::clean_request(&mut again);
    assert_eq!(again, after);
    if hop::is_plainly_framed(&before) {
        let codings = before.get_all(TRANSFER_ENCODING).iter().count();
        assert!(codings == 0 || codings == 1 && !before.contains_key("content-length"));
    }
}

/// Who was read is who is written, or cannot be written at all.
pub(super) fn impersonation(bytes: &[u8]) {
    let Ok(read) = Impersonation::read(&headers(bytes)) else { return };
    let mut written = HeaderMap::new();
    if read.write(&mut written).is_ok() {
        // Keys that differ in case alone are one header.
        let mut keys: Vec<String> =
            read.extra.iter().map(|(key, _)| key.to_ascii_lowercase()).collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        let again = Impersonation::read(&written).unwrap();
        assert_eq!((&again.user, &again.uid, &again.groups), (&read.user, &read.uid, &read.groups));
        if keys.len() == all && read.extra.iter().all(|(_, values)| !values.is_empty()) {
            let sorted = |mut extra: Vec<(String, Vec<String>)>| {
                extra.sort();
                extra
            };
            assert_eq!(sorted(again.extra), sorted(read.extra));
        }
    }
}

/// A certificate names at most one cluster, in letters that are in it.
pub(super) fn certificate(bytes: &[u8]) {
    let Ok(read) = AgentCertificate::from_der(&CertificateDer::from(bytes)) else { return };
    let uri = identity::uri(&read.cluster);
    assert!(bytes.windows(uri.len()).any(|window| window == uri.as_bytes()));
    assert_eq!(read.key_sha256.len(), 64);
}

/// Printed, it is what was read.
pub(super) fn join_token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(token) = Token::parse(&text) {
        assert_eq!(*token.reveal(), *text.trim());
        assert!(!format!("{token:?}").contains(text.trim()), "Debug tells the secret");
    }
}

/// Takes the header and not a byte more, within its bounds.
pub(super) fn proxy_protocol(bytes: &[u8]) {
    let mut left = bytes;
    // Nothing here waits: the bytes are there, or their end is.
    let read = futures_util::FutureExt::now_or_never(proxy_protocol::read(&mut left));
    let read = read.expect("a slice is ready");
    let taken = bytes.len() - left.len();
    assert!(taken <= 16 + 4096, "{taken} bytes");
    if let Ok(source) = read {
        assert!(bytes.ends_with(left));
        // The same header alone says the same.
        let mut alone = &bytes[..taken];
        let again = futures_util::FutureExt::now_or_never(proxy_protocol::read(&mut alone));
        assert_eq!(again.expect("a slice is ready").unwrap(), source);
    }
}

/// A trace is the one that was named.
pub(super) fn traceparent(bytes: &[u8]) {
    let Ok(value) = http::HeaderValue::from_bytes(bytes) else { return };
    let headers = HeaderMap::from_iter([(http::HeaderName::from_static("traceparent"), value)]);
    if let Some(read) = TraceParent::from_headers(&headers) {
        let id = read.trace_id().to_string();
        assert_eq!(id.len(), 32);
        assert_eq!(id.as_bytes(), &bytes[3..35]);
    }
}
