//! The agent's side: key, certificate and the hub's CA in a folder; connecting, joining, renewing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fmt, fs, io};

use arc_swap::ArcSwap;
use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

use super::ca;
use super::exchange;
use super::identity::{self, AgentCertificate};
use super::messages::{Granted, JoinRequest, RenewRequest};
use super::pin::{CaHash, PinnedVerifier};
use super::tls::{self, ALPN_JOIN, ALPN_TUNNEL, ClientStream, Identity};
use super::token::Token;
use crate::hash;
use crate::name::ClusterName;
use crate::state;

pub use super::join_error::JoinError;

/// `agent.key`, `agent.crt`, `hub-ca.crt` of one folder; hot-swapped after a renewal. Clones share
/// them.
#[derive(Clone)]
pub struct AgentCredentials {
    directory: Arc<Path>,
    current: Arc<ArcSwap<Current>>,
}

/// What one reading of the folder gave.
struct Current {
    certificate: AgentCertificate,
    renew_at: SystemTime,
    key_pem: Zeroizing<String>,
    tunnel: Arc<ClientConfig>,
    join: Arc<ClientConfig>,
}

// === impl AgentCredentials ===

impl AgentCredentials {
    /// Reads the folder that `join` wrote. An expired certificate is no error: it can be renewed.
    ///
    /// # Errors
    /// [`JoinError::NotJoined`] when nothing is there, [`JoinError::Damaged`] when it cannot be
    /// used, a key that others can read included.
    pub fn load(directory: &Path) -> Result<Self, JoinError> {
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(Current::read(directory)?)),
            directory: directory.into(),
        })
    }

    /// Reads the folder again, for a cluster that was enrolled anew while its agent runs. Returns
    /// whether it holds another certificate than the one in use.
    ///
    /// # Errors
    /// As for [`AgentCredentials::load`], and half-way through an enrolment: the old stays in use.
    pub async fn reload(&self) -> Result<bool, JoinError> {
        let directory = self.directory.clone();
        let found = blocking(move || Current::read(&directory)).await?;
        let changed = found.certificate != self.current.load().certificate;
        if changed {
            self.current.store(found.into());
        }
        Ok(changed)
    }

    /// The cluster that the certificate names.
    pub fn cluster(&self) -> ClusterName {
        self.current.load().certificate.cluster.clone()
    }

    /// End of the certificate.
    pub fn expires(&self) -> SystemTime {
        self.current.load().certificate.expires
    }

    /// When to renew: around two thirds of the certificate's life, so that a fleet that joined
    /// together does not renew together. Fixed per certificate.
    pub fn renew_at(&self) -> SystemTime {
        self.current.load().renew_at
    }

    /// Mutual TLS handshake for a tunnel (ALPN tunnel, TLS 1.3). `host` is the name dialled. Has no
    /// deadline of its own.
    ///
    /// # Errors
    /// Those of a handshake: what is wrong with the hub's certificate, or that it is no hub.
    pub async fn connect<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        io: IO,
    ) -> Result<ClientStream<IO>, JoinError> {
        let config = self.current.load().tunnel.clone();
        let failed = |error| JoinError::handshake(host, error, None);
        let stream = tls::connect(&config, host, io).await.map_err(failed)?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN_TUNNEL) {
            return Err(failed(tls::invalid("the server is not the agent listener of a hub")));
        }
        Ok(stream)
    }

    /// Renews over a fresh connection (ALPN join): proof of the enrolled key, even when the
    /// certificate has expired. Takes a changed hub CA bundle with it. Writes the folder, then
    /// swaps. Gives up after [`DEADLINE`].
    pub async fn renew<IO: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        &self,
        host: &str,
        io: IO,
    ) -> Result<(), JoinError> {
        let current = self.current.load_full();
        let key = KeyPair::from_pem(&current.key_pem).map_err(JoinError::internal)?;
        let cluster = current.certificate.cluster.clone();
        let csr = super::csr::request(&cluster, &key).map_err(JoinError::internal)?;
        let asked = RenewRequest { cluster: cluster.clone(), csr };
        let granted = within_deadline(async {
            let stream = tls::connect(&current.join, host, io).await;
            let stream = stream.map_err(|error| JoinError::handshake(host, error, None))?;
            exchange::ask(stream, host, "/renew", &asked).await
        })
        .await?;
        check(&granted, &cluster, &key)?;
        let directory = self.directory.clone();
        let renewed = blocking(move || {
            write(&directory, HUB_CA, granted.hub_ca.as_bytes())?;
            write(&directory, CERTIFICATE, granted.certificate.as_bytes())?;
            Current::read(&directory)
        })
        .await?;
        self.current.store(renewed.into());
        Ok(())
    }
}

