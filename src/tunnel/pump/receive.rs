//! The receiving half of a stream.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};

use super::received::{Lent, Received, Unread, lock};
use super::send::StreamState;
use crate::tunnel::error::OpenError;

/// The receiving half of a stream as an `http_body::Body`: data, then trailers.
///
/// The window of a chunk goes back when the next one is asked for, so a reader that stops holds one
/// chunk beyond its window. Small frames that are there together come as one chunk; an empty chunk
/// never comes. A body shorter or longer than its content-length is an error.
///
/// Dropping it before its end resets the stream (CANCEL) at the client end. At the server end it does
/// not: an answer may go on after its request's body lost all interest (RFC 9113 section 8.1).
#[derive(Debug)]
pub struct ReceiveBody {
    received: Arc<Mutex<Received>>,
    /// What content-length leaves to come.
    remaining: Option<u64>,
    /// Handed out, window not yet returned.
    owed: usize,
    /// See [`ReceiveBody::lent`].
    lends: bool,
    ended: bool,
}

// === impl ReceiveBody ===

impl ReceiveBody {
    /// `headers` are those of the head that came with `stream`.
    pub(in crate::tunnel) fn new(
        stream: RecvStream,
        headers: &HeaderMap,
        state: Option<Arc<StreamState>>,
    ) -> Self {
        let ended = stream.is_end_stream();
        let length = || headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
        let remaining = if ended { Some(0) } else { length() };
        let received = Arc::new(Mutex::new(Received::new(stream, state)));
        Self { received, remaining, owed: 0, lends: false, ended }
    }

    /// The same body, but the window of a chunk goes back when the chunk is dropped: what waits in
    /// buffers further on counts as unread, and the stream's window bounds all of it.
    ///
    /// Chunks must not be kept (a reader that collects more than a window waits for ever), nor be
    /// sent on the connection that they came from, whose lock their drop takes.
    pub fn lent(mut self) -> Self {
        self.lends = true;
        self
    }

    /// For those who count what is not read.
    pub fn unread(&self) -> Unread {
        Unread::new(&self.received)
    }

    /// Whether [`Unread::cut`] ended it.
    pub fn is_cut(&self) -> bool {
        lock(&self.received).is_cut()
    }

    fn is_drained(&self) -> bool {
        lock(&self.received).is_drained()
    }

    /// The next chunk; small frames are merged.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, OpenError>>> {
        let owed = std::mem::take(&mut self.owed);
        lock(&self.received).ask(cx, owed);
        let first = match ready!(lock(&self.received).poll_data(cx)) {
            Some(Ok(first)) => first,
            end => return Poll::Ready(end),
        };
        let mut chunk = self.merge(cx, first);
        if self.lends {
            chunk = Lent::wrap(chunk, &self.received);
        } else {
            self.owed = chunk.len();
        }
        self.remaining = self.remaining.map(|left| left.saturating_sub(chunk.len() as u64));
        Poll::Ready(Some(Ok(chunk)))
    }

    /// Adds to a small chunk what is there already.
    fn merge(&self, cx: &mut Context<'_>, first: Bytes) -> Bytes {
        if first.len() >= MERGE_BELOW {
            return first;
        }
        let mut merged = BytesMut::new();
        while first.len() + merged.len() < MERGE_UP_TO {
            let mut received = lock(&self.received);
            match received.poll_data(cx) {
                Poll::Ready(Some(Ok(next))) if next.len() < MERGE_BELOW => {
                    if merged.is_empty() {
                        merged.extend_from_slice(&first);
                    }
                    merged.extend_from_slice(&next);
                }
                Poll::Ready(Some(next)) => {
                    received.taken.push_front(next);
                    break;
                }
                // The end shows again at the next poll.
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if merged.is_empty() { first } else { merged.freeze() }
    }
}

impl Body for ReceiveBody {
    type Data = Bytes;
    type Error = OpenError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, OpenError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(self.poll_chunk(cx)) {
            Some(Ok(chunk)) => return Poll::Ready(Some(Ok(Frame::data(chunk)))),
            Some(Err(error)) => Some(Err(error)),
            None => match ready!(lock(&self.received).poll_trailers(cx)) {
                Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
                Err(error) => Some(Err(error)),
            },
        };
        self.ended = true;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (!self.is_cut() && self.is_drained())
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for ReceiveBody {
    fn drop(&mut self) {
        let early = !self.is_end_stream();
        let mut received = lock(&self.received);
        let state = received.state.take();
        if early && let Some(state) = &state {
            state.reset(Reason::CANCEL);
        }
        // Chunks that are lent may outlive it.
        received.free();
    }
}

/// Chunks below this are worth copying together: one write later on for many.
const MERGE_BELOW: usize = 4 * 1024;

/// A merged chunk stops here.
const MERGE_UP_TO: usize = 32 * 1024;
