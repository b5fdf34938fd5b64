//! A steady load of GETs, as clients send it that keep their connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use super::client::{Body, Client, empty};

/// GETs that are sent until [`Load::stop`].
pub(crate) struct Load {
    counts: Arc<Counts>,
    stop: CancellationToken,
    workers: JoinSet<()>,
}

#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    samples: Mutex<Vec<Sample>>,
}

/// One GET.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) began: Instant,
    pub(crate) took: Duration,
    pub(crate) failed: Option<String>,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

// === impl Load ===

impl Load {
    /// Sends `per_second` GETs of `path`: half over HTTP/1.1, half over HTTP/2, one in four on a
    /// connection of its own.
    pub(crate) fn start(client: &Client, path: &'static str, per_second: u32) -> Self {
        let counts = Arc::<Counts>::default();
        let stop = CancellationToken::new();
        let mut workers = JoinSet::new();
        for number in 0..WORKERS {
            let client = if number % 2 == 0 { client.clone() } else { client.http2() };
            let keeps = number % 4 != 0;
            let (counts, stop) = (Arc::clone(&counts), stop.clone());
            let pause = Duration::from_secs(1) * WORKERS / per_second;
            workers.spawn(async move { run(client, path, keeps, pause, &counts, &stop).await });
        }
        Self { counts, stop, workers }
    }

    /// GETs that were answered with 200 so far.
    pub(crate) fn answered(&self) -> usize {
        self.counts.answered.load(Ordering::Relaxed)
    }

    /// Every GET that was answered, or failed, so far.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.counts.samples.lock().unwrap().clone()
    }

    /// Ends the load, and says what failed.
    pub(crate) async fn stop(mut self) -> Vec<String> {
        self.stop.cancel();
        while let Some(ended) = self.workers.join_next().await {
            ended.unwrap();
        }
        let samples = std::mem::take(&mut *self.counts.samples.lock().unwrap());
        samples.into_iter().filter_map(|sample| sample.failed).collect()
    }
}

async fn run(
    client: Client,
    path: &str,
    keeps: bool,
    pause: Duration,
    counts: &Counts,
    stop: &CancellationToken,
) {
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut kept = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let began = Instant::now();
        let answer = timeout(ANSWER, get(&client, path, &mut kept)).await;
        let failed = answer.map_err(anyhow::Error::from).flatten().err();
        let failed = failed.map(|error| format!("{error:#}"));
        if failed.is_none() {
            counts.answered.fetch_add(1, Ordering::Relaxed);
        }
        if failed.is_some() || !keeps {
            kept = None;
        }
        let sample = Sample { began, took: began.elapsed(), failed };
        counts.samples.lock().unwrap().push(sample);
    }
}

async fn get(client: &Client, path: &str, kept: &mut Option<Sender>) -> anyhow::Result<()> {
    loop {
        let mut sender = match kept.take() {
            Some(sender) => sender,
            None => connect(client).await?,
        };
        // A connection that closed while nothing was sent on it is no failure, but a new one.
        if sender.ready().await.is_err() {
            continue;
        }
        let answer = match sender.send(client.request("GET", path, empty())).await {
            Ok(answer) => answer,
            Err(error) if error.is_canceled() || is_unseen(&error) => continue,
            Err(error) => return Err(error.into()),
        };
        let (head, body) = answer.into_parts();
        let text = body.collect().await?.to_bytes();
        anyhow::ensure!(head.status == 200, "{} {}", head.status, String::from_utf8_lossy(&text));
        if head.headers.get("connection").is_none_or(|value| value != "close") {
            *kept = Some(sender);
        }
        return Ok(());
    }
}

/// A request met the goodbye of its connection, which says that nobody has seen it (RFC 9113 6.8):
/// every HTTP/2 client sends such a one again.
fn is_unseen(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    cause.is_some_and(|cause: &h2::Error| {
        cause.is_go_away() && cause.is_remote() && cause.reason() == Some(h2::Reason::NO_ERROR)
    })
}

async fn connect(client: &Client) -> anyhow::Result<Sender> {
    if client.http2 {
        let stream = TokioIo::new(client.connect(b"h2").await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        Ok(Sender::Http2(sender))
    } else {
        let stream = TokioIo::new(client.connect(b"http/1.1").await?);
        let (sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Sender::Http1(sender))
    }
}

// === impl Sender ===

impl Sender {
    async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::Http1(sender) => sender.ready().await,
            Self::Http2(sender) => sender.ready().await,
        }
    }

    async fn send(
        &mut self,
        request: http::Request<Body>,
    ) -> hyper::Result<http::Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

const WORKERS: u32 = 8;
/// Above what a GET may take that meets a tunnel whose other end is gone; what takes longer hangs.
const ANSWER: Duration = Duration::from_secs(25);
