//! An API server of a few paths that remembers what it was asked. For tests only.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONNECTION, LOCATION, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use crate::kubernetes::{ApiServer, Credentials};
use crate::pki::ca::{self, Authority};

/// The server; it stops when dropped.
pub(super) struct Stub {
    address: SocketAddr,
    authority: Authority,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
    /// What it has under paths that begin with `/api`, queries left out.
    pub(super) objects: Objects,
    /// Notified each time an unfinished exchange of `/hang` or `/watch` is given up.
    pub(super) given_up: Arc<Notify>,
    _accept: AbortOnDropHandle<()>,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) uri: String,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    /// The connection presented a client certificate.
    pub(super) certificate: bool,
    /// Number of the connection.
    pub(super) connection: usize,
}

/// JSON by path.
pub(super) type Objects = Arc<Mutex<HashMap<String, serde_json::Value>>>;

pub(super) type StubBody = UnsyncBoxBody<Bytes, hyper::Error>;

// === impl Stub ===

impl Stub {
    /// Offers `alpn`, on a free port of loopback.
    pub(super) async fn start(alpn: &[&str]) -> Self {
        let authority = Authority::create("stub", LIFE).unwrap();
        let config = server_config(&authority, alpn);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let given_up = Arc::new(Notify::new());
        let objects = Objects::default();
        let accept = accept(listener, config, seen.clone(), objects.clone(), given_up.clone());
        let _accept = AbortOnDropHandle::new(tokio::spawn(accept));
        Self { address, authority, seen, objects, given_up, _accept }
    }

    /// How an agent with a token reaches it.
    pub(super) fn with_token(&self, token: &str) -> ApiServer {
        self.server(Credentials::Token(Zeroizing::new(token.to_owned())))
    }

    /// How an agent with a client certificate reaches it.
    pub(super) fn with_certificate(&self) -> ApiServer {
        // The stub's verifier asks for the usage of a client, which agents' certificates have.
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let ca_key = rcgen::KeyPair::from_pem(self.authority.key_pem()).unwrap();
        let ca_pem = self.authority.certificate_pem();
        let issuer = rcgen::Issuer::from_ca_cert_pem(&ca_pem, ca_key).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        self.server(Credentials::Certificate {
            chain_pem: certificate.pem().into(),
            key_pem: Zeroizing::new(key.serialize_pem().into_bytes()),
        })
    }

    /// The same as a kubeconfig file.
    pub(super) fn kubeconfig(&self, token: &str) -> tempfile::NamedTempFile {
        let server = self.with_token(token);
        let ca = base64::engine::general_purpose::STANDARD.encode(&server.ca_pem);
        let file = tempfile::NamedTempFile::new().unwrap();
        let json = serde_json::json!({
            "current-context": "stub",
            "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "stub"}}],
            "clusters": [{"name": "stub", "cluster": {
                "server": format!("https://{}", server.authority()),
                "tls-server-name": "localhost",
                "certificate-authority-data": ca,
            }}],
            "users": [{"name": "stub", "user": {"token": token}}],
        });
        std::fs::write(file.path(), json.to_string()).unwrap();
        file
    }

    pub(super) fn last(&self) -> Seen {
        self.seen.lock().unwrap().last().unwrap().clone()
    }

    pub(super) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn server(&self, credentials: Credentials) -> ApiServer {
        ApiServer {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            server_name: "localhost".into(),
            ca_pem: self.authority.certificate_pem().into(),
            ca_file: None,
            credentials,
        }
    }
}

