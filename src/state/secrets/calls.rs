//! Requests to the API server that keeps the documents: deadlines, repetition, errors.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use kube::api::{ListParams, ObjectList};

use crate::kubernetes::describe;
use crate::state::StateError;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Read,
    List,
    Write,
    Delete,
}

// === impl Action ===

impl Action {
    /// Whether doing it twice is the same as doing it once.
    fn is_idempotent(self) -> bool {
        // A write is not, although it has a precondition: the second would meet the first.
        !matches!(self, Self::Write)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::List => "list",
            Self::Write => "write",
            Self::Delete => "delete",
        }
    }
}

/// Sends the request that `send` makes, again where that is safe and may help. The inner result is
/// an answer that the caller has to judge: not found, or a conflict.
pub(super) async fn call<T, F: Future<Output = kube::Result<T>>>(
    action: Action,
    object: &str,
    mut send: impl FnMut() -> F,
) -> Result<Result<T, Refusal>, StateError> {
    let attempt = || {
        let sent = send();
        async move {
            let Ok(answer) = tokio::time::timeout(DEADLINE, sent).await else {
                let reason = format!("no answer within {} s", DEADLINE.as_secs());
                return Err(failed(action, object, reason, action.is_idempotent()));
            };
            match answer {
                Ok(answer) => Ok(Ok(answer)),
                Err(kube::Error::Api(status)) if status.is_not_found() => {
                    Ok(Err(Refusal::NotFound(status.message)))
                }
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(Err(Refusal::Conflict)),
                Err(error) => {
                    let safe = is_passing(&error) && (action.is_idempotent() || never_done(&error));
                    Err(failed(action, object, describe(&error), safe))
                }
            }
        }
    };
    let pauses =
        ExponentialBuilder::default().with_min_delay(PAUSE).with_max_times(AGAIN).with_jitter();
    attempt
        .retry(pauses)
        .sleep(tokio::time::sleep)
        .when(|error| matches!(error, StateError::Api { retry_is_safe: true, .. }))
        .await
}

/// All objects that `selector` selects, page by page.
pub(super) async fn list<K, F>(
    what: &str,
    selector: &str,
    page: impl Fn(ListParams) -> F,
) -> Result<Vec<K>, StateError>
where
    K: Clone,
    F: Future<Output = kube::Result<ObjectList<K>>>,
{
    let mut all = Vec::new();
    let mut parameters = ListParams::default().labels(selector).limit(PAGE);
    loop {
        let answer = call(Action::List, what, || page(parameters.clone())).await?;
        let answer = answer.map_err(|refusal| refusal.into_error(Action::List, what))?;
        all.extend(answer.items);
        match answer.metadata.continue_ {
            Some(token) if !token.is_empty() => parameters = parameters.continue_token(&token),
            _ => return Ok(all),
        }
    }
}

/// A definite answer that is no success.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The object, or its namespace; in the API server's words.
    NotFound(String),
    /// Somebody else wrote first.
    Conflict,
}

// === impl Refusal ===

impl Refusal {
    /// For requests that expect neither.
    pub(super) fn into_error(self, action: Action, object: &str) -> StateError {
        match self {
            Self::NotFound(message) => failed(action, object, message, false),
            Self::Conflict => StateError::Conflict(object.to_owned()),
        }
    }
}

fn failed(action: Action, object: &str, reason: String, retry_is_safe: bool) -> StateError {
    StateError::Api { action: action.word(), document: object.to_owned(), reason, retry_is_safe }
}

/// Whether the same request may succeed later.
fn is_passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => true,
        _ => false,
    }
}

/// Whether the request certainly had no effect.
fn never_done(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429,
        kube::Error::Service(error) => {
            let client = error.downcast_ref::<hyper_util::client::legacy::Error>();
            client.is_some_and(hyper_util::client::legacy::Error::is_connect)
        }
        _ => false,
    }
}

/// For one request. Answers are small; an API server that takes longer is as good as none.
const DEADLINE: Duration = Duration::from_secs(5);

/// Repetitions of a request, and the first pause before one; a look at the state is due every two
/// seconds.
const AGAIN: usize = 2;
const PAUSE: Duration = Duration::from_millis(100);

/// Objects per answer: enrolments have a few hundred bytes.
const PAGE: u32 = 500;
