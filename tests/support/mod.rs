//! What integration tests share: a fake API server, a client, a fleet in one process, processes.
//!
//! Every binary uses a part of it.
#![allow(dead_code, reason = "each test binary uses a part of this module")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub(crate) mod agent;
pub(crate) mod api;
#[cfg(feature = "sandbox")]
pub(crate) mod assets;
pub(crate) mod balancer;
pub(crate) mod bodies;
pub(crate) mod certificates;
pub(crate) mod client;
pub(crate) mod fleet;
pub(crate) mod homes;
#[cfg(feature = "sandbox")]
pub(crate) mod hub_api;
pub(crate) mod issuer;
pub(crate) mod load;
pub(crate) mod part;
pub(crate) mod process;
pub(crate) mod processes;
pub(crate) mod proxy;
pub(crate) mod session;
pub(crate) mod shop;
pub(crate) mod token;

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Asks `question` again and again until it has an answer.
///
/// # Panics
/// When there is none within `patience`: `what` says what was waited for.
pub(crate) async fn eventually<T, F>(
    what: &str,
    patience: Duration,
    mut question: impl FnMut() -> F,
) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    while start.elapsed() < patience {
        if let Ok(Some(answer)) = timeout(patience, question()).await {
            return answer;
        }
        sleep(BETWEEN_QUESTIONS).await;
    }
    panic!("not within {patience:?}: {what}");
}

/// Awaits `work`, at most `patience`.
///
/// # Panics
/// When it takes longer: a test that hangs says where.
pub(crate) async fn within<F: Future>(what: &str, patience: Duration, work: F) -> F::Output {
    match timeout(patience, work).await {
        Ok(output) => output,
        Err(_) => panic!("longer than {patience:?}: {what}"),
    }
}

/// Says out loud that a test did not run, in the form that `.ci/run` looks for.
pub(crate) fn skipped(test: &str, reason: &str, command: &str) {
    // Not captured by the test harness: a skip must be seen when everything passes.
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}: run {command}");
}

/// Long enough for a loaded machine, short enough to notice a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(25);