/// Takes client certificates without wanting them, as kube-apiserver does; `pki` has no such
/// configuration, because none of our own listeners may be so lenient.
fn server_config(authority: &Authority, alpn: &[&str]) -> Arc<rustls::ServerConfig> {
    use rustls_pki_types::PrivateKeyDer;
    use rustls_pki_types::pem::PemObject;
    let issued = authority.issue_server(&["localhost".into()], LIFE).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for root in ca::certificates(authority.certificate_pem().as_bytes()).unwrap() {
        roots.add(root).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .allow_unauthenticated()
        .build()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(ca::certificates(issued.chain_pem.as_bytes()).unwrap(), key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.into()
}

async fn accept(
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
    seen: Arc<Mutex<Vec<Seen>>>,
    objects: Objects,
    given_up: Arc<Notify>,
) {
    let mut connections = tokio::task::JoinSet::new();
    for connection in 0.. {
        let (tcp, _) = listener.accept().await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
        let (seen, objects, given_up) = (seen.clone(), objects.clone(), given_up.clone());
        connections.spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let certificate = tls.get_ref().1.peer_certificates().is_some();
            let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
            let service = service_fn(move |request: Request<Incoming>| {
                seen.lock().unwrap().push(Seen {
                    method: request.method().clone(),
                    uri: request.uri().to_string(),
                    version: request.version(),
                    headers: request.headers().clone(),
                    certificate,
                    connection,
                });
                let object = objects.lock().unwrap().get(request.uri().path()).cloned();
                let given_up = given_up.clone();
                async move {
                    if let Some(object) = object {
                        return Ok(text(StatusCode::OK, object.to_string()));
                    }
                    Ok::<_, Infallible>(respond(request, given_up).await)
                }
            });
            let io = TokioIo::new(tls);
            if http2 {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(io, service).await;
            } else {
                let builder = hyper::server::conn::http1::Builder::new();
                let _ = builder.serve_connection(io, service).with_upgrades().await;
            }
        });
    }
}

/// Answers as the stub does, to whoever asks.
pub(super) async fn respond(
    mut request: Request<Incoming>,
    given_up: Arc<Notify>,
) -> Response<StubBody> {
    let alarm = GivenUp(given_up);
    match request.uri().path() {
        "/version" => text(StatusCode::OK, r#"{"gitVersion":"v1.99.0"}"#),
        "/echo" => {
            let mut response = Response::new(request.into_body().boxed_unsync());
            response.headers_mut().insert("cluster-proxy-mode", "agent".parse().unwrap());
            response.headers_mut().insert("warning", "299 - kept".parse().unwrap());
            response
        }
        "/unauthorized" => text(StatusCode::UNAUTHORIZED, "no"),
        "/redirect" => {
            let mut response = text(StatusCode::FOUND, "over there");
            response.headers_mut().insert(LOCATION, "/version".parse().unwrap());
            response
        }
        // Answers in full while the request's body is still on its way.
        "/early" => text(StatusCode::OK, "early"),
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("checksum", "42".parse().unwrap());
            let frames = [Frame::data(Bytes::from_static(b"body")), Frame::trailers(trailers)];
            Response::new(StreamBody::new(stream::iter(frames.map(Ok))).boxed_unsync())
        }
        "/hang" => {
            let _alarm = alarm;
            std::future::pending().await
        }
        "/watch" => {
            let frames = stream::unfold((alarm, false), |(alarm, begun)| async move {
                if begun {
                    std::future::pending::<()>().await;
                }
                Some((Ok(Frame::data(Bytes::from_static(b"event"))), (alarm, true)))
            });
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
        path @ ("/upgrade" | "/switch-elsewhere") => {
            let elsewhere = path == "/switch-elsewhere";
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                let mut buffer = [0; 1024];
                while let Ok(count @ 1..) = io.read(&mut buffer).await {
                    io.write_all(&buffer[..count]).await.unwrap();
                }
                let _ = io.shutdown().await;
            });
            let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
            let token =
                if elsewhere { "h2c".parse().unwrap() } else { request.headers()[UPGRADE].clone() };
            response.headers_mut().insert(UPGRADE, token);
            response.headers_mut().insert(CONNECTION, "Upgrade".parse().unwrap());
            response.headers_mut().insert("sec-websocket-protocol", "v5".parse().unwrap());
            response
        }
        path if path.starts_with("/api") => text(StatusCode::NOT_FOUND, "not found"),
        _ => text(StatusCode::FORBIDDEN, "forbidden"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<StubBody> {
    let body = Full::new(body.into());
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

struct GivenUp(Arc<Notify>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

const LIFE: Duration = Duration::from_secs(3600);
