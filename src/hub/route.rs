//! `/<cluster>/rest` -> cluster and upstream path. Pure.
//!
//! Nothing is normalised: the path that is judged is, byte for byte, the path that is forwarded.
//! What two parsers could read differently (dot segments under any spelling, backslashes, broken
//! escapes) is refused before anybody is authenticated; the grammar is public, so the answer gives
//! nothing away.

use http::uri::{PathAndQuery, Scheme};
use http::{Method, Uri};

use crate::name::{ClusterName, InvalidClusterName};
use crate::percent;

/// Where a request wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To a cluster's API server.
    Cluster {
        /// The first path segment.
        cluster: ClusterName,
        /// The rest, query included, untouched; at least `/`.
        upstream: PathAndQuery,
    },
    /// To the API server of the caller's own cluster, which the path does not name: it starts at
    /// the root of a Kubernetes API, as `kubectl get --raw` sends it.
    Home {
        /// Path and query, untouched.
        upstream: PathAndQuery,
    },
    /// To an endpoint of ours, under `/_`.
    Own,
}

/// Why a request target is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    /// CONNECT, TRACE and their kin are not for a Kubernetes API, nor is `get` in lower case.
    #[error("the method {0} is not served here")]
    Method(Method),
    /// An absolute target of something else than HTTP.
    #[error("only http and https are served here")]
    Scheme,
    /// `*`, or no path at all.
    #[error("the request target must be a path that starts with /<cluster>/")]
    Form,
    /// The first segment is no cluster name.
    #[error("the first path segment must name a cluster: {0}")]
    Cluster(InvalidClusterName),
    /// `.` or `..`, however it is written.
    #[error("the path has a dot segment, which is never resolved here: write the path you mean")]
    DotSegment,
    /// Not one of our own endpoints. Said to those alone who may ask for one.
    #[error("the hub has no page of this name: there is /_fleet")]
    OwnPage,
    /// A byte or an escape that no path has.
    #[error("the path has a broken escape, or a byte that must be percent-encoded, at offset {0}")]
    Encoding(usize),
}

/// Reads the target of a request.
pub(crate) fn route(method: &Method, uri: &Uri) -> Result<Target, RouteError> {
    // `get` is not GET (RFC 9110 section 9.1), but some servers take it for that.
    let lower = method.as_str().bytes().any(|byte| byte.is_ascii_lowercase());
    if lower || REFUSED_METHODS.contains(&method.as_str()) {
        return Err(RouteError::Method(method.clone()));
    }
    if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTPS && *scheme != Scheme::HTTP) {
        return Err(RouteError::Scheme);
    }
    let target = uri.path_and_query().ok_or(RouteError::Form)?;
    let path = target.path();
    let Some(segments) = path.strip_prefix('/') else {
        return Err(RouteError::Form);
    };
    check_bytes(path)?;
    let (first, rest) = match segments.find('/') {
        Some(end) => segments.split_at(end),
        None => (segments, ""),
    };
    if first.starts_with('_') {
        return Ok(Target::Own);
    }
    if segments.split('/').any(is_dot_segment) {
        return Err(RouteError::DotSegment);
    }
    if API_ROOTS.contains(&first) {
        return Ok(Target::Home { upstream: target.clone() });
    }
    let cluster = ClusterName::parse(first).map_err(RouteError::Cluster)?;
    Ok(Target::Cluster { cluster, upstream: upstream(rest, target.query()) })
}

/// First segments that an API server serves. None can be a cluster's name.
const API_ROOTS: [&str; 10] = [
    ".well-known",
    "api",
    "apis",
    "healthz",
    "livez",
    "metrics",
    "openapi",
    "openid",
    "readyz",
    "version",
];

/// Methods that hop, or that echo what they were sent.
const REFUSED_METHODS: [&str; 3] = ["CONNECT", "TRACE", "TRACK"];

