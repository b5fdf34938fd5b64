//! Client end: opens streams, at the hub on a connection that the agent dialled, at the agent on one to its
//! API server.

use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use http::header::CONTENT_LENGTH;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::driver;
use super::permits::Permits;
use super::pump::{BodySender, ReceiveBody, SendHalf, StreamState};
use super::settings::{STREAMS_PER_CONNECTION, Settings};

pub use super::error::{OpenError, TunnelEnd, TunnelError};
pub use super::permits::{StreamClass, StreamPermit};

/// A live tunnel, hub end. Clones share the connection; when the last one is gone and no stream is
/// left, the connection ends.
#[derive(Clone)]
pub struct Opener {
    sender: Arc<SendRequest<Bytes>>,
    shared: Arc<Shared>,
}

/// What the opener and the connection's driver share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Set by [`Opener::close`].
    pub(super) close: CancellationToken,
    /// Why, set before `close`.
    pub(super) why: OnceLock<&'static str>,
    /// A ping is late.
    pub(super) suspect: AtomicBool,
    /// Set by the driver before it lets go of the connection.
    pub(super) end: OnceLock<TunnelEnd>,
    permits: Permits,
    opened: AtomicU32,
}

/// A stream whose head was handed to HTTP/2.
#[derive(Debug)]
pub struct OpenedStream {
    /// The answer's head, when it comes. Dropping it resets the stream.
    pub response: ResponseHead,
    /// The request's body; already ended when the stream was opened with `end_of_stream`.
    pub send: SendHalf,
}

/// Resolves to the answer's head; holds the permit, and passes it on to the body.
pub struct ResponseHead {
    future: ResponseFuture,
    shared: Arc<Shared>,
    /// Taken when the head came or failed.
    state: Option<Arc<StreamState>>,
}

// === impl Opener ===

