//! A machine of the simulation: one runtime, whose clock stands still until it is moved.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, yield_now};

/// Dropping it is a power cut: tasks are gone without a goodbye, and the kernel closes their sockets.
pub(crate) struct Host {
    runtime: Option<Runtime>,
    /// Something on it works on files.
    files: bool,
}

// === impl Host ===

impl Host {
    pub(crate) fn new() -> Self {
        Self::made(false)
    }

    /// For a part that works on files, which takes no simulated time, however slow the machine is.
    pub(crate) fn with_files() -> Self {
        Self::made(true)
    }

    fn made(files: bool) -> Self {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            // In a row, so that the last one is known to be the last.
            .max_blocking_threads(1)
            .build()
            .unwrap();
        Self { runtime: Some(runtime), files }
    }

    /// Runs what can run, and lets `time` pass. A clock that is moved by hand never waits: the runtime
    /// is not idle while this looks on.
    pub(crate) fn turn(&self, time: Duration) {
        self.runtime().block_on(async {
            if self.files && time >= LONG {
                let _ = tokio::task::spawn_blocking(|| ()).await;
            }
            tokio::time::advance(time).await;
            for _ in 0..ROUNDS {
                yield_now().await;
            }
        });
    }

    pub(crate) fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.runtime().spawn(work)
    }

    /// The result of work that is done.
    pub(crate) fn take<T>(&self, done: JoinHandle<T>) -> T {
        self.runtime().block_on(done).unwrap()
    }

    fn runtime(&self) -> &Runtime {
        // Invariant: it is taken when this is dropped.
        self.runtime.as_ref().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A round lets every task that was woken run once, and looks at the sockets.
const ROUNDS: usize = 3;
/// Time in which nothing moves between machines, so that something inside one may be awaited.
const LONG: Duration = Duration::from_millis(16);
