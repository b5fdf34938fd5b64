//! One single-threaded runtime per core: connections never move between threads, and a woken queue
//! of them shares system calls.
//!
//! Connections are dealt out in turn by the accept loop. That keeps the listening socket exclusive
//! (a port in use is an error) and the cores evenly loaded, which `SO_REUSEPORT` promises neither.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// A set of runtimes. Dropping the last clone of the guard ends their threads.
#[derive(Clone, Debug)]
pub(crate) struct Workers {
    handles: Arc<[Handle]>,
    next: Arc<AtomicUsize>,
    threads: Arc<Threads>,
}

#[derive(Debug)]
struct Threads {
    stop: CancellationToken,
    running: Vec<JoinHandle<()>>,
}

// === impl Workers ===

impl Workers {
    /// Starts `count` threads. With none, connections stay on the runtime of whoever calls this: one
    /// clock and one order for everything, as a simulation needs them.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let mut handles = Vec::new();
        let mut running = Vec::new();
        if count == 0 {
            handles.push(Handle::current());
        }
        for index in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            handles.push(runtime.handle().clone());
            let stop = stop.clone();
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            running.push(thread.spawn(move || runtime.block_on(stop.cancelled()))?);
        }
        Ok(Self {
            handles: handles.into(),
            next: Arc::default(),
            threads: Arc::new(Threads { stop, running }),
        })
    }

    /// The same runtimes, dealt out in a turn of its own: an agent's connections, which come one after
    /// the other, land on different ones whatever clients do meanwhile.
    pub(crate) fn apart(&self) -> Self {
        Self { next: Arc::default(), ..self.clone() }
    }

    /// The runtime whose turn it is.
    pub(crate) fn next(&self) -> &Handle {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        &self.handles[turn % self.handles.len()]
    }

    /// Ends the threads; tasks that still run there are dropped.
    pub(crate) fn stop(&self) {
        self.threads.stop.cancel();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.running.drain(..) {
            // A worker may hold the last clone: a thread cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                // A worker that panicked has said so; there is nobody left to tell.
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_threads_connections_stay_where_they_are() {
        let here = Handle::current().id();
        assert_eq!(Workers::start(0).unwrap().next().id(), here);
        let workers = Workers::start(2).unwrap();
        let ids = [(); 3].map(|()| workers.next().id());
        assert!(!ids.contains(&here));
        assert!(ids[0] != ids[1] && ids[0] == ids[2], "in turn");
    }
}
