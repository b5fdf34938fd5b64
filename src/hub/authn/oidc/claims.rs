//! What an issuer's token says once its signature is known to be good. Pure: `now` is an argument.

use std::time::SystemTime;

use serde_json::{Map, Value};

use super::config::{ClaimMapping, EMAIL, IssuerConfig};
use crate::hub::authn::Refusal;
use crate::hub::authn::claims::{LEEWAY, MAX_AUDIENCES, ends, moment};
use crate::hub::authn::identity::HUB_PREFIX;
use crate::hub::authn::token::strict_object;

/// Who a token speaks for, under the names that spokes know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hub::authn) struct Person {
    /// User name, its prefix included.
    pub(in crate::hub::authn) user: String,
    /// uid, where the configuration names its claim.
    pub(in crate::hub::authn) uid: Option<String>,
    /// Groups, their prefix included.
    pub(in crate::hub::authn) groups: Vec<String>,
    /// The first moment at which the token is refused.
    pub(in crate::hub::authn) expires: SystemTime,
}

/// Checks the claims of a token that a key of `issuer` has signed with an algorithm it may use.
pub(in crate::hub::authn) fn check(
    payload: &[u8],
    issuer: &IssuerConfig,
    now: SystemTime,
) -> Result<Person, Refusal> {
    let claims: Map<String, Value> = strict_object(payload).ok_or(Refusal::Claims)?;
    if text(&claims, "iss")? != issuer.url.as_str() {
        return Err(Refusal::Issuer);
    }
    if !is_for(claims.get("aud"), &issuer.audiences) {
        return Err(Refusal::Audience);
    }
    let expires = ends(seconds(&claims, "exp")?.ok_or(Refusal::Claims)?);
    if now >= expires {
        return Err(Refusal::Expired);
    }
    for claim in ["nbf", "iat"] {
        if seconds(&claims, claim)?.is_some_and(|from| moment(from) > now + LEEWAY) {
            return Err(Refusal::NotYetValid);
        }
    }
    let is_as_required = |(claim, value): &(String, String)| {
        claims.get(claim).and_then(Value::as_str) == Some(value.as_str())
    };
    if !issuer.required.iter().all(is_as_required) {
        return Err(Refusal::RequiredClaim);
    }
    let user = username(&claims, &issuer.username)?;
    let groups = issuer.groups.as_ref().map(|mapping| groups(&claims, mapping)).transpose()?;
    let groups = groups.unwrap_or_default();
    let uid = issuer.uid.as_deref().map(|claim| text(&claims, claim)).transpose()?;
    let names = || std::iter::once(&user).chain(&groups);
    // Nobody but the hub says who its own users are.
    let is_reserved = |name: &String| {
        name.starts_with(HUB_PREFIX)
            || issuer.reserved.iter().any(|prefix| name.starts_with(prefix))
    };
    if names().any(is_reserved) {
        return Err(Refusal::Subject);
    }
    if names().map(String::len).sum::<usize>() > MAX_NAMES {
        return Err(Refusal::Claims);
    }
    Ok(Person { user, uid: uid.map(str::to_owned), groups, expires })
}

fn username(claims: &Map<String, Value>, mapping: &ClaimMapping) -> Result<String, Refusal> {
    let name = text(claims, &mapping.claim)?;
    // Whoever may write an address that is not theirs would be whom they like.
    let denied =
        claims.get("email_verified").is_some_and(|verified| *verified != Value::Bool(true));
    if mapping.claim == EMAIL && denied {
        return Err(Refusal::Subject);
    }
    Ok(format!("{}{name}", mapping.prefix))
}

fn groups(claims: &Map<String, Value>, mapping: &ClaimMapping) -> Result<Vec<String>, Refusal> {
    let group = |name: &Value| match name.as_str() {
        Some(name) if !name.is_empty() => Ok(format!("{}{name}", mapping.prefix)),
        _ => Err(Refusal::Claims),
    };
    match claims.get(&mapping.claim) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(names)) => names.iter().map(group).collect(),
        Some(one) => group(one).map(|name| vec![name]),
    }
}

/// A claim that must be there and say something.
fn text<'a>(claims: &'a Map<String, Value>, claim: &str) -> Result<&'a str, Refusal> {
    claims.get(claim).and_then(Value::as_str).filter(|text| !text.is_empty()).ok_or(Refusal::Claims)
}

/// A moment in seconds; issuers also write parts of one (RFC 7519 section 2, `NumericDate`).
fn seconds(claims: &Map<String, Value>, claim: &str) -> Result<Option<u64>, Refusal> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let whole = value.as_u64();
    // A cast from a float saturates; below zero there is no honest token.
    let part = || value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64);
    whole.or_else(part).map(Some).ok_or(Refusal::Claims)
}

fn is_for(audience: Option<&Value>, accepted: &[String]) -> bool {
    let among =
        |name: &Value| name.as_str().is_some_and(|name| accepted.iter().any(|one| one == name));
    match audience {
        Some(Value::Array(names)) => names.len() <= MAX_AUDIENCES && names.iter().any(among),
        Some(one) => among(one),
        None => false,
    }
}

/// All names of a caller, bytes: they cross in headers of each request, and an API server reads at
/// most 1 MiB of these. A token of 16 KiB stays below unless its prefixes are long.
const MAX_NAMES: usize = 64 * 1024;

#[cfg(test)]
mod tests;
