//! What should be, from what is. Pure.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::ObjectMeta;
use kube::{Resource as _, ResourceExt as _};

use super::api::{MANAGED, ManagedServiceAccount, PROXY_CA, REQUESTED, SPOKE_CA, TOKEN};
use super::token::{Claims, Wanted};
use crate::hash::sha256_hex;

/// Whether a new token is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// One is.
    Mint(Why),
    /// The one that is there is good, until then.
    Keep(Timestamp),
}

/// Why a new token is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The status names none.
    Unreported,
    /// The Secret, or the token in it, is missing.
    Missing,
    /// The Secret has something else.
    Malformed,
    /// It is of another ServiceAccount, or of one before of that name.
    Foreign,
    /// Something else is asked for than it was asked for with.
    Changed,
    /// Most of its life is over.
    Due,
    /// The spoke's API server does not accept it.
    Refused,
}

/// Decides by what can be seen without asking the spoke. `known` is when the token was renewed and when
/// it ends, `subject` is what the token should be of,
/// `uid` that of the ServiceAccount on the spoke, as far as it is known.
pub(super) fn refresh(
    account: &ManagedServiceAccount,
    known: Option<(Timestamp, Timestamp)>,
    secret: Option<&Secret>,
    wanted: &Wanted,
    subject: &str,
    uid: Option<&str>,
    now: Timestamp,
) -> Decision {
    let Some((refreshed, expires)) = known else {
        return Decision::Mint(Why::Unreported);
    };
    let Some((secret, token)) = secret.and_then(|secret| Some((secret, token(secret)?))) else {
        return Decision::Mint(Why::Missing);
    };
    let Some(claims) = Claims::of(token) else { return Decision::Mint(Why::Malformed) };
    if claims.subject != subject || uid.is_some_and(|uid| uid != claims.account) {
        return Decision::Mint(Why::Foreign);
    }
    if !asked_for(secret, wanted) {
        return Decision::Mint(Why::Changed);
    }
    // A status that others wrote does not make a token live longer.
    let (start, end) = (refreshed.min(claims.issued), expires.min(claims.expires));
    let due = threshold(start, end, jitter(account, start));
    if due <= now { Decision::Mint(Why::Due) } else { Decision::Keep(due) }
}

/// When the token was renewed and when it ends, as far as the status says both.
pub(super) fn reported(account: &ManagedServiceAccount) -> Option<(Timestamp, Timestamp)> {
    let status = account.status.as_ref()?;
    let refreshed = status.token_secret_ref.as_ref()?.last_refresh_timestamp.parse().ok()?;
    let expires = status.expiration_timestamp.as_ref()?.parse().ok()?;
    Some((refreshed, expires))
}

/// Whether the Secret still has a token that has not ended.
pub(super) fn is_usable(secret: Option<&Secret>, now: Timestamp) -> bool {
    secret.and_then(token).and_then(Claims::of).is_some_and(|claims| claims.expires > now)
}

/// The token in a Secret.
pub(super) fn token(secret: &Secret) -> Option<&str> {
    std::str::from_utf8(&secret.data.as_ref()?.get(TOKEN)?.0).ok()
}

/// When a token that lives from `start` to `end` is renewed: at 80 % of its life, or up to a
/// twentieth of its life earlier, as `jitter` (0 to 1) has it.
fn threshold(start: Timestamp, end: Timestamp, jitter: f64) -> Timestamp {
    let life = end.duration_since(start).max(SignedDuration::ZERO);
    let wait = life.mul_f64(RENEWED_AT - EARLIER * jitter);
    start.checked_add(wait).unwrap_or(end)
}

/// The same for one token at every look, and different for tokens that were renewed together.
fn jitter(account: &ManagedServiceAccount, start: Timestamp) -> f64 {
    let text = format!("{} {}", account.uid().unwrap_or_default(), start.as_second());
    let digits = &sha256_hex(text.as_bytes())[..8];
    f64::from(u32::from_str_radix(digits, 16).unwrap_or_default()) / f64::from(u32::MAX)
}

/// When an account with a limited life is to be deleted.
pub(super) fn end(account: &ManagedServiceAccount) -> Option<Timestamp> {
    let seconds = account.spec.ttl_seconds_after_creation?;
    let created = account.creation_timestamp()?.0;
    created.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// The authorities that a Secret carries, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authorities {
    /// Of the spoke's own API server.
    pub(super) spoke: String,
    /// Of the hub's user listener; empty where it is not known.
    pub(super) proxy: String,
}

/// The Secret of an account, as it is applied.
pub(super) fn secret(
    account: &ManagedServiceAccount,
    token: &str,
    wanted: &Wanted,
    authorities: &Authorities,
) -> Secret {
    let data = [
        (TOKEN, token.as_bytes()),
        (SPOKE_CA, authorities.spoke.as_bytes()),
        (PROXY_CA, authorities.proxy.as_bytes()),
    ];
    let data = data.into_iter().filter(|(_, value)| !value.is_empty());
    let data = data.map(|(key, value)| (key.to_owned(), ByteString(value.to_vec())));
    Secret {
        metadata: ObjectMeta {
            name: account.metadata.name.clone(),
            namespace: account.metadata.namespace.clone(),
            labels: Some(BTreeMap::from([(MANAGED.to_owned(), "true".to_owned())])),
            annotations: Some(BTreeMap::from([(REQUESTED.to_owned(), request_text(wanted))])),
            owner_references: Some(account.owner_ref(&()).into_iter().collect()),
            ..ObjectMeta::default()
        },
        data: Some(data.collect()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// Whether a Secret is what it should be. What others added does not matter.
pub(super) fn is_as(current: &Secret, wanted: &Secret) -> bool {
    let contains = |have: &BTreeMap<String, String>, want: &Option<BTreeMap<String, String>>| {
        want.iter().flatten().all(|(key, value)| have.get(key) == Some(value))
    };
    let empty = BTreeMap::new();
    let data = current.data.as_ref().unwrap_or(&empty);
    current.type_ == wanted.type_
        && contains(current.labels(), &wanted.metadata.labels)
        && contains(current.annotations(), &wanted.metadata.annotations)
        && wanted.owner_references().iter().all(|owner| current.owner_references().contains(owner))
        && wanted.data.iter().flatten().all(|(key, value)| data.get(key) == Some(value))
}

/// Whether a Secret was made for the account of its name: it says so, or belongs to one.
pub(super) fn is_managed(secret: &Secret) -> bool {
    let mut owners = secret.owner_references().iter();
    is_labelled(&secret.metadata)
        || owners.any(|owner| {
            owner.kind == ManagedServiceAccount::kind(&()) && owner.name == secret.name_any()
        })
}

/// Whether something is labelled as made for a managed service account.
pub(super) fn is_labelled(metadata: &ObjectMeta) -> bool {
    metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED)).is_some_and(|on| on == "true")
}

/// Secrets of upstream's controller do not say what they were asked for with: without audiences.
fn asked_for(secret: &Secret, wanted: &Wanted) -> bool {
    match secret.annotations().get(REQUESTED) {
        Some(text) => *text == request_text(wanted),
        None => wanted.audiences.is_empty(),
    }
}

fn request_text(wanted: &Wanted) -> String {
    // A structure of a number and texts has a form in JSON whatever they hold.
    serde_json::to_string(wanted).expect("numbers and texts can always be written")
}

/// As upstream: a fifth of the life is left for a spoke that is away.
const RENEWED_AT: f64 = 0.8;
/// Wide enough to spread what was renewed in one burst.
const EARLIER: f64 = 0.05;

#[cfg(test)]
mod tests;
