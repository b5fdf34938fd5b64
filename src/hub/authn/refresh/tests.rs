use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;

/// `document` and blanks up to `length` bytes, which are no part of it.
fn padded(document: &serde_json::Value, length: usize) -> Bytes {
    let document = document.to_string();
    let blanks = " ".repeat(length.saturating_sub(document.len()));
    format!("{document}{blanks}").into()
}

#[test]
fn a_document_of_keys_is_an_answer_with_200_and_a_bounded_size() {
    let coordinate = URL_SAFE_NO_PAD.encode([1; 32]);
    let key = json!({ "kty": "EC", "crv": "P-256", "x": coordinate, "y": coordinate });
    let document = json!({ "keys": [key] });
    let read = |status, length| parse((status, padded(&document, length)));
    assert_eq!(read(StatusCode::OK, 0).unwrap().keys.len(), 1);
    assert_eq!(read(StatusCode::OK, 262_144).unwrap().keys.len(), 1);
    assert!(matches!(read(StatusCode::OK, 262_145), Err(RefreshError::TooLarge)));
    assert!(matches!(read(StatusCode::OK, 262_146), Err(RefreshError::TooLarge)));
    for status in [StatusCode::NON_AUTHORITATIVE_INFORMATION, StatusCode::FORBIDDEN] {
        assert!(matches!(read(status, 0), Err(RefreshError::Status(told)) if told == status));
    }
}

#[test]
fn an_issuer_is_a_short_word_of_a_short_document() {
    let named = |name: &str, status, length| {
        issuer((status, padded(&json!({ "issuer": name, "jwks_uri": "http://x" }), length)))
    };
    let told = |name: &str| named(name, StatusCode::OK, 0);
    assert_eq!(told("https://c1").as_deref(), Some("https://c1"));
    assert_eq!(told(""), None);
    let longest = "i".repeat(1024);
    assert_eq!(told(&longest), Some(longest.clone()));
    assert_eq!(told(&format!("{longest}i")), None);
    assert_eq!(named("i", StatusCode::FORBIDDEN, 0), None);
    assert_eq!(named("i", StatusCode::OK, 16_384).as_deref(), Some("i"));
    for length in [16_385, 16_386] {
        assert_eq!(named("i", StatusCode::OK, length), None);
    }
    assert_eq!(issuer((StatusCode::OK, Bytes::from_static(b"{}"))), None);
}
