//! The one object that Go's typed clients send a fake API server, as they send it: in
//! `application/vnd.kubernetes.protobuf`, and never in JSON. They read JSON as an answer.

use serde_json::{Value, json};

/// A TokenReview of a token and nothing else; `None` where the body is not in Protobuf.
///
/// Its fields are those of `runtime.Unknown`, `TokenReview` and `TokenReviewSpec` in
/// Kubernetes' `generated.proto` files.
pub(super) fn token_review(body: &[u8]) -> Option<Value> {
    let object = field(body.strip_prefix(b"k8s\0")?, 2)?;
    let token = field(field(object, 2)?, 1)?;
    Some(json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {},
        "spec": {"token": std::str::from_utf8(token).ok()?},
    }))
}

/// The bytes of the field `wanted`, where all before it are bytes as well.
fn field(mut message: &[u8], wanted: u64) -> Option<&[u8]> {
    loop {
        let tag = varint(&mut message)?;
        let length = usize::try_from(varint(&mut message)?).ok()?;
        let (bytes, rest) = message.split_at_checked(length)?;
        if tag == wanted << 3 | 2 {
            return Some(bytes);
        }
        message = rest;
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