fn upstream(rest: &str, query: Option<&str>) -> PathAndQuery {
    let path = if rest.is_empty() { "/" } else { rest };
    let parsed = match query {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    // Invariant: both halves come out of a PathAndQuery, and the first starts with '/'.
    parsed.expect("a tail of a valid path and query is one")
}

/// Every byte is printable ASCII, no backslash, and every `%` starts an escape of something else
/// than NUL (the `http` crate is more lenient).
fn check_bytes(path: &str) -> Result<(), RouteError> {
    let odd = path.bytes().position(|byte| byte == b'\\' || !byte.is_ascii_graphic());
    let first = [odd, path.find("%00"), percent::broken_escape(path)].into_iter().flatten().min();
    first.map_or(Ok(()), |at| Err(RouteError::Encoding(at)))
}

/// Whether some server behind us, or a client that is sent there, could read `segment` as `.` or
/// `..`: escapes undone once, and path parameters (`..;x`) cut.
pub(super) fn is_dot_segment(segment: &str) -> bool {
    // Most segments have neither, and then cannot be one.
    if !segment.starts_with('.') && !segment.contains('%') {
        return false;
    }
    let plain = percent::decode(segment);
    let mut names = plain.split(['/', '\\']).filter_map(|part| part.split(';').next());
    names.any(|name| name == "." || name == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> Result<Target, RouteError> {
        let uri: Uri = target.parse().map_err(|_| RouteError::Form)?;
        route(&Method::GET, &uri)
    }

    fn to(cluster: &str, upstream: &str) -> Result<Target, RouteError> {
        Ok(Target::Cluster {
            cluster: ClusterName::parse(cluster).unwrap(),
            upstream: PathAndQuery::try_from(upstream).unwrap(),
        })
    }

    #[test]
    fn the_first_segment_is_the_cluster_and_the_rest_is_untouched() {
        for (target, cluster, rest) in [
            ("/c1", "c1", "/"),
            ("/c1/", "c1", "/"),
            ("/c1?x=1", "c1", "/?x=1"),
            ("/cluster1/api/pods?timeout=32s", "cluster1", "/api/pods?timeout=32s"),
            ("/c1/a//b/", "c1", "/a//b/"),
            (
                "/c1/services/https:s:443/proxy/a%2Fb%20c",
                "c1",
                "/services/https:s:443/proxy/a%2Fb%20c",
            ),
            ("/c1/a%252e%252e/b", "c1", "/a%252e%252e/b"),
            ("/c1/api?x=/../2/proxy-service/&y=%zz", "c1", "/api?x=/../2/proxy-service/&y=%zz"),
            ("/c1/a..b/.hidden/...", "c1", "/a..b/.hidden/..."),
            ("https://hub/c1/api", "c1", "/api"),
            ("/c1x/api", "c1x", "/api"),
        ] {
            assert_eq!(get(target), to(cluster, rest), "{target}");
        }
        assert_eq!(get("/_fleet"), Ok(Target::Own));
    }

    #[test]
    fn an_api_path_without_a_cluster_goes_home() {
        for target in ["/version", "/api/v1/pods?x=1", "/.well-known/openid-configuration"] {
            let upstream = PathAndQuery::try_from(target).unwrap();
            assert_eq!(get(target), Ok(Target::Home { upstream }), "{target}");
        }
        // What goes home can be no cluster.
        for root in API_ROOTS {
            assert!(ClusterName::parse(root).is_err(), "{root}");
        }
        assert!(get("/versions").is_ok_and(|target| matches!(target, Target::Cluster { .. })));
    }

    #[test]
    fn dot_segments_are_refused_however_they_are_written() {
        for target in [
            "/./c1/api",
            "/x/../c1/api",
            "/c1/../c2/api",
            "/c1/api/../../c2",
            "/c1/..",
            "/c1/.",
            "/c1/%2e%2e/c2",
            "/c1/%2E./c2",
            "/c1/.%2e/c2",
            "/c1/..;/c2",
            "/c1/..;a=b/c2",
            "/c1/%2e%2e%3bx/c2",
            "/c1/x%2f..%2fy",
            "/c1/x%5c..%5cy",
            "/c1/%2e",
        ] {
            assert_eq!(get(target), Err(RouteError::DotSegment), "{target}");
        }
    }

    #[test]
    fn what_is_no_cluster_or_no_path_is_refused() {
        for target in [
            "/",
            "//c1/api",
            "/C1/api",
            "/c1./api",
            "/c1%00/api",
            "/c1%2fapi",
            "/c1;a=b/api",
            "/-a/api",
            "/c1%2e/api",
            "/c1/%",
            "/c1/%zz",
            "/c1/%0",
            "/c1/a%00b",
            "/c1\\api",
            "/c1/a\\b",
            "/c1/\u{e9}",
            "*",
        ] {
            assert!(get(target).is_err(), "{target}");
        }
        assert!(get("/c1/a%01b").is_ok());
    }

    #[test]
    fn whole_urls_are_read_like_paths_and_are_of_http() {
        for scheme in ["https", "http"] {
            assert_eq!(get(&format!("{scheme}://hub/c1/api")), get("/c1/api"));
        }
        for scheme in ["file", "ftp", "wss"] {
            assert_eq!(get(&format!("{scheme}://hub/c1/api")), Err(RouteError::Scheme));
        }
    }

    #[test]
    fn methods_that_echo_or_hop_are_refused() {
        let uri = Uri::from_static("/c1/api");
        assert!(route(&Method::POST, &uri).is_ok());
        assert!(route(&Method::OPTIONS, &uri).is_ok());
        for method in ["CONNECT", "TRACE", "TRACK", "get", "Post"] {
            let method: Method = method.parse().unwrap();
            assert_eq!(route(&method, &uri), Err(RouteError::Method(method.clone())));
        }
    }

    proptest::proptest! {
        #[test]
        fn what_passes_is_forwarded_byte_for_byte(rest in "(/[!-~]{0,12}){0,4}") {
            let target = format!("/c1{rest}");
            if let Ok(uri) = target.parse::<Uri>()
                && let Ok(Target::Cluster { cluster, upstream }) = route(&Method::GET, &uri)
            {
                proptest::prop_assert_eq!(cluster.as_str(), "c1");
                let sent = target.split('#').next().unwrap_or_default();
                let want = sent.strip_prefix("/c1").unwrap_or_default();
                let got = upstream.as_str();
                proptest::prop_assert!(got == want || got == format!("/{want}"), "{got} {want}");
            }
        }
    }
}
