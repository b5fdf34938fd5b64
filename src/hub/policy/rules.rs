//! The policy: which identities of the hub may ask which clusters for what. Pure.
//!
//! Rules only allow, as those of RBAC, whose words they use; nobody may anything that no rule
//! allows. What is allowed here is still judged by the RBAC of the cluster.

use std::fmt;

use serde::Deserialize;

use super::patterns::{Patterns, is_one_of};
use super::request::Wanted;
use crate::hub::followed::of_key;
use crate::name::ClusterName;

/// A policy, ready to decide.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    rules: Vec<Rule>,
    /// Of texts with rules: their keys, and where their rules begin.
    texts: Vec<(Box<str>, usize)>,
    users: Patterns<Patterns<Numbers>>,
    groups: Patterns<Patterns<Numbers>>,
}

/// Indices into [`Policy::rules`]: what there is for one subject on clusters of one pattern.
#[derive(Debug, Default)]
struct Numbers {
    /// Of rules that are about objects in some namespaces alone.
    of_namespaces: Patterns<Vec<usize>>,
    /// Of the others.
    others: Vec<usize>,
}

/// What a rule says of requests. Empty lists stand for everything.
#[derive(Debug)]
struct Rule {
    verbs: Vec<Box<str>>,
    api_groups: Vec<Box<str>>,
    resources: Vec<Box<str>>,
    namespaces: Vec<Box<str>>,
    names: Vec<Box<str>>,
    paths: Vec<Box<str>>,
}

/// Why a text is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PolicyError {
    /// Not even YAML of this shape.
    #[error("{}it is not the YAML or JSON of a policy: {why}", of_key(.key))]
    Shape {
        /// In a ConfigMap; empty for a file.
        key: String,
        /// What the parser says.
        why: String,
    },
    /// A rule that would not do what it says.
    #[error("{}rule {number}: {why}", of_key(.key))]
    Rule {
        /// In a ConfigMap; empty for a file.
        key: String,
        /// From 1.
        number: usize,
        /// What is wrong.
        why: String,
    },
}

/// Where a rule is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleName {
    /// In a ConfigMap; empty for a file.
    pub(crate) key: Box<str>,
    /// From 1.
    pub(crate) number: usize,
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rules: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
struct Written {
    users: Vec<String>,
    groups: Vec<String>,
    clusters: Vec<String>,
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    /// Of objects. As in RBAC, no list and nothing that is made has one.
    resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
}

// === impl Policy ===

impl Policy {
    /// Reads texts of YAML, or JSON, which is YAML too, each under its key, in their order. All rules
    /// count.
    pub(crate) fn parse<'a>(
        texts: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, PolicyError> {
        let mut policy = Self::default();
        for (key, text) in texts {
            let file: File = serde_saphyr::from_str(text).map_err(|error| {
                let text = error.to_string();
                // The rest shows the place in a picture of several lines.
                let why = text.lines().next().unwrap_or_default().to_owned();
                PolicyError::Shape { key: key.to_owned(), why }
            })?;
            policy.texts.push((key.into(), policy.rules.len()));
            for (number, written) in (1..).zip(file.rules) {
                let key = || key.to_owned();
                written.check().map_err(|why| PolicyError::Rule { key: key(), number, why })?;
                policy.push(written);
            }
        }
        Ok(policy)
    }

    fn push(&mut self, written: Written) {
        let index = self.rules.len();
        let subjects = [(&mut self.users, &written.users), (&mut self.groups, &written.groups)];
        for (known, names) in subjects {
            for name in names {
                for cluster in &written.clusters {
                    known.entry(name).entry(cluster).push(index, &written);
                }
            }
        }
        self.rules.push(Rule::from(written));
    }

    /// How many rules it has.
    pub(crate) fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether a rule lets `user`, who is in `groups`, have what is `wanted` of `cluster`. Whether
    /// there is such a cluster plays no part.
    pub(crate) fn allows(
        &self,
        user: &str,
        groups: &[String],
        cluster: &ClusterName,
        wanted: Wanted<'_>,
    ) -> bool {
        self.index(user, groups, cluster, wanted).is_some()
    }

    /// Whether a rule names them and `cluster`, whatever it allows there.
    pub(crate) fn names(&self, user: &str, groups: &[String], cluster: &ClusterName) -> bool {
        self.about(user, groups, cluster).next().is_some()
    }

    /// A rule that lets them.
    pub(crate) fn find(
        &self,
        user: &str,
        groups: &[String],
        cluster: &ClusterName,
        wanted: Wanted<'_>,
    ) -> Option<RuleName> {
        let index = self.index(user, groups, cluster, wanted)?;
        let (key, begin) = self.texts.iter().rfind(|(_, begin)| *begin <= index)?;
        Some(RuleName { key: key.clone(), number: index - begin + 1 })
    }

    fn index(
        &self,
        user: &str,
        groups: &[String],
        cluster: &ClusterName,
        wanted: Wanted<'_>,
    ) -> Option<usize> {
        let namespace = match wanted {
            Wanted::Resource { namespace, .. } => namespace,
            Wanted::Path { .. } | Wanted::Unclear => "",
        };
        let numbers = self.about(user, groups, cluster);
        let mut rules = numbers.flat_map(|numbers| numbers.of(namespace));
        rules.find(|rule| self.rules[**rule].allows(wanted)).copied()
    }

