//! The promise of the parser of tokens, for [`crate::fuzzing`].

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::token::{ALGORITHMS, Unverified};

/// What is taken apart fits together again, and says what the header says to a plain reader of JSON.
pub(crate) fn jwt(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(token) = Unverified::parse(&text) else { return };
    assert_eq!(format!("{}.{}", token.message, token.signature), text);
    assert!(!token.signature.is_empty() && !token.signature.contains('.'));
    let (header, payload) = token.message.split_once('.').expect("two parts");
    assert_eq!(URL_SAFE_NO_PAD.encode(&token.payload), payload);
    let header = URL_SAFE_NO_PAD.decode(header).expect("it was decoded");
    let header: Value = serde_json::from_slice(&header).expect("it was read");
    let names: Vec<&str> = ALGORITHMS
        .iter()
        .filter(|(_, one)| *one == token.algorithm)
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(names, [header["alg"].as_str().expect("an algorithm")]);
    assert!(header.get("crit").is_none());
    assert_eq!(header.get("kid").and_then(Value::as_str), token.key_id.as_deref());
}
