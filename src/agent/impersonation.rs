//! What the spoke's owner lets the hub say: whose names a request under the agent's token may bear.
//!
//! The spoke's RBAC has the last word. It can only name users and groups one by one, though, or let
//! every name pass; this is what stands between the second and a hub that was taken over.

use http::HeaderMap;

use crate::tunnel::impersonation::{Impersonation, Unreadable};

/// Which identities cross. `None` in [`super::AgentConfig`] lets nobody through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImpersonationRule {
    /// Every user, uid and group begins with one of these, and goes on.
    prefixes: Vec<String>,
    /// Or is one of these users.
    users: Vec<String>,
    /// Or is one of these groups.
    groups: Vec<String>,
}

/// Why an identity does not cross.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAllowed {
    /// The headers are not those of one identity.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// A name of this spoke's own, or of another part of Kubernetes.
    #[error("{what} does not begin with {}, and is not named", .prefixes.join(", or "))]
    Outside {
        /// What was named.
        what: &'static str,
        /// What it should begin with.
        prefixes: Vec<String>,
    },
}

// === impl ImpersonationRule ===

impl Default for ImpersonationRule {
    fn default() -> Self {
        Self { prefixes: vec![PREFIX.to_owned()], users: Vec::new(), groups: Vec::new() }
    }
}

impl ImpersonationRule {
    /// A rule for names that begin with one of `prefixes`.
    ///
    /// # Errors
    /// With nothing, or with what names of Kubernetes itself begin with, it would be none.
    pub fn new(prefixes: Vec<String>) -> Result<Self, String> {
        if prefixes.is_empty() {
            return Err("there must be a prefix".to_owned());
        }
        for prefix in &prefixes {
            let printable = prefix.bytes().all(|byte| byte.is_ascii_graphic());
            if prefix.is_empty() || !printable {
                return Err("a prefix must be printable, and not empty".to_owned());
            }
            if SYSTEM.starts_with(prefix) || prefix.starts_with(SYSTEM) {
                return Err(format!("names that begin with {SYSTEM:?} are Kubernetes' own"));
            }
        }
        Ok(Self { prefixes, users: Vec::new(), groups: Vec::new() })
    }

    /// Lets these users and groups through, too, whatever they begin with.
    ///
    /// # Errors
    /// With a name of Kubernetes itself.
    pub fn with_names(self, users: Vec<String>, groups: Vec<String>) -> Result<Self, String> {
        match users.iter().chain(&groups).find(|name| name.is_empty() || name.starts_with(SYSTEM)) {
            Some(name) => {
                Err(format!("{name:?}: names that begin with {SYSTEM:?} are Kubernetes' own"))
            }
            None => Ok(Self { users, groups, ..self }),
        }
    }

    /// Whether the identity that `headers` name may be used here.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), NotAllowed> {
        let said = Impersonation::read(headers)?;
        self.is_inside("the user", &said.user, &self.users)?;
        said.uid.iter().try_for_each(|uid| self.is_inside("the uid", uid, &[]))?;
        let mut groups = said.groups.iter();
        groups.try_for_each(|group| self.is_inside("a group", group, &self.groups))?;
        let known = |(key, _): &(String, Vec<String>)| key.starts_with(EXTRA);
        if said.extra.iter().all(known) {
            Ok(())
        } else {
            let prefixes = vec![EXTRA.to_owned()];
            Err(NotAllowed::Outside { what: "a key of the extra", prefixes })
        }
    }

    fn is_inside(
        &self,
        what: &'static str,
        name: &str,
        named: &[String],
    ) -> Result<(), NotAllowed> {
        let goes_on =
            |prefix: &String| name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty());
        if self.prefixes.iter().any(goes_on) || named.iter().any(|one| one == name) {
            Ok(())
        } else {
            Err(NotAllowed::Outside { what, prefixes: self.prefixes.clone() })
        }
    }
}

