//! What keeps the hub end of a connection going: reads, writes, flushes, pings, and the reason at
//! the end.

use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};

use super::error::{TunnelEnd, TunnelError};
use super::keepalive::{Keepalive, Pulse};
use super::opener::Shared;
use super::settings::Settings;
use super::transport::deferred;

/// Starts HTTP/2 as client over `io`. The future drives the connection to its end.
pub(super) async fn connect<IO>(
    io: IO,
    settings: &Settings,
    shared: Arc<Shared>,
) -> Result<
    (Arc<SendRequest<Bytes>>, impl Future<Output = TunnelEnd> + Send + 'static + use<IO>),
    TunnelError,
>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (transport, flusher) = deferred(io);
    let handshake = flusher.drive(settings.client().handshake::<_, Bytes>(transport));
    let (sender, mut connection) = handshake.await?;
    // The invariant: a connection gives out its pings once, and this is the first call.
    let pings = connection.ping_pong().expect("pings of a new connection were not taken");
    let mut keepalive = Keepalive::new(pings, settings);
    let sender = Arc::new(sender);
    // Weak, because the connection ends by itself when nobody could use it any more.
    let asked_at_the_end = Arc::downgrade(&sender);
    let driver = async move {
        let end = {
            let mut closed = std::pin::pin!(shared.close.cancelled());
            poll_fn(|cx| {
                if closed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(TunnelEnd::Closed(shared.why.get().unwrap_or(&"closed")));
                }
                let ended = std::pin::Pin::new(&mut connection).poll(cx);
                let flushed = flusher.poll_flush(cx);
                if let Poll::Ready(result) = ended {
                    return Poll::Ready(end_of(result, &asked_at_the_end));
                }
                if let Poll::Ready(Err(error)) = flushed {
                    return Poll::Ready(TunnelEnd::Broken(error.to_string()));
                }
                if shared.is_over() {
                    return Poll::Ready(TunnelEnd::Closed("its stream ids are used up"));
                }
                let pulse = keepalive.poll(cx, flusher.received());
                shared.suspect.store(pulse == Pulse::Suspect, Ordering::Relaxed);
                match pulse {
                    Pulse::Dead => Poll::Ready(TunnelEnd::PingTimeout),
                    Pulse::Alive | Pulse::Suspect => Poll::Pending,
                }
            })
            .await
        };
        // Before the connection goes and its streams fail: they are told this reason.
        let _ = shared.end.set(end.clone());
        drop(connection);
        if matches!(end, TunnelEnd::Closed(_)) {
            // Best effort: the agent learns that this end was meant.
            let _ = tokio::time::timeout(GOODBYE, poll_fn(|cx| flusher.poll_shutdown(cx))).await;
        }
        end
    };
    Ok((sender, driver))
}

/// For the last bytes of a tunnel that we close. Below what a stopping hub waits for all of them.
const GOODBYE: Duration = Duration::from_secs(1);

/// HTTP/2 ends with `Ok` both after a goodbye and after a bare end of the byte stream.
fn end_of(result: Result<(), h2::Error>, sender: &Weak<SendRequest<Bytes>>) -> TunnelEnd {
    match (result, sender.upgrade()) {
        (Err(error), _) => TunnelEnd::Broken(error.to_string()),
        // Nobody held the tunnel: the goodbye was ours.
        (Ok(()), None) => TunnelEnd::Graceful,
        (Ok(()), Some(sender)) => {
            match SendRequest::clone(&sender).poll_ready(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Err(error)) if error.is_go_away() => TunnelEnd::Graceful,
                _ => TunnelEnd::Broken("the peer closed the connection".to_owned()),
            }
        }
    }
}
