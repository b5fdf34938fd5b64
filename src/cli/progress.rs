//! What a person at a terminal is told while something takes long.

use std::io::{self, IsTerminal as _, Write as _};
use std::pin::pin;
use std::time::Duration;

/// Awaits `work`; after a second says what it is about, where that is a terminal, and takes it back at
/// the end.
pub(super) async fn patiently<T>(what: &str, work: impl Future<Output = T>) -> T {
    if !io::stderr().is_terminal() {
        return work.await;
    }
    let mut work = pin!(work);
    match tokio::time::timeout(SOON, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            let _shown = Shown::start(what);
            work.await
        }
    }
}

/// A line on the terminal, until dropped.
struct Shown;

// === impl Shown ===

impl Shown {
    // Nobody has to see any of it.
    fn start(what: &str) -> Self {
        let _ = write!(io::stderr(), "{what} ...");
        Self
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        // The beginning of the line, and everything behind it gone (ECMA-48, EL).
        let _ = write!(io::stderr(), "\r\u{1b}[K");
    }
}

/// Shorter waits need no word.
const SOON: Duration = Duration::from_secs(1);