/// What all identities of a hub begin with.
const PREFIX: &str = "cluster:";
/// What Kubernetes' own names begin with: `system:masters` above all.
const SYSTEM: &str = "system:";
/// Where the hub puts extra. Keys of others, such as `scopes`, mean something to this cluster.
const EXTRA: &str = "cluster-proxy/";

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn check(lines: &[(&'static str, &'static str)]) -> Result<(), NotAllowed> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        ImpersonationRule::default().check(&headers)
    }

    #[test]
    fn only_names_inside_the_prefix_cross() {
        let user = ("impersonate-user", "cluster:hub:jane");
        let group = ("impersonate-group", "cluster:hub:system:masters");
        let uid = ("impersonate-uid", "cluster:hub:1");
        let extra = ("impersonate-extra-cluster-proxy%2fhub%2fx", "system:masters");
        assert_eq!(check(&[user, group, group, uid, extra]), Ok(()));
        for bad in [
            ("impersonate-group", "system:masters"),
            ("impersonate-group", "cluster:"),
            ("impersonate-group", "Cluster:hub:x"),
            ("impersonate-uid", "1"),
            ("impersonate-extra-scopes", "x"),
        ] {
            let refused = check(&[user, group, bad]);
            assert!(matches!(refused, Err(NotAllowed::Outside { .. })), "{bad:?} {refused:?}");
        }
        for bad in ["system:admin", "jane", "cluster:", "system:serviceaccount:a:b"] {
            let refused = check(&[("impersonate-user", bad), group]);
            assert!(matches!(refused, Err(NotAllowed::Outside { what: "the user", .. })), "{bad}");
        }
        assert_eq!(check(&[group]), Err(NotAllowed::Unreadable(Unreadable::User)));
    }

    #[test]
    fn named_users_and_groups_cross_and_nobody_who_begins_as_they_do() {
        let names = |names: &[&str]| names.iter().copied().map(str::to_owned).collect::<Vec<_>>();
        let named = |users: &[&str], groups: &[&str]| {
            ImpersonationRule::default().with_names(names(users), names(groups))
        };
        let rule = named(&["jane"], &["ops"]).unwrap();
        let check = |user, group| {
            let mut headers = HeaderMap::new();
            headers.insert("impersonate-user", HeaderValue::from_static(user));
            headers.insert("impersonate-group", HeaderValue::from_static(group));
            rule.check(&headers).is_ok()
        };
        assert!(
            check("jane", "ops") && check("jane", "cluster:hub:x") && check("cluster:hub:x", "ops")
        );
        for (user, group) in [
            ("jane2", "ops"),
            ("jan", "ops"),
            ("ops", "ops"),
            ("jane", "jane"),
            ("jane", "system:masters"),
        ] {
            assert!(!check(user, group), "{user} {group}");
        }
        for bad in ["", "system:admin", "system:serviceaccount:a:b"] {
            assert!(named(&[bad], &[]).is_err() && named(&[], &[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_prefix_is_one() {
        let rule = |prefixes: &[&str]| {
            ImpersonationRule::new(prefixes.iter().copied().map(str::to_owned).collect())
        };
        for bad in ["", "s", "system:", "system:x", "a b", "ä"] {
            assert!(rule(&[bad]).is_err(), "{bad:?}");
            assert!(rule(&["cluster:", bad]).is_err(), "{bad:?}");
        }
        assert!(rule(&[]).is_err());
        assert_eq!(rule(&["cluster:"]), Ok(ImpersonationRule::default()));
        let two = rule(&["cluster:", "oidc:"]).unwrap();
        let said = |user| {
            let user = HeaderValue::from_static(user);
            two.check(&HeaderMap::from_iter([(crate::tunnel::impersonation::USER, user)]))
        };
        assert_eq!(said("oidc:jane"), Ok(()));
        assert_eq!(said("cluster:hub:x"), Ok(()));
        let refused = said("jane").unwrap_err().to_string();
        assert_eq!(refused, "the user does not begin with cluster:, or oidc:, and is not named");
    }
}
