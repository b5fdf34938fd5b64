//! Who is asking: bearer tokens and impersonation.

use http::{HeaderMap, header};
use serde_json::{Map, Value, json};

use super::object;
use super::rbac::{self, Attributes};
use super::response::MiniStatus;
use super::store::{Key, Store};
use super::tokens::{Kubernetes, Reference, Tokens};
use crate::percent;

/// A user, as RBAC and reviews see one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// Name.
    pub(super) username: String,
    /// Unique id, may be empty.
    pub(super) uid: String,
    /// Groups.
    pub(super) groups: Vec<String>,
    /// Further attributes.
    pub(super) extra: Map<String, Value>,
}

// === impl Identity ===

impl Identity {
    /// Somebody without a token.
    pub(super) fn anonymous() -> Self {
        Self {
            username: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..Self::default()
        }
    }

    /// As reviews write it.
    pub(super) fn to_value(&self) -> Value {
        let mut user = json!({"username": self.username, "groups": self.groups});
        if !self.uid.is_empty() {
            user["uid"] = self.uid.clone().into();
        }
        if !self.extra.is_empty() {
            user["extra"] = Value::Object(self.extra.clone());
        }
        user
    }
}

/// Who a request's bearer token stands for: `None` without a token, 401 for a bad one.
pub(super) fn authenticate(
    store: &Store,
    tokens: &Tokens,
    headers: &HeaderMap,
) -> Result<Option<Identity>, MiniStatus> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    let token = token.ok_or_else(MiniStatus::unauthorized)?;
    let (identity, _) =
        review(store, tokens, token, tokens.audiences()).ok_or_else(MiniStatus::unauthorized)?;
    Ok(Some(identity))
}

/// Checks a token as TokenReview does: signature, time, audiences, and that its ServiceAccount and
/// what else it is bound to still exist. Never from a cache, as an API server would for ten seconds. Returns who it is and which of the wanted `audiences` it has.
pub(super) fn review(
    store: &Store,
    tokens: &Tokens,
    token: &str,
    audiences: &[String],
) -> Option<(Identity, Vec<String>)> {
    let claims = tokens.verify(token)?;
    let common: Vec<String> =
        claims.aud.iter().filter(|one| audiences.contains(one)).cloned().collect();
    if common.is_empty() {
        return None;
    }
    let Kubernetes { namespace, serviceaccount: account, pod, secret, node } = claims.kubernetes;
    let stands = |plural: &str, namespace: &str, object: &Reference| {
        let stored = store.get(&Key::new("", plural, namespace, &object.name));
        stored.is_some_and(|stored| object::uid(&stored) == object.uid)
    };
    let bound_to =
        [("pods", &namespace[..], &pod), ("secrets", &namespace, &secret), ("nodes", "", &node)];
    let all_stand = bound_to.into_iter().all(|(plural, namespace, object)| {
        object.as_ref().is_none_or(|object| stands(plural, namespace, object))
    });
    if !stands("serviceaccounts", &namespace, &account) || !all_stand {
        return None;
    }
    let mut extra = Map::new();
    let mut attribute = |name: &str, value: String| {
        extra.insert(format!("authentication.kubernetes.io/{name}"), json!([value]));
    };
    attribute("credential-id", format!("JTI={}", claims.jti));
    if let Some(pod) = pod {
        attribute("pod-name", pod.name);
        attribute("pod-uid", pod.uid);
    }
    let identity = Identity {
        username: format!("system:serviceaccount:{namespace}:{}", account.name),
        uid: account.uid,
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            AUTHENTICATED.to_owned(),
        ],
        extra,
    };
    Some((identity, common))
}

/// Applies the `Impersonate-*` headers when `identity` may: each name, group and extra needs the
/// verb `impersonate` of its own.
pub(super) fn impersonate(
    store: &Store,
    identity: Identity,
    headers: &HeaderMap,
) -> Result<Identity, MiniStatus> {
    let texts = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    };
    let user = texts("impersonate-user").into_iter().next().unwrap_or_default();
    let mut groups = texts("impersonate-group");
    let extra = headers.keys().filter_map(|name| name.as_str().strip_prefix(EXTRA_PREFIX));
    let extra: Vec<(String, Vec<String>)> = extra
        .map(|key| (percent::decode(key).into_owned(), texts(&format!("{EXTRA_PREFIX}{key}"))))
        .collect();
    let uid = texts("impersonate-uid").into_iter().next().unwrap_or_default();
    if user.is_empty() {
        let nothing = groups.is_empty() && extra.is_empty() && uid.is_empty();
        let message = "requested impersonation without impersonating a user";
        return if nothing { Ok(identity) } else { Err(MiniStatus::bad_request(message)) };
    }
    let may = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        rbac::check(
            store,
            &identity,
            &Attributes {
                verb: "impersonate".to_owned(),
                group: group.to_owned(),
                resource: resource.to_owned(),
                subresource: subresource.to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                path: String::new(),
            },
        )
    };
    for group in &groups {
        may("", "groups", "", "", group)?;
    }
    match user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, name)) => {
            may("", "serviceaccounts", "", namespace, name)?;
            if groups.is_empty() {
                groups.push("system:serviceaccounts".to_owned());
                groups.push(format!("system:serviceaccounts:{namespace}"));
            }
        }
        None => may("", "users", "", "", &user)?,
    }
    let mut attributes = Map::new();
    for (key, values) in extra {
        for value in &values {
            may("authentication.k8s.io", "userextras", &key, "", value)?;
        }
        attributes.insert(key, json!(values));
    }
    if !uid.is_empty() {
        may("authentication.k8s.io", "uids", "", "", &uid)?;
    }
    if user == "system:anonymous" {
        groups.push("system:unauthenticated".to_owned());
    } else if !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    Ok(Identity { username: user, uid, groups, extra: attributes })
}

const AUTHENTICATED: &str = "system:authenticated";
const EXTRA_PREFIX: &str = "impersonate-extra-";
