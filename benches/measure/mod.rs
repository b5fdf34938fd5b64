//! What the benchmarks share: one client's connection that asks again and again, and what is made
//! of the times it took.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

use crate::support::client::{Body, Client, empty};

/// A kept connection over HTTP/1.1.
pub(crate) struct Asker {
    client: Client,
    sender: SendRequest<Body>,
    _connection: AbortOnDropHandle<hyper::Result<()>>,
}

// === impl Asker ===

impl Asker {
    pub(crate) async fn connect(client: &Client) -> Self {
        let stream = TokioIo::new(client.connect(b"http/1.1").await.unwrap());
        let (sender, connection) = handshake(stream).await.unwrap();
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        Self { client: client.clone(), sender, _connection: connection }
    }

    /// `GET path`, whose answer must be whole: a fast proxy that loses bytes has won nothing.
    pub(crate) async fn ask(&mut self, path: &str, bytes: usize) {
        let request = self.client.request("GET", path, empty());
        let response = self.sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), bytes, "a whole body");
    }
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
