//! What a request asks for, read from its method and path as a kube-apiserver reads them.

use http::{Method, Uri};

use super::query::Query;
use crate::percent;

/// A parsed request head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for
    /// paths that are no resource the lower-case method.
    pub(super) verb: &'static str,
    /// The path as it came.
    pub(super) path: String,
    /// The query.
    pub(super) query: Query,
    /// Set when the path names a resource.
    pub(super) target: Option<Target>,
}

/// The resource that a path names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    /// API group, empty for the core group.
    pub(super) group: String,
    /// API version.
    pub(super) version: String,
    /// Plural name.
    pub(super) resource: String,
    /// Subresource, empty when none.
    pub(super) subresource: String,
    /// Namespace, empty for the cluster scope.
    pub(super) namespace: String,
    /// Object name, empty for collections.
    pub(super) name: String,
}

// === impl RequestInfo ===

impl RequestInfo {
    /// Reads method and target.
    pub(super) fn parse(method: &Method, uri: &Uri) -> Self {
        let path = uri.path().to_owned();
        let query = Query::parse(uri.query().unwrap_or_default());
        let target = Target::parse(&path);
        let verb = match &target {
            Some(target) => resource_verb(method, &target.name, &query),
            None => plain_verb(method),
        };
        Self { verb, path, query, target }
    }
}

// === impl Target ===

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let segments: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .map(|one| percent::decode(one).into_owned())
            .collect();
        let (group, rest) = match segments.first()?.as_str() {
            "api" => (String::new(), segments.get(1..)?),
            "apis" => (segments.get(1)?.clone(), segments.get(2..)?),
            _ => return None,
        };
        let (version, rest) = rest.split_first()?;
        let mut target = Self { group, version: version.clone(), ..Self::default() };
        let rest = match rest {
            [namespaces, namespace, below @ ..] if namespaces == "namespaces" => {
                target.namespace.clone_from(namespace);
                let of_namespace = below
                    .first()
                    .is_none_or(|part| NAMESPACE_SUBRESOURCES.contains(&part.as_str()));
                if of_namespace { rest } else { below }
            }
            _ => rest,
        };
        target.resource.clone_from(rest.first()?);
        target.name = rest.get(1).cloned().unwrap_or_default();
        target.subresource = rest.get(2).cloned().unwrap_or_default();
        (!target.resource.is_empty()).then_some(target)
    }
}

fn resource_verb(method: &Method, name: &str, query: &Query) -> &'static str {
    match *method {
        Method::GET | Method::HEAD if query.is_true("watch") => "watch",
        Method::GET | Method::HEAD if name.is_empty() => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        _ => "unknown",
    }
}

fn plain_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "unknown",
    }
}

/// `/namespaces/NAME/status` is about the namespace, not about a resource called `status`.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, path: &str) -> (&'static str, String) {
        let info = RequestInfo::parse(&method, &path.parse().unwrap());
        let text = info.target.map(|target| {
            let resource = match target.subresource.as_str() {
                "" => target.resource,
                subresource => format!("{}/{subresource}", target.resource),
            };
            format!("{}|{}|{}|{}", target.group, resource, target.namespace, target.name)
        });
        (info.verb, text.unwrap_or_default())
    }

    #[test]
    fn reads_paths() {
        let table = [
            (Method::GET, "/api/v1/nodes", "list", "|nodes||"),
            (Method::GET, "/api/v1/nodes/n?watch=true", "watch", "|nodes||n"),
            (Method::GET, "/api/v1/namespaces", "list", "|namespaces||"),
            (Method::GET, "/api/v1/namespaces/a", "get", "|namespaces|a|a"),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "update", "|namespaces/finalize|a|a"),
            (Method::DELETE, "/api/v1/namespaces/a/pods", "deletecollection", "|pods|a|"),
            (Method::POST, "/api/v1/namespaces/a/pods/b/exec", "create", "|pods/exec|a|b"),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/d",
                "patch",
                "apps|deployments|a|d",
            ),
            (
                Method::GET,
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Ax",
                "get",
                "rbac.authorization.k8s.io|clusterroles||system:x",
            ),
            (Method::GET, "/apis/apps/v1", "get", ""),
            (Method::GET, "/api", "get", ""),
            (Method::POST, "/version", "post", ""),
        ];
        for (method, path, verb, target) in table {
            assert_eq!(parse(method, path), (verb, target.to_owned()), "{path}");
        }
    }
}