    fn about<'a>(
        &'a self,
        user: &'a str,
        groups: &'a [String],
        cluster: &'a ClusterName,
    ) -> impl Iterator<Item = &'a Numbers> {
        let of_groups = groups.iter().flat_map(|group| self.groups.of(group));
        let clusters = self.users.of(user).chain(of_groups);
        clusters.flat_map(|clusters| clusters.of(cluster.as_str()))
    }
}

// === impl Numbers ===

impl Numbers {
    fn push(&mut self, index: usize, written: &Written) {
        let put = |rules: &mut Vec<usize>| {
            if rules.last() != Some(&index) {
                rules.push(index);
            }
        };
        // What a rule says of paths is about no namespace.
        if written.namespaces.is_empty() || !written.non_resource_urls.is_empty() {
            return put(&mut self.others);
        }
        for namespace in &written.namespaces {
            put(self.of_namespaces.entry(namespace));
        }
    }

    /// Those that can be about an object in `namespace`, which is empty for what is in none.
    fn of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a usize> {
        self.of_namespaces.of(namespace).flatten().chain(&self.others)
    }
}

// === impl RuleName ===

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}", self.number)?;
        if self.key.is_empty() { Ok(()) } else { write!(f, " under key {}", self.key) }
    }
}

// === impl Rule ===

impl Rule {
    fn allows(&self, wanted: Wanted<'_>) -> bool {
        let of_resources = [&self.api_groups, &self.resources, &self.namespaces, &self.names];
        let of_resources = of_resources.iter().any(|list| !list.is_empty());
        match wanted {
            Wanted::Resource { verb, group, resource, subresource, namespace, name } => {
                (of_resources || self.paths.is_empty())
                    && is_listed(&self.verbs, verb)
                    && is_listed(&self.api_groups, group)
                    && (self.namespaces.is_empty()
                        || !namespace.is_empty() && is_one_of(&self.namespaces, namespace))
                    && (self.names.is_empty() || !name.is_empty() && is_one_of(&self.names, name))
                    && (self.resources.is_empty()
                        || self.resources.iter().any(|one| is_resource(one, resource, subresource)))
            }
            Wanted::Path { method, path } => {
                let verb = |verb: &str| verb.eq_ignore_ascii_case(method.as_str());
                (self.verbs.is_empty() || self.verbs.iter().any(|one| &**one == "*" || verb(one)))
                    && if self.paths.is_empty() {
                        !of_resources
                    } else {
                        is_one_of(&self.paths, path)
                    }
            }
            Wanted::Unclear => false,
        }
    }
}

impl From<Written> for Rule {
    fn from(written: Written) -> Self {
        let boxed = |list: Vec<String>| list.into_iter().map(String::into_boxed_str).collect();
        Self {
            verbs: boxed(written.verbs),
            api_groups: boxed(written.api_groups),
            resources: boxed(written.resources),
            namespaces: boxed(written.namespaces),
            names: boxed(written.resource_names),
            paths: boxed(written.non_resource_urls),
        }
    }
}

fn is_listed(list: &[Box<str>], word: &str) -> bool {
    list.is_empty() || list.iter().any(|one| &**one == "*" || &**one == word)
}

/// As in RBAC: `pods` is not `pods/log`, `*/scale` is of all kinds, and `*` is everything.
fn is_resource(one: &str, resource: &str, subresource: &str) -> bool {
    if one == "*" {
        return true;
    }
    let (kind, of) = one.split_once('/').unwrap_or((one, ""));
    of == subresource && (kind == resource || (kind == "*" && !subresource.is_empty()))
}

// === impl Written ===

impl Written {
    /// A rule that can never apply, or that applies to more than it seems to, is a mistake.
    fn check(&self) -> Result<(), String> {
        if self.users.is_empty() && self.groups.is_empty() {
            return Err("it names neither users nor groups".to_owned());
        }
        if self.clusters.is_empty() {
            return Err("it names no clusters; \"*\" stands for all".to_owned());
        }
        let patterns = [
            ("users", &self.users),
            ("groups", &self.groups),
            ("clusters", &self.clusters),
            ("namespaces", &self.namespaces),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ];
        for (what, list) in patterns {
            for name in list {
                let body = name.strip_suffix('*').unwrap_or(name);
                if name.is_empty() || body.contains('*') {
                    return Err(format!(
                        "{what}: {name:?} is neither a name nor the beginning of one and \"*\""
                    ));
                }
            }
        }
        for name in self.users.iter().chain(&self.groups) {
            if name.starts_with(SYSTEM) {
                return Err(format!(
                    "{name:?} is nobody here: a name of the hub begins with {}",
                    crate::hub::authn::HUB_PREFIX
                ));
            }
        }
        for name in self.clusters.iter().filter(|name| !name.ends_with('*')) {
            ClusterName::parse(name).map_err(|error| format!("clusters: {error}"))?;
        }
        let lower = |verb: &&String| verb.bytes().any(|byte| !byte.is_ascii_lowercase());
        if let Some(verb) = self.verbs.iter().filter(|verb| *verb != "*").find(lower) {
            return Err(format!("verbs: {verb:?} is no verb of Kubernetes"));
        }
        if let Some(path) =
            self.non_resource_urls.iter().find(|path| !path.starts_with('/') && *path != "*")
        {
            return Err(format!("nonResourceURLs: {path:?} does not begin with \"/\""));
        }
        Ok(())
    }
}

/// Names of the hub never stand without a prefix.
const SYSTEM: &str = "system:";

#[cfg(test)]
mod tests;
