//! One HTTP/2 connection to the API server, and the places on it.
//!
//! It is driven as the hub drives its end of a tunnel: frames of many requests share a write, and a request
//! is a stream of HTTP/2 itself, without a task of its own.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body as _;
use tokio_util::task::AbortOnDropHandle;

use super::connector::Stream;
use super::{Failed, RequestBody, UpstreamError};
use crate::tunnel::opener::{OpenError, Opener, StreamClass, StreamPermit};
use crate::tunnel::pump::{BodySender, ReceiveBody};
use crate::tunnel::settings::{HEADER_LIST_SIZE, SMALL_FRAME_BUDGET, STREAM_WINDOW, Settings};

/// A connection; it ends when this is dropped and its last stream is over.
pub(super) struct Http2 {
    opener: Opener,
}

/// The right to one stream of a connection, given back when the stream is over.
pub(super) struct Place {
    connection: Arc<Http2>,
    /// `None` once it was used.
    permit: Option<StreamPermit>,
    /// The body of the request, where it has one: what nobody took when the answer is over is given up.
    upload: Option<AbortOnDropHandle<()>>,
}

/// How full a connection is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) streams: usize,
    /// What it takes.
    pub(super) most: usize,
}

// === impl Http2 ===

impl Http2 {
    pub(super) async fn handshake(io: Stream) -> Result<Arc<Self>, UpstreamError> {
        let settings = Settings {
            stream_window: STREAM_WINDOW,
            ping_interval: PING_INTERVAL,
            ping_timeout: PING_TIMEOUT,
            short_streams: MAX_STREAMS,
            long_streams: 0,
            answer_head: HEADER_LIST_SIZE,
            small_frame_budget: SMALL_FRAME_BUDGET,
            ..Settings::default()
        };
        let (opener, driver) = Opener::handshake(io, &settings)
            .await
            .map_err(|error| UpstreamError::unreachable(&error))?;
        tokio::spawn(async move {
            let end = driver.await;
            tracing::debug!(%end, "HTTP/2 connection to the API server ended");
        });
        Ok(Arc::new(Self { opener }))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.opener.is_closed()
    }

    pub(super) fn load(&self) -> Load {
        Load { streams: self.opener.load(), most: MAX_STREAMS.min(self.opener.peer_streams()) }
    }

    /// Takes a place if the connection has one.
    pub(super) fn place(self: &Arc<Self>) -> Option<Place> {
        if self.is_closed() {
            return None;
        }
        let permit = self.opener.try_permit(StreamClass::Short)?;
        Some(Place { connection: self.clone(), permit: Some(permit), upload: None })
    }
}

// === impl Place ===

impl Place {
    pub(super) async fn try_send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<ReceiveBody>, Failed> {
        let permit = self.permit.take().expect("invariant: a lease is for one request");
        let (head, body) = request.into_parts();
        let ended = body.is_end_stream();
        let opened = self.connection.opener.open(Request::from_parts(head, ()), ended, permit);
        let mut opened = opened.await.map_err(|error| Failed::of(&error))?;
        if !ended {
            let upload = BodySender::new(body, opened.send);
            self.upload = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                // What stopped the body shows in the answer, or in its absence.
                let _ = upload.await;
            })));
        }
        opened.response.receive().await.map_err(|error| Failed::of(&error))
    }
}

// === impl Failed ===

impl Failed {
    /// The head is gone, whatever became of it.
    fn of(error: &OpenError) -> Self {
        Self { unwritten: None, error: UpstreamError::of_stream(error) }
    }
}

/// Go's server allows 250 streams; the rest is room for streams that end while others start.
const MAX_STREAMS: usize = 240;
/// A connection whose peer vanished is found within ten seconds.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