impl fmt::Debug for AgentCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentCredentials")
            .field("directory", &self.directory)
            .field("certificate", &self.current.load().certificate)
            .finish_non_exhaustive()
    }
}

/// Enrols: makes a key and CSR, pins the hub by `ca_hash`, trades `token` for a certificate, writes
/// `directory`. Gives up after [`DEADLINE`].
pub async fn enrol<IO: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    host: &str,
    io: IO,
    token: &str,
    ca_hash: &str,
    directory: PathBuf,
) -> Result<ClusterName, JoinError> {
    let token = Token::parse(token)?;
    let pin = CaHash::parse(ca_hash).ok_or(JoinError::CaHash)?;
    // A folder that cannot be written must not cost the token.
    let directory: Arc<Path> = directory.into();
    blocking({
        let directory = directory.clone();
        move || {
            state::private_folder(&directory).map_err(file(&directory, ""))?;
            let probe = directory.join(PROBE);
            state::replace(&probe, b"").map_err(file(&directory, PROBE))?;
            fs::remove_file(&probe).map_err(file(&directory, PROBE))
        }
    })
    .await?;

    let key = KeyPair::generate().map_err(JoinError::internal)?;
    let csr = super::csr::request(&token.cluster, &key).map_err(JoinError::internal)?;
    let asked = JoinRequest { token: token.reveal().to_string(), csr };
    let verifier = PinnedVerifier::new(pin);
    let config = verifier.client(ALPN_JOIN).map_err(JoinError::internal)?;
    let granted = within_deadline(async {
        let stream = tls::connect(&config, host, io).await;
        let stream = stream.map_err(|error| JoinError::handshake(host, error, Some(&verifier)))?;
        exchange::ask(stream, host, "/join", &asked).await
    })
    .await?;
    check(&granted, &token.cluster, &key)?;
    let key_pem = Zeroizing::new(key.serialize_pem());
    blocking(move || {
        write(&directory, KEY, key_pem.as_bytes())?;
        write(&directory, HUB_CA, granted.hub_ca.as_bytes())?;
        write(&directory, CERTIFICATE, granted.certificate.as_bytes())?;
        Current::read(&directory).map(|_| ())
    })
    .await?;
    Ok(token.cluster)
}

// === impl Current ===

impl Current {
    fn read(directory: &Path) -> Result<Self, JoinError> {
        let damaged =
            |name: &str, reason: String| JoinError::Damaged { path: directory.join(name), reason };
        let key_pem = Zeroizing::new(read(directory, KEY)?);
        let certificate_pem = read(directory, CERTIFICATE)?;
        let hub_ca_pem = read(directory, HUB_CA)?;

        let identity = Identity::parse(certificate_pem.as_bytes(), key_pem.as_bytes())
            .map_err(|error| damaged(CERTIFICATE, error.to_string()))?;
        // `certificates` gives at least one.
        let leaf = identity.chain()[0].clone();
        let certificate = AgentCertificate::from_der(&leaf)
            .map_err(|error| damaged(CERTIFICATE, error.to_string()))?;
        let hub_ca = ca::certificates(hub_ca_pem.as_bytes())
            .map_err(|error| damaged(HUB_CA, error.to_string()))?;
        let tunnel = tls::client(&hub_ca, Some(identity), &[&TLS13], &[ALPN_TUNNEL])
            .map_err(|error| damaged(CERTIFICATE, error.to_string()))?;
        let join = tls::client(&hub_ca, None, &[&TLS13], &[ALPN_JOIN])
            .map_err(|error| damaged(HUB_CA, error.to_string()))?;
        let renew_at = renewal_time(&leaf).unwrap_or(certificate.expires);
        Ok(Self { certificate, renew_at, key_pem, tunnel, join })
    }
}

