//! Where attacks take place: a hub, an agent, and an API server that lets everybody in and writes
//! down who came. Whatever is missing from its list was refused before it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use cluster_proxy::agent::{Agent, AgentConfig, Exposure, ImpersonationRule};
use cluster_proxy::drain::Drain;
use cluster_proxy::egress::Egress;
use cluster_proxy::hub::limits::Limits;
use cluster_proxy::pki::ca::Authority;
use cluster_proxy::pki::tls::{self, ClientStream};

use crate::frames::Peer;
use crate::support::api::access::kubeconfig;
use crate::support::bodies::source_body;
use crate::support::client::{Body, Client, full};
use crate::support::fleet::Fleet;
use crate::support::part::Part;
use crate::support::token::{SigningKey, claims};
use crate::support::{PATIENCE, eventually};

/// Everything that one attack needs. Ends when dropped.
pub(crate) struct Ground {
    pub(crate) fleet: Fleet,
    /// A good `Authorization` value of cluster `c1`.
    pub(crate) bearer: String,
    pub(crate) seen: Arc<Seen>,
    _agent: Part,
    _api: Part,
}

/// Targets of requests, as the API server of `c1` got them.
#[derive(Default)]
pub(crate) struct Seen {
    begun: Mutex<Vec<String>>,
    /// Those whose bodies came to their end.
    complete: Mutex<Vec<Arrived>>,
}

/// A whole request, as the API server got it.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

// === impl Ground ===

impl Ground {
    pub(crate) async fn start() -> Self {
        Self::limited(Limits::default()).await
    }

    pub(crate) async fn limited(limits: Limits) -> Self {
        let fleet = Fleet::limited(limits).await;
        let signer = SigningKey::generate("c1-key");
        let bearer = format!("Bearer {}", signer.sign(&claims("default", "test", 3600)));
        let directory = fleet.dir.path().join("c1");
        fleet.hub.enrol("c1", &directory).await;
        let seen = Arc::<Seen>::default();
        let api = serve_api(&signer, &directory, Arc::clone(&seen)).await;
        let agent = run_agent(fleet.hub.addresses.agents, &directory);
        fleet.hub.wait_healthy("c1").await;
        let ground = Self { fleet, bearer, seen, _agent: agent, _api: api };
        let client = ground.client();
        eventually("c1 is served", PATIENCE, || async {
            (client.get("/c1/version").await.status == 200).then_some(())
        })
        .await;
        ground
    }

    /// A target whose name tells it from those of other cases.
    pub(crate) fn path(&self, case: &str) -> String {
        path(case)
    }

    /// Requests of `case` that the API server has seen, whole or not.
    pub(crate) fn reached(&self, case: &str) -> usize {
        self.seen.reached(case)
    }

    /// Requests of `case` that came to the API server as a whole.
    pub(crate) fn complete(&self, case: &str) -> usize {
        self.arrived(case).len()
    }

    /// What [`Ground::complete`] counts.
    pub(crate) fn arrived(&self, case: &str) -> Vec<Arrived> {
        self.seen.arrived(case)
    }

    /// A well-behaved client with a good token.
    pub(crate) fn client(&self) -> Client {
        self.fleet.anonymous().token(self.bearer.trim_start_matches("Bearer "))
    }

    /// A TLS session with the user front.
    pub(crate) async fn session(&self, alpn: &[u8]) -> ClientStream<TcpStream> {
        self.fleet.anonymous().connect(alpn).await.unwrap()
    }

    /// An HTTP/2 client that speaks in frames.
    pub(crate) async fn peer(&self) -> Peer<ClientStream<TcpStream>> {
        Peer::start(self.session(b"h2").await).await
    }

    /// Waits until no request is under way any more.
    pub(crate) async fn wait_idle(&self) {
        eventually("nothing under way", PATIENCE, || async {
            let mut open = 0.0;
            for gauge in ["requests_in_flight", "live_streams"] {
                open += self.fleet.hub.metric(&format!("cluster_proxy_{gauge}"), &["c1"]).await;
            }
            (open == 0.0).then_some(())
        })
        .await;
    }
}

// === impl Seen ===

impl Seen {
    /// What [`Ground::reached`] counts.
    pub(crate) fn reached(&self, case: &str) -> usize {
        let begun = self.begun.lock().unwrap();
        begun.iter().filter(|target| is_of(target, case)).count()
    }

