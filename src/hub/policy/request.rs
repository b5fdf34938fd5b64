//! What a request wants, in the words of Kubernetes' authorisation. Pure.
//!
//! The rules are those of the API server's request info (`apiserver/pkg/endpoints/request`): what is
//! allowed here must be what RBAC judges there. Unlike [`crate::hub::verb`], which may guess where
//! only budgets depend on it, this is exact.

use std::borrow::Cow;

use http::Method;
use http::uri::PathAndQuery;

use crate::percent;

/// The path of a request, its escapes undone, and the rest that its meaning depends on.
pub(crate) struct Request<'a> {
    method: &'a Method,
    path: Cow<'a, str>,
    query: &'a str,
}

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    /// Objects of a kind.
    Resource {
        /// As RBAC has it; empty for a method that has none.
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        subresource: &'a str,
        /// Empty at the cluster scope.
        namespace: &'a str,
        /// Of the object; empty for all of them, and for one that is made.
        name: &'a str,
    },
    /// A path that is no resource, discovery among them. Its verb is the method in lower case.
    Path { method: &'a Method, path: &'a str },
    /// A path that no API server takes.
    Unclear,
}

// === impl Request ===

impl<'a> Request<'a> {
    /// Of a method and the target as the API server sees it.
    pub(crate) fn new(method: &'a Method, target: &'a PathAndQuery) -> Self {
        let (path, query) = (percent::decode(target.path()), target.query().unwrap_or_default());
        Self { method, path, query }
    }

