//! Bodies on their way: counted, and ended when the caller's right to them ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use super::ending::{End, EndReason};
use super::events::Events;
use super::live::LiveBody;
use super::watch::{Next, WatchBody};
use crate::hub::admission::Place;
use crate::hub::failure::Hop;
use crate::hub::headers;
use crate::hub::record::Record;
use crate::hub::traffic::Traffic;
use crate::tunnel::opener::OpenError;
use crate::tunnel::pump::ReceiveBody;

/// What the hub answers with.
pub(crate) struct ResponseBody {
    source: Source,
    record: Option<Box<Record>>,
}

enum Source {
    /// Made here.
    Full(Full<Bytes>),
    /// From the tunnel.
    Tunnel(ReceiveBody),
    /// From the tunnel, and may outlive the caller's right to it.
    Live(LiveBody<ReceiveBody>),
    /// The same, and made to be ended.
    Watch(WatchBody<ReceiveBody>),
}

/// A response body broke off. The connection (HTTP/1.1) or the stream (HTTP/2) is cut, so that what
/// arrived cannot look complete.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenBody {
    /// The tunnel's side.
    #[error(transparent)]
    Tunnel(#[from] OpenError),
    /// Ours.
    #[error("the stream was ended by the hub: {0}")]
    Ended(EndReason),
}

// === impl ResponseBody ===

impl ResponseBody {
    /// A body made here.
    pub(crate) fn full(body: Full<Bytes>) -> Self {
        Self { source: Source::Full(body), record: None }
    }

    /// A body from the tunnel that ends by itself.
    pub(crate) fn tunnel(body: ReceiveBody) -> Self {
        Self { source: Source::Tunnel(body), record: None }
    }

    /// A body from the tunnel that breaks off when `end` is ready.
    pub(super) fn live(body: ReceiveBody, end: End) -> Self {
        Self { source: Source::Live(LiveBody::new(body, end)), record: None }
    }

    /// A watch from the tunnel, whose place in `events` is known: ends cleanly when `end` is ready.
    pub(super) fn watch(body: ReceiveBody, events: Events, end: End) -> Self {
        Self { source: Source::Watch(WatchBody::new(body, events, end)), record: None }
    }

    /// Attaches the request's record, which is written when the body is dropped.
    pub(crate) fn recorded(mut self, record: Box<Record>) -> Self {
        self.record = Some(record);
        self
    }

    /// Lets go of the tunnel's stream, for `reason`.
    fn end(&mut self, reason: EndReason) {
        self.source = Source::Full(Full::default());
        if let Some(record) = &mut self.record {
            record.ended_by_hub(reason);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let this = &mut *self;
        let frame = match &mut this.source {
            Source::Full(body) => {
                ready!(Pin::new(body).poll_frame(context)).map(|Ok(frame)| Ok(frame))
            }
            Source::Tunnel(body) => ready!(Pin::new(body).poll_frame(context)),
            Source::Live(live) => match ready!(live.poll_next(context)) {
                Next::Frame(frame) => frame,
                Next::Ended(reason) => {
                    this.end(reason);
                    return Poll::Ready(Some(Err(BrokenBody::Ended(reason))));
                }
            },
            Source::Watch(watch) => match ready!(watch.poll_next(context)) {
                Next::Frame(frame) => frame,
                Next::Ended(reason) => {
                    this.end(reason);
                    return Poll::Ready(None);
                }
            },
        };
        if let Some(record) = &mut this.record {
            match &frame {
                Some(Ok(frame)) => {
                    record.traffic.add_sent(frame.data_ref().map_or(0, |data| data.len() as u64));
                }
                Some(Err(error)) => record.ended(Hop::of(error), error.to_string()),
                None => {}
            }
        }
        let frame = frame.map(|frame| frame.map(cleaned).map_err(BrokenBody::Tunnel));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Full(body) => body.is_end_stream(),
            Source::Tunnel(body) => body.is_end_stream(),
            Source::Live(live) => live.body.is_end_stream(),
            Source::Watch(watch) => watch.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Full(body) => body.size_hint(),
            Source::Tunnel(body) => body.size_hint(),
            Source::Live(live) => live.body.size_hint(),
            Source::Watch(watch) => watch.body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Some(record) = &mut self.record else { return };
        let is_cut = match &self.source {
            Source::Full(_) => false,
            Source::Tunnel(body) => body.is_cut(),
            Source::Live(live) => live.body.is_cut(),
            Source::Watch(watch) => watch.body.is_cut(),
        };
        // HTTP asks a body for nothing while its client does not read: the log must say all the
        // same why it is over.
        if is_cut {
            record.ended(Hop::of(&OpenError::Unread), OpenError::Unread.to_string());
        }
    }
}

/// Data as it is, and of trailers what a client may be told.
fn cleaned(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        headers::trailers(trailers);
    }
    frame
}

/// A client's request body: counted, its trailers dropped. Trailers of requests are where smuggled
/// headers hide, and no API server reads them.
pub(crate) struct RequestBody {
    body: Incoming,
    traffic: Arc<Traffic>,
    most: Option<u64>,
    _place: Option<Place>,
}

/// Why a request's body is not taken to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestBodyError {
    /// The client's side.
    #[error(transparent)]
    Client(#[from] hyper::Error),
    /// Longer than the operator allows, bytes.
    #[error("longer than {0} bytes")]
    TooLarge(u64),
}

// === impl RequestBody ===

impl RequestBody {
    /// Counts into `traffic`, takes at most `most` bytes, and holds `place` as long as it lives.
    pub(crate) fn new(
        body: Incoming,
        traffic: Arc<Traffic>,
        most: Option<u64>,
        place: Option<Place>,
    ) -> Self {
        Self { body, traffic, most, _place: place }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    // Empty frames mean nothing, and a peer counts them against the connection.
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        let count = data.len() as u64;
                        self.traffic.add_received(count);
                        if let Some(most) = self.most.filter(|most| self.traffic.received() > *most)
                        {
                            return Poll::Ready(Some(Err(RequestBodyError::TooLarge(most))));
                        }
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Err(_trailers) => return Poll::Ready(None),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
