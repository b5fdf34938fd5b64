//! A verified caller, and what a user of the hub is called on a spoke. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

use super::names::UnprefixedNames;
use super::oidc::claims::Person;
use crate::hub::token_review::UserInfo;
use crate::tunnel::headers::{MODE, Mode};
use crate::tunnel::impersonation::{Impersonation, Unwritable};

/// A verified caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// As the spoke's RBAC and the hub's policy name it: `system:serviceaccount:NAMESPACE:NAME`, or
    /// the same behind [`HUB_PREFIX`]. For logs at debug; never a metric label.
    pub user: String,
    /// For whom the agent speaks; `None` where the caller's own token passes through.
    pub impersonation: Option<Impersonated>,
    /// uid of the ServiceAccount, where the token says it.
    pub account_uid: Option<String>,
    /// Whether the token also ends with something that nobody watches: a Pod, a Node or a Secret
    /// that it is bound to, or whatever the hub's API server or an issuer knows of its own tokens.
    pub bound: bool,
    /// The first moment at which the token is refused (its `exp` and the leeway of one minute);
    /// live streams end with it. None for legacy tokens.
    pub expires: Option<SystemTime>,
}

/// An identity that a spoke knows only because the agent says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impersonated {
    /// As the spoke's RBAC and the hub's policy name them.
    pub groups: Vec<String>,
    /// What the agent is told, ready to be added to a request.
    pub headers: HeaderMap,
    /// Whom to ask again.
    pub by: Voucher,
    /// As the hub's own API server is asked about them; `None` where a name is one that Kubernetes
    /// gives there.
    pub(crate) own: Option<Arc<UserInfo>>,
}

/// Who said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voucher {
    /// The hub's own API server.
    Hub,
    /// An OpenID Connect issuer.
    Issuer,
}

// === impl Identity ===

impl Identity {
    /// How its requests stand before the spoke's API server.
    pub fn mode(&self) -> Mode {
        if self.impersonation.is_some() { Mode::Impersonate } else { Mode::Caller }
    }

    /// Marks a request with the way it stands before the spoke's API server, and for whom.
    pub fn stand(&self, headers: &mut HeaderMap) {
        headers.insert(MODE, self.mode().into());
        if let Some(impersonated) = &self.impersonation {
            headers.extend(impersonated.headers.clone());
        }
    }

    /// How many bytes its names take, about.
    pub(super) fn size(&self) -> usize {
        let named = self.impersonation.iter().flat_map(|named| {
            let groups = named.groups.iter().map(|group| group.len() + OVERHEAD);
            let lines = named.headers.iter().map(|(_, value)| value.len() + OVERHEAD);
            let own = named.own.iter().flat_map(|own| &own.groups);
            groups.chain(lines).chain(own.map(|group| group.len() + OVERHEAD))
        });
        self.user.len() + named.sum::<usize>()
    }

    /// A user whom an issuer vouches for, under the names that its configuration makes.
    ///
    /// # Errors
    /// When a name cannot be carried as it is.
    pub(super) fn of_issuer(person: Person) -> Result<Self, Unwritable> {
        let Person { user, uid, groups, expires } = person;
        let own = !std::iter::once(&user).chain(&groups).any(|name| name.starts_with(SYSTEM));
        let own = own.then(|| {
            Arc::new(UserInfo {
                username: user.clone(),
                uid: uid.clone().unwrap_or_default(),
                groups: groups.clone(),
                extra: BTreeMap::new(),
            })
        });
        let said = Impersonation { user, uid, groups, extra: Vec::new() };
        Self::said(said, Voucher::Issuer, own, Some(expires))
    }

    /// A user whom the hub's own API server knows. No name of theirs can be one of the spoke's:
    /// user, groups and uid get [`HUB_PREFIX`], and extra goes under keys of ours. Only those that an
    /// operator has listed have other `names`.
    ///
    /// # Errors
    /// When a name cannot be carried as it is.
    pub(super) fn of_hub(
        user: &Arc<UserInfo>,
        names: &UnprefixedNames,
        expires: Option<SystemTime>,
    ) -> Result<Self, Unwritable> {
        let UserInfo { username, uid, groups, extra } = &**user;
        if username.is_empty() {
            return Err(Unwritable("the user name"));
        }
        let prefixed = |name: &String| format!("{HUB_PREFIX}{name}");
        let marked = |(key, of): (&String, &Vec<String>)| (format!("{HUB_EXTRA}{key}"), of.clone());
        let said = Impersonation {
            user: names.user(username),
            uid: Some(uid).filter(|uid| !uid.is_empty()).map(prefixed),
            groups: groups.iter().map(|group| names.group(group)).collect(),
            extra: extra.iter().map(marked).collect(),
        };
        Self::said(said, Voucher::Hub, Some(Arc::clone(user)), expires)
    }

