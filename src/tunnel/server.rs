//! Agent end: serves requests that arrive on a connection it dialled.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::error::{OpenError, TunnelEnd};
use super::keepalive::{Keepalive, Pulse};
use super::pump::{ReceiveBody, SendHalf, StreamState};
use super::settings::Settings;
use super::transport::deferred;

/// Answers one request. Dropping it unanswered resets the stream (INTERNAL_ERROR).
#[derive(Debug)]
pub struct Responder {
    send: SendResponse<Bytes>,
    answered: bool,
}

/// What serves the streams.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Serves one request to its end. Runs in a task of its own, which is aborted when the tunnel
    /// ends. A cancelled request does not abort it: watch [`Responder::cancelled`].
    fn handle(
        &self,
        request: Request<ReceiveBody>,
        responder: Responder,
    ) -> impl Future<Output = ()> + Send;
}

/// Serves a tunnel until it ends. When `leave` is ready, says goodbye (GOAWAY) and lets running
/// streams finish; how long that may take is the caller's to bound, by dropping this future, which
/// ends everything at once.
pub async fn serve<IO, H>(
    io: IO,
    settings: &Settings,
    handler: H,
    leave: impl Future<Output = ()> + Send,
) -> TunnelEnd
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Handler,
{
    let (transport, flusher) = deferred(io);
    let handshake = flusher.drive(settings.server().handshake::<_, Bytes>(transport));
    let Ok(handshake) = tokio::time::timeout(settings.ping_timeout, handshake).await else {
        return TunnelEnd::PingTimeout;
    };
    let mut connection = match handshake {
        Ok(connection) => connection,
        Err(error) => return TunnelEnd::Broken(error.to_string()),
    };
    // The invariant: a connection gives out its pings once, and this is the first call.
    let pings = connection.ping_pong().expect("pings of a new connection were not taken");
    let mut keepalive = Keepalive::new(pings, settings);
    let mut tasks = JoinSet::new();
    let most_tasks = settings.accepted_streams as usize * TASKS_PER_STREAM;
    let mut leave = std::pin::pin!(leave);
    let mut left = false;
    poll_fn(|cx| {
        while let Poll::Ready(Some(_)) = tasks.poll_join_next(cx) {}
        if !left && leave.as_mut().poll(cx).is_ready() {
            left = true;
            connection.graceful_shutdown();
        }
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((_, mut send)))) if tasks.len() >= most_tasks => {
                    send.send_reset(Reason::REFUSED_STREAM);
                }
                Poll::Ready(Some(Ok((request, send)))) => {
                    let handler = handler.clone();
                    let (request, responder) = incoming(request, send);
                    // Boxed: a task is moved several times until it runs, and once at its end.
                    tasks.spawn(Box::pin(async move { handler.handle(request, responder).await }));
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(TunnelEnd::Broken(error.to_string()));
                }
                // After a GOAWAY, and after a whole end of the byte stream: the hub meant it. TLS
                // tells a whole end from a crash.
                Poll::Ready(None) => {
                    let failure = flusher.failure().filter(|_| !left);
                    return Poll::Ready(failure.map_or(TunnelEnd::Graceful, TunnelEnd::Broken));
                }
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(Err(error)) = flusher.poll_flush(cx) {
            return Poll::Ready(TunnelEnd::Broken(error.to_string()));
        }
        match keepalive.poll(cx, flusher.received()) {
            Pulse::Dead => Poll::Ready(TunnelEnd::PingTimeout),
            Pulse::Alive | Pulse::Suspect => Poll::Pending,
        }
    })
    .await
}

fn incoming(
    request: Request<RecvStream>,
    send: SendResponse<Bytes>,
) -> (Request<ReceiveBody>, Responder) {
    let (head, stream) = request.into_parts();
    let body = ReceiveBody::new(stream, &head.headers, None);
    (Request::from_parts(head, body), Responder { send, answered: false })
}

// === impl Responder ===

impl Responder {
    /// Sends the head; with `end_of_stream` there is no body.
    pub fn send(mut self, head: Response<()>, end_of_stream: bool) -> Result<SendHalf, OpenError> {
        let send = match self.send.send_response(head, end_of_stream) {
            Ok(send) => send,
            Err(error) => return Err(self.why_not(&error)),
        };
        self.answered = true;
        Ok(if end_of_stream {
            SendHalf::already_ended()
        } else {
            SendHalf::new(StreamState::new(send, None))
        })
    }

    /// Ready when the hub reset the stream, or the tunnel was lost (INTERNAL_ERROR): the caller
    /// went away.
    pub async fn cancelled(&mut self) -> Reason {
        poll_fn(|cx| self.send.poll_reset(cx)).await.unwrap_or(Reason::INTERNAL_ERROR)
    }

    /// HTTP/2 answers "inactive stream" after a reset; the reset itself says more.
    fn why_not(&mut self, error: &h2::Error) -> OpenError {
        match self.send.poll_reset(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(Ok(reason)) => OpenError::Reset(reason),
            Poll::Ready(Err(error)) => OpenError::of_stream(&error),
            Poll::Pending => OpenError::of_open(error),
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.answered {
            self.send.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// Tasks of cancelled streams linger for a moment; past this many per stream, new ones are refused.
const TASKS_PER_STREAM: usize = 2;
