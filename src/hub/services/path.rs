//! `/api/v1/namespaces/NS/services/SERVICE/proxy-service/...` -> the service, and the path as it
//! shall see it. Pure. SERVICE is `NAME[:PORT]` or `SCHEME:NAME:[PORT]`, as Kubernetes has it for `proxy`.
//!
//! The path is split before escapes are undone, once and only to read the names: what is behind
//! `proxy-service` is forwarded byte for byte.

use http::uri::PathAndQuery;

use crate::percent;
use crate::tunnel::service::{InvalidService, ServiceTarget};

/// A request to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePath {
    /// Which one.
    pub(crate) service: ServiceTarget,
    /// Path and query as the service shall see them; at least `/`.
    pub(crate) upstream: PathAndQuery,
    /// Where the client finds the root of this service, below that of the cluster: `api/v1/...` as
    /// the client wrote it, without a slash at either end.
    pub(crate) root: String,
}

/// Why a path of this form names no service. Said only to callers who are known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ServicePathError {
    /// Names that no service has.
    #[error(
        "the path names no service: {segment:?} in namespace {namespace:?} is not NAME[:PORT] or http[s]:NAME:[PORT]: {why}"
    )]
    Name {
        /// The segment before `proxy-service`, its escapes undone.
        segment: String,
        /// The one behind `namespaces`.
        namespace: String,
        /// What is wrong.
        why: InvalidService,
    },
    /// A detour around the RBAC of callers.
    #[error(
        "the API server is no exposed service: leave out /namespaces/.../proxy-service, the cluster's own paths begin behind its name"
    )]
    ApiServer,
}

/// Reads the target of a request to a cluster; `None` where that is one for its API server.
pub(crate) fn service(target: &PathAndQuery) -> Result<Option<ServicePath>, ServicePathError> {
    let path = target.path();
    let Some(end) = marker(path) else { return Ok(None) };
    // Invariant: `marker` has found seven segments behind the first slash.
    let root = path[1..end].to_owned();
    let mut names = root.split('/').map(percent::decode);
    let namespace = names.nth(3).unwrap_or_default();
    let segment = names.nth(1).unwrap_or_default();
    let named = |why| ServicePathError::Name {
        segment: segment.to_string(),
        namespace: namespace.to_string(),
        why,
    };

    let parts: Vec<&str> = segment.split(':').collect();
    let (scheme, name, port) = match *parts {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => return Err(named(InvalidService::Form)),
    };
    // OCM cluster-proxy sends these to the API server, whatever scheme and port say.
    if namespace.eq_ignore_ascii_case("default") && name.eq_ignore_ascii_case("kubernetes") {
        return Err(ServicePathError::ApiServer);
    }
    let scheme = if scheme.is_empty() { DEFAULT_SCHEME } else { scheme };
    let port = match port {
        "" if scheme == DEFAULT_SCHEME => "443",
        "" => "80",
        port => port,
    };
    let service = format!("{scheme}:{namespace}/{name}:{port}").parse().map_err(named)?;

    let rest = if path.len() == end { "/" } else { &path[end..] };
    let upstream = match target.query() {
        Some(query) => PathAndQuery::try_from(format!("{rest}?{query}")),
        None => PathAndQuery::try_from(rest),
    };
    // Invariant: both halves come out of a PathAndQuery, and the first starts with '/'.
    let upstream = upstream.expect("a tail of a valid path and query is one");
    Ok(Some(ServicePath { service, upstream, root }))
}

/// Where the segment `proxy-service` ends, in a path of the form.
fn marker(path: &str) -> Option<usize> {
    let mut end = 0;
    let mut segments = path.strip_prefix('/')?.split('/');
    for wanted in FORM {
        let segment = segments.next()?;
        if wanted.is_some_and(|word| percent::decode(segment) != word) {
            return None;
        }
        end += 1 + segment.len();
    }
    Some(end)
}

/// What stands where; `None` for a name.
const FORM: [Option<&str>; 7] = [
    Some("api"),
    Some("v1"),
    Some("namespaces"),
    None,
    Some("services"),
    None,
    Some("proxy-service"),
];

