//! Connections: TLS, HTTP/1.1 or HTTP/2 as the client chose by ALPN.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::cluster::Cluster;
use super::handlers;
use crate::drain::Drain;

/// Accepts connections until the end is asked for.
pub(super) async fn run(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    cluster: Arc<Cluster>,
    drain: Drain,
) {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(AFTER_FAILURE).await;
                    continue;
                }
            },
            () = drain.stopping() => return,
        };
        drain.spawn(connection(stream, acceptor.clone(), cluster.clone(), drain.clone()));
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, cluster: Arc<Cluster>, drain: Drain) {
    // Without it small answers wait for acknowledgements; failing to set it only costs time.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
    let Ok(Ok(stream)) = handshake else { return };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stopping = drain.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (cluster, drain) = (cluster.clone(), drain.clone());
        async move { Ok::<_, Infallible>(handlers::respond(&cluster, &drain, request).await) }
    });
    // An error here is a client that went away or broke the protocol: nobody is left to tell.
    if http2 {
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stopping.stopping() => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            _ = connection => {}
            () = stopping.cut() => {}
        }
    } else {
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stopping.stopping() => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            _ = connection => {}
            () = stopping.cut() => {}
        }
    }
}

/// Generous for a loaded machine, short for somebody who only holds connections open.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Out of file descriptors, most likely: trying at once would only spin.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
