//! A JSON Web Token taken apart, nothing in it believed.
//!
//! Only two members of the header are read: `alg`, which may veto but never choose how a key is
//! used, and `kid`, which picks among keys that are trusted anyway. `jku`, `x5u`, `x5c` and `jwk`
//! would let a token bring its own key and are not looked at. `crit` (RFC 7515 section 4.1.11) says
//! that the token is wrong to accept without understanding it, so a token with it is refused.
//! Claims are parsed after the signature ([`super::claims`]), never before.

use std::collections::HashSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::Refusal;

/// A token whose form is right. Borrows the token.
pub(super) struct Unverified<'a> {
    /// What the header says it was signed with; one of [`ALGORITHMS`].
    pub(super) algorithm: Algorithm,
    /// Which key the header says it was signed with.
    pub(super) key_id: Option<String>,
    /// Header and payload as they were signed.
    pub(super) message: &'a str,
    /// The signature, still base64url.
    pub(super) signature: &'a str,
    /// The claims, still JSON.
    pub(super) payload: Vec<u8>,
}

// === impl Unverified ===

impl<'a> Unverified<'a> {
    /// Takes `token` apart.
    pub(super) fn parse(token: &'a str) -> Result<Self, Refusal> {
        let mut parts = token.splitn(4, '.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::Opaque);
        };
        let message = &token[..header.len() + 1 + payload.len()];
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| Refusal::Opaque)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Refusal::Opaque)?;
        if signature.is_empty() {
            return Err(Refusal::Algorithm);
        }
        let header: Header = strict_object(&header).ok_or(Refusal::Header)?;
        if header.crit.is_some() {
            return Err(Refusal::Critical);
        }
        if header.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KEY_ID) {
            return Err(Refusal::Header);
        }
        let algorithm = ALGORITHMS
            .into_iter()
            .find(|(name, _)| header.alg.as_deref() == Some(*name))
            .map(|(_, algorithm)| algorithm)
            .ok_or(Refusal::Algorithm)?;
        Ok(Self { algorithm, key_id: header.kid, message, signature, payload })
    }
}

/// Parses a JSON object that names nothing twice and is not nested deeper than any honest token.
/// Parsers disagree about duplicates (first wins, last wins), and a check that reads one of them
/// while the API server reads the other is no check.
pub(super) fn strict_object<T: serde::de::DeserializeOwned>(json: &[u8]) -> Option<T> {
    if !is_shallow(json) {
        return None;
    }
    let mut reader = serde_json::Deserializer::from_slice(json);
    (&mut reader).deserialize_map(UniqueNames).ok()?;
    reader.end().ok()?;
    serde_json::from_slice(json).ok()
}

#[derive(Deserialize)]
struct Header {
    alg: Option<String>,
    kid: Option<String>,
    /// Present at all, `null` included, means refused.
    #[serde(default, deserialize_with = "present")]
    crit: Option<()>,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<()>, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| Some(()))
}

struct UniqueNames;

impl<'de> Visitor<'de> for UniqueNames {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object whose names are unique")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            // Read, not skipped: what is skipped may hold text that is no Unicode, and numbers that are
            // none, which others refuse.
            map.next_value::<Value>()?;
            if !seen.insert(name) {
                return Err(serde::de::Error::custom("a name stands twice"));
            }
        }
        Ok(())
    }
}

fn is_shallow(json: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return false;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

/// What API servers sign with, as far as `jsonwebtoken` verifies it (it has no ES512): no `none`,
/// no HMAC (a public key would be the secret), no PSS (no API server makes it).
pub(super) const ALGORITHMS: [(&str, Algorithm); 5] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
];

/// API servers use 43 characters (a hash of the key).
const MAX_KEY_ID: usize = 256;

