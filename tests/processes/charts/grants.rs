//! What the roles of a chart allow, taken apart, and which of it a list of requests needs.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Value, json};

use super::audit::Call;
use crate::support::process::Kubectl;

/// One thing that one rule allows: a verb on a resource, or on a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// Which rule of [`Roles`] it is from.
    pub(super) rule: Rule,
    /// Where it holds; `None` is everywhere.
    namespace: Option<String>,
    verb: String,
    what: What,
}

/// A rule of a role, by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rule(pub(super) usize, pub(super) usize);

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Resource { group: String, resource: String, name: Option<String> },
    Path(String),
}

/// Roles and ClusterRoles, as the API server holds them.
pub(super) struct Roles(Vec<Value>);

// === impl Roles ===

impl Roles {
    /// Those that a chart brought.
    pub(super) fn of(kubectl: &Kubectl, chart: &str) -> Self {
        let label = format!("app.kubernetes.io/name={chart}");
        let shown = kubectl.run(&["get", "clusterroles,roles", "-A", "-l", &label, "-o", "json"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        Self(shown["items"].as_array().unwrap().clone())
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = (Rule, &Value)> {
        let rules = |(place, role): (usize, &'_ Value)| {
            let rules = role["rules"].as_array().unwrap().len();
            (0..rules).map(move |rule| Rule(place, rule)).collect::<Vec<_>>()
        };
        let all: Vec<_> = self.0.iter().enumerate().flat_map(rules).collect();
        all.into_iter().map(|rule| (rule, self.rule(rule)))
    }

    pub(super) fn rule(&self, Rule(role, rule): Rule) -> &Value {
        &self.0[role]["rules"][rule]
    }

    /// As a failed test names it.
    pub(super) fn shown(&self, rule: Rule) -> String {
        let metadata = &self.0[rule.0]["metadata"];
        format!("{} {}", metadata["name"].as_str().unwrap(), self.rule(rule))
    }

    /// Everything that they allow.
    pub(super) fn grants(&self) -> Vec<Grant> {
        let grants = self.rules().flat_map(|(rule, value)| {
            let namespace = self.0[rule.0]["metadata"]["namespace"].as_str().map(str::to_owned);
            let mut whats: Vec<_> =
                texts(&value["nonResourceURLs"]).into_iter().map(What::Path).collect();
            for group in texts(&value["apiGroups"]) {
                for resource in texts(&value["resources"]) {
                    let names = texts(&value["resourceNames"]);
                    let names = match names.is_empty() {
                        true => vec![None],
                        false => names.into_iter().map(Some).collect(),
                    };
                    whats.extend(names.into_iter().map(|name| What::Resource {
                        group: group.clone(),
                        resource: resource.clone(),
                        name,
                    }));
                }
            }
            let all = whats.into_iter().flat_map(|what| {
                texts(&value["verbs"]).into_iter().map(move |verb| (what.clone(), verb))
            });
            all.map(|(what, verb)| Grant { rule, namespace: namespace.clone(), verb, what })
                .collect::<Vec<_>>()
        });
        grants.collect()
    }

    /// Manifests of the same roles without one rule, bound to `user`.
    pub(super) fn without(&self, left_out: Rule, user: &str) -> Vec<Value> {
        let mut all = Vec::new();
        for (place, role) in self.0.iter().enumerate() {
            let mut rules = role["rules"].as_array().unwrap().clone();
            if place == left_out.0 {
                rules.remove(left_out.1);
            }
            let mut metadata = json!({"name": format!("{user}-{place}")});
            if let Some(namespace) = role["metadata"].get("namespace") {
                metadata["namespace"] = namespace.clone();
            }
            let kind = role["kind"].as_str().unwrap();
            all.push(json!({
                "apiVersion": RBAC, "kind": kind, "metadata": metadata, "rules": rules,
            }));
            all.push(json!({
                "apiVersion": RBAC, "kind": format!("{kind}Binding"), "metadata": metadata,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind,
                    "name": metadata["name"]},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User",
                    "name": user}],
            }));
        }
        all
    }
}

