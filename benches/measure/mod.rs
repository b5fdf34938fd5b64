//! What the benchmarks share: one client's connection that asks again and again, and what is made
//! of the times it took.
#![allow(dead_code, reason = "each benchmark uses a part of this module")]

use std::time::{Duration, SystemTime};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::support::client::{Body, Client, empty};

/// A kept connection, of the HTTP version of its client.
pub(crate) struct Asker {
    client: Client,
    sender: Sender,
    _connection: AbortOnDropHandle<hyper::Result<()>>,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

// === impl Asker ===

impl Asker {
    pub(crate) async fn connect(client: &Client) -> Self {
        let alpn: &[u8] = if client.http2 { b"h2" } else { b"http/1.1" };
        let stream = TokioIo::new(client.connect(alpn).await.unwrap());
        let (sender, connection) = if client.http2 {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            (Sender::Http2(sender), tokio::spawn(connection))
        } else {
            let (sender, connection) = http1::handshake(stream).await.unwrap();
            (Sender::Http1(sender), tokio::spawn(connection.with_upgrades()))
        };
        let connection = AbortOnDropHandle::new(connection);
        Self { client: client.clone(), sender, _connection: connection }
    }

    /// So many, one after the other.
    pub(crate) async fn connect_all(client: &Client, count: usize) -> Vec<Self> {
        let mut askers = Vec::new();
        for _ in 0..count {
            askers.push(Self::connect(client).await);
        }
        askers
    }

    /// Sends `request`, whose answer must be a 200.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Response<Incoming> {
        let response = self.try_send(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response
    }

    /// Sends `request`, which may be refused.
    pub(crate) async fn try_send(
        &mut self,
        request: Request<Body>,
    ) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        }
    }

    /// `GET path`, whose answer must be whole: a fast proxy that loses bytes has won nothing.
    pub(crate) async fn ask(&mut self, path: &str, bytes: usize) {
        let request = self.client.request("GET", path, empty());
        let body = self.send(request).await.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), bytes, "a whole body");
    }
}

/// Every one of `askers` asks for `path` when it is its turn, each `pause` until `round` is over, whether or
/// not the one before was quick; the time of an answer counts from then. Returns them sorted.
pub(crate) async fn ask_in_turn(
    askers: Vec<Asker>,
    (path, bytes): (&str, usize),
    pause: Duration,
    round: Duration,
) -> Vec<Duration> {
    let (start, loops) = (Instant::now(), u32::try_from(askers.len()).unwrap());
    let asking = askers.into_iter().zip(0..).map(|(mut asker, number)| {
        let path = path.to_owned();
        tokio::spawn(async move {
            let mut due = start + pause * number / loops;
            let mut latencies = Vec::new();
            while due < start + round {
                tokio::time::sleep_until(due).await;
                asker.ask(&path, bytes).await;
                latencies.push(due.elapsed());
                due += pause;
            }
            latencies
        })
    });
    let mut latencies = Vec::new();
    for asked in asking.collect::<Vec<_>>() {
        latencies.extend(asked.await.unwrap());
    }
    latencies.sort_unstable();
    latencies
}

/// How late each event of a watch with `ticks` was until `end`: it says when it was made.
pub(crate) async fn lateness(mut body: Incoming, end: Instant) -> hyper::Result<Vec<Duration>> {
    let (mut late, mut part) = (Vec::new(), Vec::new());
    while let Ok(Some(frame)) = tokio::time::timeout_at(end, body.frame()).await {
        part.extend_from_slice(&frame?.into_data().unwrap());
        let now = SystemTime::now();
        while let Some(length) = part.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = part.drain(..=length).collect();
            let nanos: u64 = std::str::from_utf8(&line).unwrap().trim().parse().unwrap();
            let made = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
            late.push(now.duration_since(made).unwrap_or_default());
        }
    }
    Ok(late)
}

/// The time that `share` of `sorted` did not exceed.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn milliseconds(value: Duration) -> f64 {
    value.as_secs_f64() * 1e3
}

/// Whether cargo only asks who is there: `cargo test --benches`, `cargo bench -- --list`.
pub(crate) fn is_asked_only() -> bool {
    std::env::args().any(|arg| arg == "--list" || arg == "--test")
}
