//! What crosses between tunnel and API server, and what does not. Pure.

use http::header::{AUTHORIZATION, CONNECTION, EXPECT, HOST, HeaderName, UPGRADE};
use http::{HeaderMap, HeaderValue};

use crate::hop;
use crate::tunnel::headers::strip;
use crate::tunnel::impersonation;

/// A header that the rules of the wire want and that is missing, or there more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotExactlyOne;

/// Makes the headers of a `caller` request fit for the API server. It must carry the caller's own
/// Authorization, exactly once: without one our connection would speak for the caller.
pub(super) fn as_caller(headers: &mut HeaderMap) -> Result<(), NotExactlyOne> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if !value.is_empty() => {}
        _ => return Err(NotExactlyOne),
    }
    clean_request(headers);
    Ok(())
}

/// Makes the headers of an `agent` request fit for the API server: `token` is the agent's own
/// (`None` where a client certificate speaks), and nothing that a client sent stands beside it.
pub(super) fn as_agent(headers: &mut HeaderMap, token: Option<HeaderValue>) {
    remove_all(headers, impersonation::PREFIX);
    as_impersonator(headers, token);
}

/// Makes the headers of an `impersonate` request fit for the API server: as those of the agent, and
/// for whom it speaks, which is checked by now, stays.
pub(super) fn as_impersonator(headers: &mut HeaderMap, token: Option<HeaderValue>) {
    remove_all(headers, REMOTE);
    headers.remove(AUTHORIZATION);
    clean_request(headers);
    if let Some(token) = token {
        headers.insert(AUTHORIZATION, token);
    }
}

/// Makes the headers of a `service` request fit for a service: nothing there reads identities, so
/// none passes but an Authorization that the hub let cross. Never with a token of ours.
pub(super) fn as_service(headers: &mut HeaderMap) {
    remove_all(headers, impersonation::PREFIX);
    remove_all(headers, REMOTE);
    clean_request(headers);
}

fn remove_all(headers: &mut HeaderMap, prefix: &str) {
    let named = |name: &&HeaderName| name.as_str().starts_with(prefix);
    for name in headers.keys().filter(named).cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
}

/// Cleans with `clean`, but leaves what the head says of an upgrade: both are hop by hop, and this
/// hop passes the upgrade on.
pub(super) fn keeping_upgrade<R>(
    headers: &mut HeaderMap,
    clean: impl FnOnce(&mut HeaderMap) -> R,
) -> R {
    let kept: Vec<(HeaderName, HeaderValue)> = [CONNECTION, UPGRADE]
        .iter()
        .flat_map(|name| headers.get_all(name).iter().map(|value| (name.clone(), value.clone())))
        .collect();
    let result = clean(headers);
    for (name, value) in kept {
        headers.append(name, value);
    }
    result
}

/// Makes an answer of the API server fit for the tunnel.
pub(super) fn clean_response(headers: &mut HeaderMap) {
    hop::clean_response(headers);
    strip(headers);
}

fn clean_request(headers: &mut HeaderMap) {
    hop::clean_request(headers);
    strip(headers);
    headers.remove(HOST);
    // The body already flows: nobody is left who would wait for a 100.
    headers.remove(EXPECT);
    hop::mark_unique(headers);
}

/// `X-Remote-User` and so on: an API server with a request-header CA believes them.
const REMOTE: &str = "x-remote-";

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn a_caller_needs_exactly_one_authorization() {
        let mut one = headers(&[("authorization", "Bearer c"), ("impersonate-user", "x")]);
        assert_eq!(as_caller(&mut one), Ok(()));
        assert_eq!(one["authorization"], "Bearer c");
        assert_eq!(one["impersonate-user"], "x", "the spoke's RBAC decides");
        for bad in [
            headers(&[]),
            headers(&[("authorization", "")]),
            headers(&[("authorization", "a"), ("authorization", "b")]),
        ] {
            assert_eq!(as_caller(&mut bad.clone()), Err(NotExactlyOne));
        }
    }

    #[test]
    fn as_agent_leaves_no_other_identity() {
        let sent = headers(&[
            ("authorization", "Bearer c"),
            ("impersonate-user", "root"),
            ("impersonate-extra-a", "b"),
            ("x-remote-user", "root"),
            ("accept", "application/json"),
        ]);
        let mut with_token = sent.clone();
        as_agent(&mut with_token, Some(HeaderValue::from_static("Bearer own")));
        assert_eq!(
            with_token,
            headers(&[("accept", "application/json"), ("authorization", "Bearer own")])
        );
        let mut with_certificate = sent;
        as_agent(&mut with_certificate, None);
        assert_eq!(with_certificate, headers(&[("accept", "application/json")]));
    }

    #[test]
    fn as_impersonator_keeps_only_for_whom_it_speaks() {
        let mut sent = headers(&[
            ("authorization", "Bearer hub"),
            ("impersonate-user", "cluster:hub:jane"),
            ("x-remote-group", "system:masters"),
            ("connection", "impersonate-user"),
        ]);
        as_impersonator(&mut sent, Some(HeaderValue::from_static("Bearer own")));
        let left = [("impersonate-user", "cluster:hub:jane"), ("authorization", "Bearer own")];
        assert_eq!(sent, headers(&left));
    }

    #[test]
    fn an_upgrade_is_kept_and_nothing_else_of_the_hop() {
        let upgrade = [("connection", "Upgrade, x-hop"), ("upgrade", "websocket")];
        let mut answer = headers(&upgrade);
        answer.extend(headers(&[("x-hop", "1"), ("keep-alive", "1"), ("date", "x")]));
        keeping_upgrade(&mut answer, clean_response);
        let mut expected = headers(&[("date", "x")]);
        expected.extend(headers(&upgrade));
        assert_eq!(answer, expected);
    }

    #[test]
    fn a_hop_keeps_its_own_headers() {
        let mut request = headers(&[
            ("authorization", "Bearer c"),
            ("connection", "x-hop, authorization, upgrade"),
            ("x-hop", "1"),
            ("upgrade", "h2c"),
            ("te", "gzip, Trailers"),
            ("host", "hub"),
            ("expect", "100-continue"),
            ("cluster-proxy-mode", "caller"),
        ]);
        as_caller(&mut request).unwrap();
        assert_eq!(request, headers(&[("authorization", "Bearer c"), ("te", "trailers")]));
        let mut response = headers(&[
            ("transfer-encoding", "chunked"),
            ("cluster-proxy-fault", "unreachable"),
            ("warning", "299 - x"),
        ]);
        clean_response(&mut response);
        assert_eq!(response, headers(&[("warning", "299 - x")]));
    }
}
