//! A body into a stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use http_body::Body;

use super::send::SendHalf;
use crate::hop;
use crate::tunnel::error::BodyError;
use crate::tunnel::headers;

/// Sends a body into a stream: a future of the number of bytes, and after a refusal a way to get the
/// body back if nothing was taken from it.
///
/// The body is polled only while the stream has window. When it fails, the stream is reset, never
/// ended: half a body must not look whole. When the peer resets the stream, the future ends.
#[derive(Debug)]
pub struct BodySender<B> {
    body: B,
    send: SendHalf,
    sent: u64,
    polled: bool,
    trailers: bool,
}

// === impl BodySender ===

impl<B> BodySender<B> {
    /// Starts nothing until polled. Trailers of the body are dropped: no Kubernetes request has any,
    /// and the API server would see headers that the hub's checks did not.
    pub const fn new(body: B, send: SendHalf) -> Self {
        Self { body, send, sent: 0, polled: false, trailers: false }
    }

    /// Sends the body's trailers too (answers), cleaned as their head: HTTP/2 resets a stream for what
    /// belongs to one connection.
    pub const fn with_trailers(mut self) -> Self {
        self.trailers = true;
        self
    }

    /// The body, if it was never polled. The stream is reset if it was still open.
    pub fn into_unpolled(self) -> Option<B> {
        (!self.polled).then_some(self.body)
    }
}

impl<B> BodySender<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, BodyError>> {
        loop {
            if self.body.is_end_stream() {
                return Poll::Ready(self.end(None));
            }
            if let Poll::Ready(error) = self.send.poll_reset(cx) {
                return Poll::Ready(Err(BodyError::Stream(error)));
            }
            ready!(self.send.poll_ready(cx)).map_err(BodyError::Stream)?;
            self.polled = true;
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.send.abort(Reason::CANCEL);
                    return Poll::Ready(Err(BodyError::Source(error.into())));
                }
                None => return Poll::Ready(self.end(None)),
            };
            match frame.into_data() {
                Ok(data) => {
                    self.sent += data.len() as u64;
                    if self.body.is_end_stream() {
                        let result = self.send.push_last(data).map_err(BodyError::Stream);
                        return Poll::Ready(result.map(|()| self.sent));
                    }
                    self.send.push(data).map_err(BodyError::Stream)?;
                }
                Err(frame) => {
                    let mut trailers = frame.into_trailers().ok().filter(|_| self.trailers);
                    if let Some(trailers) = &mut trailers {
                        hop::clean_response(trailers);
                        headers::strip(trailers);
                    }
                    return Poll::Ready(self.end(trailers));
                }
            }
        }
    }

    fn end(&mut self, trailers: Option<http::HeaderMap>) -> Result<u64, BodyError> {
        self.send.end(trailers).map_err(BodyError::Stream)?;
        Ok(self.sent)
    }
}

impl<B> Future for BodySender<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Output = Result<u64, BodyError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_all(cx)
    }
}
