//! Reading request bodies.

use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use serde_json::Value;

use super::MiniStatus;
use crate::miniapi::protobuf;

/// The whole body, at most 3 MiB.
pub(super) async fn bytes(request: Request<Incoming>) -> Result<Bytes, MiniStatus> {
    match Limited::new(request.into_body(), LIMIT).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let message = format!("Request entity too large: limit is {LIMIT}");
            Err(MiniStatus::new(413, "RequestEntityTooLarge", message))
        }
        Err(_) => Err(MiniStatus::bad_request("the request body could not be read")),
    }
}

/// A body that must be one object.
pub(super) async fn object(request: Request<Incoming>) -> Result<Value, MiniStatus> {
    let value = options(request).await?;
    if !value.is_object() {
        return Err(MiniStatus::bad_request("the body of the request is not an object"));
    }
    Ok(value)
}

/// A body that may be missing.
pub(super) async fn options(request: Request<Incoming>) -> Result<Value, MiniStatus> {
    let content_type = content_type(request.headers());
    let bytes = bytes(request).await?;
    match content_type.as_str() {
        _ if bytes.is_empty() => Ok(Value::Null),
        "" | "application/json" => json(&bytes),
        protobuf::MEDIA_TYPE => protobuf::decode(&bytes),
        other => Err(unsupported(other, &OBJECTS)),
    }
}

/// Parses JSON.
pub(super) fn json(bytes: &[u8]) -> Result<Value, MiniStatus> {
    serde_json::from_slice(bytes).map_err(|error| {
        MiniStatus::bad_request(format!("the body of the request is not valid JSON: {error}"))
    })
}

/// The media type without parameters.
pub(super) fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = value.unwrap_or_default().split(';').next();
    media_type.unwrap_or_default().trim().to_ascii_lowercase()
}

/// 415; `accepted` are the media types that would do.
pub(super) fn unsupported(content_type: &str, accepted: &[&str]) -> MiniStatus {
    let message = format!(
        "the body of the request was in an unknown format ({content_type:?}) - \
         accepted media types include: {}",
        accepted.join(", ")
    );
    MiniStatus::new(415, "UnsupportedMediaType", message)
}

const OBJECTS: [&str; 2] = ["application/json", protobuf::MEDIA_TYPE];

/// What kube-apiserver accepts too.
const LIMIT: usize = 3 * 1024 * 1024;
