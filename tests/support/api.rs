//! A fake kube-apiserver: as much as hub and agent need, and bodies that no real one has.
//!
//! | path | answer |
//! |---|---|
//! | `/api/v1/namespaces/default/services/x/proxy/source?bytes=N` | N bytes of [`pattern`] |
//! | `.../proxy/sink` | length and SHA-256 of the request's body |
//! | `.../proxy/echo` | the request's head as JSON |
//! | `.../pods/p/log?follow=true` | a line every 50 ms, for ever |
//! | `/api/v1/configmaps?watch=true` | one event, then silence |
//! | `/api/v1/configmaps?watch=true&halves` | half an event every 50 ms, for ever |
//! | `/api/v1/configmaps?watch=true&ticks=N` | the time, every N ms, for ever |
//! | `.../pods/p/{exec,attach,portforward}` | 101, then a [`Session`] |
//! | `.../namespaces/N/configmaps` | none, and a watch that says nothing: what informers ask first |
//! | `/api/v1/secrets` | 403, as for an account without rights; 200 for the administrator |
//!
//! A client certificate of its authority is the administrator, whatever token comes with it: a real
//! one looks at certificates first.

pub(crate) mod access;
mod protobuf;
mod tokens;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt as _, stream};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use cluster_proxy::pki::ca::Authority;

use super::bodies::{digest, pattern, source_body, stream_body, ticks};
use super::certificates;
use super::client::{Body, full};
use super::part::Part;
use super::session::Session;
use super::token::{SigningKey, claims};

/// One running API server.
pub(crate) struct FakeApi {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: String,
    authority: Authority,
    shared: Arc<Shared>,
    part: Option<Part>,
}

struct Shared {
    uid: String,
    signer: SigningKey,
    /// What `/openid/v1/jwks` says: our own key, and whatever a thief adds.
    published: Mutex<Vec<Value>>,
    /// A list of the size that benchmarks use, made once.
    nodes: Bytes,
    /// Tokens that this API server lets in, and whose they are.
    accepted: Mutex<HashMap<String, String>>,
    /// How often it was asked.
    requests: AtomicU64,
    /// What clients said after the server had ended its side of a session.
    heard: Arc<Mutex<Vec<u8>>>,
}

// === impl FakeApi ===

impl FakeApi {
    /// Starts one on a free port of the loopback, on a thread of its own.
    pub(crate) async fn start(name: &str) -> Self {
        Self::start_at(name, Ipv4Addr::LOCALHOST).await
    }

    /// The same at another address.
    pub(crate) async fn start_at(name: &str, ip: Ipv4Addr) -> Self {
        let listener = std::net::TcpListener::bind((ip, 0)).unwrap();
        let mut api = Self::at(name, listener.local_addr().unwrap());
        api.run(listener);
        api
    }

    /// Starts it where it was before it was killed, with its keys.
    pub(crate) fn restart(&mut self) {
        self.run(std::net::TcpListener::bind(self.address).unwrap());
    }

    fn run(&mut self, listener: std::net::TcpListener) {
        let serving = self.serving();
        self.part = Some(Part::start(&format!("api-{}", self.name), move || async move {
            listener.set_nonblocking(true).unwrap();
            serving(TcpListener::from_std(listener).unwrap()).await;
        }));
    }

    /// One that whoever makes it runs, by [`FakeApi::serving`].
    pub(crate) fn at(name: &str, address: SocketAddr) -> Self {
        let authority = Authority::create("fake API server", DAY).unwrap();
        let signer = SigningKey::generate(&format!("{name}-key"));
        let shared = Arc::new(Shared {
            uid: uuid::Uuid::new_v4().to_string(),
            published: Mutex::new(vec![signer.jwk()]),
            signer,
            nodes: Bytes::from("n".repeat(LIST)),
            accepted: Mutex::default(),
            requests: AtomicU64::new(0),
            heard: Arc::default(),
        });
        let ca_pem = authority.certificate_pem();
        Self { name: name.to_owned(), address, ca_pem, authority, shared, part: None }
    }

