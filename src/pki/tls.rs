//! The only module that builds rustls configurations (with [`super::serving`], which keeps the
//! hub's fresh, and [`super::credentials`], which adds the pin of a first contact).
//!
//! Every configuration names its crypto provider: no process default is needed.

use std::io;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, InconsistentKeys, RootCertStore, ServerConfig, SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, TlsConnector};
use zeroize::Zeroizing;

use super::ca;
use super::identity::AgentCertificate;
pub use super::serving::{Presented, ServingTls};

/// A TLS session in which we are the server.
pub type ServerStream<IO> = tokio_rustls::server::TlsStream<IO>;
/// A TLS session in which we are the client.
pub type ClientStream<IO> = tokio_rustls::client::TlsStream<IO>;

/// ALPN of the tunnel: mutual TLS 1.3, HTTP/2 with the hub as client.
pub const ALPN_TUNNEL: &[u8] = b"cluster-proxy-tunnel/1";
/// ALPN of joining and renewing: server-authenticated only.
pub const ALPN_JOIN: &[u8] = b"cluster-proxy-join/1";

/// What a client negotiated on the user listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, also for a client that negotiates nothing.
    Http1,
    /// HTTP/2.
    Http2,
}

/// TLS of the user listener: hot-reloaded serving certificate, TLS 1.2 and 1.3, ALPN h2 and
/// http/1.1, stateless tickets. Clones share the certificate.
#[derive(Clone)]
pub struct FrontTls {
    pub(super) config: Arc<ArcSwap<ServerConfig>>,
}

/// TLS of the agent listener: one port, told apart by ALPN. Hot-reloaded certificate and agent CA
/// bundle. Clones share both.
#[derive(Clone)]
pub struct DockTls {
    pub(super) configs: Arc<ArcSwap<DockConfigs>>,
}

/// The two configurations of the agent listener. Neither resumes sessions: a resumed one would
/// skip the verification of the client's certificate.
pub(super) struct DockConfigs {
    tunnel: Arc<ServerConfig>,
    join: Arc<ServerConfig>,
}

/// Who arrived at the agent listener.
pub enum Arrival<IO> {
    /// An agent with a verified certificate.
    Tunnel {
        /// The session.
        stream: ServerStream<IO>,
        /// Its verified identity.
        certificate: AgentCertificate,
    },
    /// Somebody who wants to join or renew; not authenticated.
    Join(ServerStream<IO>),
}

/// A certificate chain and its key, parsed. The key is in the cryptography library alone, which wipes
/// it when it frees it.
pub(super) struct Identity(Arc<CertifiedKey>);

// === impl FrontTls ===

impl FrontTls {
    /// Handshake as server. Has no deadline of its own.
    pub async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: IO,
    ) -> io::Result<(ServerStream<IO>, Protocol)> {
        let stream = TlsAcceptor::from(self.config.load_full()).accept(io).await?;
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            _ => Protocol::Http1,
        };
        Ok((stream, protocol))
    }

    /// The configuration for `identity`. `ticketer` belongs to this listener alone.
    pub(super) fn configure(
        identity: &Identity,
        ticketer: Arc<dyn ProducesTickets>,
    ) -> Result<ServerConfig, TlsError> {
        let mut config = identity.server(&[&TLS13, &TLS12], None)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = ticketer;
        Ok(config)
    }
}

// === impl DockTls ===

