//! A whole agent against a stub of a hub, with real enrolment and real TLS on loopback.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::agent::testing::Stub;
use crate::agent::{Agent, AgentConfig};
use crate::name::ClusterName;
use crate::pki::authorities::{self, Role};
use crate::pki::join::JoinService;
use crate::pki::tls::{Arrival, ServingTls};
use crate::pki::token::Token;
use crate::pki::{ca, credentials};
use crate::state::{FolderStore, State};
use crate::tunnel::headers::{MODE, Mode};
use crate::tunnel::hello::{HubHello, LEAVE_PATH, PATH, VERSION};
use crate::tunnel::opener::{OpenedStream, Opener, StreamClass};

/// What a hub keeps while its process restarts.
struct World {
    folder: tempfile::TempDir,
    state: State,
    api: Stub,
    kubeconfig: tempfile::NamedTempFile,
}

/// A hub process: greets who arrives, and gives the tunnel to the test.
struct Hub {
    address: SocketAddr,
    arrivals: mpsc::UnboundedReceiver<Opener>,
    /// Whether arrivals are greeted, or hung up on.
    welcome: Arc<AtomicBool>,
    /// One permit per renewal that may go ahead.
    renewals: Arc<Semaphore>,
    _accept: AbortOnDropHandle<()>,
}

struct Running {
    agent: Agent,
    drain: Drain,
    task: JoinHandle<Result<(), crate::agent::AgentError>>,
}

// === impl World ===

impl World {
    /// A hub's state, and an agent that enrolled `age` ago.
    async fn enrolled(age: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(Arc::new(FolderStore::open(folder.path().join("hub")).unwrap()));
        authorities::init(&state, &["127.0.0.1".into()]).await.unwrap();
        let api = Stub::start(&["h2", "http/1.1"]).await;
        let kubeconfig = api.kubeconfig("own");
        let world = Self { folder, state, api, kubeconfig };

        let then = SystemTime::now() - age;
        let service = JoinService::new(world.state.clone(), GRACE).with_clock(move || then);
        let hub = Hub::start(&world.state, service, ANY_PORT).await;
        world.enrol(&hub, then).await;
        world
    }

    async fn enrol(&self, hub: &Hub, then: SystemTime) {
        let cluster = ClusterName::parse("c1").unwrap();
        let token = Token::create(&self.state, cluster, GRACE, false, then).await.unwrap();
        let bundle = authorities::bundle(&self.state, Role::Serving).await.unwrap();
        let pin = ca::key_hash(&ca::certificates(bundle.as_bytes()).unwrap()[0]).unwrap();
        let tcp = TcpStream::connect(hub.address).await.unwrap();
        hub.renewals.add_permits(1);
        credentials::enrol("127.0.0.1", tcp, &token.reveal(), &pin, self.agent_folder())
            .await
            .unwrap();
    }

    async fn hub(&self, address: SocketAddr) -> Hub {
        Hub::start(&self.state, JoinService::new(self.state.clone(), GRACE), address).await
    }

    async fn agent(&self, hub: &Hub) -> Running {
        let config = AgentConfig {
            hub: vec![hub.address.to_string()],
            directory: self.agent_folder(),
            kubeconfig: Some(self.kubeconfig.path().into()),
            tunnels: 2,
            audiences: Vec::new(),
            issuers: Vec::new(),
            admin: ANY_PORT,
            drain_timeout: PATIENCE,
        };
        let agent = Agent::build(config).await.unwrap();
        let drain = Drain::new();
        let task = tokio::spawn(agent.clone().run(drain.clone()));
        Running { agent, drain, task }
    }

    fn agent_folder(&self) -> std::path::PathBuf {
        self.folder.path().join("agent")
    }
}

// === impl Hub ===

impl Hub {
    async fn start(state: &State, join: JoinService, address: SocketAddr) -> Self {
        let tls = ServingTls::load(state).await.unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let welcome = Arc::new(AtomicBool::new(true));
        let renewals = Arc::new(Semaphore::new(0));
        let (greets, gate) = (welcome.clone(), renewals.clone());
        let accept = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (tcp, peer) = listener.accept().await.unwrap();
                let (dock, join, arrived) = (tls.dock.clone(), join.clone(), arrived.clone());
                let (greets, gate) = (greets.clone(), gate.clone());
                connections.spawn(async move {
                    match dock.accept(tcp).await {
                        Ok(Arrival::Join(stream)) => {
                            gate.acquire().await.unwrap().forget();
                            join.serve(stream, peer).await;
                        }
                        Ok(Arrival::Tunnel { stream, .. }) if greets.load(Ordering::Relaxed) => {
                            let settings = Settings::default();
                            let (opener, driver) =
                                Opener::handshake(stream, &settings).await.unwrap();
                            let greet = async {
                                let status = post(&opener, PATH, &hello()).await;
                                assert_eq!(status, StatusCode::OK);
                                let _ = arrived.send(opener.clone());
                                std::future::pending::<()>().await;
                            };
                            tokio::select! {
                                _ = driver => {}
                                () = greet => {}
                            }
                        }
                        Ok(Arrival::Tunnel { .. }) | Err(_) => {}
                    }
                });
            }
        });
        let _accept = AbortOnDropHandle::new(accept);
        Self { address, arrivals, welcome, renewals, _accept }
    }

    async fn tunnel(&mut self) -> Opener {
        tokio::time::timeout(PATIENCE, self.arrivals.recv()).await.unwrap().unwrap()
    }
}

