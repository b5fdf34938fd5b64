//! exec, attach, port-forward: the client's upgraded connection joined to a tunnel stream.
//!
//! The hub does not look inside: WebSocket and SPDY are bytes here. The client gets its 101 only
//! after the API server has given one; any other answer passes as the plain response it is.

use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::body::ResponseBody;
use super::ending::{End, refusal};
use super::{ATTEMPTS, Forwarder, Order, check_fault, failure, stream};
use crate::hub::failure::{Failure, Hop};
use crate::hub::headers;
use crate::hub::live::LiveStream;
use crate::hub::record::Record;
use crate::hub::registry::Tunnel;
use crate::hub::verb::Span;
use crate::tunnel::connect::{self, Answer, Upgrade};
use crate::tunnel::headers::{Fault, single, took};
use crate::tunnel::opener::{OpenError, OpenedStream, StreamClass};
use crate::tunnel::pump::{self, BodyError, ReceiveBody, SendHalf};

/// An upgrade that a client asks for and that we carry.
pub(crate) struct WantedUpgrade {
    protocol: Upgrade,
    client: OnUpgrade,
}

/// Whether `request` asks for an upgrade that we carry: HTTP/1.1, `Connection: upgrade`, and
/// exactly one protocol that we know. Anything else (h2c, a list) is no upgrade, and the request
/// goes on as a plain one.
pub(crate) fn wanted<B>(request: &mut Request<B>) -> Option<WantedUpgrade> {
    let protocol = wanted_protocol(request)?;
    Some(WantedUpgrade { protocol, client: hyper::upgrade::on(request) })
}

/// The protocol that [`wanted`] finds.
pub(crate) fn wanted_protocol<B>(request: &Request<B>) -> Option<Upgrade> {
    let asked = request.version() == Version::HTTP_11
        && matches!(*request.method(), Method::GET | Method::POST)
        && connect::asks_for_upgrade(request.headers())
        // Bytes of a body and bytes of the new protocol could not be told apart.
        && !request.headers().contains_key(header::TRANSFER_ENCODING);
    if !asked {
        return None;
    }
    single(request.headers(), &header::UPGRADE)?.parse().ok()
}

/// Sends the upgrade as an extended CONNECT; on success the streams are joined in a task that
/// takes the record.
pub(super) async fn forward(
    forwarder: &Forwarder,
    order: Order,
    upgrade: WantedUpgrade,
    live: Option<LiveStream>,
    record: &mut Option<Box<Record>>,
) -> Result<Response<ResponseBody>, Failure> {
    let right = forwarder.right(&order, live);
    let (response, send, tunnel) = tokio::select! {
        biased;
        reason = right.lost() => return Err(refusal(reason)),
        opened = open(forwarder, &order, upgrade.protocol) => opened?,
    };
    check_fault(&response, &order)?;
    let (mut head, body) = match connect::decode_response(response, upgrade.protocol) {
        Ok(Answer::Switched(response)) => response.into_parts(),
        Ok(Answer::Plain(response)) => {
            // Ended, not dropped: a reset would take the answer's body with it. Where it fails, the
            // body says so too.
            let _ = send.finish(None);
            // An API server may ignore the wish and answer with a watch, which ends as any other.
            return Ok(stream::answer(forwarder, &order, &tunnel, response, right, record));
        }
        Err(_) => return Err(order.fault(Fault::BadAnswer)),
    };
    let upstream = took(&head.headers);
    headers::downstream(&mut head.headers, order.peer(), order.root(), &order.request_id);
    if let Some(record) = record {
        forwarder.unread.watch(&body, &order.cluster, record);
    }
    ask(&mut head.headers, upgrade.protocol);
    let answer = Response::from_parts(head, ResponseBody::full(Full::default()));
    if let Some(mut record) = record.take() {
        let mut kind = order.kind;
        kind.span = Span::Interactive;
        record.answered(StatusCode::SWITCHING_PROTOCOLS, kind, upstream);
        let end = forwarder.end_of_long(kind.span, right, &tunnel.leaving);
        let session = run(upgrade.client, send, body, end, record);
        forwarder.drain.spawn(session);
    }
    Ok(answer)
}

async fn open(
    forwarder: &Forwarder,
    order: &Order,
    protocol: Upgrade,
) -> Result<(Response<ReceiveBody>, SendHalf, Arc<Tunnel>), Failure> {
    let mut attempt = 1;
    loop {
        let (tunnel, permit) = forwarder.pick(&order.cluster, StreamClass::Long)?;
        let mut head = order.head();
        ask(head.headers_mut(), protocol);
        let (head, _) = connect::encode_request(head)?;
        let answer = match tunnel.opener.open(head, false, permit).await {
            Ok(OpenedStream { mut response, send }) => {
                response.receive().await.map(|head| (head, send))
            }
            Err(error) => Err(error),
        };
        match answer {
            Ok((response, send)) => return Ok((response, send, tunnel)),
            // Nothing of the session was sent: only a stream that nobody looked at is repeated.
            Err(OpenError::NotWritten | OpenError::Refused) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(failure(error, &order.cluster)),
        }
    }
}

/// The two headers of an upgrade, which the header rules took off as hop-by-hop.
fn ask(headers: &mut http::HeaderMap, protocol: Upgrade) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, protocol.into());
}

/// Joins both sides until both directions ended, one of them broke, or the caller's right ends.
async fn run(
    client: OnUpgrade,
    send: SendHalf,
    receive: ReceiveBody,
    end: End,
    mut record: Box<Record>,
) {
    let upgraded = match client.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        // Dropping the halves resets the stream.
        Err(error) => return record.ended(Hop::Client, error.to_string()),
    };
    let traffic = Arc::clone(&record.traffic);
    tokio::select! {
        biased;
        reason = end => record.ended_by_hub(reason),
        spliced = pump::splice(upgraded, send, receive, &*traffic) => match spliced.end {
            Ok(()) => {}
            Err(BodyError::Source(error)) => record.ended(Hop::Client, error.to_string()),
            Err(BodyError::Stream(error)) => record.ended(Hop::of(&error), error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_wanted(method: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).uri("/c1/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        wanted(&mut request.body(()).unwrap()).is_some()
    }

    #[test]
    fn one_known_protocol_over_http_1_1() {
        let upgrade = ("connection", "keep-alive, Upgrade");
        assert!(is_wanted("GET", &[upgrade, ("upgrade", "websocket")]));
        assert!(is_wanted("POST", &[upgrade, ("upgrade", "SPDY/3.1")]));
        assert!(!is_wanted("GET", &[("upgrade", "websocket")]));
        assert!(!is_wanted("GET", &[("connection", "close"), ("upgrade", "websocket")]));
        assert!(!is_wanted("PUT", &[upgrade, ("upgrade", "websocket")]));
        for other in ["foo", "h2c", "websocket, SPDY/3.1", ""] {
            assert!(!is_wanted("GET", &[upgrade, ("upgrade", other)]), "{other}");
        }
        let twice = [upgrade, ("upgrade", "websocket"), ("upgrade", "SPDY/3.1")];
        assert!(!is_wanted("GET", &twice));
    }
}
