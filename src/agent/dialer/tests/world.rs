//! A stub of a hub, and an agent that is enrolled there.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::super::*;
use crate::agent::testing::Stub;
use crate::agent::{Agent, AgentConfig, Exposure, ImpersonationRule};
use crate::egress::Egress;
use crate::name::ClusterName;
use crate::pki::authorities::{self, Role};
use crate::pki::join::JoinService;
use crate::pki::tls::{Arrival, ServingTls};
use crate::pki::token::Token;
use crate::pki::{ca, credentials};
use crate::state::{FolderStore, State};
use crate::tunnel::headers::{MODE, Mode};
use crate::tunnel::hello::{HubHello, PATH, VERSION};
use crate::tunnel::opener::{OpenedStream, Opener, StreamClass};

/// What a hub keeps while its process restarts.
pub(super) struct World {
    pub(super) folder: tempfile::TempDir,
    pub(super) state: State,
    pub(super) api: Stub,
    pub(super) kubeconfig: tempfile::NamedTempFile,
}

/// A hub process: greets who arrives, and gives the tunnel to the test.
pub(super) struct Hub {
    pub(super) address: SocketAddr,
    pub(super) arrivals: mpsc::UnboundedReceiver<Opener>,
    /// Whether arrivals are greeted, or hung up on.
    pub(super) welcome: Arc<AtomicBool>,
    /// Open while arrivals are greeted at once; otherwise they wait for it, each with a permit in
    /// `waiting`.
    pub(super) greets: watch::Sender<bool>,
    pub(super) waiting: Arc<Semaphore>,
    /// One permit per renewal that may go ahead.
    pub(super) renewals: Arc<Semaphore>,
    _accept: AbortOnDropHandle<()>,
}

pub(super) struct Running {
    pub(super) agent: Agent,
    pub(super) drain: Drain,
    pub(super) task: JoinHandle<Result<(), crate::agent::AgentError>>,
}

// === impl World ===

impl World {
    /// A hub's state, and an agent that enrolled `age` ago.
    pub(super) async fn enrolled(age: Duration) -> Self {
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

    pub(super) async fn enrol(&self, hub: &Hub, then: SystemTime) {
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

    pub(super) async fn hub(&self, address: SocketAddr) -> Hub {
        Hub::start(&self.state, JoinService::new(self.state.clone(), GRACE), address).await
    }

    pub(super) async fn agent(&self, hub: &Hub) -> Running {
        let config = AgentConfig {
            hub: vec![hub.address.to_string()],
            egress: Egress::default(),
            directory: self.agent_folder(),
            kubeconfig: Some(self.kubeconfig.path().into()),
            tunnels: 2,
            audiences: Vec::new(),
            issuers: Vec::new(),
            impersonation: Some(ImpersonationRule::default()),
            services: Exposure::default(),
            admin: ANY_PORT,
            drain_timeout: PATIENCE,
        };
        let agent = Agent::build(config).await.unwrap();
        let drain = Drain::new();
        let task = tokio::spawn(agent.clone().run(drain.clone()));
        Running { agent, drain, task }
    }

    pub(super) fn agent_folder(&self) -> std::path::PathBuf {
        self.folder.path().join("agent")
    }
}

// === impl Hub ===

impl Hub {
    pub(super) async fn start(state: &State, join: JoinService, address: SocketAddr) -> Self {
        let tls = ServingTls::load(state).await.unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let welcome = Arc::new(AtomicBool::new(true));
        let renewals = Arc::new(Semaphore::new(0));
        let (greets, waiting) = (watch::Sender::new(true), Arc::new(Semaphore::new(0)));
        let (welcomes, gate) = (welcome.clone(), renewals.clone());
        let (greeting, waits) = (greets.subscribe(), waiting.clone());
        let accept = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (tcp, peer) = listener.accept().await.unwrap();
                let (dock, join, arrived) = (tls.dock.clone(), join.clone(), arrived.clone());
                let (welcomes, gate) = (welcomes.clone(), gate.clone());
                let (mut greeting, waits) = (greeting.clone(), waits.clone());
                connections.spawn(async move {
                    match dock.accept(tcp).await {
                        Ok(Arrival::Join(stream)) => {
                            gate.acquire().await.unwrap().forget();
                            join.serve(stream, peer).await;
                        }
                        Ok(Arrival::Tunnel { stream, .. }) if welcomes.load(Ordering::Relaxed) => {
                            let settings = Settings::default();
                            let (opener, driver) =
                                Opener::handshake(stream, &settings).await.unwrap();
                            let greet = async {
                                waits.add_permits(1);
                                greeting.wait_for(|open| *open).await.unwrap();
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
        Self { address, arrivals, welcome, greets, waiting, renewals, _accept }
    }

    pub(super) async fn tunnel(&mut self) -> Opener {
        tokio::time::timeout(PATIENCE, self.arrivals.recv()).await.unwrap().unwrap()
    }
}

// === impl Running ===

impl Running {
    pub(super) async fn admin(&self, path: &str) -> String {
        let mut tcp = TcpStream::connect(self.agent.admin_address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    pub(super) async fn until(&self, path: &str, part: &str) {
        let found = async {
            while !self.admin(path).await.contains(part) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap();
    }
}

pub(super) fn hello() -> String {
    serde_json::to_string(&HubHello {
        version: VERSION,
        replica: "r1".into(),
        replicas: vec!["r1".into()],
        hub_version: "0".into(),
        cluster: "c1".into(),
    })
    .unwrap()
}

pub(super) async fn post(opener: &Opener, path: &str, body: &str) -> StatusCode {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("https://c1{path}"))
        .header(MODE, Mode::Tunnel.as_str())
        .body(Bytes::copy_from_slice(body.as_bytes()))
        .unwrap();
    let permit = opener.try_permit(StreamClass::Short).unwrap();
    opener.exchange(request, 1 << 16, permit).await.unwrap().status()
}

pub(super) async fn open(opener: &Opener, path: &str) -> OpenedStream {
    let head = Request::builder()
        .uri(format!("https://c1{path}"))
        .header(MODE, Mode::Agent.as_str())
        .body(())
        .unwrap();
    let permit = opener.try_permit(StreamClass::Long).unwrap();
    opener.open(head, true, permit).await.unwrap()
}

pub(super) async fn works(opener: &Opener) -> bool {
    open(opener, "/version").await.response.receive().await.unwrap().status() == StatusCode::OK
}

pub(super) async fn closed(opener: &Opener) {
    let closed = async {
        while !opener.is_closed() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
}

pub(super) const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
pub(super) const GRACE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Far above what loopback needs.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const LOOK: Duration = Duration::from_millis(20);
