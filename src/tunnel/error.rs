//! Why streams and tunnels end, in words that decide about a retry.

use h2::Reason;

/// Why a stream brought no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No byte of it was written: the tunnel was closed, or closing. Always safe to repeat.
    #[error("the tunnel closed before the request was written")]
    NotWritten,
    /// The agent refused the stream unseen (REFUSED_STREAM, or above GOAWAY's last id, RFC 9113
    /// sections 6.8 and 8.7). Safe to repeat while the body is unpolled.
    #[error("the agent refused the stream before looking at it")]
    Refused,
    /// The peer ended this stream with an error code, or broke HTTP/2 on it; the tunnel lives on.
    #[error("the stream was reset: {0}")]
    Reset(Reason),
    /// The tunnel was lost while the stream was under way.
    #[error("the tunnel was lost: {0}")]
    Lost(String),
    /// We ended it: its reader took too little for too long ([`super::pump::Unread::cut`]).
    #[error("the reader was too slow, and the budget of unread bytes is used up")]
    Unread,
    /// HTTP/2 cannot express this head (connection-specific header, missing authority). Nothing was
    /// written, and repeating it is of no use.
    #[error("the head cannot be sent over HTTP/2: {0}")]
    Invalid(String),
}

/// Why a body was not sent whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The byte stream or body at our side failed (the client went away, broke framing): the stream
    /// was reset.
    #[error("the body could not be read: {0}")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The stream we write to ended first. NO_ERROR means that the peer has answered and wants no
    /// more.
    #[error("the stream ended before the body: {0}")]
    Stream(OpenError),
}

/// Why a tunnel ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelEnd {
    /// The peer said goodbye, or we did, and every stream finished.
    Graceful,
    /// A ping went unanswered, and nothing else arrived.
    PingTimeout,
    /// [`super::opener::Opener::close`].
    Closed(&'static str),
    /// The connection broke, or the peer broke HTTP/2.
    Broken(String),
}

/// Why a tunnel could not be established.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// HTTP/2 failed.
    #[error("HTTP/2 on the tunnel failed: {0}")]
    Http2(#[from] h2::Error),
}

// === impl OpenError ===

impl OpenError {
    /// For a stream that was handed to HTTP/2.
    pub(super) fn of_stream(error: &h2::Error) -> Self {
        match error.reason() {
            Some(Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => Self::Refused,
            // HTTP/2 gives this only to streams above the last id of the peer's GOAWAY.
            Some(_) if error.is_go_away() && error.is_remote() => Self::Refused,
            Some(reason) if !error.is_go_away() => Self::Reset(reason),
            _ => Self::Lost(error.to_string()),
        }
    }

    /// For a head that HTTP/2 did not take.
    pub(super) fn of_open(error: &h2::Error) -> Self {
        if error.is_go_away() || error.is_io() || error.is_reset() {
            Self::NotWritten
        } else {
            Self::Invalid(error.to_string())
        }
    }
}

// === impl TunnelEnd ===

impl std::fmt::Display for TunnelEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Graceful => f.write_str("said goodbye"),
            Self::PingTimeout => f.write_str("a ping went unanswered"),
            Self::Closed(why) => f.write_str(why),
            Self::Broken(why) => f.write_str(why),
        }
    }
}
