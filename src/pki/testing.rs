//! A hub's PKI in a temporary folder, for the tests of this module.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use tokio::io::DuplexStream;

use super::authorities::{self, Role};
use super::credentials::{AgentCredentials, JoinError, enrol};
use super::join::{JoinService, RENEWAL_GRACE};
use super::tls::{Arrival, Identity, ServingTls};
use super::token::{DEFAULT_LIFE, Token};
use super::{ca, identity};
use crate::name::ClusterName;
use crate::state::{FolderStore, State};

pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// State with both authorities, what the listeners would use, and a place for agents.
pub(super) struct Fixture {
    pub(super) folder: tempfile::TempDir,
    pub(super) state: State,
    pub(super) serving: ServingTls,
    pub(super) service: JoinService,
}

impl Fixture {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path().join("certs")).unwrap();
        let state = State::new(Arc::new(store));
        authorities::init(&state, &["hub".into(), "127.0.0.1".into()]).await.unwrap();
        let serving = ServingTls::load(&state).await.unwrap();
        let service = JoinService::new(state.clone(), RENEWAL_GRACE);
        Self { folder, state, serving, service }
    }

    /// The service as of `later` than now.
    pub(super) fn later(&self, later: Duration) -> JoinService {
        JoinService::new(self.state.clone(), RENEWAL_GRACE)
            .with_clock(move || SystemTime::now() + later)
    }

    pub(super) fn agent_folder(&self, name: &str) -> PathBuf {
        self.folder.path().join("agents").join(name)
    }

    pub(super) async fn pin(&self) -> String {
        let bundle = authorities::bundle(&self.state, Role::Serving).await.unwrap();
        ca::key_hash(&ca::certificates(bundle.as_bytes()).unwrap()[0]).unwrap()
    }

    pub(super) async fn token(&self, cluster: &str) -> String {
        let cluster = name(cluster);
        let now = SystemTime::now();
        let token = Token::create(&self.state, cluster, DEFAULT_LIFE, false, now).await.unwrap();
        token.reveal().to_string()
    }

    /// A connection whose other end is answered by `service` behind the agent listener's TLS.
    pub(super) fn dial(&self, service: &JoinService) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (dock, service) = (self.serving.dock.clone(), service.clone());
        tokio::spawn(async move {
            if let Ok(Arrival::Join(stream)) = dock.accept(far).await {
                service.serve(stream, peer()).await;
            }
        });
        near
    }

    pub(super) async fn enrol_with(
        &self,
        host: &str,
        token: &str,
        pin: &str,
    ) -> Result<ClusterName, JoinError> {
        let folder = self.agent_folder(token.split('.').next().unwrap());
        enrol(host, self.dial(&self.service), token, pin, folder).await
    }

    pub(super) async fn joined(&self, cluster: &str) -> AgentCredentials {
        let (token, pin) = (self.token(cluster).await, self.pin().await);
        self.enrol_with("hub", &token, &pin).await.unwrap();
        AgentCredentials::load(&self.agent_folder(cluster)).unwrap()
    }

    pub(super) async fn renew(
        &self,
        agent: &AgentCredentials,
        service: &JoinService,
    ) -> Result<(), JoinError> {
        agent.renew("hub", self.dial(service)).await
    }

    /// Whether `agent` gets a tunnel, and as whom.
    pub(super) async fn tunnel(&self, agent: &AgentCredentials) -> std::io::Result<ClusterName> {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (near, far) = tokio::join!(agent.connect("hub", near), self.serving.dock.accept(far));
        near.map_err(std::io::Error::other)?;
        match far? {
            Arrival::Tunnel { certificate, .. } => Ok(certificate.cluster),
            Arrival::Join(_) => panic!("a tunnel was asked for"),
        }
    }

    /// An identity that the agent CA signed for whatever `change` makes of the parameters of an
    /// agent of `c1`.
    pub(super) async fn odd_agent(
        &self,
        role: Role,
        change: impl FnOnce(&mut rcgen::CertificateParams),
    ) -> Identity {
        let pem = authorities::bundle(&self.state, role).await.unwrap();
        let key = self.state.store().read(&role.key()).await.unwrap().unwrap().contents;
        let key = KeyPair::from_pem(std::str::from_utf8(&key).unwrap()).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(&pem, key).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_before = (SystemTime::now() - DAY).into();
        params.not_after = (SystemTime::now() + DAY).into();
        let uri = identity::uri(&name("c1"));
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf: CertificateDer<'static> = params.signed_by(&key, &issuer).unwrap().into();
        Identity::new(vec![leaf], &key.into()).unwrap()
    }
}

pub(super) fn name(name: &str) -> ClusterName {
    ClusterName::parse(name).unwrap()
}

pub(super) fn peer() -> SocketAddr {
    ([127, 0, 0, 1], 4000).into()
}
