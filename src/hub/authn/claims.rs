//! What a token says once its signature is known to be good. Pure: `now` is an argument.
//!
//! The API server behind the tunnel checks all of this again, and the bound objects too. The hub
//! checks it so that nobody reaches a tunnel with a token that the API server must refuse, and so
//! that a token of another purpose (another audience, another kind of subject) is not taken for one.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::token::strict_object;
use super::{AuthnConfig, AuthnError, Explanation, Refusal};

/// What the cluster in the path accepts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted<'a> {
    /// `iss` must be one of them, byte for byte.
    pub(super) issuers: &'a [String],
    /// `aud` must hold one of them, byte for byte.
    pub(super) audiences: &'a [String],
}

/// A subject whose token passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub(super) user: String,
    /// uid of the ServiceAccount, where the token says it (legacy ones do not).
    pub(super) account_uid: Option<String>,
    /// Whether the token also ends with a Pod, a Node or a Secret.
    pub(super) bound: bool,
    /// The first moment at which this token is refused: `exp` and [`LEEWAY`]. None for legacy tokens.
    pub(super) expires: Option<SystemTime>,
}

/// Checks the claims of a token whose signature was made by a key of the cluster.
pub(super) fn check(
    payload: &[u8],
    accepted: Accepted<'_>,
    config: &AuthnConfig,
    now: SystemTime,
) -> Result<Subject, AuthnError> {
    let claims: Claims = strict_object(payload).ok_or(Refusal::Claims)?;
    let expires = if claims.is_legacy() {
        if !config.allow_legacy_tokens {
            return Err(AuthnError::Explained(Explanation::LegacyToken));
        }
        claims.exp.map(ends)
    } else {
        if !accepted.issuers.contains(&claims.iss) {
            return Err(Refusal::Issuer.into());
        }
        if !claims.aud.as_ref().is_some_and(|aud| aud.holds_one_of(accepted.audiences)) {
            return Err(Refusal::Audience.into());
        }
        Some(ends(claims.exp.ok_or(Refusal::Claims)?))
    };
    check_times(&claims, expires, now)?;
    let namespace = claims.check_subject()?;
    if config.managed_only.as_deref().is_some_and(|managed| managed != namespace) {
        return Err(AuthnError::Explained(Explanation::NotManaged));
    }
    Ok(claims.subject(expires))
}

/// Checks the claims of a token whose signature was made by a key of the hub. Issuer, audience and
/// bound objects are its API server's to judge.
pub(super) fn check_of_hub(
    payload: &[u8],
    config: &AuthnConfig,
    now: SystemTime,
) -> Result<Subject, AuthnError> {
    let claims: Claims = strict_object(payload).ok_or(Refusal::Claims)?;
    if claims.is_legacy() && !config.allow_legacy_tokens {
        return Err(AuthnError::Explained(Explanation::LegacyToken));
    }
    if !claims.is_legacy() && claims.exp.is_none() {
        return Err(Refusal::Claims.into());
    }
    let expires = claims.exp.map(ends);
    check_times(&claims, expires, now)?;
    claims.check_subject()?;
    Ok(claims.subject(expires))
}

