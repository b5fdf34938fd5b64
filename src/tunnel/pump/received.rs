//! What came on a stream and was not read yet: shared by the body that reads it, by chunks that were
//! lent, and by whoever counts and cuts what nobody reads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream};
use http::HeaderMap;
use tokio::time::Instant;

use super::send::StreamState;
use crate::tunnel::error::OpenError;

/// What others than the reader may see of a body, and cut.
#[derive(Debug)]
pub(super) struct Received {
    /// `None` once it was cut, or its body is gone.
    stream: Option<RecvStream>,
    /// Resets the stream on an early drop, and holds its permit.
    pub(super) state: Option<Arc<StreamState>>,
    /// Taken from HTTP/2, to be handed out next.
    pub(super) taken: VecDeque<Result<Bytes, OpenError>>,
    /// Bytes of chunks that were lent and are still held.
    lent: usize,
    /// When the reader last asked for more, and how to tell it of a cut.
    asked: Instant,
    reader: Option<Waker>,
}

/// A chunk that was handed out; its window goes back with its drop.
pub(super) struct Lent {
    chunk: Bytes,
    received: Arc<Mutex<Received>>,
}

/// A look at a body from outside, as long as it or a chunk of it lives.
#[derive(Clone, Debug)]
pub struct Unread(Weak<Mutex<Received>>);

/// What a body holds.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Bytes that came through the tunnel and that nobody has taken to their end.
    pub bytes: usize,
    /// When the reader last asked for some.
    pub asked: Instant,
    /// The stream is over; what is held are chunks that were lent.
    pub over: bool,
}

// === impl Received ===

impl Received {
    pub(super) fn new(stream: RecvStream, state: Option<Arc<StreamState>>) -> Self {
        Self {
            stream: Some(stream),
            state,
            taken: VecDeque::new(),
            lent: 0,
            asked: Instant::now(),
            reader: None,
        }
    }

    /// The reader asks for more, and so has taken `owed` bytes.
    pub(super) fn ask(&mut self, cx: &Context<'_>, owed: usize) {
        self.asked = Instant::now();
        match &mut self.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            None => self.reader = Some(cx.waker().clone()),
        }
        self.release(owed);
    }

    /// Gives window back.
    fn release(&mut self, bytes: usize) {
        if let (Some(stream), 1..) = (&mut self.stream, bytes) {
            // Fails only for more than was received, or on a stream that is gone: no window then.
            let _ = stream.flow_control().release_capacity(bytes);
        }
    }

    /// The next data, never empty.
    pub(super) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, OpenError>>> {
        if let Some(next) = self.taken.pop_front() {
            return Poll::Ready(Some(next));
        }
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Some(Err(OpenError::Unread)));
        };
        loop {
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => return Poll::Ready(Some(Ok(data))),
                Some(Err(error)) => return Poll::Ready(Some(Err(OpenError::of_stream(&error)))),
                None => return Poll::Ready(None),
            }
        }
    }

    /// The trailers; an error once the stream was cut.
    pub(super) fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, OpenError>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(OpenError::Unread)) };
        stream.poll_trailers(cx).map_err(|error| OpenError::of_stream(&error))
    }

    pub(super) fn is_cut(&self) -> bool {
        self.stream.is_none()
    }

    /// Nothing is left to hand out.
    pub(super) fn is_drained(&self) -> bool {
        self.taken.is_empty() && self.stream.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    /// Lets go of everything that was not handed out.
    pub(super) fn free(&mut self) {
        self.stream = None;
        self.taken.clear();
    }

    /// Takes what is there out of HTTP/2, and copies small pieces together. There each costs far
    /// more than its bytes, and may hold a whole read buffer of its connection.
    fn gather(&mut self) {
        if matches!(self.taken.back(), Some(Err(_))) {
            return;
        }
        let Some(stream) = &mut self.stream else { return };
        let reader = self.reader.clone();
        let mut cx = Context::from_waker(reader.as_ref().unwrap_or(Waker::noop()));
        let mut small = BytesMut::new();
        while let Poll::Ready(Some(next)) = stream.poll_data(&mut cx) {
            match next {
                Ok(data) if data.len() + small.len() <= GATHERED => small.extend_from_slice(&data),
                next => {
                    if !small.is_empty() {
                        self.taken.push_back(Ok(small.split().freeze()));
                    }
                    let failed = next.is_err();
                    self.taken.push_back(next.map_err(|error| OpenError::of_stream(&error)));
                    if failed {
                        return;
                    }
                }
            }
        }
        if !small.is_empty() {
            // Not with the room that growing left.
            self.taken.push_back(Ok(Bytes::copy_from_slice(&small)));
        }
    }
}

// === impl Lent ===

impl Lent {
    /// `chunk`, whose window goes back to `received` when nobody holds any of it.
    pub(super) fn wrap(chunk: Bytes, received: &Arc<Mutex<Received>>) -> Bytes {
        lock(received).lent += chunk.len();
        Bytes::from_owner(Self { chunk, received: Arc::clone(received) })
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.chunk
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut received = lock(&self.received);
        received.lent -= self.chunk.len();
        received.release(self.chunk.len());
    }
}

// === impl Unread ===

impl Unread {
    pub(super) fn new(received: &Arc<Mutex<Received>>) -> Self {
        Self(Arc::downgrade(received))
    }

    /// What is held now, in as little memory as it takes. `None` once all of it is gone.
    pub fn look(&self) -> Option<Held> {
        let received = self.0.upgrade()?;
        let mut received = lock(&received);
        received.gather();
        let asked = received.asked;
        let bytes = match &mut received.stream {
            // With what is lent: that window has not gone back.
            Some(stream) => stream.flow_control().used_capacity(),
            None => received.lent,
        };
        Some(Held { bytes, asked, over: received.stream.is_none() })
    }

    /// Whether anything of the body is still there.
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Resets the stream and frees what it holds, but for chunks that are lent; its reader gets
    /// [`OpenError::Unread`].
    pub fn cut(&self) {
        let Some(received) = self.0.upgrade() else { return };
        let mut received = lock(&received);
        received.free();
        if let Some(state) = &received.state {
            state.reset(Reason::CANCEL);
        }
        if let Some(reader) = received.reader.take() {
            reader.wake();
        }
    }
}

pub(super) fn lock(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    // A panic under it leaves nothing half-done that matters: the stream is dropped with its body.
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pieces up to this much are copied together; a larger one fills most of what it holds.
const GATHERED: usize = 32 * 1024;
