//! One stream: bytes in, bytes out.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::connection::{Outgoing, Table};
use super::frame::{CANCEL, MAX_PIECE};
use super::headers::Headers;

/// A stream that the client opened and that we have agreed to.
#[derive(Debug)]
pub(in crate::miniapi::pods) struct Stream {
    headers: Headers,
    pub(in crate::miniapi::pods) receive: Receive,
    pub(in crate::miniapi::pods) send: Send,
}

/// What the client sends. The end of the bytes is the client's half-close; an error is a reset or
/// the end of the connection.
#[derive(Debug)]
pub(in crate::miniapi::pods) struct Receive {
    pieces: mpsc::Receiver<Bytes>,
    unread: Bytes,
    broken: Arc<AtomicBool>,
}

/// What the client gets. Shutting it down is our half-close.
#[derive(Debug)]
pub(in crate::miniapi::pods) struct Send {
    id: u32,
    queue: PollSender<Outgoing>,
    table: Table,
    broken: Arc<AtomicBool>,
    ended: bool,
}

// === impl Stream ===

impl Stream {
    pub(super) fn new(
        id: u32,
        headers: Headers,
        pieces: mpsc::Receiver<Bytes>,
        queue: mpsc::Sender<Outgoing>,
        table: Table,
        broken: &Arc<AtomicBool>,
    ) -> Self {
        let receive = Receive { pieces, unread: Bytes::new(), broken: Arc::clone(broken) };
        let broken = Arc::clone(broken);
        let send = Send { id, queue: PollSender::new(queue), table, broken, ended: false };
        Self { headers, receive, send }
    }

    /// Ends both directions at once: the client hears that nobody wants it.
    pub(in crate::miniapi::pods) async fn reset(mut self) {
        let Send { id, table, .. } = &self.send;
        let (id, table) = (*id, table.clone());
        let queued = poll_fn(|cx| self.send.poll_queue(cx, |id| Outgoing::Reset(id, CANCEL)));
        // A connection that has ended has no streams.
        let _ = queued.await;
        table.reset(id);
    }

    /// The value of a header; `name` is in lower case.
    pub(in crate::miniapi::pods) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

// === impl Receive ===

impl Receive {
    /// The next piece; `None` after the client's half-close.
    pub(in crate::miniapi::pods) async fn piece(&mut self) -> io::Result<Option<Bytes>> {
        match self.pieces.recv().await {
            Some(piece) => Ok(Some(piece)),
            None => self.closed().map(|()| None),
        }
    }

    fn closed(&self) -> io::Result<()> {
        match self.broken.load(Ordering::Acquire) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Receive {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            match ready!(self.pieces.poll_recv(cx)) {
                Some(piece) => self.unread = piece,
                None => return Poll::Ready(self.closed()),
            }
        }
        let length = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        Poll::Ready(Ok(()))
    }
}

// === impl Send ===

impl Send {
    fn poll_queue(
        &mut self,
        cx: &mut Context<'_>,
        frame: impl FnOnce(u32) -> Outgoing,
    ) -> Poll<io::Result<()>> {
        if self.ended || self.broken.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.queue.poll_reserve(cx)).map_err(gone)?;
        let frame = frame(self.id);
        Poll::Ready(self.queue.send_item(frame).map_err(gone))
    }
}

impl AsyncWrite for Send {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(MAX_PIECE)];
        if !bytes.is_empty() {
            let data = |id| Outgoing::Data(id, Bytes::copy_from_slice(bytes));
            ready!(self.poll_queue(cx, data))?;
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection writes what is queued as soon as it can.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            ready!(self.poll_queue(cx, Outgoing::Fin))?;
            self.ended = true;
            self.queue.close();
            self.table.we_ended(self.id);
        }
        Poll::Ready(Ok(()))
    }
}

/// Pieces of a stream that are read ahead of whoever reads it.
pub(super) const QUEUE: usize = 4;
