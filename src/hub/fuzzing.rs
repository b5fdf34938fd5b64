//! Promises of the hub's own parsers, for [`crate::fuzzing`].

use http::uri::PathAndQuery;
use http::{Method, Uri};

use super::policy::{Policy, Wanted};
use super::route::{RouteError, Target, route};
use super::services::{Exposed, service};
use crate::name::ClusterName;
use crate::tunnel::service::ServiceTarget;

/// A target that is let through is, byte for byte, the cluster and what is forwarded; read by hand, it
/// has no dot segment, no backslash, no NUL and no broken escape. A refusal says where.
pub(crate) fn target(bytes: &[u8]) {
    let Ok(uri) = Uri::try_from(bytes) else { return };
    let routed = route(&Method::GET, &uri);
    assert!(route(&Method::CONNECT, &uri).is_err() && route(&Method::TRACE, &uri).is_err());
    let Some(whole) = uri.path_and_query() else { return assert!(routed.is_err()) };
    match routed {
        Ok(Target::Cluster { cluster, upstream }) => {
            is_harmless(whole.path());
            let rest = whole.as_str().strip_prefix(&format!("/{cluster}")).expect("its cluster");
            let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
            assert_eq!(upstream.as_str(), rest);
        }
        Ok(Target::Home { upstream }) => {
            is_harmless(whole.path());
            assert_eq!(&upstream, whole);
        }
        Ok(Target::Own) => assert!(whole.path().starts_with("/_")),
        Err(RouteError::Encoding(at)) => {
            let byte = whole.path().as_bytes()[at];
            assert!(byte == b'%' || byte == b'\\' || !byte.is_ascii_graphic(), "{byte}");
        }
        Err(_) => {}
    }
}

/// Slowly, and without the parser's own tools.
fn is_harmless(path: &str) {
    let bytes = path.as_bytes();
    assert!(bytes.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'\\'), "{path}");
    let mut plain = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let digits = std::str::from_utf8(&bytes[at + 1..at + 3]).expect("two digits");
            plain.push(u8::from_str_radix(digits, 16).expect("hexadecimal digits"));
            at += 3;
        } else {
            plain.push(bytes[at]);
            at += 1;
        }
    }
    assert!(!plain.contains(&0), "{path}");
    for segment in plain.split(|byte| matches!(byte, b'/' | b'\\')) {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        assert!(name != b"." && name != b"..", "{path}");
    }
}

/// A service that a path names can be written and read again, and sees the path's own tail.
pub(crate) fn service_path(bytes: &[u8]) {
    let Ok(target) = PathAndQuery::try_from(bytes) else { return };
    let Ok(Some(found)) = service(&target) else { return };
    let written = found.service.to_string();
    assert_eq!(written.parse::<ServiceTarget>(), Ok(found.service.clone()));
    let ServiceTarget { namespace, name, .. } = &found.service;
    assert!(!written.contains(".."));
    assert_ne!((&**namespace, &**name), ("default", "kubernetes"));
    let rest = target.as_str().strip_prefix(&format!("/{}", found.root)).expect("its root");
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    assert_eq!(found.upstream.as_str(), rest);
}

/// The first line is somebody, the second a cluster, the rest a policy: who is allowed something is
/// named by it, by a rule that is there; what is refused is said where.
pub(crate) fn policy(bytes: &[u8]) {
    let (user, rest) = first_line(bytes);
    let (cluster, text) = first_line(rest);
    let (user, text) = (String::from_utf8_lossy(user), String::from_utf8_lossy(text));
    let policy = match Policy::parse([("key", &*text)]) {
        Ok(policy) => policy,
        Err(error) => {
            let said = error.to_string();
            return assert!(said.starts_with("key") && said.lines().count() == 1, "{said}");
        }
    };
    let Ok(cluster) = ClusterName::parse(&String::from_utf8_lossy(cluster)) else { return };
    let groups = ["system:authenticated".to_owned()];
    for wanted in [
        Wanted::Resource {
            verb: "get",
            group: "",
            resource: "pods",
            subresource: "",
            namespace: "default",
            name: "p",
        },
        Wanted::Path { method: &Method::GET, path: "/version" },
        Wanted::Unclear,
    ] {
        let rule = policy.find(&user, &groups, &cluster, wanted);
        assert_eq!(rule.is_some(), policy.allows(&user, &groups, &cluster, wanted));
        if let Some(rule) = rule {
            assert!(policy.names(&user, &groups, &cluster));
            assert!((1..=policy.len()).contains(&rule.number) && &*rule.key == "key");
        }
    }
}

/// The first line is a cluster, the second a service, the rest a list of those that are exposed.
pub(crate) fn services(bytes: &[u8]) {
    let (cluster, rest) = first_line(bytes);
    let (service, text) = first_line(rest);
    let text = String::from_utf8_lossy(text);
    let list = match Exposed::parse([("key", &*text)]) {
        Ok(list) => list,
        Err(error) => {
            let said = error.to_string();
            return assert!(said.starts_with("key") && said.lines().count() == 1, "{said}");
        }
    };
    let cluster = ClusterName::parse(&String::from_utf8_lossy(cluster));
    let service = String::from_utf8_lossy(service).parse::<ServiceTarget>();
    if let (Ok(cluster), Ok(service)) = (cluster, service)
        && let Some((number, _)) = list.find(&cluster, &service)
    {
        assert!((1..=list.len()).contains(&number));
        // Twice the same list: the first entry that matches decides, as before.
        let twice = Exposed::parse([("a", &*text), ("b", &*text)]).expect("a list that was read");
        assert_eq!(twice.find(&cluster, &service).map(|(again, _)| again), Some(number));
    }
}

/// The first line, and what is behind it.
pub(crate) fn first_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[]),
    }
}