/// Whether a token was made for `audience` alone, for `user`: the proof of a key.
pub(super) fn is_proof(payload: &[u8], audience: &str, user: &str) -> bool {
    let claims: Option<Claims> = strict_object(payload);
    claims.is_some_and(|claims| {
        claims.sub == user && claims.aud.is_some_and(|aud| aud.is_only(audience))
    })
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Option<Audiences>,
    /// Whole seconds (API servers write nothing else), so `"never"`, 1.5 and 1e400 do not parse.
    exp: Option<u64>,
    nbf: Option<u64>,
    iat: Option<u64>,
    #[serde(rename = "kubernetes.io")]
    bound: Option<Bound>,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    legacy_namespace: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    legacy_name: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    legacy_secret: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Bound {
    namespace: String,
    serviceaccount: Reference,
    pod: Option<Reference>,
    node: Option<Reference>,
    secret: Option<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    uid: String,
}

// === impl Claims ===

impl Claims {
    /// Secret-bound tokens from before Kubernetes 1.24: an issuer of their own, flat claims, no
    /// audience, and in practice no end.
    fn is_legacy(&self) -> bool {
        self.iss == LEGACY_ISSUER
    }

    fn subject(self, expires: Option<SystemTime>) -> Subject {
        let bound = self.bound.as_ref().is_none_or(Bound::is_to_more);
        let account_uid = self.bound.map(|bound| bound.serviceaccount.uid);
        Subject { user: self.sub, account_uid, bound, expires }
    }

    /// That the token speaks for exactly the ServiceAccount it names; returns its namespace.
    fn check_subject(&self) -> Result<&str, Refusal> {
        let (namespace, name) = self
            .sub
            .strip_prefix(SERVICE_ACCOUNT)
            .and_then(|account| account.split_once(':'))
            .filter(|(namespace, name)| is_label(namespace) && is_subdomain(name))
            .ok_or(Refusal::Subject)?;
        let consistent = if self.is_legacy() {
            self.bound.is_none()
                && self.legacy_namespace.as_deref() == Some(namespace)
                && self.legacy_name.as_deref() == Some(name)
                && self.legacy_secret.as_deref().is_some_and(|secret| !secret.is_empty())
        } else {
            self.bound.as_ref().is_some_and(|bound| bound.is_for(namespace, name))
        };
        if consistent { Ok(namespace) } else { Err(Refusal::Subject) }
    }
}

// === impl Audiences ===

impl Audiences {
    fn holds_one_of(&self, accepted: &[String]) -> bool {
        let among = |audience: &String| !audience.is_empty() && accepted.contains(audience);
        match self {
            Self::One(audience) => among(audience),
            Self::Many(audiences) => {
                audiences.len() <= MAX_AUDIENCES && audiences.iter().any(among)
            }
        }
    }

    fn is_only(&self, wanted: &str) -> bool {
        match self {
            Self::One(audience) => audience == wanted,
            Self::Many(audiences) => audiences.as_slice() == [wanted],
        }
    }
}

// === impl Bound ===

impl Bound {
    fn is_for(&self, namespace: &str, name: &str) -> bool {
        let bound_to = [&self.pod, &self.node, &self.secret];
        self.namespace == namespace
            && self.serviceaccount.name == name
            && self.serviceaccount.is_whole()
            && bound_to.into_iter().flatten().all(Reference::is_whole)
    }

    /// Whether it ends with something else than its ServiceAccount.
    fn is_to_more(&self) -> bool {
        self.pod.is_some() || self.node.is_some() || self.secret.is_some()
    }
}

// === impl Reference ===

impl Reference {
    /// Nodes may have lost their uid by the time a token is made; nothing may lack a name.
    fn is_whole(&self) -> bool {
        !self.name.is_empty() && self.uid.len() <= MAX_UID
    }
}

fn check_times(
    claims: &Claims,
    expires: Option<SystemTime>,
    now: SystemTime,
) -> Result<(), Refusal> {
    if expires.is_some_and(|expires| now >= expires) {
        return Err(Refusal::Expired);
    }
    let latest = now + LEEWAY;
    let is_future = |seconds: Option<u64>| seconds.is_some_and(|seconds| moment(seconds) > latest);
    if is_future(claims.nbf) || is_future(claims.iat) {
        return Err(Refusal::NotYetValid);
    }
    Ok(())
}

/// The first moment past `exp` and the leeway: `exp + LEEWAY` itself is still good, as in go-jose.
pub(super) fn ends(exp: u64) -> SystemTime {
    moment(exp.saturating_add(1)) + LEEWAY
}

/// A moment; whatever lies beyond [`MAX_SECONDS`] reads as that, which is far enough away.
pub(super) fn moment(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(MAX_SECONDS))
}

/// RFC 1123 label, as namespaces are named.
fn is_label(name: &str) -> bool {
    name.len() <= 63
        && !name.is_empty()
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// RFC 1123 subdomain, as ServiceAccounts are named.
fn is_subdomain(name: &str) -> bool {
    name.len() <= 253
        && !name.is_empty()
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
}

/// Clocks differ: API servers (go-jose) grant one minute too, so nobody is refused here whom they accept.
pub(super) const LEEWAY: Duration = Duration::from_secs(60);

const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// A token for more audiences than this is a mistake or an attack on whoever compares them.
pub(super) const MAX_AUDIENCES: usize = 64;

/// A uid has 36 characters.
const MAX_UID: usize = 128;

/// The year 9999. Keeps arithmetic on times from overflowing.
const MAX_SECONDS: u64 = 253_402_300_799;

#[cfg(test)]
mod tests;