    /// What it wants.
    pub(crate) fn wanted(&self) -> Wanted<'_> {
        let path = &*self.path;
        let elsewhere = Wanted::Path { method: self.method, path };
        let mut parts = path.trim_matches('/').split('/');
        let group = match parts.next() {
            Some("api") => "",
            Some("apis") => match parts.next() {
                Some(group) => group,
                None => return elsewhere,
            },
            _ => return elsewhere,
        };
        // The version, and behind it what it is of.
        let (Some(_), Some(mut first)) = (parts.next(), parts.next()) else { return elsewhere };
        let mut verb = verb(self.method);
        let mut subresources = true;
        if matches!(first, "watch" | "proxy") {
            (verb, subresources) = (first, first != "proxy");
            match parts.next() {
                Some(kind) => first = kind,
                None => return Wanted::Unclear,
            }
        }
        let mut rest = [Some(first), parts.next(), parts.next()];
        let mut namespace = "";
        if let [Some("namespaces"), Some(name), third] = rest {
            namespace = name;
            // `namespaces/NAME/status` is about the namespace; anything else is inside it.
            if third.is_some_and(|third| !matches!(third, "status" | "finalize")) {
                rest = [third, parts.next(), parts.next()];
            }
        }
        let [resource, name, subresource] = rest.map(Option::unwrap_or_default);
        if name.is_empty() {
            verb = match verb {
                "get" if watches(self.query) => "watch",
                "get" => "list",
                "delete" => "deletecollection",
                verb => verb,
            };
        }
        let subresource = if subresources { subresource } else { "" };
        Wanted::Resource { verb, group, resource, subresource, namespace, name }
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// Whether the first `watch` parameter says so, as Go reads a query: pairs with a `;` or a broken
/// escape are none, and everything but `false` and `0` is true.
fn watches(query: &str) -> bool {
    let undone = |text: &str| {
        let whole = percent::broken_escape(text).is_none();
        whole.then(|| percent::decode(&text.replace('+', " ")).into_owned())
    };
    let mut pairs = query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
    pairs
        .find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = undone(value)?;
            (undone(key)? == "watch").then_some(value)
        })
        .is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `verb group resource subresource namespace`, `-` for what is empty; a path as it is.
    fn read(method: &str, target: &str) -> String {
        let (method, target) = (method.parse().unwrap(), target.parse().unwrap());
        match Request::new(&method, &target).wanted() {
            Wanted::Resource { verb, group, resource, subresource, namespace, .. } => {
                let words = [verb, group, resource, subresource, namespace];
                words.map(|word| if word.is_empty() { "-" } else { word }).join(" ")
            }
            Wanted::Path { method, path } => format!("{method} {path}"),
            Wanted::Unclear => "unclear".to_owned(),
        }
    }

    #[test]
    fn as_an_api_server_reads_it() {
        let pods = "/api/v1/namespaces/d/pods";
        for (method, target, expected) in [
            ("GET", pods.to_owned(), "list - pods - d"),
            ("HEAD", pods.to_owned(), "list - pods - d"),
            ("GET", format!("{pods}?watch=true"), "watch - pods - d"),
            ("GET", format!("{pods}?watch"), "watch - pods - d"),
            ("GET", format!("{pods}?w%61tch=1&watch=false"), "watch - pods - d"),
            ("GET", format!("{pods}?watch=False&watch=true"), "list - pods - d"),
            ("GET", format!("{pods}?watch=0"), "list - pods - d"),
            ("GET", format!("{pods}?watch=%zz&watch=0"), "list - pods - d"),
            ("GET", format!("{pods}?x;watch=1"), "list - pods - d"),
            ("GET", format!("{pods}/p?watch=1"), "get - pods - d"),
            ("GET", format!("{pods}/p/log?follow=true"), "get - pods log d"),
            ("POST", format!("{pods}/p/exec?command=sh"), "create - pods exec d"),
            ("GET", format!("{pods}/p/exec"), "get - pods exec d"),
            ("GET", format!("{pods}/p/proxy/a/b"), "get - pods proxy d"),
            ("POST", pods.to_owned(), "create - pods - d"),
            ("PUT", format!("{pods}/p"), "update - pods - d"),
            ("PATCH", format!("{pods}/p"), "patch - pods - d"),
            ("DELETE", format!("{pods}/p"), "delete - pods - d"),
            ("DELETE", pods.to_owned(), "deletecollection - pods - d"),
            ("OPTIONS", pods.to_owned(), "- - pods - d"),
            ("GET", format!("{pods}/"), "list - pods - d"),
            ("GET", "/api/v1/namespaces/d/%70ods/a%2Flog".into(), "get - pods log d"),
            ("GET", "/api/v1/pods".into(), "list - pods - -"),
            ("GET", "/api/v1/watch/pods".into(), "watch - pods - -"),
            ("GET", "/api/v1/watch/namespaces/d/pods/p".into(), "watch - pods - d"),
            ("GET", "/api/v1/watch".into(), "unclear"),
            ("GET", "/api/v1/proxy/nodes/n/x".into(), "proxy - nodes - -"),
            ("GET", "/api/v1/namespaces".into(), "list - namespaces - -"),
            ("GET", "/api/v1/namespaces/d".into(), "get - namespaces - d"),
            ("PUT", "/api/v1/namespaces/d/finalize".into(), "update - namespaces finalize d"),
            ("GET", "/apis/apps/v1/deployments".into(), "list apps deployments - -"),
            (
                "GET",
                "/apis/apps/v1/namespaces/d/deployments/x/scale".into(),
                "get apps deployments scale d",
            ),
            ("GET", "/api".into(), "GET /api"),
            ("GET", "/api/v1".into(), "GET /api/v1"),
            ("GET", "/apis".into(), "GET /apis"),
            ("GET", "/apis/apps/v1".into(), "GET /apis/apps/v1"),
            ("GET", "/apis/apps/v1/".into(), "GET /apis/apps/v1/"),
            ("POST", "/version".into(), "POST /version"),
            ("GET", "/".into(), "GET /"),
            ("GET", "/xapi/v1/pods".into(), "GET /xapi/v1/pods"),
            // An empty segment is one, to them as well.
            ("GET", "//api//v1/pods".into(), "get - v1 - -"),
            ("GET", "/api/v1/namespaces//pods".into(), "list - pods - -"),
        ] {
            assert_eq!(read(method, &target), expected, "{method} {target}");
        }
    }

    #[test]
    fn the_object_that_is_named() {
        for (target, expected) in [
            ("/api/v1/namespaces/d/pods/p/log", "p"),
            ("/api/v1/namespaces/d/pods/%70?x=/y", "p"),
            ("/api/v1/namespaces/d/services/web/proxy-service", "web"),
            ("/api/v1/namespaces/d/pods", ""),
            ("/api/v1/namespaces/d", "d"),
            ("/api/v1/namespaces/d/status", "d"),
            ("/api/v1/nodes/n/proxy/x", "n"),
            ("/apis/apps/v1/watch/namespaces/d/deployments/x", "x"),
        ] {
            let target = PathAndQuery::from_static(target);
            match Request::new(&Method::GET, &target).wanted() {
                Wanted::Resource { name, .. } => assert_eq!(name, expected, "{target}"),
                other => panic!("{target}: {other:?}"),
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn anything_is_read(target in "/[!-~&&[^#]]{0,60}") {
            if let Ok(target) = target.parse::<PathAndQuery>() {
                Request::new(&Method::GET, &target).wanted();
            }
        }
    }
}