    /// What serves those who come to a listener, for as long as it is polled.
    pub(crate) fn serving(
        &self,
    ) -> impl FnOnce(TcpListener) -> BoxFuture<'static, ()> + Send + use<> {
        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"];
        let mut names: Vec<_> = names.map(str::to_owned).into();
        names.extend(Some(self.address.ip().to_string()).filter(|ip| !names.contains(ip)));
        let issued = self.authority.issue_server(&names, DAY).unwrap();
        let config = certificates::server(&self.authority, &issued);
        let shared = Arc::clone(&self.shared);
        move |listener| Box::pin(serve(listener, TlsAcceptor::from(config), shared))
    }

    /// What clients said in sessions whose server had ended its side first.
    pub(crate) fn heard(&self) -> Vec<u8> {
        self.shared.heard.lock().unwrap().clone()
    }

    /// How many requests it has had.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// A good token of `default/NAME`, for an hour.
    pub(crate) fn token(&self, name: &str) -> String {
        self.token_for("default", name, 3600)
    }

    /// A token that this API server accepts, which ends `life` seconds from now.
    pub(crate) fn token_for(&self, namespace: &str, name: &str, life: i64) -> String {
        let token = self.sign(&claims(namespace, name, life));
        self.accept(&token, &format!("system:serviceaccount:{namespace}:{name}"));
        token
    }

    /// Signs any claims with this cluster's key, without letting the token in.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.shared.signer.sign(claims)
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.shared.signer
    }

    /// Lets `token` in, whoever signed it.
    pub(crate) fn accept(&self, token: &str, user: &str) {
        self.shared.accepted.lock().unwrap().insert(token.to_owned(), user.to_owned());
    }

    /// Does not let `token` in any more.
    pub(crate) fn refuse(&self, token: &str) {
        self.shared.accepted.lock().unwrap().remove(token);
    }

    /// Publishes somebody's key as its own.
    pub(crate) fn publish(&self, jwk: Value) {
        self.shared.published.lock().unwrap().push(jwk);
    }

    /// Kills it: connections break, the port refuses.
    pub(crate) fn kill(&mut self) {
        if let Some(part) = self.part.take() {
            part.kill();
        }
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // As Go's servers do: small frames wait for nothing.
        let _ = stream.set_nodelay(true);
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let is_admin = stream.get_ref().1.peer_certificates().is_some();
            let service = hyper::service::service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer(request, is_admin, &shared).await) }
            });
            let stream = TokioIo::new(stream);
            // A connection that breaks is what some tests are about.
            if http2 {
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(stream, service)
                    .await;
            } else {
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(stream, service)
                    .with_upgrades()
                    .await;
            }
        });
    }
}

