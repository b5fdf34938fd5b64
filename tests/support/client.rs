//! A small HTTP client: one connection per request, HTTP/1.1 or HTTP/2.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use cluster_proxy::pki::tls;

/// A body that a test sends.
pub(crate) type Body = BoxBody<Bytes, std::convert::Infallible>;

/// Who asks, and where.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: Vec<u8>,
    pub(crate) token: Option<String>,
    pub(crate) http2: bool,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

// === impl Client ===

impl Client {
    pub(crate) fn new(address: SocketAddr, ca_pem: impl Into<Vec<u8>>) -> Self {
        Self { address, ca_pem: ca_pem.into(), token: None, http2: false }
    }

    pub(crate) fn token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    pub(crate) fn no_token(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    pub(crate) fn http2(&self) -> Self {
        Self { http2: true, ..self.clone() }
    }

    /// `GET path`, read to its end.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path, empty())).await
    }

    /// `POST path`, read to its end.
    pub(crate) async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(self.request("POST", path, full(body))).await
    }

    /// Sends `request` and reads the answer to its end.
    ///
    /// # Panics
    /// When there is no whole answer within the patience of tests.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let what = format!("{} {}", request.method(), request.uri());
        self.try_send(request).await.unwrap_or_else(|error| panic!("{what}: {error:#}"))
    }

    /// As [`Client::get`], where nobody may be listening.
    pub(crate) async fn try_get(&self, path: &str) -> anyhow::Result<Answer> {
        self.try_send(self.request("GET", path, empty())).await
    }

    async fn try_send(&self, request: Request<Body>) -> anyhow::Result<Answer> {
        let whole = async {
            let (head, body) = self.open(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Answer { status: head.status, headers: head.headers, body })
        };
        timeout(super::PATIENCE, whole).await?
    }

    /// Sends `request`; the body of the answer is the caller's to read. Dropping it closes the
    /// connection.
    pub(crate) async fn open(&self, request: Request<Body>) -> anyhow::Result<Response<Incoming>> {
        let stream = self.connect(if self.http2 { b"h2" } else { b"http/1.1" }).await?;
        let stream = TokioIo::new(stream);
        if self.http2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(connection);
            Ok(sender.send_request(request).await?)
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
            tokio::spawn(connection.with_upgrades());
            Ok(sender.send_request(request).await?)
        }
    }

    /// A TLS session with `alpn` and nothing said on it.
    pub(crate) async fn connect(
        &self,
        alpn: &[u8],
    ) -> anyhow::Result<tls::ClientStream<TcpStream>> {
        let config = tls::upstream(&self.ca_pem, None, &[alpn])?;
        let stream = timeout(CONNECT, TcpStream::connect(self.address)).await??;
        stream.set_nodelay(true)?;
        Ok(timeout(CONNECT, tls::connect(&config, "localhost", stream)).await??)
    }

    /// A request with this client's token.
    pub(crate) fn request(&self, method: &str, path: &str, body: Body) -> Request<Body> {
        let mut request = Request::builder().method(method);
        // HTTP/2 has an authority where HTTP/1.1 has a Host header.
        request = if self.http2 {
            request.uri(format!("https://localhost:{}{path}", self.address.port()))
        } else {
            request.uri(path).header("host", format!("localhost:{}", self.address.port()))
        };
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.body(body).unwrap()
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// Asserts that this is an error of ours: a `Status` with this code and a request id.
    pub(crate) fn assert_status(&self, code: u16, reason: &str) -> String {
        let body = self.json();
        assert_eq!(self.status.as_u16(), code, "{body}");
        assert_eq!(body["kind"], "Status", "{body}");
        assert_eq!(body["apiVersion"], "v1", "{body}");
        assert_eq!(body["status"], "Failure", "{body}");
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["reason"], reason, "{body}");
        assert_eq!(self.headers["content-type"], "application/json");
        assert!(self.headers.contains_key("x-request-id"), "{:?}", self.headers);
        body["message"].as_str().unwrap().to_owned()
    }
}

/// `GET path` over plain HTTP.
pub(crate) async fn plain_get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", address.to_string()).body(empty())?;
    let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}

pub(crate) fn empty() -> Body {
    Empty::new().boxed()
}

pub(crate) fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed()
}

const CONNECT: Duration = Duration::from_secs(5);
