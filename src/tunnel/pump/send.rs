//! The sending half of a stream.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;

use crate::tunnel::error::OpenError;
use crate::tunnel::permits::StreamPermit;

/// The sending half of a stream. Dropping it before its end resets the stream (CANCEL).
#[derive(Debug)]
pub struct SendHalf {
    /// `None`: the stream was opened already ended.
    state: Option<Arc<StreamState>>,
    ended: bool,
}

/// What both halves of a stream hold: the only handle that can reset it, and its permit.
#[derive(Debug)]
pub(in crate::tunnel) struct StreamState {
    send: Mutex<SendStream<Bytes>>,
    /// Given back when neither half is left.
    _permit: Option<StreamPermit>,
}

// === impl SendHalf ===

impl SendHalf {
    pub(in crate::tunnel) const fn new(state: Arc<StreamState>) -> Self {
        Self { state: Some(state), ended: false }
    }

    pub(in crate::tunnel) const fn already_ended() -> Self {
        Self { state: None, ended: true }
    }

    /// Waits for window and hands over one chunk. At most one chunk waits beyond the window.
    /// Cancel-safe: when dropped while waiting, nothing was sent.
    pub async fn send(&mut self, chunk: Bytes) -> Result<(), OpenError> {
        poll_fn(|cx| self.poll_ready(cx)).await?;
        self.push(chunk)
    }

    /// Ends the stream, with trailers or without.
    pub fn finish(mut self, trailers: Option<HeaderMap>) -> Result<(), OpenError> {
        self.end(trailers)
    }

    /// Resets the stream.
    pub fn reset(mut self, reason: Reason) {
        self.abort(reason);
    }

    /// Ready when the peer reset the stream, or the tunnel was lost (INTERNAL_ERROR). Never for a
    /// stream that was opened already ended.
    pub async fn reset_by_peer(&mut self) -> Reason {
        match poll_fn(|cx| self.poll_reset(cx)).await {
            OpenError::Reset(reason) => reason,
            _ => Reason::INTERNAL_ERROR,
        }
    }

    /// Ready when a chunk may be pushed.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), OpenError>> {
        let Some(mut send) = self.stream() else { return Poll::Ready(Err(ended())) };
        // One byte asks for a turn; reserving more would hold shared window for data not yet there.
        send.reserve_capacity(1);
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(why_ended(&mut send, Some(&error)))),
                None => return Poll::Ready(Err(why_ended(&mut send, None))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Hands over a chunk; an empty one is nothing.
    pub(super) fn push(&self, chunk: Bytes) -> Result<(), OpenError> {
        if chunk.is_empty() {
            return Ok(());
        }
        let Some(mut send) = self.stream() else { return Err(ended()) };
        send.send_data(chunk, false).map_err(|error| why_ended(&mut send, Some(&error)))
    }

    /// As [`SendHalf::push`] with the stream's last chunk.
    pub(super) fn push_last(&mut self, chunk: Bytes) -> Result<(), OpenError> {
        self.last(|send| send.send_data(chunk, true))
    }

    pub(super) fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), OpenError> {
        match trailers {
            Some(trailers) => self.last(|send| send.send_trailers(trailers)),
            None => self.push_last(Bytes::new()),
        }
    }

    pub(super) fn abort(&mut self, reason: Reason) {
        self.ended = true;
        if let Some(mut send) = self.stream() {
            send.send_reset(reason);
        }
    }

    /// Ready when the peer reset the stream or the tunnel was lost, also after our end was sent.
    pub(super) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<OpenError> {
        let Some(mut send) = self.stream() else { return Poll::Pending };
        match ready!(send.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(OpenError::Reset(reason)),
            Err(error) => Poll::Ready(OpenError::of_stream(&error)),
        }
    }

    fn last(
        &mut self,
        act: impl FnOnce(&mut SendStream<Bytes>) -> Result<(), h2::Error>,
    ) -> Result<(), OpenError> {
        if self.ended {
            return Ok(());
        }
        let Some(mut send) = self.stream() else { return Ok(()) };
        let result = act(&mut send).map_err(|error| why_ended(&mut send, Some(&error)));
        drop(send);
        // On an error the drop of this half resets what is left.
        self.ended = result.is_ok();
        result
    }

    fn stream(&self) -> Option<MutexGuard<'_, SendStream<Bytes>>> {
        self.state.as_ref().map(|state| state.lock())
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if !self.ended {
            self.abort(Reason::CANCEL);
        }
    }
}

// === impl StreamState ===

impl StreamState {
    pub(in crate::tunnel) fn new(
        send: SendStream<Bytes>,
        permit: Option<StreamPermit>,
    ) -> Arc<Self> {
        Arc::new(Self { send: Mutex::new(send), _permit: permit })
    }

    pub(in crate::tunnel) fn reset(&self, reason: Reason) {
        self.lock().send_reset(reason);
    }

    fn lock(&self) -> MutexGuard<'_, SendStream<Bytes>> {
        self.send.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// HTTP/2 answers "inactive stream" to a write after a reset; the reset itself says more.
fn why_ended(send: &mut SendStream<Bytes>, error: Option<&h2::Error>) -> OpenError {
    match (send.poll_reset(&mut Context::from_waker(Waker::noop())), error) {
        (Poll::Ready(Ok(reason)), _) => OpenError::Reset(reason),
        (Poll::Ready(Err(error)), _) => OpenError::of_stream(&error),
        (Poll::Pending, Some(error)) => OpenError::of_open(error),
        (Poll::Pending, None) => ended(),
    }
}

/// A write to a half that has ended.
fn ended() -> OpenError {
    OpenError::Reset(Reason::STREAM_CLOSED)
}
