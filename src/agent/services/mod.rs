//! Services of the cluster, as the hub asks for them: those that the cluster's owner exposes.
//!
//! | what | file |
//! |---|---|
//! | the owner's list | [`list`] |
//! | from a Service to addresses | [`resolve`] |
//! | one question for all who wait | [`lookup`] |
//! | which of them may be dialled | [`addresses`] |
//! | a connection | [`mod@dial`] |
//! | whose certificates are believed | [`trust`] |
//!
//! The agent's token reads Services and EndpointSlices, and never goes to a service.

mod addresses;
mod dial;
mod list;
mod lookup;
mod resolve;
mod trust;

pub use self::list::{ExposedService, InvalidEntry};
pub use self::trust::TrustError;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::HOST;
use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;

use self::addresses::{AddressRules, Forbidden};
use self::dial::{Connection, Secure, dial};
use self::lookup::Lookup;
use self::resolve::{LookupError, Resolved};
use self::trust::Trust;
use super::access::{Access, Accesses};
use super::upstream::{self, Driver, RequestBody, UpstreamError};
use crate::pki::tls::{BadCertificate, TlsError};
use crate::tunnel::headers::Fault;
use crate::tunnel::service::{Scheme, ServiceTarget};

/// What the owner of a cluster exposes. Nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exposure {
    /// The services.
    pub services: Vec<ExposedService>,
    /// Services may have addresses of the agent's own host.
    pub loopback: bool,
    /// A bundle of authorities of services that speak TLS, besides those of this machine and of the
    /// API server.
    pub additional_ca: Option<PathBuf>,
}

/// The way to exposed services.
pub(super) struct Services {
    accesses: Accesses,
    exposed: Vec<Known>,
    loopback: bool,
    trust: Trust,
    /// Where to begin among the addresses of a service.
    turn: AtomicUsize,
}

/// An exposed service, and where it was last. There are as many as the owner's list is long.
struct Known {
    entry: ExposedService,
    found: Lookup<Arc<Resolved>, LookupError>,
}

/// Why there is no answer of a service.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServiceError {
    #[error("the owner's list has it not (--expose-service)")]
    NotExposed,
    #[error("it is an ExternalName, which leads out of the cluster")]
    ExternalName,
    #[error("{0} is no address for a service: {1}")]
    Forbidden(SocketAddr, Forbidden),
    #[error("it has no such port, or no ready endpoint")]
    NoEndpoint,
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("{0} does not answer: {1}")]
    Unreachable(SocketAddr, std::io::Error),
    #[error("{0} has a certificate that is not accepted: {2}")]
    Certificate(SocketAddr, BadCertificate, std::io::Error),
    #[error("the authorities of services cannot be used: {0}")]
    Authorities(#[from] TlsError),
    #[error("{0} gave no answer: {1}")]
    Exchange(SocketAddr, UpstreamError),
}

// === impl Services ===

impl Services {
    /// # Errors
    /// When the file of authorities cannot be used.
    pub(super) fn new(accesses: Accesses, exposure: Exposure) -> Result<Self, TrustError> {
        let known = |entry| Known { entry, found: Lookup::default() };
        Ok(Self {
            accesses,
            exposed: exposure.services.into_iter().map(known).collect(),
            loopback: exposure.loopback,
            trust: Trust::load(exposure.additional_ca)?,
            turn: AtomicUsize::new(0),
        })
    }

    /// Reads the file of authorities again; whether it has changed.
    ///
    /// # Errors
    /// When it cannot be used: what was in use stays.
    pub(super) async fn refresh(&self) -> Result<bool, TrustError> {
        self.trust.refresh().await
    }