    fn said(
        said: Impersonation,
        by: Voucher,
        own: Option<Arc<UserInfo>>,
        expires: Option<SystemTime>,
    ) -> Result<Self, Unwritable> {
        let mut headers = HeaderMap::new();
        said.write(&mut headers)?;
        let Impersonation { user, groups, .. } = said;
        let impersonation = Some(Impersonated { groups, headers, by, own });
        Ok(Self { user, impersonation, account_uid: None, bound: true, expires })
    }
}

/// What users, groups and uids of the hub begin with on a spoke.
pub(crate) const HUB_PREFIX: &str = "cluster:hub:";

/// What Kubernetes' own names begin with. An issuer that is let make such names makes nobody on the
/// hub.
const SYSTEM: &str = "system:";

/// Bytes that a name costs besides its own.
const OVERHEAD: usize = 64;

/// Where extra of the hub's users goes.
const HUB_EXTRA: &str = "cluster-proxy/hub/";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account() -> UserInfo {
        let extra = [("authentication.kubernetes.io/credential-id", "JTI=1"), ("Scopes", "a")];
        UserInfo {
            username: "system:serviceaccount:ops:deployer".to_owned(),
            uid: "7".to_owned(),
            groups: vec!["system:serviceaccounts".to_owned(), "system:masters".to_owned()],
            extra: extra.map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).into(),
        }
    }

    #[test]
    fn every_name_is_marked_as_the_hubs() {
        let identity =
            Identity::of_hub(&account().into(), &UnprefixedNames::default(), None).unwrap();
        assert_eq!(identity.user, "cluster:hub:system:serviceaccount:ops:deployer");
        assert_eq!((identity.mode(), identity.bound), (Mode::Impersonate, true));
        let impersonated = identity.impersonation.unwrap();
        assert_eq!(
            impersonated.groups,
            ["cluster:hub:system:serviceaccounts", "cluster:hub:system:masters"]
        );
        let read = Impersonation::read(&impersonated.headers).unwrap();
        assert_eq!((read.user, read.groups), (identity.user, impersonated.groups));
        assert_eq!(read.uid.as_deref(), Some("cluster:hub:7"));
        let mut extra = read.extra;
        extra.sort_unstable();
        let expected = [
            ("cluster-proxy/hub/Scopes", "a"),
            ("cluster-proxy/hub/authentication.kubernetes.io/credential-id", "JTI=1"),
        ];
        assert_eq!(extra, expected.map(|(key, value)| (key.to_owned(), vec![value.to_owned()])));
    }

    #[test]
    fn who_cannot_be_carried_whole_is_not_carried() {
        let nobody = UserInfo::default();
        assert!(Identity::of_hub(&nobody.into(), &UnprefixedNames::default(), None).is_err());
        for bad in ["a\nImpersonate-Group: system:masters", "a ", "\u{7f}"] {
            let group = UserInfo { groups: vec![bad.to_owned()], ..account() };
            assert_eq!(
                Identity::of_hub(&group.into(), &UnprefixedNames::default(), None),
                Err(Unwritable("a group")),
                "{bad:?}"
            );
        }
        let without_uid = UserInfo { uid: String::new(), ..account() };
        let identity =
            Identity::of_hub(&without_uid.into(), &UnprefixedNames::default(), None).unwrap();
        assert!(!identity.impersonation.unwrap().headers.contains_key("impersonate-uid"));
    }

    proptest! {
        /// Whatever the hub's API server says: nothing of it is a name of the spoke's own.
        #[test]
        fn nothing_crosses_unmarked(
            username in "\\PC{0,30}",
            uid in "\\PC{0,30}",
            groups in prop::collection::vec("(system:)?\\PC{0,20}", 0..4),
            keys in prop::collection::vec("\\PC{0,20}", 0..3),
        ) {
            let extra: BTreeMap<_, _> =
                keys.into_iter().map(|key| (key, vec!["v".to_owned()])).collect();
            let user = UserInfo { username, uid, groups, extra };
            if let Ok(identity) = Identity::of_hub(&user.into(), &UnprefixedNames::default(), None) {
                let headers = identity.impersonation.unwrap().headers;
                let read = Impersonation::read(&headers).unwrap();
                let names = std::iter::once(&read.user).chain(&read.uid).chain(&read.groups);
                for name in names {
                    prop_assert!(name.starts_with("cluster:hub:"), "{name}");
                }
                for (key, _) in &read.extra {
                    prop_assert!(key.starts_with("cluster-proxy/hub/"), "{key}");
                }
            }
        }
    }
}