/// Claims of a bound token are nested three deep.
const MAX_DEPTH: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    fn refusal(header: &str) -> Option<Refusal> {
        Unverified::parse(&token(header, "{}")).err()
    }

    #[test]
    fn takes_a_token_apart() {
        let text = token(r#"{"alg":"RS256","kid":"k","typ":"JWT"}"#, r#"{"iss":"i"}"#);
        let parsed = Unverified::parse(&text).unwrap();
        assert_eq!((parsed.algorithm, parsed.key_id.as_deref()), (Algorithm::RS256, Some("k")));
        assert_eq!(format!("{}.{}", parsed.message, parsed.signature), text);
        assert_eq!(parsed.payload, br#"{"iss":"i"}"#);
    }

    #[test]
    fn only_listed_algorithms() {
        for good in ["RS256", "RS384", "RS512", "ES256", "ES384"] {
            assert_eq!(refusal(&format!(r#"{{"alg":"{good}"}}"#)), None);
        }
        for bad in
            ["none", "None", "NONE", "nOnE", "HS256", "PS256", "EdDSA", "rs256", "RS256 ", ""]
        {
            assert_eq!(refusal(&format!(r#"{{"alg":"{bad}"}}"#)), Some(Refusal::Algorithm));
        }
        assert_eq!(refusal("{}"), Some(Refusal::Algorithm));
        assert_eq!(refusal(r#"{"alg":["RS256"]}"#), Some(Refusal::Header));
        let unsigned = token(r#"{"alg":"RS256"}"#, "{}").replace("c2ln", "");
        assert_eq!(Unverified::parse(&unsigned).err(), Some(Refusal::Algorithm));
    }

    #[test]
    fn what_nobody_asks_for_is_json_too() {
        assert_eq!(refusal(r#"{"alg":"RS256","x":["\ud83d\ude00",1e300]}"#), None);
        for other in [r#""\ud800""#, r#"["\udc00"]"#, "1e400", r#"{"y":"\ud800"}"#] {
            let header = format!(r#"{{"alg":"RS256","x":{other}}}"#);
            assert_eq!(refusal(&header), Some(Refusal::Header), "{other}");
        }
    }

    #[test]
    fn critical_duplicate_and_oversized_headers() {
        assert_eq!(refusal(r#"{"alg":"RS256","jku":"http://x","jwk":{},"x5c":[]}"#), None);
        for crit in ["[]", "null", r#"["exp"]"#] {
            let header = format!(r#"{{"alg":"RS256","crit":{crit}}}"#);
            assert_eq!(refusal(&header), Some(Refusal::Critical), "{crit}");
        }
        assert_eq!(refusal(r#"{"alg":"RS256","alg":"RS256"}"#), Some(Refusal::Header));
        assert_eq!(refusal(r#"{"alg":"RS256","x":1,"x":1}"#), Some(Refusal::Header));
        assert_eq!(refusal(r#"{"alg":"RS256"} {}"#), Some(Refusal::Header));
        assert_eq!(refusal(r#"{"alg":"RS256","kid":7}"#), Some(Refusal::Header));
        let kid = |length| format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "k".repeat(length));
        assert_eq!(refusal(&kid(MAX_KEY_ID)), None);
        assert_eq!(refusal(&kid(MAX_KEY_ID + 1)), Some(Refusal::Header));
    }

    #[test]
    fn other_shapes_are_opaque_or_refused() {
        for opaque in ["a", "a.b", "a.b.c.d", "..", &".".repeat(1000), "!.!.!", "YQ==.YQ.YQ"] {
            assert!(Unverified::parse(opaque).is_err(), "{opaque}");
        }
        let nested = |depth: usize| {
            format!(r#"{{"alg":"RS256","x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))
        };
        assert_eq!(refusal(&nested(MAX_DEPTH - 1)), None);
        assert_eq!(refusal(&nested(MAX_DEPTH)), Some(Refusal::Header));
        assert_eq!(refusal(&nested(10_000)), Some(Refusal::Header));
        assert_eq!(refusal(r#"{"alg":"RS256","x":"[[[[[[[[[[[[[[[[[[[[\""}"#), None);
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        let open = "[".repeat(MAX_DEPTH);
        for shallow in
            [format!("[{}[]]", "[],{},".repeat(MAX_DEPTH)), format!(r#"["{open}[", "\"{open}["]"#)]
        {
            assert!(is_shallow(shallow.as_bytes()), "{shallow}");
        }
        let half = "[".repeat(MAX_DEPTH / 2);
        let closed = "]".repeat(MAX_DEPTH);
        for deep in
            [format!("{open}["), format!(r#"{half}"{closed}",{half}["#), format!(r"\[{open}")]
        {
            assert!(!is_shallow(deep.as_bytes()), "{deep}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,200}", header in "\\PC{0,80}") {
            let _ = Unverified::parse(&text);
            let _ = Unverified::parse(&token(&header, &text));
        }
    }
}