// === impl Running ===

impl Running {
    async fn admin(&self, path: &str) -> String {
        let mut tcp = TcpStream::connect(self.agent.admin_address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn until(&self, path: &str, part: &str) {
        let found = async {
            while !self.admin(path).await.contains(part) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap();
    }
}

fn hello() -> String {
    serde_json::to_string(&HubHello {
        version: VERSION,
        replica: "r1".into(),
        replicas: vec!["r1".into()],
        hub_version: "0".into(),
        cluster: "c1".into(),
    })
    .unwrap()
}

async fn post(opener: &Opener, path: &str, body: &str) -> StatusCode {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("https://c1{path}"))
        .header(MODE, Mode::Tunnel.as_str())
        .body(Bytes::copy_from_slice(body.as_bytes()))
        .unwrap();
    let permit = opener.try_permit(StreamClass::Short).unwrap();
    opener.exchange(request, 1 << 16, permit).await.unwrap().status()
}

async fn open(opener: &Opener, path: &str) -> OpenedStream {
    let head = Request::builder()
        .uri(format!("https://c1{path}"))
        .header(MODE, Mode::Agent.as_str())
        .body(())
        .unwrap();
    let permit = opener.try_permit(StreamClass::Long).unwrap();
    opener.open(head, true, permit).await.unwrap()
}

async fn works(opener: &Opener) -> bool {
    open(opener, "/version").await.response.receive().await.unwrap().status() == StatusCode::OK
}

async fn closed(opener: &Opener) {
    let closed = async {
        while !opener.is_closed() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
}

#[tokio::test]
async fn ready_with_its_tunnels_and_gone_after_a_drain() {
    let world = World::enrolled(Duration::ZERO).await;
    let mut hub = world.hub(ANY_PORT).await;
    hub.welcome.store(false, Ordering::Relaxed);
    let running = world.agent(&hub).await;
    running.until("/metrics", r#"reconnects_total{reason="refused"}"#).await;
    assert!(running.admin("/livez").await.starts_with("HTTP/1.1 200"));
    assert!(running.admin("/readyz").await.starts_with("HTTP/1.1 503"));
    hub.welcome.store(true, Ordering::Relaxed);
    let (one, two) = (hub.tunnel().await, hub.tunnel().await);
    assert!(works(&one).await && works(&two).await);
    assert_eq!(world.api.last().headers["authorization"], "Bearer own");
    running.until("/readyz", "200 OK").await;
    running.until("/metrics", "cluster_proxy_agent_tunnels 2").await;

    let mut watch = open(&one, "/watch").await;
    let mut body = watch.response.receive().await.unwrap().into_body();
    assert!(http_body_util::BodyExt::frame(&mut body).await.unwrap().is_ok());
    running.drain.stop();
    running.task.await.unwrap().unwrap();
    closed(&two).await;
    drop((watch, body));
    assert!(running.drain.finish(PATIENCE).await, "the watch was all that was left");
}

#[tokio::test]
async fn a_restarted_hub_has_its_agent_back_soon() {
    let world = World::enrolled(Duration::ZERO).await;
    let mut hub = world.hub(ANY_PORT).await;
    let running = world.agent(&hub).await;
    let _old = (hub.tunnel().await, hub.tunnel().await);
    let address = hub.address;
    drop(hub);
    running.until("/metrics", r#"reconnects_total{reason="broken"} 2"#).await;
    let back = Instant::now();
    let mut hub = world.hub(address).await;
    assert!(works(&hub.tunnel().await).await);
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    running.drain.finish(PATIENCE).await;
}

#[tokio::test]
async fn a_renewal_replaces_tunnels_and_cuts_no_stream() {
    let world = World::enrolled(Duration::from_secs(20 * 3600)).await;
    let mut hub = world.hub(ANY_PORT).await;
    let running = world.agent(&hub).await;
    let (one, two) = (hub.tunnel().await, hub.tunnel().await);
    let mut watch = open(&one, "/watch").await;
    let mut body = watch.response.receive().await.unwrap().into_body();
    hub.renewals.add_permits(1);
    let (three, four) = (hub.tunnel().await, hub.tunnel().await);
    assert!(works(&three).await && works(&four).await);
    closed(&two).await;
    assert!(http_body_util::BodyExt::frame(&mut body).await.unwrap().is_ok());
    let next = http_body_util::BodyExt::frame(&mut body);
    let quiet = tokio::time::timeout(Duration::from_millis(200), next).await;
    assert!(quiet.is_err(), "the stream on the old tunnel goes on");
    running.until("/metrics", "cluster_proxy_agent_tunnels 2").await;
    drop((watch, body));
    running.drain.finish(PATIENCE).await;
}

#[tokio::test]
async fn an_expired_certificate_is_renewed_before_dialling() {
    let world = World::enrolled(Duration::from_secs(5 * 24 * 3600)).await;
    let mut hub = world.hub(ANY_PORT).await;
    let running = world.agent(&hub).await;
    running.until("/readyz", "503").await;
    assert!(hub.arrivals.try_recv().is_err());
    hub.renewals.add_permits(1);
    assert!(works(&hub.tunnel().await).await);
    assert!(!running.admin("/metrics").await.contains("refused"), "it did not knock in vain");
    running.drain.finish(PATIENCE).await;
}

/// With a certificate that is valid, and with one that has to be renewed before it dials.
#[tokio::test]
async fn a_hub_of_an_unknown_authority_is_named_and_left_until_the_agent_is_enrolled_again() {
    for age in [Duration::ZERO, Duration::from_secs(5 * 24 * 3600)] {
        let world = World::enrolled(age).await;
        authorities::rotate(&world.state, Role::Serving).await.unwrap();
        authorities::finish(&world.state, Role::Serving).await.unwrap();
        let mut hub = world.hub(ANY_PORT).await;
        let running = world.agent(&hub).await;
        if age.is_zero() {
            let unknown = r#"reconnects_total{reason="unknown-authority"}"#;
            running.until("/metrics", unknown).await;
        }
        running.until("/readyz", "503").await;
        assert!(hub.arrivals.try_recv().is_err());
        world.enrol(&hub, SystemTime::now()).await;
        assert!(works(&hub.tunnel().await).await);
        running.drain.finish(PATIENCE).await;
    }
}

#[tokio::test]
async fn told_to_leave_it_dials_again_and_serves_on() {
    let world = World::enrolled(Duration::ZERO).await;
    let mut hub = world.hub(ANY_PORT).await;
    let running = world.agent(&hub).await;
    let (one, two) = (hub.tunnel().await, hub.tunnel().await);
    assert_eq!(post(&one, LEAVE_PATH, "").await, StatusCode::NO_CONTENT);
    // The hub decides when it needs the old one no more: it may have to serve for a while yet.
    let three = hub.tunnel().await;
    assert!(works(&one).await && works(&two).await && works(&three).await);
    running.until("/metrics", "cluster_proxy_agent_tunnels 2").await;
    one.close("hub-stopped");
    two.close("hub-stopped");
    running.until("/metrics", r#"reconnects_total{reason="closed"} 1"#).await;
    assert!(!running.admin("/metrics").await.contains("broken"));
    running.drain.finish(PATIENCE).await;
}

#[tokio::test]
async fn a_changed_kubeconfig_is_used_and_cuts_nothing() {
    let world = World::enrolled(Duration::ZERO).await;
    let mut hub = world.hub(ANY_PORT).await;
    let running = world.agent(&hub).await;
    let (one, two) = (hub.tunnel().await, hub.tunnel().await);
    let mut watch = open(&one, "/watch").await;
    let mut body = watch.response.receive().await.unwrap().into_body();
    assert!(http_body_util::BodyExt::frame(&mut body).await.unwrap().is_ok());
    let token = async |expected: &str| {
        let used = async {
            while !works(&two).await || world.api.last().headers["authorization"] != expected {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, used).await.unwrap();
    };
    token("Bearer own").await;

    // Another token, then another API server altogether.
    let path = world.kubeconfig.path();
    std::fs::copy(world.api.kubeconfig("new").path(), path).unwrap();
    running.agent.reload();
    token("Bearer new").await;
    let good = std::fs::read(path).unwrap();
    let other = Stub::start(&["h2", "http/1.1"]).await;
    std::fs::copy(other.kubeconfig("other").path(), path).unwrap();
    running.agent.reload();
    let moved = async {
        while other.seen.lock().unwrap().is_empty() {
            assert!(works(&two).await);
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, moved).await.unwrap();
    assert_eq!(other.last().headers["authorization"], "Bearer other");
    std::fs::write(path, good).unwrap();
    running.agent.reload();
    token("Bearer new").await;

    let next = http_body_util::BodyExt::frame(&mut body);
    let quiet = tokio::time::timeout(Duration::from_millis(200), next).await;
    assert!(quiet.is_err(), "the stream of the first access goes on");
    drop((watch, body));
    running.drain.finish(PATIENCE).await;
}

const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const GRACE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Far above what loopback needs.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);
