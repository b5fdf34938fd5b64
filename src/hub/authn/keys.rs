//! Public keys as an API server publishes them (`/openid/v1/jwks`, RFC 7517), and the one place
//! where a signature is checked.
//!
//! How a key may be used is fixed by the key: RSA verifies RS256/384/512, P-256 verifies ES256,
//! P-384 verifies ES384, and an `alg` beside the key narrows that further. A token's own `alg` must
//! be among them; that is what makes "HS256 with the public key as secret" meaningless.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::{Deserialize, Serialize};

use super::token::Unverified;

/// A key that can verify tokens. Two spellings of one key have one thumbprint.
pub(super) struct PublicKey {
    /// RFC 7638 thumbprint, SHA-256, base64url: who owns the key is recorded under it.
    pub(super) thumbprint: String,
    key_id: Option<String>,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
    jwk: Jwk,
}

/// What a document of keys held.
pub(super) struct Published {
    /// At least one, at most [`MAX_KEYS`].
    pub(super) keys: Vec<PublicKey>,
    /// Entries that cannot verify anything here: other key types, weak or malformed keys, too many.
    pub(super) unusable: usize,
}

/// A key in the only spelling that we store (RFC 7517 section 4, RFC 7518 section 6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Jwk {
    kty: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<String>,
}

/// Why a document of keys is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeysError {
    /// Not JSON, or not `{"keys": [...]}`.
    #[error("the answer is not a JSON Web Key Set")]
    NotKeys,
    /// No entry can verify a token. The last good set is worth more than an empty one.
    #[error("none of its {0} keys can verify a token (RSA of 2048 to 8192 bits, P-256 or P-384)")]
    NoneUsable(usize),
}

/// Reads a document of keys.
pub(super) fn parse(document: &[u8]) -> Result<Published, KeysError> {
    let Document { keys: entries } =
        serde_json::from_slice(document).map_err(|_| KeysError::NotKeys)?;
    let total = entries.len();
    let mut keys: Vec<PublicKey> = Vec::new();
    let mut repeated = 0;
    for entry in entries {
        let Some(key) = serde_json::from_value(entry).ok().and_then(PublicKey::from_jwk) else {
            continue;
        };
        let same =
            |known: &PublicKey| known.thumbprint == key.thumbprint && known.key_id == key.key_id;
        if keys.iter().any(same) {
            repeated += 1;
        } else if keys.len() < MAX_KEYS {
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return Err(KeysError::NoneUsable(total));
    }
    let unusable = total - keys.len() - repeated;
    Ok(Published { keys, unusable })
}

// === impl PublicKey ===

impl PublicKey {
    /// The key in `jwk`, or nothing when it cannot verify a token.
    pub(super) fn from_jwk(jwk: Jwk) -> Option<Self> {
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig")
            || jwk.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KEY_ID)
        {
            return None;
        }
        let (canonical, possible, decoding) = match jwk.kty.as_str() {
            "RSA" => rsa(&jwk)?,
            "EC" => elliptic(&jwk)?,
            _ => return None,
        };
        let algorithms: Vec<Algorithm> = match &jwk.alg {
            None => possible.to_vec(),
            Some(name) => {
                let named = name.parse::<Algorithm>().ok()?;
                possible.iter().copied().filter(|algorithm| *algorithm == named).collect()
            }
        };
        if algorithms.is_empty() {
            return None;
        }
        Some(Self {
            thumbprint: canonical.thumbprint(),
            key_id: jwk.kid.clone(),
            algorithms,
            decoding,
            jwk: Jwk { kid: jwk.kid, alg: jwk.alg, ..canonical },
        })
    }

    /// Whether a token that names `key_id` may have been signed by this key. A key without an id
    /// may have signed anything, and so may any key when the token names none.
    pub(super) fn may_be(&self, key_id: Option<&str>) -> bool {
        match (&self.key_id, key_id) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        }
    }

    /// Whether this key made the signature.
    pub(super) fn verifies(&self, token: &Unverified<'_>) -> bool {
        self.algorithms.contains(&token.algorithm)
            && jsonwebtoken::crypto::verify(
                token.signature,
                token.message.as_bytes(),
                &self.decoding,
                token.algorithm,
            )
            .unwrap_or(false)
    }

    /// The form to store.
    pub(super) fn jwk(&self) -> &Jwk {
        &self.jwk
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PublicKey").field(&self.thumbprint).finish()
    }
}

// === impl Jwk ===

impl Jwk {
    /// RFC 7638 section 3: the required members only, in lexical order. Called on canonical
    /// members, which are base64url and need no escaping.
    fn thumbprint(&self) -> String {
        let member = |value: &Option<String>| value.clone().unwrap_or_default();
        let text = if self.kty == "RSA" {
            format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, member(&self.e), member(&self.n))
        } else {
            format!(
                r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#,
                member(&self.crv),
                member(&self.x),
                member(&self.y)
            )
        };
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        URL_SAFE_NO_PAD.encode(digest)
    }
}

type Parts = (Jwk, &'static [Algorithm], DecodingKey);

fn rsa(jwk: &Jwk) -> Option<Parts> {
    // A leading zero would spell the same key with another thumbprint, and so with another owner.
    let strip = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect();
    let n: Vec<u8> = strip(decode(&jwk.n)?);
    let e: Vec<u8> = strip(decode(&jwk.e)?);
    let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
    // An exponent of 1 makes every message its own signature; five bytes hold 65537 and any other
    // exponent that libraries accept.
    let sane = e.len() <= 5 && e.last()? % 2 == 1 && e != [1];
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) || !sane {
        return None;
    }
    let canonical = Jwk {
        kty: "RSA".to_owned(),
        n: Some(URL_SAFE_NO_PAD.encode(&n)),
        e: Some(URL_SAFE_NO_PAD.encode(&e)),
        ..Jwk::default()
    };
    let algorithms = &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];
    Some((canonical, algorithms, DecodingKey::from_rsa_raw_components(&n, &e)))
}

fn elliptic(jwk: &Jwk) -> Option<Parts> {
    let (size, algorithms): (usize, &'static [Algorithm]) = match jwk.crv.as_deref()? {
        "P-256" => (32, &[Algorithm::ES256]),
        "P-384" => (48, &[Algorithm::ES384]),
        _ => return None,
    };
    let (x, y) = (decode(&jwk.x)?, decode(&jwk.y)?);
    if x.len() != size || y.len() != size {
        return None;
    }
    let canonical = Jwk {
        kty: "EC".to_owned(),
        crv: jwk.crv.clone(),
        x: Some(URL_SAFE_NO_PAD.encode(&x)),
        y: Some(URL_SAFE_NO_PAD.encode(&y)),
        ..Jwk::default()
    };
    // SEC 1 section 2.3.3: an uncompressed point. `from_ec_der` takes it as it is.
    let point = [&[4_u8][..], &x, &y].concat();
    Some((canonical, algorithms, DecodingKey::from_ec_der(&point)))
}

fn decode(member: &Option<String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(member.as_ref()?).ok()
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

/// API servers publish one to three. A token without `kid` is tried against all of them, so the
/// number bounds what such a token costs.
const MAX_KEYS: usize = 16;

const MAX_KEY_ID: usize = 256;

/// NIST SP 800-131A: less is not acceptable for verification of new signatures.
const MIN_RSA_BITS: usize = 2048;

/// The largest that aws-lc verifies.
const MAX_RSA_BITS: usize = 8192;

#[cfg(test)]
mod tests;
