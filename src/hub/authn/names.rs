//! Which users and groups of the hub clusters know under a name without a prefix: by exact names
//! that an operator has written down. Pure.
//!
//! Whoever may give themselves such a name on the hub has it on every cluster. So no name here is one
//! that Kubernetes gives, but for those of single ServiceAccounts, which get another one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use http::HeaderMap;
use serde::Deserialize;

use super::identity::HUB_PREFIX;
use crate::tunnel::impersonation::Impersonation;

/// Names of the hub, and what clusters call them. Read once: a hub takes a change over when it is
/// restarted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnprefixedNames {
    users: BTreeMap<String, String>,
    groups: BTreeMap<String, String>,
}

/// Why a file has no such names.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// Not there.
    #[error(transparent)]
    Unreadable(#[from] std::io::Error),
    /// Not YAML of this shape.
    #[error("it is not the YAML or JSON of users and groups with their names on clusters: {0}")]
    Shape(String),
    /// A name that would be somebody else's.
    #[error("{what} {name:?}: {why}")]
    Name {
        /// `users` or `groups`.
        what: &'static str,
        /// Which.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
}

// === impl UnprefixedNames ===

impl UnprefixedNames {
    /// Those in a file.
    ///
    /// # Errors
    /// When it cannot be read, or a name must not be there.
    pub fn read(file: &Path) -> Result<Self, NamesError> {
        Self::parse(&std::fs::read_to_string(file)?)
    }

    fn parse(text: &str) -> Result<Self, NamesError> {
        let names: Self = serde_saphyr::from_str(text).map_err(|error| {
            let text = error.to_string();
            // The rest shows the place in a picture of several lines.
            NamesError::Shape(text.lines().next().unwrap_or_default().to_owned())
        })?;
        for (what, names) in [("users", &names.users), ("groups", &names.groups)] {
            let mut taken = BTreeSet::new();
            for (hub, cluster) in names {
                let wrong = |name: &str, why| NamesError::Name { what, name: name.to_owned(), why };
                let account = what == "users" && hub.starts_with(ACCOUNT);
                if hub.is_empty() || (hub.starts_with(SYSTEM) && !account) {
                    return Err(wrong(hub, "it is a name that Kubernetes gives, or none"));
                }
                if cluster.starts_with(SYSTEM) {
                    return Err(wrong(cluster, "clusters give that name themselves"));
                }
                if cluster.starts_with(PREFIXES) {
                    return Err(wrong(cluster, "that begins as names with a prefix do"));
                }
                let user = Impersonation { user: cluster.clone(), ..Impersonation::default() };
                if user.write(&mut HeaderMap::new()).is_err() {
                    return Err(wrong(cluster, "no header can carry it"));
                }
                if !taken.insert(cluster) {
                    return Err(wrong(cluster, "two of the hub would be one on clusters"));
                }
            }
        }
        Ok(names)
    }

    /// What clusters call a user of the hub.
    pub(crate) fn user(&self, name: &str) -> String {
        named(&self.users, name)
    }

    /// What clusters call a group of the hub.
    pub(crate) fn group(&self, name: &str) -> String {
        named(&self.groups, name)
    }

    /// Whom clusters call `name`, on the hub.
    pub(crate) fn user_of_hub(&self, name: &str) -> String {
        own(&self.users, name)
    }

    /// The group that clusters call `name`, on the hub.
    pub(crate) fn group_of_hub(&self, name: &str) -> String {
        own(&self.groups, name)
    }

    /// Each, in words.
    pub fn told(&self) -> Vec<String> {
        let all = [("user", &self.users), ("group", &self.groups)];
        let each = all.into_iter().flat_map(|(what, names)| {
            names.iter().map(move |(hub, cluster)| format!("{what} {hub:?} as {cluster:?}"))
        });
        each.collect()
    }
}

fn named(names: &BTreeMap<String, String>, name: &str) -> String {
    names.get(name).cloned().unwrap_or_else(|| format!("{HUB_PREFIX}{name}"))
}

fn own(names: &BTreeMap<String, String>, name: &str) -> String {
    let known = names.iter().find(|(_, cluster)| *cluster == name).map(|(hub, _)| hub.as_str());
    known.unwrap_or_else(|| name.strip_prefix(HUB_PREFIX).unwrap_or(name)).to_owned()
}

/// What Kubernetes' own names begin with.
const SYSTEM: &str = "system:";

/// What the names of single ServiceAccounts begin with.
const ACCOUNT: &str = "system:serviceaccount:";

/// What prefixes begin with: those of the hub, and as a rule those of issuers.
const PREFIXES: &str = "cluster:";

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &str = "
users:
  jane: jane
  system:serviceaccount:ops:deployer: deployer
groups:
  'CN=ops,O=example': ops
";

    #[test]
    fn listed_names_alone_cross_without_a_mark() {
        let names = UnprefixedNames::parse(NAMES).unwrap();
        for (hub, cluster) in [
            ("jane", "jane"),
            ("system:serviceaccount:ops:deployer", "deployer"),
            (
                "system:serviceaccount:ops:deployer2",
                "cluster:hub:system:serviceaccount:ops:deployer2",
            ),
            ("deployer", "cluster:hub:deployer"),
            ("Jane", "cluster:hub:Jane"),
            ("CN=ops,O=example", "cluster:hub:CN=ops,O=example"),
        ] {
            assert_eq!(names.user(hub), cluster);
            if hub != "deployer" {
                assert_eq!(names.user_of_hub(cluster), hub);
            }
        }
        assert_eq!(names.group("CN=ops,O=example"), "ops");
        assert_eq!(names.group_of_hub("ops"), "CN=ops,O=example");
        assert_eq!(names.group("system:authenticated"), "cluster:hub:system:authenticated");
        assert_eq!(UnprefixedNames::default().user("jane"), "cluster:hub:jane");
        let told = names.told().join(", ");
        assert!(
            told.contains("user \"jane\" as \"jane\"") && told.contains("as \"ops\""),
            "{told}"
        );
    }

    #[test]
    fn nobody_gets_a_name_of_kubernetes_or_of_somebody_else() {
        for (text, why) in [
            ("users: {jane: 'system:admin'}", "clusters give that name"),
            ("users: {jane: 'system:serviceaccount:a:b'}", "clusters give that name"),
            ("groups: {ops: 'system:masters'}", "clusters give that name"),
            ("users: {'system:admin': admin}", "that Kubernetes gives"),
            ("groups: {'system:authenticated': all}", "that Kubernetes gives"),
            ("groups: {'system:serviceaccounts:ops': ops}", "that Kubernetes gives"),
            ("users: {'': jane}", "that Kubernetes gives, or none"),
            ("users: {jane: ''}", "no header can carry it"),
            ("users: {jane: ' jane'}", "no header can carry it"),
            ("users: {jane: 'cluster:hub:joe'}", "as names with a prefix do"),
            ("users: {jane: 'cluster:oidc:jane'}", "as names with a prefix do"),
            ("users: {jane: j, joe: j}", "would be one"),
            ("user: {jane: jane}", "unknown field"),
            ("users: [jane]", "users and groups"),
        ] {
            let error = UnprefixedNames::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(UnprefixedNames::parse("users: {jane: j}\ngroups: {jane: j}").is_ok());
    }
}
