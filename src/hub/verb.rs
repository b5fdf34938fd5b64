//! What kind of request this is, as Kubernetes sees it. Pure.
//!
//! Good enough for budgets, deadlines and metric labels; nobody is let in or kept out by it. The
//! rules are those of the API server's request info and of its long-running check.

use http::Method;
use http::uri::PathAndQuery;

use crate::percent;

/// What the hub must know of a request before it forwards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestKind {
    /// Kubernetes verb, a closed set, for metrics.
    pub(crate) verb: &'static str,
    /// How long it may take.
    pub(crate) span: Span,
}

/// How long a request may take, and how it ends when it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// Answers soon: its head has a deadline.
    Short,
    /// `proxy` subresource, or a service: whatever is behind it decides. No deadline.
    Proxy,
    /// A watch: open for ever, may be ended cleanly at any time, the client resumes.
    Watch,
    /// `logs -f`: open for ever, and a cut one must not look complete.
    Follow,
    /// exec, attach, port-forward.
    Interactive,
}

// === impl Span ===

impl Span {
    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Short => "request",
            Self::Proxy => "proxy",
            Self::Watch => "watch",
            Self::Follow => "follow",
            Self::Interactive => "interactive",
        }
    }

    /// The label of what may live for ever.
    pub(crate) fn live_label(self) -> Option<&'static str> {
        matches!(self, Self::Watch | Self::Follow | Self::Interactive).then(|| self.label())
    }
}

// === impl RequestKind ===

impl RequestKind {
    /// Of a request to a service, whatever its path and query say: they mean nothing to Kubernetes.
    pub(crate) const SERVICE: Self = Self { verb: "proxy", span: Span::Proxy };

    /// Reads method, path and query of the upstream request.
    pub(crate) fn of(method: &Method, target: &PathAndQuery) -> Self {
        // As the API server reads them: an escape must not turn a watch into something short, which
        // would outlive its caller's token.
        let path = percent::decode(target.path());
        let path = Path::parse(&path);
        let query = target.query().unwrap_or_default();
        let span = match path.subresource {
            Some("exec" | "attach" | "portforward") => Span::Interactive,
            Some("proxy") => Span::Proxy,
            Some("log") if is_true(query, "follow") => Span::Follow,
            _ if method == Method::GET && (path.watch_prefix || is_true(query, "watch")) => {
                Span::Watch
            }
            _ => Span::Short,
        };
        let verb = match (span, method) {
            (Span::Watch, _) => "watch",
            (Span::Interactive, _) => "connect",
            (Span::Proxy, _) => "proxy",
            (_, &Method::GET | &Method::HEAD) if path.named || !path.resource => "get",
            (_, &Method::GET | &Method::HEAD) => "list",
            (_, &Method::POST) => "create",
            (_, &Method::PUT) => "update",
            (_, &Method::PATCH) => "patch",
            (_, &Method::DELETE) if path.named => "delete",
            (_, &Method::DELETE) => "deletecollection",
            _ => "other",
        };
        Self { verb, span }
    }

    /// Whether it may be open for ever, and so draws on the long budget.
    pub(crate) fn is_long(self) -> bool {
        self.span != Span::Short
    }

    /// Whether a second attempt can do no harm after the first was lost half-way: reads that reach
    /// nothing but the API server itself.
    pub(crate) fn is_repeatable(self, method: &Method) -> bool {
        (method == Method::GET || method == Method::HEAD)
            && matches!(self.span, Span::Short | Span::Watch | Span::Follow)
    }
}

/// The parts of an API path that matter here.
#[derive(Default)]
struct Path<'a> {
    /// A resource is named at all (not `/version`, not `/openapi/...`).
    resource: bool,
    /// An object is named.
    named: bool,
    subresource: Option<&'a str>,
    /// The deprecated `/watch/` prefix.
    watch_prefix: bool,
}

// === impl Path ===

impl<'a> Path<'a> {
    fn parse(path: &'a str) -> Self {
        let mut segments = path.trim_matches('/').split('/');
        let prefix = match segments.next() {
            Some("api") => 1,
            Some("apis") => 2,
            _ => return Self::default(),
        };
        let mut rest: Vec<&str> = segments.skip(prefix).take(DEEPEST).collect();
        let mut this = Self::default();
        if rest.first() == Some(&"watch") {
            this.watch_prefix = true;
            rest.remove(0);
        }
        if rest.first() == Some(&"namespaces") && rest.len() > 2 {
            // `namespaces/NAME/status` is about the namespace; anything else is inside it.
            if !matches!(rest.get(2), Some(&("status" | "finalize"))) {
                rest.drain(..2);
            }
        }
        this.resource = !rest.is_empty();
        this.named = rest.len() > 1;
        this.subresource = rest.get(2).copied();
        this
    }
}

