//! Role-based access control over the Role and binding objects of the store.

use serde_json::Value;

use super::auth::Identity;
use super::object;
use super::request::RequestInfo;
use super::response::MiniStatus;
use super::store::{Key, Store};

/// What somebody wants to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Verb.
    pub(super) verb: String,
    /// API group.
    pub(super) group: String,
    /// Plural name; empty for paths that are no resource.
    pub(super) resource: String,
    /// Subresource.
    pub(super) subresource: String,
    /// Namespace, empty at the cluster scope.
    pub(super) namespace: String,
    /// Object name.
    pub(super) name: String,
    /// The path, when it is no resource.
    pub(super) path: String,
}

// === impl Attributes ===

impl Attributes {
    /// What a request needs.
    pub(super) fn of(request: &RequestInfo) -> Self {
        let verb = request.verb.to_owned();
        match request.target.clone() {
            Some(target) => Self {
                verb,
                group: target.group,
                resource: target.resource,
                subresource: target.subresource,
                namespace: target.namespace,
                name: target.name,
                path: String::new(),
            },
            None => Self { verb, path: request.path.clone(), ..Self::default() },
        }
    }

    fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// Allows, or says no in the words of Kubernetes.
pub(super) fn check(
    store: &Store,
    identity: &Identity,
    attributes: &Attributes,
) -> Result<(), MiniStatus> {
    if allowed(store, identity, attributes) {
        return Ok(());
    }
    let user = &identity.username;
    let Attributes { verb, group, namespace, name, path, .. } = attributes;
    if attributes.resource.is_empty() {
        let message = format!("forbidden: User \"{user}\" cannot {verb} path \"{path}\"");
        return Err(MiniStatus::new(403, "Forbidden", message));
    }
    let label = Key::new(group, &attributes.resource, "", "").label();
    let subject = if name.is_empty() { label.clone() } else { format!("{label} \"{name}\"") };
    let scope = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{namespace}\"")
    };
    let resource = attributes.full_resource();
    let message = format!(
        "{subject} is forbidden: User \"{user}\" cannot {verb} resource \"{resource}\" \
         in API group \"{group}\" {scope}"
    );
    Err(MiniStatus::new(403, "Forbidden", message).about(&label, name))
}

/// Whether any binding allows it.
pub(super) fn allowed(store: &Store, identity: &Identity, attributes: &Attributes) -> bool {
    identity.groups.iter().any(|group| group == MASTERS)
        || rules_for(store, identity, &attributes.namespace)
            .iter()
            .any(|rule| rule_allows(rule, attributes))
}

/// All rules that a user has in a namespace (empty: at the cluster scope).
pub(super) fn rules_for(store: &Store, identity: &Identity, namespace: &str) -> Vec<Value> {
    let (_, cluster) = store.list(GROUP, "clusterrolebindings", None);
    let local = match namespace {
        "" => Vec::new(),
        namespace => store.list(GROUP, "rolebindings", Some(namespace)).1,
    };
    let bindings = cluster.iter().chain(&local);
    let bound = bindings.filter(|binding| {
        let subjects = binding["subjects"].as_array().into_iter().flatten();
        let home = object::namespace(binding);
        subjects.into_iter().any(|subject| is_subject(subject, identity, home))
    });
    let rules = bound.flat_map(|binding| {
        let role = &binding["roleRef"];
        let key = match object::text(role, "/kind") {
            "ClusterRole" => Key::new(GROUP, "clusterroles", "", object::text(role, "/name")),
            _ => {
                let namespace = object::namespace(binding);
                Key::new(GROUP, "roles", namespace, object::text(role, "/name"))
            }
        };
        let role = store.get(&key);
        role.and_then(|role| role["rules"].as_array().cloned()).unwrap_or_default()
    });
    rules.collect()
}

fn is_subject(subject: &Value, identity: &Identity, home: &str) -> bool {
    let name = object::text(subject, "/name");
    match object::text(subject, "/kind") {
        "User" => identity.username == name,
        "Group" => identity.groups.iter().any(|group| group == name),
        "ServiceAccount" => {
            let namespace = match object::text(subject, "/namespace") {
                "" => home,
                namespace => namespace,
            };
            identity.username == format!("system:serviceaccount:{namespace}:{name}")
        }
        _ => false,
    }
}

