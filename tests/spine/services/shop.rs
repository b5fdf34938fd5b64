//! A web server that stands behind a Service, as a Pod does.
//!
//! | path | answer |
//! |---|---|
//! | `/echo` | the body, as it comes |
//! | `/login` | a redirect, with cookies and with headers that no service may set for the hub's origin |
//! | `/session` | 101, then what it hears; an ordinary 403 where nobody asks for an upgrade |
//! | `/broken` | the half of an answer, which breaks when the client speaks |
//! | everything else | the request's head as JSON |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::support::part::Part;

type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// One running web server. It ends when this is dropped.
pub(super) struct Shop {
    pub(super) address: SocketAddr,
    requests: Arc<AtomicU64>,
    _part: Part,
}

// === impl Shop ===

impl Shop {
    /// In the clear.
    pub(super) async fn start(name: &'static str) -> Self {
        Self::start_with(name, None).await
    }

    async fn start_with(name: &'static str, tls: Option<TlsAcceptor>) -> Self {
        let (bound, address) = oneshot::channel();
        let requests = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&requests);
        let part = Part::start(name, move || async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
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
        Self { address: address.await.unwrap(), requests, _part: part }
    }

    /// How many requests it has had.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn serve<IO>(io: IO, name: &'static str, counted: Arc<AtomicU64>)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(answer(request, name)) }
    });
    let builder = hyper::server::conn::http1::Builder::new();
    // A connection that breaks is what some tests are about.
    let _ = builder.serve_connection(TokioIo::new(io), service).with_upgrades().await;
}

fn answer(mut request: Request<Incoming>, name: &str) -> Response<Body> {
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
