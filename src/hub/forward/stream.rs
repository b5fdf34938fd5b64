//! Ordinary requests, watches and followed logs: bodies passed through frame by frame.

use std::pin::pin;
use std::sync::Arc;

use http::Response;
use hyper::body::{Body as _, Incoming};
use tokio::time::sleep;

use super::body::{RequestBody, RequestBodyError, ResponseBody};
use super::ending::{Right, refusal};
use super::events::Events;
use super::{ATTEMPTS, Forwarder, Order, check_fault, failure};
use crate::hub::admission::Place;
use crate::hub::failure::Failure;
use crate::hub::headers;
use crate::hub::live::LiveStream;
use crate::hub::record::Record;
use crate::hub::registry::Tunnel;
use crate::hub::verb::Span;
use crate::tunnel::headers::took;
use crate::tunnel::opener::{OpenError, OpenedStream};
use crate::tunnel::pump::{BodyError, BodySender, ReceiveBody};

/// Sends `order` with its body, repeating it on another tunnel where that can do no harm.
pub(super) async fn forward(
    forwarder: &Forwarder,
    order: Order,
    (body, place): (Incoming, Option<Place>),
    live: Option<LiveStream>,
    record: &mut Option<Box<Record>>,
) -> Result<Response<ResponseBody>, Failure> {
    let traffic = record.as_ref().map(|record| Arc::clone(&record.traffic));
    let body = (!body.is_end_stream())
        .then(|| RequestBody::new(body, traffic.unwrap_or_default(), forwarder.max_body, place));
    let supervised = live.is_some();
    let right = forwarder.right(&order, live);
    let (response, tunnel) = {
        // Pinned, or there would be room for it in each way to wait for it.
        let sent = pin!(send(forwarder, &order, body));
        match supervised {
            // An upload, or a wait for the head, may take as long as any stream.
            true => tokio::select! {
                biased;
                reason = right.lost() => return Err(refusal(reason)),
                sent = sent => sent?,
            },
            false => sent.await?,
        }
    };
    check_fault(&response, &order)?;
    Ok(answer(forwarder, &order, &tunnel, response, right, record))
}

/// Sends the request until it got a response or must not be repeated.
async fn send(
    forwarder: &Forwarder,
    order: &Order,
    mut body: Option<RequestBody>,
) -> Result<(Response<ReceiveBody>, Arc<Tunnel>), Failure> {
    let bodiless = body.is_none();
    let mut attempt = 1;
    loop {
        let (tunnel, permit) = forwarder.pick(&order.cluster, order.class())?;
        let sent = match tunnel.opener.open(order.head(), bodiless, permit).await {
            Ok(stream) => exchange(forwarder, order, stream, &mut body).await,
            Err(error) => Err(Lost::Stream(error)),
        };
        match sent {
            Ok(response) => return Ok((response, tunnel)),
            Err(Lost::Other(failure)) => return Err(failure),
            Err(Lost::Stream(error)) => {
                // A body that was polled is gone: `exchange` puts back only what nobody has read.
                let whole = bodiless || body.is_some();
                let again = match &error {
                    OpenError::NotWritten | OpenError::Refused => whole,
                    OpenError::Lost(_) => bodiless && order.kind.is_repeatable(&order.method),
                    OpenError::Reset(_) | OpenError::Invalid(_) | OpenError::Unread => false,
                };
                if !again || attempt == ATTEMPTS {
                    let error = match error {
                        // Part of the body is gone: the caller must not be told to repeat it.
                        OpenError::Refused if !whole => {
                            OpenError::Reset(h2::Reason::REFUSED_STREAM)
                        }
                        error => error,
                    };
                    return Err(failure(error, &order.cluster));
                }
                attempt += 1;
            }
        }
    }
}

/// Why one attempt brought no response.
enum Lost {
    /// The stream; another attempt may be allowed.
    Stream(OpenError),
    /// Something that another attempt would not mend.
    Other(Failure),
}

/// Sends the body and waits for the head, whichever comes first; a body that is still under way
/// when the head arrives goes on by itself.
async fn exchange(
    forwarder: &Forwarder,
    order: &Order,
    stream: OpenedStream,
    body: &mut Option<RequestBody>,
) -> Result<Response<ReceiveBody>, Lost> {
    let OpenedStream { mut response, send } = stream;
    let mut sender = body.take().map(|body| BodySender::new(body, send));
    let mut sending = sender.is_some();
    let mut late = pin!(sleep(forwarder.head_timeout));
    let head = loop {
        tokio::select! {
            biased;
            head = response.receive() => break head,
            sent = finish(&mut sender), if sending => {
                sending = false;
                match sent {
                    Ok(_) => late.set(sleep(forwarder.head_timeout)),
                    Err(BodyError::Source(error)) => {
                        return Err(Lost::Other(broken(&*error)));
                    }
                    // The head, or the reason why there is none, is on its way.
                    Err(BodyError::Stream(_)) => {}
                }
            }
            () = &mut late, if !sending && order.kind.span == Span::Short => {
                let after = forwarder.head_timeout;
                let cluster = order.cluster.clone();
                return Err(Lost::Other(Failure::HeadTimeout { cluster, after }));
            }
        }
    };
    match head {
        Ok(head) => {
            if let Some(sender) = sender.filter(|_| sending) {
                forwarder.upload(order, sender);
            }
            Ok(head)
        }
        Err(error) => {
            *body = sender.and_then(BodySender::into_unpolled);
            Err(Lost::Stream(error))
        }
    }
}

/// Why a client's body was not taken to its end.
fn broken(error: &(dyn std::error::Error + 'static)) -> Failure {
    match error.downcast_ref() {
        Some(RequestBodyError::TooLarge(most)) => Failure::BodyTooLarge(*most),
        _ => Failure::Body(error.to_string()),
    }
}

async fn finish<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Makes the answer to `order` the client's; a body that may live on is tied to the caller's right.
pub(super) fn answer(
    forwarder: &Forwarder,
    order: &Order,
    tunnel: &Tunnel,
    response: Response<ReceiveBody>,
    right: Right,
    record: &mut Option<Box<Record>>,
) -> Response<ResponseBody> {
    let (mut head, body) = response.into_parts();
    let body = body.lent();
    let upstream = took(&head.headers);
    headers::downstream(&mut head.headers, order.peer(), order.root(), &order.request_id);
    if let Some(record) = record {
        forwarder.unread.watch(&body, &order.cluster, record);
        record.answered(head.status, order.kind, upstream);
    }
    let body = match order.kind.span {
        Span::Short if body.size_hint().exact().is_some_and(|bytes| bytes <= SMALL) => {
            ResponseBody::tunnel(body)
        }
        Span::Short => ResponseBody::live(body, forwarder.end_of_short(order)),
        span => {
            let end = forwarder.end_of_long(span, right, &tunnel.leaving);
            match span {
                Span::Watch => ResponseBody::watch(body, Events::of(&head.headers), end),
                _ => ResponseBody::live(body, end),
            }
        }
    };
    Response::from_parts(head, body)
}

/// An answer that is so small and says so is out before anybody could take a right away: no timer
/// is spent on it.
const SMALL: u64 = 64 * 1024;
