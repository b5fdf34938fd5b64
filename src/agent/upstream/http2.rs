//! One HTTP/2 connection to the API server, and the count of its streams.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connector::Stream;
use super::{Failed, RequestBody, UpstreamError};

/// A connection; its tasks end when it is dropped.
pub(super) struct Http2 {
    sender: SendRequest<RequestBody>,
    streams: AtomicUsize,
    /// What the API server allows, as far as its SETTINGS have come.
    allowed: Arc<AtomicUsize>,
    _tasks: DropGuard,
}

/// One stream's place on a connection; given back when dropped.
pub(super) struct Place {
    connection: Arc<Http2>,
}

/// How full a connection is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) streams: usize,
    /// What it takes.
    pub(super) most: usize,
}

// === impl Http2 ===

impl Http2 {
    pub(super) async fn handshake(io: Stream) -> Result<Arc<Self>, UpstreamError> {
        let tasks = CancellationToken::new();
        let guard = tasks.clone().drop_guard();
        let executor = Executor(tasks.clone());
        let (sender, mut driver) = Builder::new(executor)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_SIZE)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEADER_LIST)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .reset_stream_duration(RESET_MEMORY)
            .max_local_error_reset_streams(None)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| UpstreamError::unreachable(&error))?;
        let allowed = Arc::new(AtomicUsize::new(driver.current_max_send_streams()));
        let settings = allowed.clone();
        let watched = poll_fn(move |context| {
            let end = Pin::new(&mut driver).poll(context);
            settings.store(driver.current_max_send_streams(), Ordering::Relaxed);
            end
        });
        tokio::spawn(tasks.run_until_cancelled_owned(async move {
            if let Err(error) = watched.await {
                tracing::debug!(%error, "HTTP/2 connection to the API server ended");
            }
        }));
        Ok(Arc::new(Self { sender, streams: AtomicUsize::new(0), allowed, _tasks: guard }))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn load(&self) -> Load {
        let most = MAX_STREAMS.min(self.allowed.load(Ordering::Relaxed));
        Load { streams: self.streams.load(Ordering::Relaxed), most }
    }

    /// Takes a place if the connection has one. Callers hold the pool's lock, so that two of them
    /// never take the last place.
    pub(super) fn place(self: &Arc<Self>) -> Option<Place> {
        let Load { streams, most } = self.load();
        if self.is_closed() || streams >= most {
            return None;
        }
        self.streams.fetch_add(1, Ordering::Relaxed);
        Some(Place { connection: self.clone() })
    }
}

// === impl Place ===

impl Place {
    pub(super) async fn try_send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failed> {
        Ok(self.connection.sender.clone().try_send_request(request).await?)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs what hyper spawns for a connection, and ends it with the connection.
#[derive(Clone)]
struct Executor(CancellationToken);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        // Boxed: one of them is spawned for each request, with room for a whole connection, and a task
        // is moved several times until it runs, and once at its end.
        tokio::spawn(self.0.clone().run_until_cancelled_owned(Box::pin(task)));
    }
}

/// Go's server allows 250 streams; the rest is room for streams that end while others start.
const MAX_STREAMS: usize = 240;
/// As on the tunnel: what one stalled reader may hold here.
const STREAM_WINDOW: u32 = 256 << 10;
/// Far above `MAX_STREAMS` windows, so that stalled readers never stop the others; h2 derives its
/// budget of unread small frames from it, which a log of single bytes would else exhaust.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// Fewer frames, records and wake-ups for large bodies.
const FRAME_SIZE: u32 = 256 << 10;
/// Unsent request body that one stream may hold.
const SEND_BUFFER: usize = 256 << 10;
/// kube-apiserver takes and makes header lists up to 1 MiB.
const HEADER_LIST: u32 = 1 << 20;
/// A connection whose peer vanished is found within ten seconds.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Callers who go away reset streams that still receive: remember them instead of counting each
/// late frame as an error of the peer.
const REMEMBERED_RESETS: usize = 1000;
const RESET_MEMORY: Duration = Duration::from_secs(30);
