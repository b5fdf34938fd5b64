//! Both ends against each other, over an in-memory byte stream.

mod accounting;
mod endings;
mod refusals;
mod splicing;
mod streams;
mod stress;
mod unread;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use tokio::io::DuplexStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::opener::{OpenedStream, Opener, StreamClass, TunnelEnd};
use super::pump::{BodySender, ReceiveBody};
use super::server::{self, Handler, Responder};
use super::settings::Settings;

/// A tunnel with both its drivers running.
struct Tunnel {
    opener: Opener,
    hub: JoinHandle<TunnelEnd>,
    agent: JoinHandle<TunnelEnd>,
    leave: Arc<Notify>,
}

impl Tunnel {
    async fn start<H: Handler>(handler: H) -> Self {
        Self::with_settings(handler, &Settings::default(), &Settings::default()).await
    }

    async fn with_settings<H: Handler>(handler: H, hub: &Settings, agent: &Settings) -> Self {
        let (near, far) = tokio::io::duplex(256 * 1024);
        Self::over(handler, hub, agent, near, far).await
    }

    async fn over<H: Handler>(
        handler: H,
        hub: &Settings,
        agent: &Settings,
        near: DuplexStream,
        far: DuplexStream,
    ) -> Self {
        let leave = Arc::new(Notify::new());
        let (left, settings) = (Arc::clone(&leave), agent.clone());
        let agent = tokio::spawn(async move {
            let left = async move { left.notified().await };
            server::serve(far, &settings, handler, left).await
        });
        let (opener, driver) = Opener::handshake(near, hub).await.unwrap();
        Self { opener, hub: tokio::spawn(driver), agent, leave }
    }

    async fn open(&self, request: Request<()>, end: bool) -> OpenedStream {
        let permit = self.opener.try_permit(StreamClass::Short).unwrap();
        self.opener.open(request, end, permit).await.unwrap()
    }

    async fn get(&self, path: &str) -> Response<Bytes> {
        let permit = self.opener.try_permit(StreamClass::Short).unwrap();
        let request = get(path).map(|()| Bytes::new());
        self.opener.exchange(request, 1 << 20, permit).await.unwrap()
    }

    /// Waits until every permit is back.
    async fn idle(&self) {
        until(|| self.opener.load() == 0).await;
    }
}

fn get(path: &str) -> Request<()> {
    request(Method::GET, path)
}

fn request(method: Method, path: &str) -> Request<()> {
    let uri = format!("https://cluster{path}");
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("condition came true");
}

async fn all(body: ReceiveBody) -> Bytes {
    body.collect().await.unwrap().to_bytes()
}

/// Sends every request's body back.
#[derive(Clone)]
struct Echo;

impl Handler for Echo {
    async fn handle(&self, request: Request<ReceiveBody>, responder: Responder) {
        let body = request.into_body();
        let send = responder.send(Response::new(()), false).unwrap();
        let _ = BodySender::new(body, send).with_trailers().await;
    }
}

/// What the path says.
#[derive(Clone)]
struct Scripted;

impl Handler for Scripted {
    async fn handle(&self, request: Request<ReceiveBody>, mut responder: Responder) {
        let (head, body) = request.into_parts();
        match head.uri.path() {
            "/endless" => {
                let mut send = responder.send(Response::new(()), false).unwrap();
                while send.send(Bytes::from(vec![0; 16 * 1024])).await.is_ok() {}
            }
            "/bytes" => {
                let mut send = responder.send(Response::new(()), false).unwrap();
                while send.send(Bytes::from_static(b"x")).await.is_ok() {}
            }
            "/watch" => {
                let mut send = responder.send(Response::new(()), false).unwrap();
                send.send(Bytes::from_static(b"event")).await.unwrap();
                send.reset_by_peer().await;
            }
            "/never" => drop(responder.cancelled().await),
            "/broken" => {
                let mut send = responder.send(Response::new(()), false).unwrap();
                send.send(Bytes::from_static(b"half")).await.unwrap();
                send.reset(h2::Reason::INTERNAL_ERROR);
            }
            "/short" => {
                let head = Response::builder().header("content-length", 10).body(()).unwrap();
                let mut send = responder.send(head, false).unwrap();
                send.send(Bytes::from_static(b"half")).await.unwrap();
                send.finish(None).unwrap();
            }
            "/trailers" => {
                let mut send = responder.send(Response::new(()), false).unwrap();
                send.send(Bytes::from_static(b"data")).await.unwrap();
                let name = http::HeaderName::from_static("x-end");
                let trailers = http::HeaderMap::from_iter([(name, "yes".parse().unwrap())]);
                send.finish(Some(trailers)).unwrap();
            }
            "/early" => {
                drop(body);
                let head = Response::builder().status(413).body(()).unwrap();
                let mut send = responder.send(head, false).unwrap();
                send.send(Bytes::from_static(b"too much")).await.unwrap();
                send.finish(None).unwrap();
            }
            "/dropped" => drop(responder),
            _ => drop(responder.send(Response::new(()), true).unwrap()),
        }
    }
}
