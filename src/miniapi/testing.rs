//! Clients of an in-memory Kubernetes API over memory instead of sockets and TLS: paused time stands
//! still until everybody waits for it.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use tower::Service;

use super::{MiniApi, MiniApiConfig, MiniApiHandle, handlers, seed};
use crate::drain::Drain;

/// An API whose clients a test makes.
pub(crate) struct InMemory {
    pub(crate) handle: MiniApiHandle,
    token: String,
    drain: Drain,
}

/// The way of one client, and what is wrong with it. Clones share both.
#[derive(Clone)]
pub(crate) struct Wire {
    handle: MiniApiHandle,
    token: String,
    drain: Drain,
    fault: Arc<Mutex<Fault>>,
    requests: Arc<AtomicUsize>,
}

/// What happens to a client's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They are answered.
    None,
    /// Nobody listens.
    Refused,
    /// They never arrive, and nobody says so.
    Silent,
    /// They arrive and are done; the answer is lost with the connection.
    AnswerLost,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

// === impl InMemory ===

impl InMemory {
    pub(crate) async fn start() -> Self {
        let config = MiniApiConfig::new("test", "127.0.0.1:0".parse().unwrap());
        let api = MiniApi::bind(config).await.unwrap();
        Self { handle: api.handle(), token: api.admin_token(), drain: Drain::new() }
    }

    /// A client with all rights.
    pub(crate) fn client(&self) -> kube::Client {
        self.wire().client()
    }

    /// A way of its own to the API, with all rights.
    pub(crate) fn wire(&self) -> Wire {
        Wire {
            handle: self.handle.clone(),
            token: self.token.clone(),
            drain: self.drain.clone(),
            fault: Arc::new(Mutex::new(Fault::None)),
            requests: Arc::default(),
        }
    }

    /// Makes a namespace.
    pub(crate) fn namespace(&self, name: &str) {
        seed::namespace(&self.handle.cluster, name);
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        // Ends open watches.
        self.drain.stop();
    }
}

// === impl Wire ===

impl Wire {
    pub(crate) fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    /// From the next request on.
    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// How many were sent.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    async fn exchange(self, request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match fault {
            Fault::None | Fault::AnswerLost => {}
            Fault::Refused => return Err("connection refused".into()),
            Fault::Silent => std::future::pending().await,
        }
        let response = self.send(request).await?;
        if fault == Fault::AnswerLost { Err("connection reset".into()) } else { Ok(response) }
    }

    async fn send(self, mut request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
        let token = format!("Bearer {}", self.token);
        request.headers_mut().insert(AUTHORIZATION, token.parse()?);
        let (near, far) = tokio::io::duplex(64 << 10);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| async {
                let (cluster, drain) = (&self.handle.cluster, &self.drain);
                Ok::<_, Infallible>(handlers::respond(cluster, drain, request).await)
            });
            let server = hyper::server::conn::http1::Builder::new();
            let _ = server.serve_connection(TokioIo::new(far), service).await;
        });
        let near = TokioIo::new(near);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(near).await?;
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?)
    }
}

impl Service<Request<Body>> for Wire {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Incoming>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.clone().exchange(request).boxed()
    }
}