    /// What [`Ground::arrived`] returns.
    pub(crate) fn arrived(&self, case: &str) -> Vec<Arrived> {
        let complete = self.complete.lock().unwrap();
        complete.iter().filter(|arrived| is_of(&arrived.target, case)).cloned().collect()
    }
}

/// What [`Ground::path`] returns.
pub(crate) fn path(case: &str) -> String {
    format!("/c1/api/v1/namespaces/{case}/configmaps")
}

fn is_of(target: &str, case: &str) -> bool {
    target.contains(&format!("/namespaces/{case}/"))
}

/// Runs an agent with the enrolment and the kubeconfig in `directory`.
pub(crate) fn run_agent(hub: SocketAddr, directory: &Path) -> Part {
    let config = AgentConfig {
        hub: vec![format!("localhost:{}", hub.port())],
        egress: Egress::default(),
        directory: directory.to_owned(),
        kubeconfig: Some(directory.join("kubeconfig")),
        tunnels: 1,
        audiences: Vec::new(),
        issuers: Vec::new(),
        impersonation: Some(ImpersonationRule::default()),
        services: Exposure::default(),
        admin: SocketAddr::from(([127, 0, 0, 1], 0)),
        drain_timeout: Duration::from_secs(1),
    };
    Part::start("agent", move || async move {
        let agent = Agent::build(config).await.unwrap();
        agent.run(Drain::new()).await.unwrap();
    })
}

/// Starts the API server, and writes the kubeconfig that leads to it.
async fn serve_api(signer: &SigningKey, directory: &Path, seen: Arc<Seen>) -> Part {
    let authority = Authority::create("recording API server", DAY).unwrap();
    let issued = authority.issue_server(&["127.0.0.1".to_owned()], DAY).unwrap();
    let (chain, key) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
    let config = tls::server(chain, key, &[b"h2", b"http/1.1"]).unwrap();
    let jwks = json!({"keys": [signer.jwk()]}).to_string();
    let (bound, address) = oneshot::channel();
    let part = Part::start("api", move || async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        bound.send(listener.local_addr().unwrap()).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let (acceptor, jwks, seen) = (acceptor.clone(), jwks.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(move |request| {
                    let (jwks, seen) = (jwks.clone(), Arc::clone(&seen));
                    async move { Ok::<_, Infallible>(answer(request, &jwks, &seen).await) }
                });
                // HTTP/2 for requests, HTTP/1.1 for upgrades. Attacks break connections.
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let stream = TokioIo::new(stream);
                if http2 {
                    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(stream, service).await;
                } else {
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(stream, service).await;
                }
            });
        }
    });
    let token = signer.sign(&claims("cluster-proxy", "agent", 86_400));
    let server = format!("https://{}", address.await.unwrap());
    let text = kubeconfig(&server, &authority.certificate_pem(), &token);
    std::fs::write(directory.join("kubeconfig"), text).unwrap();
    part
}

/// Writes a request down in `seen`, and answers it.
pub(crate) async fn answer(request: Request<Incoming>, jwks: &str, seen: &Seen) -> Response<Body> {
    let target = request.uri().path_and_query().unwrap().as_str().to_owned();
    seen.begun.lock().unwrap().push(target.clone());
    if target.contains("watch=true") {
        let event = stream::iter([Ok(Frame::data(Bytes::from_static(b"{}\n")))]);
        let body = StreamBody::new(event.chain(stream::pending()));
        return Response::new(BodyExt::boxed(body));
    }
    let (parts, body) = request.into_parts();
    if let Ok(body) = body.collect().await {
        let trailers = body.trailers().cloned();
        let (method, headers, body) = (parts.method, parts.headers, body.to_bytes());
        let arrived = Arrived { method, target: target.clone(), headers, body, trailers };
        seen.complete.lock().unwrap().push(arrived);
    }
    match target.as_str() {
        "/openid/v1/jwks" => Response::new(full(jwks.to_owned())),
        target => match target.split_once("?bytes=") {
            Some((_, bytes)) => Response::new(source_body(bytes.parse().unwrap())),
            None => Response::new(full("{}")),
        },
    }
}

pub(crate) const DAY: Duration = Duration::from_secs(86_400);
