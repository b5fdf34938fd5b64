//! Stopping: a signal, the tasks it waits for, and the moment it stops waiting.
//!
//! Every task of the process belongs to a [`Drain`]; dropping a process part without draining it is
//! a mistake that tests notice because its tasks go on.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The stop signal of one process part and the tasks that hold it open. Clones share both.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    stopping: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
}

// === impl Drain ===

impl Drain {
    /// A drain that nobody has asked to stop.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `task` on the current runtime and counts it as work to wait for.
    pub fn spawn<T>(&self, task: T) -> JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// As [`Drain::spawn`], on another runtime.
    pub fn spawn_on<T>(&self, task: T, runtime: &tokio::runtime::Handle) -> JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        self.tasks.spawn_on(task, runtime)
    }

    /// Asks for the end: accept nothing new, finish what runs.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Whether the end was asked for.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Ready once the end was asked for.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Ready once waiting is over: what still runs should end now, with an error.
    pub async fn cut(&self) {
        self.cut.cancelled().await;
    }

    /// Asks for the end, and waits for the tasks up to `patience`. Returns whether they ended.
    pub async fn settle(&self, patience: Duration) -> bool {
        self.stop();
        self.tasks.close();
        tokio::time::timeout(patience, self.tasks.wait()).await.is_ok()
    }

    /// As [`Drain::settle`], then cuts what is left and waits for that too (cut tasks end at once).
    pub async fn finish(&self, patience: Duration) -> bool {
        let clean = self.settle(patience).await;
        self.cut.cancel();
        // A task that ignores the cut must not hold the process for ever.
        let _ = tokio::time::timeout(AFTER_CUT, self.tasks.wait()).await;
        clean
    }
}

/// How long tasks that were cut get to say so to their peers.
const AFTER_CUT: Duration = Duration::from_secs(2);
