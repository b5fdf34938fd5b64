//! The byte stream under HTTP/2: many frames share one write and one flush.
//!
//! HTTP/2 flushes after every larger DATA frame, so each answer would pay for a TLS record and a
//! system call of its own. Here a flush from HTTP/2 only leaves a note; whoever polls the
//! connection calls [`Flusher::poll_flush`] after each poll.
//!
//! No wake-up can get lost: the connection and the flusher are polled by one task, a write answers
//! `Pending` only when the inner stream just did (and so registered that task), and a flush that
//! could not finish is tried again after every later poll.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What HTTP/2 reads and writes.
#[derive(Debug)]
pub(super) struct Transport<IO>(Shared<IO>);

/// What is called after each poll of the connection.
#[derive(Debug)]
pub(super) struct Flusher<IO>(Shared<IO>);

type Shared<IO> = Arc<Mutex<Buffered<IO>>>;

#[derive(Debug)]
struct Buffered<IO> {
    io: IO,
    /// Written by HTTP/2, not yet by us; `start` bytes of it are gone. Not allocated while empty:
    /// thousands of idle tunnels share a hub.
    pending: Vec<u8>,
    start: usize,
    /// Something was written since the inner stream last finished a flush.
    dirty: bool,
    /// Bytes read so far: the sign of life that keepalive looks at.
    received: u64,
    /// Why reading failed. HTTP/2 keeps this to itself at the server end.
    failure: Option<String>,
}

/// Splits `io` into the two.
pub(super) fn deferred<IO>(io: IO) -> (Transport<IO>, Flusher<IO>) {
    let buffered =
        Buffered { io, pending: Vec::new(), start: 0, dirty: false, received: 0, failure: None };
    let shared = Arc::new(Mutex::new(buffered));
    (Transport(Arc::clone(&shared)), Flusher(shared))
}

// === impl Flusher ===

impl<IO: AsyncWrite + Unpin> Flusher<IO> {
    /// Writes and flushes what HTTP/2 wrote since. `Ready(Ok)` at once when that was nothing.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_flush(cx)
    }

    /// Writes and flushes what is left, and ends the inner stream.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_shutdown(cx)
    }

    /// Polls `future`, which uses the transport, to its end, with the flushes that it needs.
    pub(super) async fn drive<F: Future>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            let output = future.as_mut().poll(cx);
            // A broken stream shows in the next read or write of the future itself.
            let _ = self.poll_flush(cx);
            output
        })
        .await
    }
}

impl<IO> Flusher<IO> {
    /// Bytes that arrived so far.
    pub(super) fn received(&self) -> u64 {
        lock(&self.0).received
    }

    /// Why reading failed, where it did: a byte stream that broke off, not one that ended.
    pub(super) fn failure(&self) -> Option<String> {
        lock(&self.0).failure.clone()
    }
}

// === impl Transport ===

impl<IO: AsyncRead + Unpin> AsyncRead for Transport<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        let before = buf.filled().len();
        if let Err(error) = ready!(Pin::new(&mut inner.io).poll_read(cx, buf)) {
            let kind = error.kind();
            // TLS words this with a link to its manual.
            let error = match kind {
                io::ErrorKind::UnexpectedEof => io::Error::new(kind, "the connection broke off"),
                _ => error,
            };
            inner.failure = Some(error.to_string());
            return Poll::Ready(Err(error));
        }
        inner.received += (buf.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Transport<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).dirty = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_shutdown(cx)
    }
}

// === impl Buffered ===

impl<IO: AsyncWrite + Unpin> Buffered<IO> {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if self.pending.len() + total > WRITE_BUFFER {
            ready!(self.poll_drain(cx))?;
        }
        self.dirty = true;
        if total > WRITE_BUFFER {
            // Too large to gain from sharing a write: spare it the copy.
            return Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        }
        if self.pending.capacity() == 0 {
            self.pending.reserve_exact(WRITE_BUFFER);
        }
        for buf in bufs {
            self.pending.extend_from_slice(buf);
        }
        Poll::Ready(Ok(total))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.start < self.pending.len() {
            let written =
                ready!(Pin::new(&mut self.io).poll_write(cx, &self.pending[self.start..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += written;
        }
        self.pending.clear();
        self.start = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.dirty {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(cx))?;
        self.pending = Vec::new();
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.dirty = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The lock is never contended: both holders live in one task.
fn lock<IO>(shared: &Shared<IO>) -> MutexGuard<'_, Buffered<IO>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Frames up to this much share a write: a batch of small answers, well below a socket's buffer.
const WRITE_BUFFER: usize = 64 * 1024;