    /// Sends a request, cleaned before, to `service` on a connection of its own, which lives as long
    /// as the driver.
    pub(super) async fn send(
        &self,
        service: &ServiceTarget,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Driver), ServiceError> {
        let mut entries = self.exposed.iter();
        let known = entries.find(|known| known.entry.exposes(service));
        let known = known.ok_or(ServiceError::NotExposed)?;
        let access = self.accesses.current();
        let resolved = known.resolve(&access, service).await?;
        let endpoints = resolved.endpoints(&service.port)?;
        let api_server = access.addresses().await;
        let rules = AddressRules { loopback: self.loopback, api_server };
        let secure = match service.scheme {
            Scheme::Http => None,
            Scheme::Https => {
                let config = self.trust.config(access.authorities()).await?;
                Some(Secure { config, name: host(service) })
            }
        };
        let (address, stream) = self.connect(&rules, &endpoints.addresses, secure.as_ref()).await?;
        address_to(service, endpoints.port, &mut request);
        let sent = upstream::send_on(stream, request).await;
        sent.map_err(|error| ServiceError::Exchange(address, error))
    }

    /// Dials the addresses that may be dialled, each time from another one on.
    async fn connect(
        &self,
        rules: &AddressRules,
        addresses: &[SocketAddr],
        secure: Option<&Secure>,
    ) -> Result<(SocketAddr, Connection), ServiceError> {
        let mut allowed = Vec::new();
        let mut failure = ServiceError::NoEndpoint;
        for &address in addresses {
            match rules.check(address) {
                Ok(()) => allowed.push(address),
                Err(why) => failure = ServiceError::Forbidden(address, why),
            }
        }
        if !allowed.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % allowed.len();
            allowed.rotate_left(turn);
        }
        for address in allowed.into_iter().take(MAX_DIALS) {
            match dial(address, secure).await {
                Ok(stream) => return Ok((address, stream)),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

// === impl Known ===

impl Known {
    async fn resolve(
        &self,
        access: &Access,
        service: &ServiceTarget,
    ) -> Result<Arc<Resolved>, ServiceError> {
        let ask = async {
            let resolved = resolve::read(access, &service.namespace, &service.name).await;
            resolved.map(Arc::new)
        };
        Ok(self.found.get(LOOKUP_LIFE, ask).await?)
    }
}

// === impl ServiceError ===

impl ServiceError {
    /// The word for it on the wire.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::NotExposed | Self::ExternalName | Self::Forbidden(..) => Fault::ServiceRefused,
            Self::NoEndpoint => Fault::NoService,
            Self::Lookup(error) => error.fault(),
            Self::Unreachable(..) => Fault::ServiceUnreachable,
            Self::Certificate(_, BadCertificate::OtherName, _) => Fault::ServiceMisnamed,
            Self::Certificate(_, BadCertificate::OutOfTime, _) => Fault::ServiceExpired,
            Self::Certificate(_, BadCertificate::Unbelieved, _) | Self::Authorities(_) => {
                Fault::ServiceUntrusted
            }
            Self::Exchange(_, UpstreamError::Unreachable(_)) => Fault::ServiceUnreachable,
            Self::Exchange(_, error) => error.fault(),
        }
    }
}

/// Puts the service's name, as its cluster has it, where HTTP/1.1 wants it.
fn address_to(service: &ServiceTarget, port: u16, request: &mut Request<RequestBody>) {
    let default = match service.scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    let host = host(service);
    let host = if port == default { host } else { format!("{host}:{port}") };
    // Invariant: names of services are letters, digits and hyphens.
    let host = HeaderValue::try_from(host).expect("the name of a service is a header value");
    request.headers_mut().insert(HOST, host);
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map(Into::into).unwrap_or_default();
    *request.version_mut() = Version::HTTP_11;
}

/// The name of a service in its cluster.
fn host(ServiceTarget { namespace, name, .. }: &ServiceTarget) -> String {
    format!("{name}.{namespace}.svc")
}

/// How long what the API server said of a service is used: pods come and go.
const LOOKUP_LIFE: Duration = Duration::from_secs(5);
/// Addresses that are tried for one request.
const MAX_DIALS: usize = 3;
