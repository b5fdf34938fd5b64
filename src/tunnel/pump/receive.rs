//! The receiving half of a stream.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::send::StreamState;
use crate::tunnel::error::OpenError;

/// The receiving half of a stream as an `http_body::Body`: data, then trailers.
///
/// The window of a chunk goes back when the next one is asked for, so a reader that stops holds one
/// chunk beyond its window. Small frames that are there together come as one chunk; an empty chunk
/// never comes. A body shorter or longer than its content-length is an error.
///
/// Dropping it before its end resets the stream (CANCEL) at the hub end. At the agent end it does
/// not: an answer may go on after its request's body lost all interest (RFC 9113 section 8.1).
#[derive(Debug)]
pub struct ReceiveBody {
    received: Arc<Mutex<Received>>,
    /// What content-length leaves to come.
    remaining: Option<u64>,
    /// Handed out, window not yet returned.
    owed: usize,
    /// Taken from HTTP/2 while merging, to be handed out next.
    stashed: Option<Result<Bytes, OpenError>>,
    ended: bool,
}

/// What others than the reader may see of a body, and cut.
#[derive(Debug)]
struct Received {
    /// `None` once it was cut.
    stream: Option<RecvStream>,
    /// Resets the stream on an early drop, and holds its permit.
    state: Option<Arc<StreamState>>,
    /// When the reader last asked for more, and how to tell it of a cut.
    asked: Instant,
    reader: Option<Waker>,
}

/// A look at a body from outside, as long as the body lives.
#[derive(Clone, Debug)]
pub struct Unread(Weak<Mutex<Received>>);

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
        let received =
            Received { stream: Some(stream), state, asked: Instant::now(), reader: None };
        let received = Arc::new(Mutex::new(received));
        Self { received, remaining, owed: 0, stashed: None, ended }
    }

    /// For those who count what is not read.
    pub fn unread(&self) -> Unread {
        Unread(Arc::downgrade(&self.received))
    }

    /// Whether [`Unread::cut`] ended it.
    pub(super) fn is_cut(&self) -> bool {
        lock(&self.received).stream.is_none()
    }

    fn is_drained(&self) -> bool {
        lock(&self.received).stream.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    /// The next chunk; small frames are merged.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, OpenError>>> {
        let owed = std::mem::take(&mut self.owed);
        lock(&self.received).ask(cx, owed);
        let first = match self.stashed.take() {
            Some(stashed) => stashed,
            None => match ready!(self.poll_frame_data(cx)) {
                Some(first) => first,
                None => return Poll::Ready(None),
            },
        };
        let Ok(first) = first else { return Poll::Ready(Some(first)) };
        let chunk = self.merge(cx, first);
        self.owed = chunk.len();
        self.remaining = self.remaining.map(|left| left.saturating_sub(chunk.len() as u64));
        Poll::Ready(Some(Ok(chunk)))
    }

    /// Adds to a small chunk what is there already.
    fn merge(&mut self, cx: &mut Context<'_>, first: Bytes) -> Bytes {
        if first.len() >= MERGE_BELOW {
            return first;
        }
        let mut merged = BytesMut::new();
        while first.len() + merged.len() < MERGE_UP_TO {
            match self.poll_frame_data(cx) {
                Poll::Ready(Some(Ok(next))) if next.len() < MERGE_BELOW => {
                    if merged.is_empty() {
                        merged.extend_from_slice(&first);
                    }
                    merged.extend_from_slice(&next);
                }
                Poll::Ready(Some(next)) => {
                    self.stashed = Some(next);
                    break;
                }
                // The end shows again at the next poll.
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if merged.is_empty() { first } else { merged.freeze() }
    }

    fn poll_frame_data(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, OpenError>>> {
        loop {
            let mut received = lock(&self.received);
            let Some(stream) = &mut received.stream else {
                return Poll::Ready(Some(Err(OpenError::Unread)));
            };
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => return Poll::Ready(Some(Ok(data))),
                Some(Err(error)) => return Poll::Ready(Some(Err(OpenError::of_stream(&error)))),
                None => return Poll::Ready(None),
            }
        }
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
            None => match &mut lock(&self.received).stream {
                Some(stream) => match ready!(stream.poll_trailers(cx)) {
                    Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
                    Err(error) => Some(Err(OpenError::of_stream(&error))),
                },
                None => Some(Err(OpenError::Unread)),
            },
        };
        self.ended = true;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.stashed.is_none() && !self.is_cut() && self.is_drained())
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for ReceiveBody {
    fn drop(&mut self) {
        if !self.is_end_stream()
            && let Some(state) = &lock(&self.received).state
        {
            state.reset(Reason::CANCEL);
        }
    }
}

// === impl Received ===

impl Received {
    /// The reader asks for more, and so has taken `owed` bytes.
    fn ask(&mut self, cx: &Context<'_>, owed: usize) {
        self.asked = Instant::now();
        match &mut self.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            None => self.reader = Some(cx.waker().clone()),
        }
        if let (Some(stream), 1..) = (&mut self.stream, owed) {
            // Fails only for more than was received, or on a stream that is gone: no window then.
            let _ = stream.flow_control().release_capacity(owed);
        }
    }
}

// === impl Unread ===

impl Unread {
    /// Bytes that came through the tunnel and that the reader has not taken, and when it last asked
    /// for some. `None` once the body is gone.
    pub fn measure(&self) -> Option<(usize, Instant)> {
        let received = self.0.upgrade()?;
        let mut received = lock(&received);
        let asked = received.asked;
        Some((received.stream.as_mut()?.flow_control().used_capacity(), asked))
    }

    /// Whether the body is still there.
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Resets the stream and frees what it holds; its reader gets [`OpenError::Unread`].
    pub fn cut(&self) {
        let Some(received) = self.0.upgrade() else { return };
        let mut received = lock(&received);
        received.stream = None;
        if let Some(state) = &received.state {
            state.reset(Reason::CANCEL);
        }
        if let Some(reader) = received.reader.take() {
            reader.wake();
        }
    }
}

fn lock(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    // A panic under it leaves nothing half-done that matters: the stream is dropped with its body.
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Chunks below this are worth copying together: one write later on for many.
const MERGE_BELOW: usize = 4 * 1024;

/// A merged chunk stops here.
const MERGE_UP_TO: usize = 32 * 1024;
