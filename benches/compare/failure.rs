//! Why a proxy has no figures in a work.

use http::StatusCode;
use thiserror::Error;

/// What a proxy did instead of its work. It is said, and does not end the comparison.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// Another answer than the one that the work is about.
    #[error("answered {0}")]
    Status(StatusCode),
    /// A connection, or a body in the middle.
    #[error("broke off: {0}")]
    Broken(#[from] hyper::Error),
    /// Nothing came any more.
    #[error("was not done in time")]
    Stalled,
}
