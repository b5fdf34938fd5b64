//! Requests of the controllers: how many at once, how long each, and what is said of their failure.

use kube::Error;
use kube::core::Status;
use tokio::sync::Semaphore;

use crate::kubernetes::in_time;
pub(super) use crate::kubernetes::{explain, explain_watch, is_code};

/// How many requests may be under way at one API server.
#[derive(Debug)]
pub(super) struct Slots(Semaphore);

// === impl Slots ===

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        Self(Semaphore::new(count))
    }

    /// Makes one request, once it is its turn.
    pub(super) async fn ask<T>(
        &self,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        // Nobody closes it.
        let _slot = self.0.acquire().await.expect("the semaphore is never closed");
        in_time(request).await
    }
}

/// Whether the API server said that it has no object of `name`, and not that it knows no such kind.
pub(super) fn is_gone(error: &Error, name: &str) -> bool {
    let names =
        |status: &Status| status.details.as_ref().is_some_and(|details| details.name == name);
    matches!(error, Error::Api(status) if status.code == 404 && names(status))
}

/// [`explain`], without the words of an API server: the request had a secret in it.
pub(super) fn without_message(what: &str, error: &Error) -> String {
    match error {
        Error::Api(status) => format!("{what}: HTTP {}", status.code),
        _ => explain(what, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16, reason: &str, message: &str) -> Error {
        Error::Api(Status::failure(message, reason).with_code(code).boxed())
    }

    #[test]
    fn errors_are_short_and_say_no_secret() {
        let forbidden = api(403, "Forbidden", "not\u{7} you");
        assert_eq!(explain("no token", &forbidden), "no token: not you (HTTP 403)");
        assert_eq!(without_message("no review", &forbidden), "no review: HTTP 403");
        assert!(explain("x", &api(500, "r", &"m".repeat(9999))).len() < 600);
        let unreadable = serde_json::from_str::<bool>("\"eyJ.secret.token\"").unwrap_err();
        assert!(unreadable.to_string().contains("secret"), "serde quotes what it read");
        for say in [explain, without_message] {
            let error = serde_json::from_str::<bool>("\"eyJ.secret.token\"").unwrap_err();
            let said = say("no token", &Error::SerdeError(error));
            assert!(said.starts_with("no token: ") && !said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn a_missing_kind_is_not_a_missing_object() {
        let missing = Status::failure("", "NotFound").with_code(404);
        assert!(!is_gone(&Error::Api(missing.clone().boxed()), "a"));
        let details = k8s_details("a");
        let gone = Error::Api(missing.with_details(details).boxed());
        assert!(is_gone(&gone, "a") && !is_gone(&gone, "b"));
    }

    fn k8s_details(name: &str) -> kube::core::response::StatusDetails {
        serde_json::from_value(serde_json::json!({"name": name})).unwrap()
    }
}