/// Between 60 % and 73 % of the certificate's life; the serial number is the random part.
fn renewal_time(leaf: &rustls_pki_types::CertificateDer<'_>) -> Option<SystemTime> {
    let parsed = identity::parse(leaf)?;
    let start = identity::time(parsed.validity().not_before);
    let life = identity::time(parsed.validity().not_after).duration_since(start).ok()?;
    let jitter = parsed.raw_serial().last().map_or(0.5, |byte| f64::from(*byte) / 255.0);
    Some(start + life.mul_f64(2.0 / 3.0 + (jitter - 0.5) * 2.0 / 15.0))
}

/// The hub is believed in what it is asked for, and in nothing else.
fn check(granted: &Granted, cluster: &ClusterName, key: &KeyPair) -> Result<(), JoinError> {
    let certificates = ca::certificates(granted.certificate.as_bytes());
    let leaf = certificates.ok().and_then(|mut chain| chain.drain(..).next());
    let issued = leaf.and_then(|leaf| AgentCertificate::from_der(&leaf).ok());
    let issued = issued.ok_or(JoinError::Answer("it is no agent's certificate"))?;
    if issued.cluster != *cluster || granted.cluster != *cluster {
        return Err(JoinError::Answer("the certificate is for another cluster"));
    }
    let spki = rcgen::PublicKeyData::subject_public_key_info(key);
    if issued.key_sha256 != hash::sha256_hex(&spki) {
        return Err(JoinError::Answer("the certificate is for another key"));
    }
    let hub_ca = ca::certificates(granted.hub_ca.as_bytes());
    hub_ca.map(|_| ()).map_err(|_| JoinError::Answer("the hub's CA bundle cannot be read"))
}

async fn within_deadline<T>(
    work: impl Future<Output = Result<T, JoinError>>,
) -> Result<T, JoinError> {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or(Err(JoinError::Deadline))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JoinError> + Send + 'static,
) -> Result<T, JoinError> {
    // A join error means that the runtime is going away.
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(JoinError::internal(error)))
}

fn read(directory: &Path, name: &'static str) -> Result<String, JoinError> {
    let path = directory.join(name);
    let opened = fs::File::open(&path);
    if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Err(JoinError::NotJoined { path });
    }
    let mut opened = opened.map_err(file(directory, name))?;
    if name == KEY {
        state::check_private(&opened)
            .map_err(file(directory, name))?
            .map_err(|reason| JoinError::Damaged { path, reason })?;
    }
    io::read_to_string(&mut opened).map_err(file(directory, name))
}

fn write(directory: &Path, name: &'static str, contents: &[u8]) -> Result<(), JoinError> {
    state::replace(&directory.join(name), contents).map_err(file(directory, name))
}

fn file(directory: &Path, name: &str) -> impl FnOnce(io::Error) -> JoinError {
    let path = directory.join(name);
    move |source| JoinError::File { path, source }
}

const KEY: &str = "agent.key";
const CERTIFICATE: &str = "agent.crt";
const HUB_CA: &str = "hub-ca.crt";

/// Shows that the folder can be written.
const PROBE: &str = ".write-check";

/// For handshake and exchange; the hub allows 10 s for the latter.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
