//! HTTP/1.1 connections to the API server: one request at a time, and upgrades.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::connector::Stream;
use super::{Failed, RequestBody, UpstreamError};
use crate::hop;

/// A connection; it ends when this is dropped.
pub(super) struct Http1 {
    sender: SendRequest<RequestBody>,
    _driver: Driver,
}

/// Moves the bytes of a connection for as long as it is held.
pub(in crate::agent) struct Driver(
    #[expect(dead_code, reason = "held for its drop")] AbortOnDropHandle<()>,
);

// === impl Http1 ===

impl Http1 {
    pub(super) async fn handshake(io: Stream) -> Result<Self, UpstreamError> {
        let (sender, connection) = builder()
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| UpstreamError::unreachable(&error))?;
        let driver = Driver::spawn(connection);
        Ok(Self { sender, _driver: driver })
    }

    /// Free for a request now.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) async fn try_send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failed> {
        exchange(&mut self.sender, request).await
    }
}

/// Sends one request, which may want to be upgraded, on a connection of its own.
pub(super) async fn send_upgrade<S>(
    io: S,
    request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Driver), UpstreamError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = builder()
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| UpstreamError::unreachable(&error))?;
    let driver = Driver::spawn(connection.with_upgrades());
    let response = exchange(&mut sender, request).await.map_err(|failed| failed.error)?;
    Ok((response, driver))
}

/// Sends `request`, and gives up on an API server that informs without end, or that answers in a
/// way that can be read in two. hyper ends the connection of an answer that nobody takes.
async fn exchange(
    sender: &mut SendRequest<RequestBody>,
    mut request: Request<RequestBody>,
) -> Result<Response<Incoming>, Failed> {
    let flooded = Arc::new(Notify::new());
    let (informed, tell) = (AtomicUsize::new(0), flooded.clone());
    hyper::ext::on_informational(&mut request, move |_| {
        if informed.fetch_add(1, Ordering::Relaxed) == MAX_INFORMATIONAL {
            tell.notify_one();
        }
    });
    let response = tokio::select! {
        biased;
        () = flooded.notified() => return Err(bad("too many informational answers")),
        outcome = sender.try_send_request(request) => outcome?,
    };
    if hop::is_plainly_framed(response.headers()) {
        Ok(response)
    } else {
        Err(bad("its body has several ends, or a transfer coding that nobody asked for"))
    }
}

fn bad(reason: &'static str) -> Failed {
    Failed { unwritten: None, error: UpstreamError::BadAnswer(reason.into()) }
}

// === impl Driver ===

impl Driver {
    fn spawn(connection: impl Future<Output = hyper::Result<()>> + Send + 'static) -> Self {
        Self(AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "HTTP/1.1 connection to the API server ended");
            }
        })))
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.max_headers(MAX_HEADERS).max_buf_size(BUFFER);
    builder
}

/// Before one answer; an API server sends one at most (`100 Continue`).
const MAX_INFORMATIONAL: usize = 16;
/// Of one answer; hyper's own limit is 100, and impersonation answers may carry more warnings.
const MAX_HEADERS: usize = 512;
/// Holds the largest header list that kube-apiserver makes; it grows only when a head needs it.
const BUFFER: usize = 1 << 20;
