//! What is said of requests that failed, in text for logs and conditions.

use kube::Error;
use kube::runtime::watcher;

use super::describe;

/// Whether the API server answered with `code`.
pub fn is_code(error: &Error, code: u16) -> bool {
    matches!(error, Error::Api(status) if status.code == code)
}

/// What failed and why, in bounded text without secrets.
pub fn explain(what: &str, error: &Error) -> String {
    let why: String =
        describe(error).chars().filter(|letter| !letter.is_control()).take(MESSAGE).collect();
    format!("{what}: {why}")
}

/// [`explain`] of a watch.
pub fn explain_watch(what: &str, error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => explain(what, error),
        watcher::Error::WatchError(status) => explain(what, &Error::Api(status.clone())),
        watcher::Error::NoResourceVersion => format!("{what}: the list has no version"),
    }
}

/// Characters of somebody else's message.
const MESSAGE: usize = 512;
