//! A server for pages of health and metrics: plain HTTP/1.1, few connections, short heads, a
//! deadline for everything. Nobody who holds it open keeps a probe from its answer for long.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::activity::Activity;
use super::failures::AcceptFailures;
use super::pace::{Deadlines, Paced};
use super::sources::Sources;

/// Answers with `pages` until dropped, and every connection ends with it.
pub async fn serve(listener: TcpListener, pages: Router) {
    let sources = Sources::new(CONNECTIONS, CONNECTIONS_PER_SOURCE);
    let mut open = JoinSet::new();
    let mut failures = AcceptFailures::of(&listener);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = open.join_next() => continue,
        };
        match accepted {
            Ok((socket, peer)) => {
                // Over the limit: closed at once.
                if let Ok(slot) = sources.take(peer.ip()) {
                    let pages = pages.clone();
                    open.spawn(async move {
                        connection(socket, pages).await;
                        drop(slot);
                    });
                }
            }
            Err(error) => failures.pause(&error).await,
        }
    }
}

async fn connection(socket: TcpStream, pages: Router) {
    let pages = TowerToHyperService::new(pages);
    let activity = Activity::new();
    let io = TokioIo::new(Paced::http1(socket, activity.clone(), DEADLINES));
    let service = service_fn(move |request| {
        let running = activity.request();
        let answer = pages.call(request);
        async move {
            let answer = answer.await;
            drop(running);
            answer
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .half_close(false)
        .serve_connection(io, service);
    // How it ends is the scraper's business.
    let _ = timeout(LIFE, connection).await;
}

/// Some scrapers and probes, each with a connection or two. Each is a file that the limits of a hub
/// leave free.
pub const CONNECTIONS: usize = 48;
/// So that one source leaves room for the probes of others.
const CONNECTIONS_PER_SOURCE: usize = 16;
const DEADLINES: Deadlines =
    Deadlines { head: Duration::from_secs(5), idle: Duration::from_secs(30) };
/// A scraper that reads its answer slower than this has gone away.
const LIFE: Duration = Duration::from_secs(300);
/// A scraper sends ten.
const MAX_HEADERS: usize = 64;
/// The least that hyper takes.
const MAX_HEAD: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn start() -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Router::new().route("/livez", get(|| async { "ok\n" }))));
        address
    }

    async fn ask(address: std::net::SocketAddr, head: &str) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn a_probe_is_answered_and_a_long_head_is_not() {
        let address = start().await;
        let head = |padding: usize| {
            let padding = "x".repeat(padding);
            format!("GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: {padding}\r\n\r\n")
        };
        let good = ask(address, &head(4_000)).await;
        assert!(good.starts_with("HTTP/1.1 200") && good.ends_with("ok\n"), "{good}");
        let long = ask(address, &head(9_000)).await;
        assert!(long.starts_with("HTTP/1.1 431"), "{long}");
    }

    #[tokio::test]
    async fn those_who_hold_it_open_leave_room_for_others() {
        let address = start().await;
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_PER_SOURCE {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(b"GET").await.unwrap();
            held.push(socket);
        }
        let request = "GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        assert_eq!(ask(address, request).await, "", "closed at once");
        // Another source of the same loopback.
        let other = tokio::net::TcpSocket::new_v4().unwrap();
        other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut socket = other.connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("ok\n"), "{answer}");
        // A head that never ends is over by itself.
        let mut byte = [0];
        assert_eq!(held[0].read(&mut byte).await.unwrap_or(0), 0);
    }
}
