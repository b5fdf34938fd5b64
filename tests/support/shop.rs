//! A web server that stands behind a Service, as a Pod does.
//!
//! | path | answer |
//! |---|---|
//! | `/echo` | the body, as it comes |
//! | `/login` | a redirect, with cookies and with headers that no service may set for the hub's origin |
//! | `/session` | 101, then what it hears; an ordinary 403 where nobody asks for an upgrade |
//! | `/away` | a redirect to somebody else |
//! | `/slow?N` | after N ms |
//! | `/never` | none |
//! | `/broken` | the half of an answer, which breaks when the client speaks |
//! | everything else | the request's head as JSON |

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use cluster_proxy::pki::ca::Authority;
use cluster_proxy::pki::tls;

use super::certificates;
use super::part::Part;

type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// One running web server. It ends when this is dropped.
pub(crate) struct Shop {
    pub(crate) address: SocketAddr,
    counts: Arc<Counts>,
    _part: Part,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    connections: AtomicU64,
}

// === impl Shop ===

impl Shop {
    /// In the clear, on loopback.
    pub(crate) async fn start(name: &'static str) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), name, None).await
    }

    /// Over TLS, on loopback.
    pub(crate) async fn secure(name: &'static str, config: Arc<ServerConfig>) -> Self {
        let config = Some(config);
        Self::start_on(Ipv4Addr::LOCALHOST.into(), name, config).await
    }

    /// On another address of this machine.
    pub(crate) async fn start_on(
        host: IpAddr,
        name: &'static str,
        config: Option<Arc<ServerConfig>>,
    ) -> Self {
        let tls = config.map(TlsAcceptor::from);
        let (bound, address) = oneshot::channel();
        let counts = Arc::<Counts>::default();
        let counted = Arc::clone(&counts);
        let part = Part::start(name, move || async move {
            let listener = TcpListener::bind((host, 0)).await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, counted) = (tls.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, name, counted).await,
                        // A client that does not like our certificate goes away.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, name, counted).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address: address.await.unwrap(), counts, _part: part }
    }

    /// How many requests it has had.
    pub(crate) fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// How many connections it has now.
    pub(crate) fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }
}

/// TLS with a certificate of `authority` for `host`.
pub(crate) fn certified(authority: &Authority, host: &str) -> Arc<ServerConfig> {
    let issued = authority.issue_server(&[host.to_owned()], LIFE).unwrap();
    tls::server(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), &[b"http/1.1"]).unwrap()
}

/// The same, long after its time.
pub(crate) fn expired(authority: &Authority, host: &str) -> Arc<ServerConfig> {
    let (chain, key) = certificates::expired(authority, host);
    tls::server(chain.as_bytes(), key.as_bytes(), &[b"http/1.1"]).unwrap()
}

async fn serve<IO>(io: IO, name: &'static str, counts: Arc<Counts>)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    counts.connections.fetch_add(1, Ordering::Relaxed);
    let service = service_fn(|request| {
        counts.requests.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(answer(request, name).await) }
    });
    let builder = hyper::server::conn::http1::Builder::new();
    // A connection that breaks is what some tests are about.
    let _ = builder.serve_connection(TokioIo::new(io), service).with_upgrades().await;
    counts.connections.fetch_sub(1, Ordering::Relaxed);
}

async fn answer(mut request: Request<Incoming>, name: &str) -> Response<Body> {
    let upgrade = request.headers().get("upgrade").cloned();
    match (request.uri().path(), upgrade) {
        ("/echo", _) => Response::new(request.into_body().map_err(Into::into).boxed()),
        ("/session", Some(protocol)) => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                // Until the other side has ended its own, or broke.
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
            });
            let mut response = said("");
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("upgrade", protocol);
            response.headers_mut().insert("connection", HeaderValue::from_static("Upgrade"));
            response.headers_mut().insert("sec-websocket-accept", HeaderValue::from_static("x"));
            response
        }
        ("/session", None) => {
            let mut response = said("an upgrade alone");
            *response.status_mut() = http::StatusCode::FORBIDDEN;
            response
        }
        ("/login", _) => {
            let mut response = said("");
            *response.status_mut() = http::StatusCode::FOUND;
            for (name, value) in [
                ("location", "/home?from=/login"),
                ("set-cookie", "session=1; Path=/; HttpOnly"),
                ("set-cookie", "theme=dark"),
                ("strict-transport-security", "max-age=1"),
                ("clear-site-data", "\"*\""),
                ("alt-svc", "h3=\":443\""),
                ("cluster-proxy-mode", "agent"),
                ("cluster-proxy-fault", "no-service"),
                ("x-theirs", "kept"),
            ] {
                response.headers_mut().append(name, HeaderValue::from_static(value));
            }
            response
        }
        ("/broken", _) => {
            let begun = stream::iter([Ok(Frame::data(Bytes::from_static(b"half")))]);
            let mut body = request.into_body();
            let broken = begun.chain(stream::once(async move {
                let _ = body.frame().await;
                Err("it broke".into())
            }));
            Response::new(BodyExt::boxed(http_body_util::StreamBody::new(broken)))
        }
        ("/away", _) => {
            let mut response = said("");
            *response.status_mut() = http::StatusCode::FOUND;
            let elsewhere = HeaderValue::from_static("https://elsewhere.example/");
            response.headers_mut().insert("location", elsewhere);
            response
        }
        ("/slow", _) => {
            let wait = request.uri().query().unwrap().parse().unwrap();
            tokio::time::sleep(Duration::from_millis(wait)).await;
            said("late")
        }
        ("/never", _) => std::future::pending().await,
        (_, _) => {
            let headers: Vec<_> = request
                .headers()
                .iter()
                .map(|(name, value)| json!([name.as_str(), value.to_str().unwrap()]))
                .collect();
            let target = request.uri().path_and_query().unwrap().as_str();
            let method = request.method().as_str();
            let head =
                json!({"server": name, "method": method, "target": target, "headers": headers});
            said(head.to_string())
        }
    }
}

fn said(text: impl Into<Bytes>) -> Response<Body> {
    Response::new(http_body_util::Full::new(text.into()).map_err(|never| match never {}).boxed())
}

/// Longer than a test.
const LIFE: Duration = Duration::from_secs(3600);
