//! One client connection: TLS, ALPN, and the HTTP settings of the side that faces the world.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, server::conn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Front;
use crate::drain::Drain;
use crate::hub::flood::FloodGuard;
use crate::hub::limits::Limits;
use crate::pki::tls::Protocol;

/// Serves one connection to its end.
pub(crate) async fn serve(front: Front, socket: TcpStream, peer: SocketAddr) {
    let handshake = timeout(front.limits.handshake_timeout, front.tls.accept(socket));
    let (stream, protocol) = match handshake.await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
    };
    let _open = front.open();
    let drain = front.forwarder.drain.clone();
    let handler = front.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let front = handler.clone();
        async move { Ok::<_, Infallible>(front.handle(request, peer).await) }
    });
    let ended = match protocol {
        Protocol::Http1 => {
            let io = TokioIo::new(stream);
            let connection = http1(&front.limits).serve_connection(io, service).with_upgrades();
            drive(connection, |connection| connection.graceful_shutdown(), &drain).await
        }
        Protocol::Http2 => {
            let io = TokioIo::new(FloodGuard::of_client(stream));
            let connection = http2(&front.limits).serve_connection(io, service);
            drive(connection, |connection| connection.graceful_shutdown(), &drain).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Drives a connection to its end. In a drain it finishes what runs and takes nothing new.
async fn drive<C, E>(connection: C, shut_down: fn(Pin<&mut C>), drain: &Drain) -> Result<(), E>
where
    C: Future<Output = Result<(), E>>,
{
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = drain.stopping() => shut_down(connection.as_mut()),
    }
    tokio::select! {
        ended = connection => ended,
        // One more turn lets bodies that were told to end say so to their clients.
        () = cut_off(drain) => Ok(()),
    }
}

async fn cut_off(drain: &Drain) {
    drain.cut().await;
    tokio::time::sleep(LAST_WORDS).await;
}

fn http1(limits: &Limits) -> conn::http1::Builder {
    let mut http = conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(limits.header_count)
        .max_buf_size(limits.header_bytes as usize)
        .half_close(false);
    http
}

fn http2(limits: &Limits) -> conn::http2::Builder<TokioExecutor> {
    let mut http = conn::http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.header_bytes)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    http
}

/// From the first byte we wait for to the end of a head; it bounds idle HTTP/1.1 connections too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Upload credit of one stream.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Credit of all uploads of one client: a stalled one must not stop the others.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Bytes kept for a client that reads slowly, per stream.
const SEND_BUFFER: usize = 256 * 1024;
/// Finds clients that vanished without a goodbye.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// From "every stream ends now" to closing the socket under it.
const LAST_WORDS: Duration = Duration::from_millis(500);