impl DockTls {
    /// Handshake as server. Has no deadline of its own.
    ///
    /// # Errors
    /// Besides those of TLS: no protocol of ours offered, or a verified certificate that names no
    /// cluster ([`io::ErrorKind::InvalidData`]).
    pub async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: IO,
    ) -> io::Result<Arrival<IO>> {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await?;
        let configs = self.configs.load_full();
        let offers = |wanted: &[u8]| {
            start.client_hello().alpn().is_some_and(|mut offered| offered.any(|one| one == wanted))
        };
        if offers(ALPN_JOIN) && !offers(ALPN_TUNNEL) {
            return Ok(Arrival::Join(start.into_stream(configs.join.clone()).await?));
        }
        // With a foreign protocol rustls refuses this one, and says so to the client.
        let stream = start.into_stream(configs.tunnel.clone()).await?;
        let session = stream.get_ref().1;
        if session.alpn_protocol() != Some(ALPN_TUNNEL) {
            return Err(invalid("the client offered neither the tunnel nor the join protocol"));
        }
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let certificate = certificate.ok_or_else(|| invalid("no client certificate"))?;
        let certificate = AgentCertificate::from_der(certificate).map_err(invalid)?;
        Ok(Arrival::Tunnel { stream, certificate })
    }

    /// The configurations for `identity` and the agents that `agent_ca` vouches for.
    pub(super) fn configure(
        identity: &Identity,
        agent_ca: &[CertificateDer<'static>],
    ) -> Result<DockConfigs, TlsError> {
        let mut tunnel = identity.server(&[&TLS13], Some(agent_ca))?;
        tunnel.alpn_protocols = vec![ALPN_TUNNEL.to_vec()];
        let mut join = identity.server(&[&TLS13], None)?;
        join.alpn_protocols = vec![ALPN_JOIN.to_vec()];
        for config in [&mut tunnel, &mut join] {
            config.send_tls13_tickets = 0;
        }
        Ok(DockConfigs { tunnel: tunnel.into(), join: join.into() })
    }
}

// === impl Identity ===

impl Identity {
    pub(super) fn parse(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsError> {
        let chain = ca::certificates(chain_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem)
            .map_err(|_| TlsError::Unusable("the key is not a PEM private key".into()))?;
        Self::new(chain, &Zeroizing::new(key))
    }

    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
    ) -> Result<Self, TlsError> {
        let certified =
            CertifiedKey::new(chain, aws_lc_rs::sign::any_supported_type(key).map_err(unusable)?);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
                Ok(Self(certified.into()))
            }
            Err(error) => Err(unusable(error)),
        }
    }

    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.cert
    }

    fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(Arc::clone(&self.0).into())
    }

    /// A server without sessions to resume; the caller adds ALPN and, maybe, tickets.
    fn server(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        clients: Option<&[CertificateDer<'static>]>,
    ) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(unusable)?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                // Checks chain, validity and the clientAuth usage.
                let roots = Arc::new(roots(authorities)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                builder.with_client_cert_verifier(verifier.build().map_err(unusable)?)
            }
        };
        let mut config = builder.with_cert_resolver(self.resolver());
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }
}

/// Client configuration towards an API server. `ca_pem`: its CA bundle (system roots are never
/// used). `client`: certificate chain and key to present, PEM.
pub fn upstream(
    ca_pem: &[u8],
    client: Option<(&[u8], &[u8])>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let client = client.map(|(chain, key)| Identity::parse(chain, key)).transpose()?;
    self::client(&ca::certificates(ca_pem)?, client, &[&TLS13, &TLS12], alpn)
}

/// Client configuration towards a server of the world, by the authorities that this machine
/// believes. `None` where it has none.
pub fn public(alpn: &[&[u8]]) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    let authorities = of_this_machine();
    if authorities.is_empty() {
        return Ok(None);
    }
    client(&authorities, None, &[&TLS13, &TLS12], alpn).map(Some)
}

/// Client configuration towards a server inside a cluster, by the authorities that this machine
/// believes and those of `bundles`, PEM.
pub fn private(bundles: &[&[u8]], alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let mut authorities = of_this_machine();
    for bundle in bundles {
        authorities.extend(ca::certificates(bundle)?);
    }
    client(&authorities, None, &[&TLS13, &TLS12], alpn)
}

fn of_this_machine() -> Vec<CertificateDer<'static>> {
    let mut found = rustls_native_certs::load_native_certs().certs;
    // One that cannot be read must not take the others with it.
    found.retain(|one| RootCertStore::empty().add(one.clone()).is_ok());
    found
}