async fn answer(mut request: Request<Incoming>, is_admin: bool, shared: &Shared) -> Response<Body> {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let bearer = request
        .headers()
        .get("authorization")
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer ").map(str::to_owned));
    let of_token = || shared.accepted.lock().unwrap().get(&bearer?).cloned();
    let user = if is_admin { Some(ADMIN.to_owned()) } else { of_token() };
    let Some(user) = user else {
        return status(401, "Unauthorized", "Unauthorized by the fake API server");
    };
    let path = request.uri().path().to_owned();
    let accept = request.headers().get("accept").and_then(|accept| accept.to_str().ok());
    let accept = accept.unwrap_or("*/*").to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let number = |name: &str| {
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    };
    match path.as_str() {
        "/version" => reply(&json!({"major": "1", "minor": "37", "gitVersion": "v1.37.2-fake"})),
        "/livez" | "/readyz" | "/healthz" => Response::new(full("ok")),
        // As kube-apiserver is: who asks for plain JSON alone gets nothing.
        "/openid/v1/jwks" if accept.contains("application/jwk-set+json") => {
            reply(&json!({"keys": *shared.published.lock().unwrap()}))
        }
        "/openid/v1/jwks" => status(406, "NotAcceptable", "406: Not Acceptable"),
        "/api/v1/namespaces/kube-system" => reply(&json!({
            "kind": "Namespace", "apiVersion": "v1",
            "metadata": {"name": "kube-system", "uid": shared.uid},
        })),
        "/api/v1/secrets" if user != ADMIN => {
            let message = format!("secrets is forbidden: User \"{user}\" cannot list resource");
            status(403, "Forbidden", &message)
        }
        // However the name is escaped.
        "/api/v1/configmaps" if query.contains("tch=true") => {
            let event = json!({"type": "ADDED", "object": {"kind": "ConfigMap",
                "apiVersion": "v1", "metadata": {"name": "a", "resourceVersion": "1"}}});
            let event = Bytes::from(format!("{event}\n"));
            if let Some(pause) = number("ticks") {
                return streamed(ticks(Duration::from_millis(pause)));
            }
            if query.contains("halves") {
                let halves = [event.slice(..9), event.slice(9..)];
                return streamed(stream::iter(halves.into_iter().cycle()).then(paced));
            }
            streamed(stream::iter([event]).chain(stream::pending()))
        }
        _ if path.ends_with("/configmaps") && query.contains("watch=true") => {
            // A list as a watch: informers fall back to the list when it is refused.
            if query.contains("sendInitialEvents") {
                return status(422, "Invalid", "sendInitialEvents is not supported");
            }
            streamed(stream::pending())
        }
        _ if path.starts_with("/api/v1/namespaces/") && path.ends_with("/configmaps") => {
            reply(&json!({"kind": "ConfigMapList", "apiVersion": "v1",
                "metadata": {"resourceVersion": "1"}, "items": []}))
        }
        "/apis/authentication.k8s.io/v1/tokenreviews" => tokens::review(request, shared).await,
        _ if path.ends_with("/token") && path.contains("/serviceaccounts/") => {
            tokens::grant(request, &path, shared).await
        }
        _ if path.ends_with("/log") => {
            let lines = stream::iter(0_u64..).map(|line| Bytes::from(format!("line {line}\n")));
            streamed(lines.then(paced))
        }
        _ if request.headers().contains_key("upgrade") && Session::of(&path).is_some() => {
            let session = Session::of(&path).unwrap();
            let mut switching = Response::new(full(""));
            *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let protocol = request.headers()["upgrade"].clone();
            switching.headers_mut().insert("upgrade", protocol);
            switching.headers_mut().insert("connection", "Upgrade".parse().unwrap());
            let upgrade = hyper::upgrade::on(&mut request);
            let heard = Arc::clone(&shared.heard);
            tokio::spawn(async move {
                let Ok(upgraded) = upgrade.await else { return };
                let _ = session.run(TokioIo::new(upgraded), &heard).await;
            });
            switching
        }
        _ if path.ends_with("/proxy/source") => {
            let bytes: u64 = number("bytes").unwrap_or(0);
            let mut response = Response::new(source_body(bytes));
            response.headers_mut().insert("content-length", bytes.into());
            response
        }
        _ if path.ends_with("/proxy/firehose") => {
            streamed(stream::iter(0..).map(|index: u64| pattern(index)))
        }
        _ if path.ends_with("/proxy/sink") => match digest(request.into_body()).await {
            Ok((bytes, sha256)) => reply(&json!({"bytes": bytes, "sha256": sha256})),
            Err(error) => status(400, "BadRequest", &error.to_string()),
        },
        _ if path.ends_with("/proxy/slow") => {
            tokio::time::sleep(Duration::from_millis(number("ms").unwrap_or(0))).await;
            reply(&json!({"user": user}))
        }
        _ if path.ends_with("/proxy/echo") => {
            let headers: Vec<_> = request
                .headers()
                .iter()
                .map(|(name, value)| {
                    json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())])
                })
                .collect();
            let target = request.uri().path_and_query().map(|target| target.as_str().to_owned());
            reply(&json!({"method": request.method().as_str(), "target": target,
                "headers": headers, "user": user}))
        }
        "/api/v1/pods" | "/api/v1/secrets" => reply(&json!({
            "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [],
            "server": shared.uid,
        })),
        "/api/v1/nodes" => Response::new(full(shared.nodes.clone())),
        _ => status(404, "NotFound", "the server could not find the requested resource"),
    }
}

fn reply(body: &Value) -> Response<Body> {
    let mut response = Response::new(full(body.to_string()));
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

fn status(code: u16, reason: &str, message: &str) -> Response<Body> {
    let mut response = reply(&json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Failure", "reason": reason, "message": message, "code": code}));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn streamed(chunks: impl Stream<Item = Bytes> + Send + Sync + 'static) -> Response<Body> {
    let mut response = Response::new(stream_body(chunks));
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

async fn paced(chunk: Bytes) -> Bytes {
    tokio::time::sleep(BETWEEN_LINES).await;
    chunk
}

/// Whom a client certificate makes of its bearer.
const ADMIN: &str = "kubernetes-admin";
const BETWEEN_LINES: Duration = Duration::from_millis(50);
/// Bytes of a list of nodes.
pub(crate) const LIST: usize = 3_700;
const DAY: Duration = Duration::from_secs(86_400);