fn rule_allows(rule: &Value, wanted: &Attributes) -> bool {
    let values =
        |field: &str| rule[field].as_array().into_iter().flatten().filter_map(Value::as_str);
    let has = |field: &str, value: &str| values(field).any(|one| one == "*" || one == value);
    if !has("verbs", &wanted.verb) {
        return false;
    }
    if wanted.resource.is_empty() {
        let mut paths = values("nonResourceURLs");
        return paths.any(|path| match path.strip_suffix('*') {
            Some(prefix) => wanted.path.starts_with(prefix),
            None => wanted.path == path,
        });
    }
    let any_parent = format!("*/{}", wanted.subresource);
    let resource = has("resources", &wanted.full_resource())
        || (!wanted.subresource.is_empty() && values("resources").any(|one| one == any_parent));
    // A rule that names objects never allows verbs that have none.
    let named = values("resourceNames").next().is_none()
        || values("resourceNames").any(|name| name == wanted.name && !name.is_empty());
    has("apiGroups", &wanted.group) && resource && named
}

/// API group of Roles and bindings.
pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

/// Members may do everything, before any rule is read.
const MASTERS: &str = "system:masters";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::miniapi::store::Mode;

    fn put(store: &Store, plural: &str, namespace: &str, name: &str, object: Value) {
        store.create(&Key::new(GROUP, plural, namespace, name), object, Mode::Commit).unwrap();
    }

    fn store() -> Store {
        let store = Store::new(100);
        let rules = json!({"rules": [
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"]},
            {"verbs": ["get"], "nonResourceURLs": ["/version", "/healthz/*"]},
        ]});
        put(&store, "clusterroles", "", "reader", rules);
        let reader = json!({"kind": "ClusterRole", "name": "reader"});
        let account = json!([{"kind": "ServiceAccount", "name": "a", "namespace": "ns"}]);
        let everyone = json!([{"kind": "Group", "name": "team"}]);
        put(&store, "rolebindings", "ns", "b", json!({"roleRef": reader, "subjects": account}));
        put(
            &store,
            "clusterrolebindings",
            "",
            "b",
            json!({"roleRef": reader, "subjects": everyone}),
        );
        store
    }

    fn ask(
        user: &str,
        group: &str,
        verb: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> bool {
        let identity = Identity {
            username: user.to_owned(),
            groups: vec![group.to_owned()],
            ..Identity::default()
        };
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = Attributes {
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        allowed(&store(), &identity, &attributes)
    }

    #[test]
    fn rules_bind_to_scopes_names_and_subresources() {
        let account = "system:serviceaccount:ns:a";
        assert!(ask(account, "", "list", "pods", "ns", ""));
        assert!(!ask(account, "", "list", "pods", "other", ""));
        assert!(!ask(account, "", "list", "pods", "", ""));
        assert!(!ask(account, "", "delete", "pods", "ns", "p"));
        assert!(ask(account, "", "get", "pods/log", "ns", "p"));
        assert!(!ask(account, "", "get", "pods/exec", "ns", "p"));
        assert!(ask(account, "", "get", "secrets", "ns", "one"));
        assert!(!ask(account, "", "get", "secrets", "ns", "two"));
        assert!(!ask("system:serviceaccount:other:a", "", "list", "pods", "ns", ""));
        assert!(ask("u", "team", "list", "pods", "", ""));
        assert!(!ask("u", "others", "list", "pods", "", ""));
        assert!(ask("u", MASTERS, "delete", "nodes", "", "n"));
    }

    #[test]
    fn paths_and_words() {
        let store = store();
        let identity = Identity {
            username: "u".to_owned(),
            groups: vec!["team".to_owned()],
            ..Identity::default()
        };
        let path = |path: &str| Attributes {
            verb: "get".to_owned(),
            path: path.to_owned(),
            ..Attributes::default()
        };
        assert!(check(&store, &identity, &path("/healthz/etcd")).is_ok());
        let error = check(&store, &identity, &path("/metrics")).unwrap_err();
        assert_eq!(error.message, "forbidden: User \"u\" cannot get path \"/metrics\"");
        let wanted = Attributes {
            verb: "list".to_owned(),
            group: "apps".to_owned(),
            resource: "deployments".to_owned(),
            ..Attributes::default()
        };
        assert_eq!(
            check(&store, &identity, &wanted).unwrap_err().message,
            "deployments.apps is forbidden: User \"u\" cannot list resource \"deployments\" \
             in API group \"apps\" at the cluster scope"
        );
    }
}
