//! One client connection: TLS, ALPN, and the HTTP settings of the side that faces the world.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, server::conn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::gate::Arrived;
use super::{Front, plain};
use crate::drain::Drain;
use crate::hub::flood::FloodGuard;
use crate::hub::limits::{Limit, Limits};
use crate::listen::activity::Activity;
use crate::listen::linger::Lingering;
use crate::listen::pace::{Deadlines, Paced};
use crate::pki::tls::{Protocol, ServerStream};

/// Serves one connection to its end.
pub(crate) async fn serve(front: Arc<Front>, arrived: Arrived) {
    let Arrived { socket, peer, connection, handshake } = arrived;
    let limits = Arc::clone(&front.limits);
    let accepted = timeout(limits.handshake_timeout, shake_hands(&front, socket)).await;
    drop(handshake);
    let (stream, protocol) = match accepted {
        Ok(Ok(Some(accepted))) => accepted,
        Ok(Ok(None)) => {
            front.recorder.metrics.handshakes_failed.plain_http.inc();
            return tracing::debug!(%peer, "plain HTTP on the port of HTTPS");
        }
        Ok(Err(error)) => {
            front.recorder.metrics.handshakes_failed.tls.inc();
            return tracing::debug!(%peer, %error, "TLS handshake failed");
        }
        Err(_) => {
            front.hit(Limit::HandshakeTimeout);
            return tracing::debug!(%peer, "TLS handshake took too long");
        }
    };
    let _open = front.open();
    let drain = front.forwarder.drain.clone();
    let handler = Arc::clone(&front);
    let activity = Activity::of(connection);
    let requests = activity.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (front, running) = (Arc::clone(&handler), requests.request());
        // Boxed: HTTP/1.1 keeps room for it as long as the connection lives, and most are idle.
        Box::pin(async move { Ok::<_, Infallible>(front.handle(request, peer, running).await) })
    });
    let deadlines = Deadlines { head: limits.head_timeout, idle: limits.idle_timeout };
    let ended = match protocol {
        Protocol::Http1 => {
            let paced = Paced::http1(stream, activity.clone(), deadlines);
            // A client that still writes when it gets its answer is to hear it.
            let io = TokioIo::new(Lingering::new(paced, activity.clone()));
            let connection = http1(&limits).serve_connection(io, service).with_upgrades();
            drive(
                connection,
                |connection| connection.graceful_shutdown(),
                &drain,
                &activity,
                pending(),
            )
            .await
        }
        Protocol::Http2 => {
            let hits = front.recorder.metrics.flood_hits(Limit::Http2Flood);
            let guarded = FloodGuard::of_client(stream, limits.head_timeout, hits);
            let io = TokioIo::new(Paced::http2(guarded, activity.clone(), deadlines));
            let connection = http2(&limits).serve_connection(io, service);
            // Pings alone must not hold a connection for ever.
            let idle = activity.idle(limits.idle_timeout);
            drive(connection, |connection| connection.graceful_shutdown(), &drain, &activity, idle)
                .await
        }
    };
    if activity.head_was_late() {
        front.hit(Limit::HeadTimeout);
    }
    if let Err(error) = ended {
        // Far over the limit, so that hyper answered by itself.
        if error.is_parse_too_large() {
            front.hit(Limit::HeaderBytes);
        }
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// TLS with the client; None for one that spoke plain HTTP, and was told.
async fn shake_hands(
    front: &Front,
    socket: TcpStream,
) -> io::Result<Option<(ServerStream<TcpStream>, Protocol)>> {
    if plain::is_spoken(&socket).await? {
        plain::refuse(socket).await?;
        return Ok(None);
    }
    front.tls.accept(socket).await.map(Some)
}

/// Drives a connection to its end. In a drain, or once `idle` is ready, it finishes what runs and
/// takes nothing new; one that `activity` cuts ends at once. HTTP/2 ends once the client has answered
/// a ping: an idle one that does not is not waited for.
async fn drive<C, E>(
    connection: C,
    shut_down: fn(Pin<&mut C>),
    drain: &Drain,
    activity: &Activity,
    idle: impl Future<Output = ()>,
) -> Result<(), E>
where
    C: Future<Output = Result<(), E>>,
{
    let mut connection = pin!(connection);
    let drained = tokio::select! {
        ended = connection.as_mut() => return ended,
        () = activity.cut() => return Ok(()),
        () = drain.stopping() => true,
        () = idle => false,
    };
    shut_down(connection.as_mut());
    tokio::select! {
        ended = connection => ended,
        () = activity.cut() => Ok(()),
        () = silent(activity), if !drained => Ok(()),
        // One more turn lets bodies that were told to end say so to their clients.
        () = cut_off(drain) => Ok(()),
    }
}

async fn silent(activity: &Activity) {
    tokio::time::sleep(PING_TIMEOUT).await;
    activity.idle(PING_TIMEOUT).await;
}

async fn cut_off(drain: &Drain) {
    drain.cut().await;
    tokio::time::sleep(LAST_WORDS).await;
}

fn http1(limits: &Limits) -> conn::http1::Builder {
    let mut http = conn::http1::Builder::new();
    http.header_read_timeout(None)
        .max_headers(MEASURED * limits.header_count)
        .max_buf_size(MEASURED * limits.header_bytes as usize)
        .half_close(false);
    http
}

fn http2(limits: &Limits) -> conn::http2::Builder<TokioExecutor> {
    let mut http = conn::http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.header_bytes)
        .initial_stream_window_size(UPLOAD_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(CLIENT_ERRORS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    http
}

/// hyper takes this much more of an HTTP/1.1 head than the limits say, so that a head somewhat over
/// them is measured and answered with a `Status`.
pub(crate) const MEASURED: usize = 2;
/// Streams that a client may reset before we looked at them (rapid reset): then it is cut off.
const PENDING_RESETS: usize = 20;
/// Streams that a client may make us reset by breaking HTTP/2 on them, in the life of a connection.
const CLIENT_ERRORS: usize = 1024;
/// Upload credit of one stream.
pub(crate) const UPLOAD_WINDOW: u32 = 256 * 1024;
/// Credit of all uploads of one client: a few stalled ones must not stop the others. HTTP/2 lets
/// small frames cost half as much again in memory.
pub(crate) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Bytes kept for a client that reads slowly, per stream.
const SEND_BUFFER: usize = 256 * 1024;
/// Finds clients that vanished without a goodbye.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// From "every stream ends now" to closing the socket under it.
const LAST_WORDS: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// A client that answers nothing, from the end of its idle time on.
    async fn driven(activity: &Activity) -> Duration {
        let start = Instant::now();
        let never = pending::<Result<(), Infallible>>();
        let ended = drive(never, |_| {}, &Drain::new(), activity, async {}).await;
        assert_eq!(ended, Ok(()));
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_client_that_answers_no_ping_is_not_waited_for_but_its_requests_are() {
        assert_eq!(driven(&Activity::new()).await, PING_TIMEOUT);
        let activity = Activity::new();
        let running = activity.request();
        let work = async {
            tokio::time::sleep(100 * PING_TIMEOUT).await;
            drop(running);
        };
        let (elapsed, ()) = tokio::join!(driven(&activity), work);
        assert_eq!(elapsed, 101 * PING_TIMEOUT);
    }
}
