//! An OpenID Connect issuer, over TLS: its discovery document, its keys, and tokens that it signs.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use cluster_proxy::hub::authn::oidc::{Algorithm, IssuerAuthority, IssuerConfig, Url};
use cluster_proxy::pki::ca::Authority;
use cluster_proxy::pki::tls;

use super::part::Part;
use super::token::SigningKey;

/// It ends when this is dropped.
pub(crate) struct Issuer {
    pub(crate) url: String,
    pub(crate) ca_pem: String,
    shared: Arc<Mutex<Shared>>,
    _part: Part,
}

struct Shared {
    /// The last one signs.
    keys: Vec<SigningKey>,
    is_down: bool,
    /// Times that the keys were read.
    reads: usize,
}

/// What tokens are for.
pub(crate) const CLIENT: &str = "fleet";

// === impl Issuer ===

impl Issuer {
    pub(crate) async fn start() -> Self {
        let hour = Duration::from_secs(3600);
        let authority = Authority::create("issuer", hour).unwrap();
        let issued = authority.issue_server(&["127.0.0.1".to_owned()], hour).unwrap();
        let config =
            tls::server(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), &[b"http/1.1"]);
        let acceptor = TlsAcceptor::from(config.unwrap());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let keys = vec![SigningKey::generate("issuer-1")];
        let shared = Arc::new(Mutex::new(Shared { keys, is_down: false, reads: 0 }));
        let (base, known) = (url.clone(), shared.clone());
        let part = Part::start("issuer", move || async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, base, known) = (acceptor.clone(), base.clone(), known.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    let answer = service_fn(move |request: http::Request<_>| {
                        let answer = known.lock().unwrap().answer(request.uri().path(), &base);
                        async move { Ok::<_, std::convert::Infallible>(answer) }
                    });
                    let serving = hyper::server::conn::http1::Builder::new();
                    let _ = serving.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { url, ca_pem: authority.certificate_pem(), shared, _part: part }
    }

    /// What a hub is told of it: names begin with `cluster:oidc:`.
    pub(crate) fn config(&self) -> IssuerConfig {
        let mut config = IssuerConfig::new(Url::parse(&self.url).unwrap(), vec![CLIENT.to_owned()]);
        config.authority = IssuerAuthority::Pem(self.ca_pem.clone());
        config.algorithms = vec![Algorithm::ES256];
        config.username.prefix = "cluster:oidc:".to_owned();
        config
    }

    /// A list of issuers that has this one alone.
    pub(crate) fn list(&self) -> String {
        let issuer = json!({
            "issuer": {"url": self.url, "audiences": [CLIENT], "certificateAuthority": self.ca_pem},
            "claimMappings": {"username": {"claim": "sub", "prefix": "cluster:oidc:"}},
        });
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [issuer],
        })
        .to_string()
    }

    /// A token for `subject` that is good for `life` seconds, with these claims besides.
    pub(crate) fn token(&self, subject: &str, life: i64, more: &Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let now = i64::try_from(now).unwrap();
        let mut claims = json!({
            "iss": self.url, "aud": CLIENT, "sub": subject, "iat": now - 60, "exp": now + life,
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        self.shared.lock().unwrap().keys.last().unwrap().sign(&claims)
    }

    /// Signs with a new key from now on; the old ones are no longer published.
    pub(crate) fn rotate(&self) {
        let mut shared = self.shared.lock().unwrap();
        let id = format!("issuer-{}", shared.keys.len() + 1);
        shared.keys.push(SigningKey::generate(&id));
    }

    /// Publishes this key as if it were its own, too.
    pub(crate) fn publish(&self, key: &SigningKey) {
        self.shared.lock().unwrap().keys.insert(0, key.clone());
    }

    /// The public half of the key that signs.
    pub(crate) fn key(&self) -> SigningKey {
        self.shared.lock().unwrap().keys.last().unwrap().clone()
    }

    pub(crate) fn down(&self, is_down: bool) {
        self.shared.lock().unwrap().is_down = is_down;
    }

    pub(crate) fn reads(&self) -> usize {
        self.shared.lock().unwrap().reads
    }
}

// === impl Shared ===

impl Shared {
    fn answer(&mut self, path: &str, base: &str) -> http::Response<Full<bytes::Bytes>> {
        let body = match path {
            "/.well-known/openid-configuration" if !self.is_down => {
                json!({"issuer": base, "jwks_uri": format!("{base}/keys")})
            }
            "/keys" if !self.is_down => {
                self.reads += 1;
                let keys = self.keys.iter().rev().take(2).map(SigningKey::jwk);
                json!({"keys": keys.collect::<Vec<_>>()})
            }
            _ => {
                let status = if self.is_down { 500 } else { 404 };
                return http::Response::builder().status(status).body(Full::default()).unwrap();
            }
        };
        http::Response::new(Full::new(body.to_string().into()))
    }
}
