//! Messages of `v4.channel.k8s.io` and `v5.channel.k8s.io`: the first byte says which stream the
//! rest belongs to. Pure.
//!
//! Source: the remote command protocol of Kubernetes (`k8s.io/apimachinery/.../remotecommand`);
//! version 5 adds the close message (KEP-4006).

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};

/// A version of the protocol, by its WebSocket subprotocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V5,
}

/// What a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FromClient {
    /// Bytes for standard input.
    Stdin(Bytes),
    /// The client's terminal has this size.
    Resize { rows: u16, columns: u16 },
    /// No more standard input (version 5 only).
    CloseStdin,
}

// === impl Version ===

impl Version {
    /// The version that a subprotocol names.
    pub(super) fn of(subprotocol: &str) -> Option<Self> {
        match subprotocol {
            "v4.channel.k8s.io" => Some(Self::V4),
            "v5.channel.k8s.io" => Some(Self::V5),
            _ => None,
        }
    }

    /// Reads one message; `None` for what this side of the protocol has no use for.
    pub(super) fn read(self, mut message: Bytes) -> Option<FromClient> {
        if message.is_empty() {
            return None;
        }
        match message.split_to(1)[0] {
            STDIN => Some(FromClient::Stdin(message)),
            RESIZE => resize(&message),
            CLOSE if self == Self::V5 && message[..] == [STDIN] => Some(FromClient::CloseStdin),
            _ => None,
        }
    }
}

/// A new size of the client's terminal, as JSON.
pub(super) fn resize(text: &[u8]) -> Option<FromClient> {
    if text.len() > MAX_RESIZE {
        return None;
    }
    let Size { width, height } = serde_json::from_slice(text).ok()?;
    Some(FromClient::Resize { rows: height, columns: width })
}

/// A buffer for a message on `channel`, with room for `capacity` bytes of it.
pub(super) fn message(channel: u8, capacity: usize) -> BytesMut {
    let mut message = BytesMut::with_capacity(capacity + 1);
    message.put_u8(channel);
    message
}

/// The last message of a session: how it went, on the error channel.
pub(super) fn verdict(status: &Value) -> Bytes {
    let text = status.to_string();
    let mut message = message(ERROR, text.len());
    message.put_slice(text.as_bytes());
    message.freeze()
}

/// `Status` of a process that ended with `code`.
pub(super) fn exited(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

/// `Status` of a process that could not be started or watched.
pub(super) fn failed(error: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "reason": "InternalError",
        "message": format!("Internal error occurred: {error}"),
        "details": {"causes": [{"message": error}]},
        "code": 500,
    })
}

#[derive(Deserialize)]
struct Size {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// A size in JSON takes some 30 bytes.
pub(super) const MAX_RESIZE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_client() {
        let read = |version: Version, bytes: &[u8]| version.read(Bytes::copy_from_slice(bytes));
        assert_eq!(read(Version::V4, b"\0hi"), Some(FromClient::Stdin(Bytes::from_static(b"hi"))));
        assert_eq!(read(Version::V5, &[255, 0]), Some(FromClient::CloseStdin));
        assert_eq!(read(Version::V4, &[255, 0]), None);
        assert_eq!(read(Version::V5, &[255, 1]), None);
        assert_eq!(read(Version::V5, &[255]), None);
        assert_eq!(read(Version::V5, &[]), None);
        assert_eq!(read(Version::V5, b"\x01hi"), None);
        let size = |json: &str| read(Version::V5, format!("\x04{json}").as_bytes());
        let wanted = FromClient::Resize { rows: 24, columns: 80 };
        assert_eq!(size(r#"{"Width":80,"Height":24}"#), Some(wanted));
        assert_eq!(size(r#"{"Width":80,"Height":65536}"#), None);
        assert_eq!(size(&format!("{}{{\"Width\":80,\"Height\":24}}", " ".repeat(300))), None);
    }
}