// === impl Grant ===

impl Grant {
    /// As RBAC decides.
    pub(super) fn allows(&self, call: &Call) -> bool {
        let is = |allowed: &str, asked: &str| allowed == "*" || allowed == asked;
        let here = self.namespace.as_ref().is_none_or(|namespace| *namespace == call.namespace);
        let what = match &self.what {
            What::Path(path) => match path.strip_suffix('*') {
                Some(start) => !call.path.is_empty() && call.path.starts_with(start),
                None => *path == call.path,
            },
            What::Resource { group, resource, name } => {
                call.path.is_empty()
                    && is(group, &call.group)
                    && is(resource, &call.resource)
                    && name.as_ref().is_none_or(|name| *name == call.name)
            }
        };
        here && is(&self.verb, &call.verb) && what
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.namespace.as_deref().unwrap_or("everywhere");
        match &self.what {
            What::Path(path) => write!(f, "{} {path}", self.verb),
            What::Resource { group, resource, name } => {
                let name = name.as_deref().unwrap_or("*");
                write!(f, "{} {group}/{resource} {name} in {place}", self.verb)
            }
        }
    }
}

/// Calls that no grant allows.
pub(super) fn uncovered<'a>(grants: &[Grant], calls: &'a BTreeSet<Call>) -> Vec<&'a Call> {
    calls.iter().filter(|call| !grants.iter().any(|grant| grant.allows(call))).collect()
}

/// A call that this grant alone allows.
pub(super) fn witness<'a>(
    grants: &[Grant],
    grant: &Grant,
    calls: &'a BTreeSet<Call>,
) -> Option<&'a Call> {
    calls.iter().find(|call| {
        grant.allows(call) && !grants.iter().any(|other| other != grant && other.allows(call))
    })
}

fn texts(list: &Value) -> Vec<String> {
    let texts = list.as_array().into_iter().flatten();
    texts.map(|text| text.as_str().unwrap().to_owned()).collect()
}

const RBAC: &str = "rbac.authorization.k8s.io/v1";

#[test]
fn a_grant_that_another_covers_has_no_witness() {
    let secrets = |verbs: &[&str], more: Value| {
        let mut rule = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": verbs});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rule
    };
    let role = |rules: Value, metadata: Value| json!({"rules": rules, "metadata": metadata});
    let call = |verb: &str, namespace: &str, name: &str| Call {
        verb: verb.to_owned(),
        namespace: namespace.to_owned(),
        resource: "secrets".to_owned(),
        name: name.to_owned(),
        ..Call::default()
    };
    let calls: BTreeSet<Call> = [call("get", "a", "x"), call("list", "b", "")].into();
    let named = secrets(&["get"], json!({"resourceNames": ["x"]}));
    let here = role(json!([named]), json!({"name": "r", "namespace": "a"}));
    let everywhere =
        |verbs: &[&str]| role(json!([secrets(verbs, json!({}))]), json!({"name": "c"}));

    let narrow = Roles(vec![here.clone(), everywhere(&["list"])]).grants();
    assert!(narrow.iter().all(|grant| witness(&narrow, grant, &calls).is_some()));
    assert_eq!(uncovered(&narrow, &calls), Vec::<&Call>::new());
    assert_eq!(uncovered(&narrow[..1], &calls), [&call("list", "b", "")]);

    let wide = Roles(vec![here, everywhere(&["get", "list"])]).grants();
    let idle = wide.iter().filter(|grant| witness(&wide, grant, &calls).is_none());
    // Each of the two that allow the same.
    assert_eq!(idle.count(), 2);
    let path = Call { verb: "get".to_owned(), path: "/apis/x".to_owned(), ..Call::default() };
    assert_eq!(uncovered(&wide, &[path.clone()].into()), [&path]);
    let rule = json!({"nonResourceURLs": ["/apis/*"], "verbs": ["get"]});
    let paths = Roles(vec![role(json!([rule]), json!({"name": "p"}))]).grants();
    assert!(paths[0].allows(&path) && !paths[0].allows(&call("get", "a", "x")));
}