/// Handshake as client. `server_name`: DNS name or IP address (IPv6 with or without brackets).
/// Has no deadline of its own.
pub async fn connect<IO: AsyncRead + AsyncWrite + Unpin>(
    config: &Arc<ClientConfig>,
    server_name: &str,
    io: IO,
) -> io::Result<ClientStream<IO>> {
    let name = self::server_name(server_name).map_err(invalid)?;
    TlsConnector::from(config.clone()).connect(name, io).await
}

/// What a client did not like about the server's certificate, where that ended the handshake.
pub(super) fn certificate_error(error: &io::Error) -> Option<&rustls::CertificateError> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(bad) => Some(bad),
        _ => None,
    }
}

/// Whether [`connect`] failed because none of the authorities that the client knows signed the
/// server's certificate.
pub(super) fn is_unknown_authority(error: &io::Error) -> bool {
    use rustls::CertificateError::{BadSignature, UnknownIssuer};
    // The second where a new authority has the name of an old one.
    matches!(certificate_error(error), Some(UnknownIssuer | BadSignature))
}

/// What a server's certificate lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadCertificate {
    /// The name by which the server was called.
    OtherName,
    /// A time that includes now.
    OutOfTime,
    /// An authority that the client believes, or something that makes it a certificate of servers.
    Unbelieved,
}

/// Why a certificate ended the handshake of [`connect`]; `None` where something else did.
pub fn bad_certificate(error: &io::Error) -> Option<BadCertificate> {
    use rustls::CertificateError as Bad;
    Some(match certificate_error(error)? {
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => BadCertificate::OtherName,
        Bad::Expired
        | Bad::ExpiredContext { .. }
        | Bad::NotValidYet
        | Bad::NotValidYetContext { .. } => BadCertificate::OutOfTime,
        _ => BadCertificate::Unbelieved,
    })
}

fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    let plain = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    ServerName::try_from(plain.unwrap_or(host).to_owned())
        .map_err(|_| format!("{host:?} is neither a DNS name nor an IP address"))
}

/// Whether a client that trusts `authorities` alone would accept the certificate chain `presented`
/// by a server that it calls `host` (a DNS name or IP address, IPv6 with or without brackets).
///
/// # Errors
/// [`TlsError::Unusable`], with what the client would say.
pub fn verify_server(
    presented: &[CertificateDer<'static>],
    authorities: &[CertificateDer<'static>],
    host: &str,
    now: SystemTime,
) -> Result<(), TlsError> {
    let roots = Arc::new(roots(authorities)?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider());
    let verifier = verifier.build().map_err(unusable)?;
    let (leaf, rest) = presented.split_first().ok_or_else(|| unusable("no certificate"))?;
    let name = server_name(host).map_err(unusable)?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_err(unusable)?;
    let now = UnixTime::since_unix_epoch(now);
    verifier.verify_server_cert(leaf, rest, &name, &[], now).map_err(unusable).map(drop)
}

/// A plain server configuration (the in-memory API server, tests).
pub fn server(
    chain_pem: &[u8],
    key_pem: &[u8],
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = Identity::parse(chain_pem, key_pem)?.server(&[&TLS13, &TLS12], None)?;
    config.alpn_protocols = alpn.iter().map(|one| one.to_vec()).collect();
    Ok(config.into())
}

/// A client that trusts `authorities` only.
pub(super) fn client(
    authorities: &[CertificateDer<'static>],
    identity: Option<Identity>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(unusable)?
        .with_root_certificates(roots(authorities)?);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity.resolver()),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|one| one.to_vec()).collect();
    Ok(config.into())
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

fn roots(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(unusable)?;
    }
    Ok(roots)
}

fn unusable(error: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable(error.to_string())
}

pub(super) fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Why a TLS configuration could not be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The state could not be read.
    #[error(transparent)]
    State(#[from] crate::state::StateError),
    /// A certificate or key is missing or unusable; names the document and the remedy, never
    /// contents.
    #[error("{0}")]
    Unusable(String),
}

#[cfg(test)]
mod tests;
