//! A small in-memory Kubernetes API, for the sandbox and for tests.
//!
//! ```text
//!  server (TLS, HTTP) -> handlers -> auth (who) -> rbac (may they) -> store (what)
//!                                                                      |  history
//!                                                       watch <--------+--------> kubelet, endpoints -> pods
//! ```
//!
//! It speaks to real clients (kubectl, client-go, kube) and follows kube-apiserver in what they can
//! see: conflicts, patches, apply, selectors, watches, Tables, tokens, RBAC and error texts. It has
//! no admission plugins, no validation of schemas, no controllers but that of EndpointSlices, and
//! keeps nothing but the authority, the signing keys and the uids.

mod admission;
mod auth;
mod cluster;
mod crd;
mod discovery;
mod endpoints;
mod ephemeral;
mod files;
mod handlers;
mod kubelet;
mod object;
mod openapi;
mod patch;
mod pods;
mod protobuf;
mod query;
mod rbac;
mod request;
mod resources;
mod response;
mod seed;
mod selectors;
mod server;
mod serving;
pub mod store;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod tokens;
mod view;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;

pub use self::response::{Body, MiniStatus};

use self::cluster::Cluster;
use self::pods::PodRuntime;
use self::store::Store;
use self::tokens::{Kubernetes, Tokens};
use crate::drain::Drain;
use crate::kubernetes::{ApiServer, Credentials};
use crate::pki::ca::Authority;

/// How to run an in-memory Kubernetes API.
#[derive(Clone, Debug)]
pub struct MiniApiConfig {
    /// Where to listen: a loopback address; port 0 takes any.
    pub address: SocketAddr,
    /// Where the authority, signing keys, uids and the Pods' scratch folders are kept. Without it
    /// everything is new at every start.
    pub directory: Option<PathBuf>,
    /// Name of the cluster; its Node is called `NAME-control-plane`.
    pub name: String,
    /// Issuer of ServiceAccount tokens.
    pub issuer: String,
    /// Audiences that the API accepts; the first is not special. Not empty.
    pub audiences: Vec<String>,
    /// Further names for the serving certificate.
    pub names: Vec<String>,
}

/// A bound in-memory Kubernetes API; [`MiniApi::run`] serves it.
pub struct MiniApi {
    cluster: Arc<Cluster>,
    listener: TcpListener,
    address: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    authority: Authority,
}

/// Signs tokens, rotates keys and reaches the objects of an API that runs elsewhere. Clones share
/// the API.
#[derive(Clone)]
pub struct MiniApiHandle {
    cluster: Arc<Cluster>,
}

/// Why an in-memory Kubernetes API could not start.
#[derive(Debug, thiserror::Error)]
pub enum MiniApiError {
    /// Somebody else could reach it.
    #[error(
        "will not listen on {address}: who may exec into a Pod runs processes of this machine; \
         choose a loopback address"
    )]
    NotLoopback {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}; choose another address")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder holds something unusable; says what.
    #[error("cannot set up the in-memory Kubernetes API: {0}")]
    Setup(String),
}

// === impl MiniApiConfig ===

impl MiniApiConfig {
    /// A cluster on `address` that keeps nothing, with the issuer and audience of most clusters.
    pub fn new(name: &str, address: SocketAddr) -> Self {
        Self {
            address,
            directory: None,
            name: name.to_owned(),
            issuer: DEFAULT_ISSUER.to_owned(),
            audiences: vec![DEFAULT_ISSUER.to_owned()],
            names: Vec::new(),
        }
    }
}

// === impl MiniApi ===

impl MiniApi {
    /// Loads or makes what it keeps, seeds the objects and binds the address.
    pub async fn bind(config: MiniApiConfig) -> Result<Self, MiniApiError> {
        let address = config.address;
        if !address.ip().is_loopback() {
            return Err(MiniApiError::NotLoopback { address });
        }
        let bound = |source| MiniApiError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bound)?;
        let address = listener.local_addr().map_err(bound)?;
        let directory = config.directory.as_deref();
        let (authority, tls) = serving::configure(directory, address.ip(), &config.names)
            .map_err(MiniApiError::Setup)?;
        let id = Cluster::load_id(directory).map_err(MiniApiError::Setup)?;
        let tokens = Tokens::open(&config.issuer, &config.audiences, directory)
            .map_err(MiniApiError::Setup)?;
        let cluster = Arc::new(Cluster {
            name: config.name,
            url: format!("https://{address}"),
            ca_pem: authority.certificate_pem(),
            id,
            store: Store::new(HISTORY),
            tokens,
            pods: PodRuntime::new(directory.map(|directory| directory.join("pods"))),
            accounts: Mutex::default(),
        });
        seed::seed(&cluster);
        Ok(Self { cluster, listener, address, tls, authority })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://ADDRESS`.
    pub fn url(&self) -> String {
        self.cluster.url.clone()
    }