impl Opener {
    /// Performs the HTTP/2 handshake as client over `io`. Returns the opener and the connection's
    /// driver, which must be polled until it ends (spawn it): it writes, reads, pings, and returns
    /// why the tunnel ended.
    pub async fn handshake<IO>(
        io: IO,
        settings: &Settings,
    ) -> Result<(Self, impl Future<Output = TunnelEnd> + Send + 'static + use<IO>), TunnelError>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let shared = Arc::new(Shared {
            close: CancellationToken::new(),
            why: OnceLock::new(),
            suspect: AtomicBool::new(false),
            end: OnceLock::new(),
            permits: Permits::new(settings),
            opened: AtomicU32::new(0),
        });
        let (sender, driver) = driver::connect(io, settings, Arc::clone(&shared)).await?;
        Ok((Self { sender, shared }, driver))
    }

    /// Takes a permit if one is free. Does not wait.
    pub fn try_permit(&self, class: StreamClass) -> Option<StreamPermit> {
        self.shared.permits.try_take(class, self.sender.current_max_send_streams())
    }

    /// Opens a stream. `end_of_stream`: the request has no body. Writes nothing by itself: the
    /// head is queued, and the driver sends it.
    pub async fn open(
        &self,
        head: Request<()>,
        end_of_stream: bool,
        permit: StreamPermit,
    ) -> Result<OpenedStream, OpenError> {
        // A GOAWAY, or a connection that has ended, shows in the error of HTTP/2 itself.
        if self.is_closing() {
            return Err(OpenError::NotWritten);
        }
        // A fresh clone: HTTP/2's own "one waiting request per handle" is not our limit.
        let mut sender = SendRequest::clone(&self.sender);
        let opened = sender.send_request(head, end_of_stream);
        let (future, send) = opened.map_err(|error| OpenError::of_open(&error))?;
        self.shared.opened.fetch_add(1, Ordering::Relaxed);
        let state = StreamState::new(send, Some(permit));
        let send = if end_of_stream {
            SendHalf::already_ended()
        } else {
            SendHalf::new(Arc::clone(&state))
        };
        let response =
            ResponseHead { future, shared: Arc::clone(&self.shared), state: Some(state) };
        Ok(OpenedStream { response, send })
    }

    /// One small exchange: a whole request, a whole answer of at most `limit` bytes (else
    /// [`OpenError::Reset`] with ENHANCE_YOUR_CALM). For hello, probes, key sets. Has no deadline
    /// of its own.
    pub async fn exchange(
        &self,
        request: Request<Bytes>,
        limit: usize,
        permit: StreamPermit,
    ) -> Result<Response<Bytes>, OpenError> {
        let (mut head, body) = request.into_parts();
        let empty = body.is_empty();
        if !empty {
            head.headers.insert(CONTENT_LENGTH, body.len().into());
        }
        let opened = self.open(Request::from_parts(head, ()), empty, permit).await?;
        let sender = BodySender::new(Full::new(body), opened.send);
        let sending = async {
            if !empty {
                // What stopped the body shows in the answer, or in its absence.
                let _ = sender.await;
            }
            std::future::pending().await
        };
        tokio::select! {
            answer = collect(opened.response, limit) => answer,
            never = sending => never,
        }
    }

    /// Permits out, both classes: streams in flight.
    pub fn load(&self) -> usize {
        self.shared.permits.taken()
    }

    /// A ping is late: prefer other tunnels.
    pub fn is_suspect(&self) -> bool {
        self.shared.suspect.load(Ordering::Relaxed)
    }

    /// The connection has ended, or is ending (GOAWAY), or takes no new streams any more.
    pub fn is_closed(&self) -> bool {
        self.is_closing() || self.is_refusing()
    }

    /// How many streams the peer allows at once, as far as its SETTINGS have come.
    pub fn peer_streams(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    /// Whether the agent allows extended CONNECT; known once its SETTINGS came, so after the hello.
    pub fn takes_upgrades(&self) -> bool {
        self.sender.is_extended_connect_protocol_enabled()
    }

    /// Ends the connection now; every stream on it fails with [`OpenError::Lost`]. The first reason
    /// given stays.
    pub fn close(&self, why: &'static str) {
        let _ = self.shared.why.set(why);
        self.shared.close.cancel();
    }

    /// We close it, or it ended, or it takes no new streams any more.
    fn is_closing(&self) -> bool {
        self.shared.close.is_cancelled()
            || self.shared.end.get().is_some()
            || self.shared.is_used_up()
    }

    /// HTTP/2 itself takes no new stream: GOAWAY came, or the connection ended.
    fn is_refusing(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(SendRequest::clone(&self.sender).poll_ready(&mut cx), Poll::Ready(Err(_)))
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("shared", &self.shared).finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// No stream ids are left to give out.
    fn is_used_up(&self) -> bool {
        self.opened.load(Ordering::Relaxed) >= STREAMS_PER_CONNECTION
    }

    /// Used up, and nobody uses it any more.
    pub(super) fn is_over(&self) -> bool {
        self.is_used_up() && self.permits.taken() == 0
    }
}

// === impl ResponseHead ===

impl ResponseHead {
    /// Waits for the head. 1xx heads are skipped. Cancel-safe: may be polled again after other
    /// work. After it gave a head or an error, it gives [`OpenError::Reset`] (STREAM_CLOSED).
    pub async fn receive(&mut self) -> Result<Response<ReceiveBody>, OpenError> {
        if self.state.is_none() {
            return Err(OpenError::Reset(Reason::STREAM_CLOSED));
        }
        let result = poll_fn(|cx| std::pin::Pin::new(&mut self.future).poll(cx)).await;
        let state = self.state.take();
        match result {
            Ok(response) => {
                let (head, stream) = response.into_parts();
                let body = ReceiveBody::new(stream, &head.headers, state);
                Ok(Response::from_parts(head, body))
            }
            Err(error) => Err(self.explain(OpenError::of_stream(&error))),
        }
    }

    /// The driver knows better than HTTP/2 why the tunnel was lost.
    fn explain(&self, error: OpenError) -> OpenError {
        match (error, self.shared.end.get()) {
            (OpenError::Lost(_), Some(end)) => OpenError::Lost(end.to_string()),
            (error, _) => error,
        }
    }
}

impl Drop for ResponseHead {
    fn drop(&mut self) {
        if let Some(state) = &self.state {
            state.reset(Reason::CANCEL);
        }
    }
}

impl fmt::Debug for ResponseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead").finish_non_exhaustive()
    }
}

async fn collect(mut response: ResponseHead, limit: usize) -> Result<Response<Bytes>, OpenError> {
    let (head, mut body) = response.receive().await?.into_parts();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await.transpose()? {
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(OpenError::Reset(Reason::ENHANCE_YOUR_CALM));
        }
        whole.extend_from_slice(&data);
    }
    Ok(Response::from_parts(head, whole.freeze()))
}