/// namespaces/NAME/pods/NAME/log, behind an optional `watch`: deeper segments change nothing.
const DEEPEST: usize = 6;

/// As the API server reads a boolean parameter: present, and neither `false` nor `0`.
fn is_true(query: &str, name: &str) -> bool {
    query.split('&').any(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent::decode(value);
        percent::decode(key) == name && !value.eq_ignore_ascii_case("false") && value != "0"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(method: &str, target: &str) -> (&'static str, Span) {
        let target = PathAndQuery::try_from(target).unwrap();
        let kind = RequestKind::of(&method.parse().unwrap(), &target);
        (kind.verb, kind.span)
    }

    #[test]
    fn verbs_and_spans() {
        let pods = "/api/v1/namespaces/d/pods";
        for (method, target, verb, span) in [
            ("GET", pods.to_owned(), "list", Span::Short),
            ("GET", format!("{pods}?watch=true"), "watch", Span::Watch),
            ("GET", format!("{pods}?watch"), "watch", Span::Watch),
            ("GET", format!("{pods}?watch=false"), "list", Span::Short),
            ("GET", format!("{pods}?watch=0&x=watch"), "list", Span::Short),
            ("POST", format!("{pods}?watch=1"), "create", Span::Short),
            ("GET", "/api/v1/watch/pods".into(), "watch", Span::Watch),
            ("GET", format!("{pods}/p"), "get", Span::Short),
            ("GET", format!("{pods}/p/log"), "get", Span::Short),
            ("GET", format!("{pods}/p/log?follow=true"), "get", Span::Follow),
            ("POST", format!("{pods}/p/exec?command=sh"), "connect", Span::Interactive),
            ("GET", format!("{pods}/p/portforward"), "connect", Span::Interactive),
            ("GET", "/api/v1/namespaces/d/services/s/proxy/a/b".into(), "proxy", Span::Proxy),
            ("GET", "/api/v1/nodes/n/proxy/logs".into(), "proxy", Span::Proxy),
            ("GET", "/api/v1/namespaces/d".into(), "get", Span::Short),
            ("GET", "/api/v1/namespaces".into(), "list", Span::Short),
            ("DELETE", "/api/v1/namespaces/d".into(), "delete", Span::Short),
            ("PATCH", format!("{pods}/p"), "patch", Span::Short),
            ("PUT", "/api/v1/namespaces/d/status".into(), "update", Span::Short),
            ("GET", "/apis/apps/v1/deployments".into(), "list", Span::Short),
            ("DELETE", "/apis/apps/v1/namespaces/d/deployments/x".into(), "delete", Span::Short),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/d/deployments".into(),
                "deletecollection",
                Span::Short,
            ),
            ("GET", format!("{pods}?w%61tch=%31"), "watch", Span::Watch),
            ("GET", format!("{pods}?watch=%66alse"), "list", Span::Short),
            ("GET", format!("{pods}/p/l%6Fg?%66ollow=true&%zz=%"), "get", Span::Follow),
            ("GET", "/api/v1/nodes/n/%70roxy/%ff".into(), "proxy", Span::Proxy),
            ("GET", "/api/v1/%77atch/pods".into(), "watch", Span::Watch),
            ("GET", "/version".into(), "get", Span::Short),
            ("GET", "/api".into(), "get", Span::Short),
            ("OPTIONS", "/api".into(), "other", Span::Short),
        ] {
            assert_eq!(kind(method, &target), (verb, span), "{method} {target}");
        }
    }

    #[test]
    fn what_may_live_for_ever_has_a_label_and_the_long_budget() {
        for (span, label, live, long) in [
            (Span::Short, "request", None, false),
            (Span::Proxy, "proxy", None, true),
            (Span::Watch, "watch", Some("watch"), true),
            (Span::Follow, "follow", Some("follow"), true),
            (Span::Interactive, "interactive", Some("interactive"), true),
        ] {
            assert_eq!((span.label(), span.live_label()), (label, live));
            assert_eq!(RequestKind { verb: "get", span }.is_long(), long, "{span:?}");
        }
    }

    #[test]
    fn only_plain_reads_may_be_repeated() {
        let of = |method: &Method, target: &'static str| {
            RequestKind::of(method, &PathAndQuery::from_static(target)).is_repeatable(method)
        };
        assert!(of(&Method::GET, "/api/v1/pods"));
        assert!(!of(&Method::POST, "/api/v1/pods"));
        assert!(!of(&Method::GET, "/api/v1/namespaces/d/services/s/proxy/"));
        assert!(!of(&Method::GET, "/api/v1/namespaces/d/pods/p/exec"));
    }
}