    /// The authority that clients have to trust, PEM.
    pub fn ca_pem(&self) -> String {
        self.cluster.ca_pem.clone()
    }

    /// Where it is, with [`MiniApi::admin_token`].
    pub fn server(&self) -> ApiServer {
        ApiServer {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            server_name: self.address.ip().to_string(),
            ca_pem: self.ca_pem().into(),
            ca_file: None,
            credentials: Credentials::Token(self.admin_token().into()),
        }
    }

    /// What stays of it for others once [`MiniApi::run`] has taken it.
    pub fn handle(&self) -> MiniApiHandle {
        MiniApiHandle { cluster: self.cluster.clone() }
    }

    /// A token of a ServiceAccount with all rights, for a year.
    pub fn admin_token(&self) -> String {
        self.token(seed::ADMIN_NAMESPACE, seed::ADMIN, &[], YEAR)
    }

    /// See [`MiniApiHandle::token`].
    pub fn token(
        &self,
        namespace: &str,
        service_account: &str,
        audiences: &[String],
        lifetime: Duration,
    ) -> String {
        self.handle().token(namespace, service_account, audiences, lifetime)
    }

    /// See [`MiniApiHandle::store`].
    pub fn store(&self) -> Store {
        self.cluster.store.clone()
    }

    /// See [`MiniApiHandle::rotate_signing_key`].
    pub fn rotate_signing_key(&self, overlap: bool) -> Result<(), MiniApiError> {
        self.handle().rotate_signing_key(overlap)
    }

    /// See [`MiniApiHandle::publish_extra_key`].
    pub fn publish_extra_key(&self, jwk: Value) {
        self.handle().publish_extra_key(jwk);
    }

    /// Serves until `drain` stops.
    pub async fn run(self, drain: Drain) {
        drain.spawn(kubelet::run(self.cluster.clone(), drain.clone()));
        drain.spawn(endpoints::run(self.cluster.clone(), self.authority, drain.clone()));
        server::run(self.listener, self.tls, self.cluster, drain).await;
    }
}

// === impl MiniApiHandle ===

impl MiniApiHandle {
    /// A token as TokenRequest would sign it (the API's own audiences when none are given), of any
    /// lifetime. Makes no ServiceAccount: a token of one that does not exist is not accepted here.
    pub fn token(
        &self,
        namespace: &str,
        service_account: &str,
        audiences: &[String],
        lifetime: Duration,
    ) -> String {
        let account = self.cluster.account(namespace, service_account);
        let subject = Kubernetes::of(namespace, account);
        self.cluster.tokens.sign(subject, audiences.to_vec(), lifetime).0
    }

    /// The objects, to seed and to look at.
    pub fn store(&self) -> Store {
        self.cluster.store.clone()
    }

    /// The key set as it is published.
    pub fn key_set(&self) -> Value {
        self.cluster.tokens.key_set()
    }

    /// Signs with a new key from now on. With `overlap` the old ones stay trusted and published,
    /// without it they are forgotten.
    pub fn rotate_signing_key(&self, overlap: bool) -> Result<(), MiniApiError> {
        self.cluster.tokens.rotate(overlap).map_err(MiniApiError::Setup)
    }

    /// Publishes a key of somebody else, as a hostile cluster might. It is not trusted here.
    pub fn publish_extra_key(&self, jwk: Value) {
        self.cluster.tokens.publish_foreign(jwk);
    }
}

/// What kube-apiserver calls itself unless told otherwise.
const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc";

/// As long as the admin's token lives: nobody renews it.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Changes to remember: enough for a client that reconnects, small in memory.
const HISTORY: usize = 10_000;

#[cfg(test)]
mod tests;
