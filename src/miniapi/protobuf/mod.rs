//! Bodies in `application/vnd.kubernetes.protobuf`, which typed clients (kubectl among them) send
//! by themselves and do not replace by JSON when they are refused.
//!
//! An envelope (`k8s`, NUL, then `runtime.Unknown`) says which kind is inside. [`schema`] has the
//! kinds and fields that kubectl sends; what it does not have is refused with its number rather
//! than lost. Answers are JSON: every client reads both.

mod messages;
mod schema;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use self::schema::{Field, Kind, Shape};
use super::response::MiniStatus;

/// The object in an envelope, as JSON would have it.
///
/// # Errors
/// 400 for bytes that are no such message, 415 for a kind or field that is not in the schema.
pub(super) fn decode(body: &[u8]) -> Result<Value, MiniStatus> {
    let envelope = body.strip_prefix(MAGIC).ok_or_else(malformed)?;
    let envelope = message("Unknown", schema::UNKNOWN, envelope)?;
    let text = |name: &str| envelope["typeMeta"][name].as_str().unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let fields = schema::of(kind).ok_or_else(|| unsupported(&format!("kind {kind:?}")))?;
    // The decoder shows bytes in base64, as JSON has to.
    let raw = STANDARD.decode(envelope["raw"].as_str().unwrap_or_default());
    let mut object = message(kind, fields, &raw.map_err(|_| malformed())?)?;
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    Ok(object)
}

/// One field on the wire (Protocol Buffers, "Encoding").
#[derive(Clone, Copy)]
enum Raw<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

// === impl Raw ===

impl Raw<'_> {
    /// Whether it is what a field that nobody set looks like: such fields are written too.
    fn is_zero(self) -> bool {
        match self {
            Self::Number(number) => number == 0,
            Self::Bytes(bytes) => bytes.is_empty(),
        }
    }
}

/// Reads a message. It goes only as deep as the schema does.
fn message(what: &str, fields: &[Field], mut bytes: &[u8]) -> Result<Value, MiniStatus> {
    let mut object = Map::new();
    while !bytes.is_empty() {
        let (number, raw) = next(&mut bytes)?;
        let Some(field) = fields.iter().find(|field| field.number == number) else {
            if raw.is_zero() {
                continue;
            }
            return Err(unsupported(&format!("field {number} of {what}")));
        };
        if matches!(field.kind, Kind::Ignored) {
            continue;
        }
        if let (Kind::Map(kind), Raw::Bytes(entry)) = (&field.kind, raw) {
            let (key, value) = entry_of(field.name, kind, entry)?;
            let map = object.entry(field.name).or_insert_with(|| Map::new().into());
            map[key] = value;
            continue;
        }
        let value = value(field.name, &field.kind, raw)?;
        match field.shape {
            Shape::List => {
                let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().ok_or_else(malformed)?.push(value);
            }
            Shape::Inline => {
                if let Value::Object(inner) = value {
                    object.extend(inner);
                }
            }
            Shape::Plain if raw.is_zero() || is_empty(&value) => {}
            Shape::Plain | Shape::Pointer => drop(object.insert(field.name.to_owned(), value)),
        }
    }
    Ok(object.into())
}

fn value(name: &str, kind: &Kind, raw: Raw<'_>) -> Result<Value, MiniStatus> {
    Ok(match (kind, raw) {
        (Kind::Text, Raw::Bytes(bytes)) => {
            std::str::from_utf8(bytes).map_err(|_| malformed())?.into()
        }
        (Kind::Bytes, Raw::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        // Negative numbers are sign-extended to 64 bits, whatever their type.
        (Kind::Number, Raw::Number(number)) => number.cast_signed().into(),
        (Kind::Flag, Raw::Number(number)) => (number != 0).into(),
        (Kind::Message(fields), Raw::Bytes(bytes)) => message(name, fields, bytes)?,
        (Kind::Quantity, Raw::Bytes(bytes)) => {
            message(name, schema::QUANTITY, bytes)?["string"].take()
        }
        (Kind::NumberOrText, Raw::Bytes(bytes)) => {
            let mut either = message(name, schema::NUMBER_OR_TEXT, bytes)?;
            let chosen = if either["type"] == 1 { "strVal" } else { "intVal" };
            either[chosen].take()
        }
        _ => return Err(malformed()),
    })
}

fn entry_of(name: &str, kind: &Kind, mut entry: &[u8]) -> Result<(String, Value), MiniStatus> {
    let (mut key, mut found) = (String::new(), Value::Null);
    while !entry.is_empty() {
        match next(&mut entry)? {
            (1, Raw::Bytes(bytes)) => {
                key = String::from_utf8(bytes.to_vec()).map_err(|_| malformed())?;
            }
            (2, raw) => found = value(name, kind, raw)?,
            _ => return Err(malformed()),
        }
    }
    Ok((key, found))
}

/// Takes one field off the front.
fn next<'a>(bytes: &mut &'a [u8]) -> Result<(u64, Raw<'a>), MiniStatus> {
    let tag = varint(bytes)?;
    let raw = match tag & 7 {
        0 => Raw::Number(varint(bytes)?),
        2 => {
            let length = usize::try_from(varint(bytes)?).map_err(|_| malformed())?;
            let (taken, rest) = bytes.split_at_checked(length).ok_or_else(malformed)?;
            *bytes = rest;
            Raw::Bytes(taken)
        }
        // Fixed-width numbers and groups: no object of the API has them.
        _ => return Err(malformed()),
    };
    Ok((tag >> 3, raw))
}

fn varint(bytes: &mut &[u8]) -> Result<u64, MiniStatus> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or_else(malformed)?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(malformed())
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty)
}

fn malformed() -> MiniStatus {
    MiniStatus::bad_request("the body of the request is not a Kubernetes object in Protobuf")
}

fn unsupported(what: &str) -> MiniStatus {
    let message = format!(
        "the in-memory API does not read {what} in Protobuf: send application/json instead"
    );
    MiniStatus::new(415, "UnsupportedMediaType", message)
}

/// The media type of these bodies.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Every body starts with it.
const MAGIC: &[u8] = b"k8s\0";

#[cfg(test)]
mod tests;
