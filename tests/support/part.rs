//! A part of the system on a thread and a runtime of its own, so that it can be killed.

use std::future::Future;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

/// Work that ends when this is dropped, as a process ends that is killed: nothing says goodbye.
#[derive(Debug)]
pub(crate) struct Part {
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

// === impl Part ===

impl Part {
    /// Runs `work` until it ends or is killed.
    pub(crate) fn start<F, W>(name: &str, work: W) -> Self
    where
        W: FnOnce() -> F + Send + 'static,
        F: Future<Output = ()>,
    {
        let (kill, killed) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    tokio::select! {
                        _ = killed => {}
                        () = work() => {}
                    }
                });
                runtime.shutdown_background();
            })
            .unwrap();
        Self { kill: Some(kill), thread: Some(thread) }
    }

    /// Ends it without a goodbye; its sockets are closed when this returns.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.kill.take());
        if let Some(thread) = self.thread.take() {
            // A part that panicked has said why on its own.
            let _ = thread.join();
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.end();
    }
}
