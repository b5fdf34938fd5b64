//! Headers of one hop (RFC 9110 section 7.6.1): one list and one rule for both processes, each of
//! which frames messages anew. Pure.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap,
    HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

use crate::tunnel::headers::{PREFIX, TOOK};

/// Removes from a request what ends at this hop. That its sender reads trailers is true of every
/// hop, and is said anew; so are upgrades, by those who carry them.
pub fn clean_request(headers: &mut HeaderMap) {
    let trailers = lists(headers, &TE, TRAILERS);
    remove(headers);
    if trailers {
        headers.insert(TE, HeaderValue::from_static(TRAILERS));
    }
}

/// Removes from an answer what ends at this hop.
pub fn clean_response(headers: &mut HeaderMap) {
    remove(headers);
}

/// Whether a body was framed in one way, and by nothing but HTTP itself. What has other transfer
/// codings as well is still encoded after this hop took the frame off, and the next one would not
/// hear of it (RFC 9112 section 6.1); what has a length beside a coding ends elsewhere for somebody
/// (section 6.3). From requests hyper has removed such a length already, and closes after them.
pub fn is_plainly_framed(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return true };
    coding.as_bytes().eq_ignore_ascii_case(b"chunked")
        && codings.next().is_none()
        && !headers.contains_key(CONTENT_LENGTH)
}

/// Whether a header says who is asking, or is one of ours. `name` is in lower case.
pub fn is_identity(name: &str) -> bool {
    name == AUTHORIZATION.as_str() || IDENTITY.iter().any(|prefix| name.starts_with(prefix))
}

/// Marks values that no later message repeats, so that HPACK never indexes them (RFC 7541 section
/// 6.2.3): an encoder looks through all values that its table has of a name, and each one there has
/// pushed out another that would be used again. They are no secrets. Each hop says it anew: h2 does not
/// tell what its peer marked.
pub fn mark_unique(headers: &mut HeaderMap) {
    for name in &UNIQUE {
        if let Some(value) = headers.get_mut(name) {
            value.set_sensitive(true);
        }
    }
}

/// What `Connection` names goes, except what nobody may talk us out of: who is asking, and what the
/// body is.
fn remove(headers: &mut HeaderMap) {
    let values = headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    let named: Vec<HeaderName> = values
        .flat_map(|value| value.split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| !is_identity(name.as_str()) && !MESSAGE.contains(name))
        .collect();
    for name in &named {
        headers.remove(name);
    }
    // Looking through the few that are there costs less than looking each of the list up.
    let ours = headers.keys().filter(|name| HOP_BY_HOP.contains(name)).cloned();
    for name in ours.collect::<Vec<_>>() {
        headers.remove(name);
    }
}

/// Whether a value of `header` lists `token`, in any case.
fn lists(headers: &HeaderMap, header: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(header).iter().map(HeaderValue::as_bytes);
    let mut tokens = values.flat_map(|value| value.split(|byte| *byte == b','));
    tokens.any(|one| one.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Those that never pass, whether `Connection` names them or not.
const HOP_BY_HOP: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What a message is and where it goes, for all hops.
const MESSAGE: [HeaderName; 4] = [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST];

/// Those of kube-apiserver (impersonation; a front proxy's word for a user), and ours.
const IDENTITY: [&str; 3] = ["impersonate-", "x-remote-", PREFIX];

/// Names of one request, and the time that it took.
const UNIQUE: [HeaderName; 4] = [
    HeaderName::from_static("audit-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("x-request-id"),
    TOOK,
];

const TRAILERS: &str = "trailers";

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_list_ends_here_and_nothing_else() {
        let mut all = map(&[("accept", "*/*"), ("via", "1.1 a"), ("warning", "199 - x")]);
        let kept = all.clone();
        for name in &HOP_BY_HOP {
            all.append(name, HeaderValue::from_static("x"));
            all.append(name, HeaderValue::from_static("y"));
        }
        for clean in [clean_request, clean_response] {
            let mut headers = all.clone();
            clean(&mut headers);
            assert_eq!(headers, kept);
        }
    }

    #[test]
    fn one_frame_is_plain_and_more_is_not() {
        assert!(is_plainly_framed(&map(&[])));
        assert!(is_plainly_framed(&map(&[("transfer-encoding", "Chunked")])));
        assert!(is_plainly_framed(&map(&[("content-length", "5")])));
        for codings in [
            &[("transfer-encoding", "gzip, chunked")][..],
            &[("transfer-encoding", "gzip")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "chunked"), ("content-length", "5")],
        ] {
            assert!(!is_plainly_framed(&map(codings)), "{codings:?}");
        }
    }

    #[test]
    fn connection_names_others_but_not_these() {
        let lines = [
            ("connection", "close, X-Mine,,x mine, authorization"),
            ("connection", "impersonate-user,X-REMOTE-USER, cluster-proxy-mode,content-type"),
            ("connection", "content-length, content-encoding, host"),
        ];
        let kept = [
            ("authorization", "Bearer T"),
            ("impersonate-user", "jane"),
            ("x-remote-user", "jane"),
            ("cluster-proxy-mode", "caller"),
            ("content-type", "text/plain"),
            ("content-length", "1"),
            ("content-encoding", "gzip"),
            ("host", "hub"),
            ("x-other", "1"),
        ];
        let mut headers = map(&lines);
        headers.extend(map(&kept));
        headers.append("x-mine", HeaderValue::from_static("1"));
        clean_request(&mut headers);
        assert_eq!(headers, map(&kept));
    }

    #[test]
    fn trailers_are_said_anew() {
        for (value, said) in [
            ("trailers", true),
            ("gzip, Trailers", true),
            ("trailers;q=0", false),
            ("deflate", false),
            ("", false),
        ] {
            let mut headers = map(&[("te", value)]);
            clean_request(&mut headers);
            assert_eq!(
                headers,
                if said { map(&[("te", "trailers")]) } else { map(&[]) },
                "{value}"
            );
        }
    }
}