const DEFAULT_SCHEME: &str = "https";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(target: &str) -> Result<Option<ServicePath>, ServicePathError> {
        service(&PathAndQuery::try_from(target).unwrap())
    }

    fn of(segment: &str) -> Result<String, ServicePathError> {
        let target = format!("/api/v1/namespaces/shop/services/{segment}/proxy-service/");
        read(&target).map(|found| found.unwrap().service.to_string())
    }

    /// U37: the names and their defaults.
    #[test]
    fn scheme_name_and_port() {
        for (segment, service) in [
            ("web", "https:shop/web:443"),
            ("web:8080", "https:shop/web:8080"),
            ("web:metrics", "https:shop/web:metrics"),
            ("http:nginx:80", "http:shop/nginx:80"),
            ("https:web:metrics", "https:shop/web:metrics"),
            ("http:web:", "http:shop/web:80"),
            ("http:web", "https:shop/http:web"),
            ("https:web:", "https:shop/web:443"),
            (":web:8080", "https:shop/web:8080"),
            ("web:", "https:shop/web:443"),
            // As upstream reads it: a service that is called so.
            ("https:name", "https:shop/https:name"),
            ("https%3Aweb%3A443", "https:shop/web:443"),
            ("%77eb", "https:shop/web:443"),
        ] {
            assert_eq!(of(segment).as_deref(), Ok(service), "{segment}");
        }
    }

    /// U37: the path behind, the missing slash, the query.
    #[test]
    fn what_is_behind_is_untouched() {
        let base = "/api/v1/namespaces/shop/services/http:nginx:80/proxy-service";
        for (behind, upstream) in [
            ("/hello?timeout=32s", "/hello?timeout=32s"),
            ("/", "/"),
            ("", "/"),
            ("?a=/b/../c", "/?a=/b/../c"),
            ("/?", "/?"),
            ("//a//", "//a//"),
            ("/a%2Fb%20c%252e/d;x=1", "/a%2Fb%20c%252e/d;x=1"),
            (
                "/api/v1/namespaces/x/services/y/proxy-service/z",
                "/api/v1/namespaces/x/services/y/proxy-service/z",
            ),
        ] {
            let found = read(&format!("{base}{behind}")).unwrap().unwrap();
            assert_eq!(found.upstream.as_str(), upstream, "{behind}");
            assert_eq!(found.root, base[1..], "{behind}");
        }
        let escaped = "/api/v1/namespaces/sh%6Fp/services/http%3Anginx%3A80/proxy%2Dservice/x";
        let found = read(escaped).unwrap().unwrap();
        assert_eq!(found.service.to_string(), "http:shop/nginx:80");
        assert_eq!(format!("/{}/x", found.root), escaped, "as the client wrote it");
    }

    /// U36 and U38: anything else is a path of the API server, whatever its query says.
    #[test]
    fn other_paths_are_the_api_servers() {
        for target in [
            "/",
            "/api/v1/namespaces/shop/services/web",
            "/api/v1/namespaces/shop/services/web/proxy/",
            "/api/v1/namespaces/shop/services/web/proxy-services/",
            "/api/v1/namespaces/shop/services/web/Proxy-Service/",
            "/api/v1/namespaces/shop/services/web/x/proxy-service/",
            "/api/v1/namespaces/shop/services/web%2Fproxy-service/",
            "//api/v1/namespaces/shop/services/web/proxy-service/",
            "/api//v1/namespaces/shop/services/web/proxy-service/",
            "/api/v2/namespaces/shop/services/web/proxy-service/",
            "/apis/v1/namespaces/shop/services/web/proxy-service/",
            "/api/v1/namespace/shop/services/web/proxy-service/",
            "/api/v1/namespaces/shop/pods/web/proxy-service/",
            "/api/v1/pods?x=/1/2/3/4/5/6/7/proxy-service/y",
            "/api/v1/namespaces/shop/services/web?/proxy-service/",
        ] {
            assert_eq!(read(target), Ok(None), "{target}");
        }
    }

    #[test]
    fn what_is_no_name_of_a_service_is_refused_with_the_place() {
        for segment in [
            "",
            ":",
            "::",
            "http:web:80:1",
            "ftp:web:80",
            "HTTP:web:80",
            "http::80",
            "web:0",
            "web:65536",
            "web:0443",
            "web:80%20",
            "Web",
            "web.shop",
            "169.254.169.254",
            "localhost%3A6443%2F",
            "web%2F..",
            "w%C3%A9b",
            "http:web:-1",
        ] {
            let error = of(segment).unwrap_err();
            assert!(matches!(error, ServicePathError::Name { .. }), "{segment}: {error}");
            assert!(error.to_string().contains("namespace \"shop\""), "{error}");
        }
        for namespace in ["", "Shop", "a.b", "a%2Fb", "a%3Ab"] {
            let target = format!("/api/v1/namespaces/{namespace}/services/web/proxy-service/");
            assert!(read(&target).is_err(), "{namespace}");
        }
    }

    /// U39.
    #[test]
    fn the_api_server_is_no_service_however_it_is_written() {
        for (namespace, segment) in [
            ("default", "kubernetes"),
            ("DEFAULT", "Kubernetes:443"),
            ("default", "https:kubernetes:https"),
            ("default", "http:kubernetes:80"),
            ("default", "https:kubernetes:0443"),
            ("d%65fault", "kubernete%73"),
        ] {
            let target = format!("/api/v1/namespaces/{namespace}/services/{segment}/proxy-service");
            assert_eq!(read(&target), Err(ServicePathError::ApiServer), "{target}");
        }
        for (namespace, segment) in [("other", "kubernetes"), ("default", "web")] {
            let target = format!("/api/v1/namespaces/{namespace}/services/{segment}/proxy-service");
            assert!(matches!(read(&target), Ok(Some(_))), "{target}");
        }
    }

    proptest::proptest! {
        /// What the agent is told and what the client is told are the two halves of what was asked.
        #[test]
        fn nothing_is_lost_or_added(
            segment in "(https?:)?[a-z]{1,5}(:[0-9]{1,4})?",
            behind in "(/[!-~&&[^#?]]{0,9}){0,3}(\\?[!-~&&[^#]]{0,9})?",
        ) {
            let target = format!("/api/v1/namespaces/n/services/{segment}/proxy-service{behind}");
            if let Ok(target) = target.parse::<PathAndQuery>()
                && let Ok(Some(found)) = service(&target)
            {
                let seen = found.upstream.as_str();
                let whole = format!("/{}{seen}", found.root);
                let slash = whole.replacen("proxy-service/", "proxy-service", 1);
                proptest::prop_assert!(whole == target.as_str() || slash == target.as_str());
            }
        }
    }
}
