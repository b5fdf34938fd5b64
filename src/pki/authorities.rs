//! The two authorities of a hub in its state: making, renewing and replacing them.
//!
//! The serving CA signs what the hub presents to clients and agents, the agent CA what agents
//! present to the hub. They are two, so that neither can speak for the other. Each is a bundle: the
//! issuing certificate first, then predecessors that are still believed during a rotation.
//!
//! Documents are written one by one. The order is such that a process that dies in between leaves
//! something that loads: a bundle may hold an authority whose key never arrived.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

use super::ca::{self, Authority};
use super::identity;
use super::tls::TlsError;
use crate::state::{Document, Expected, State};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Signs the hub's serving certificate.
    Serving,
    /// Signs agents' certificates.
    Agent,
}

/// Makes both authorities and a serving certificate for `names`.
///
/// # Errors
/// [`TlsError::Unusable`] when one of them is there already: nothing is overwritten.
pub async fn init(state: &State, names: &[String]) -> Result<(), TlsError> {
    for role in [Role::Serving, Role::Agent] {
        for document in [role.certificate(), role.key()] {
            if state.store().read(&document).await?.is_some() {
                return Err(TlsError::Unusable(format!(
                    "{document} exists already, and every agent and kubeconfig relies on it; \
                     replace an authority with `pki rotate-ca`, or choose an empty --dir or --state-namespace"
                )));
            }
        }
    }
    for role in [Role::Serving, Role::Agent] {
        let authority = Authority::create(role.common_name(), AUTHORITY_LIFE)?;
        put(state, &role.key(), authority.key_pem().as_bytes(), Expected::Absent).await?;
        put(state, &role.certificate(), authority.certificate_pem().as_bytes(), Expected::Absent)
            .await?;
    }
    issue_serving(state, names, SERVING_LIFE).await
}

/// Whether both authorities and a serving certificate are there and can be used. False when neither
/// authority has begun to exist.
///
/// # Errors
/// [`TlsError::Unusable`] when only a part is there, or it is damaged: making the rest anew would
/// replace what agents and kubeconfigs may rely on.
pub async fn are_complete(state: &State) -> Result<bool, TlsError> {
    let mut present = 0;
    for role in [Role::Serving, Role::Agent] {
        for document in [role.certificate(), role.key()] {
            present += usize::from(state.store().read(&document).await?.is_some());
        }
    }
    if present == 0 {
        return Ok(false);
    }
    for role in [Role::Serving, Role::Agent] {
        load(state, role).await?;
    }
    text(state, &Document::ServingKey).await?;
    serving_names(state).await.map(|_| true)
}

/// The authority of `role`, ready to sign.
///
/// # Errors
/// [`TlsError::Unusable`] when it is missing or damaged; names the document and the remedy.
pub async fn load(state: &State, role: Role) -> Result<Authority, TlsError> {
    let certificate = text(state, &role.certificate()).await?;
    let key = text(state, &role.key()).await?;
    Authority::load(&certificate, &key).map_err(|error| {
        TlsError::Unusable(format!("{} and {}: {error}", role.certificate(), role.key()))
    })
}

/// The bundle of `role` as PEM: what verifiers trust.
pub async fn bundle(state: &State, role: Role) -> Result<String, TlsError> {
    text(state, &role.certificate()).await.map(|text| text.to_string())
}

/// Signs a new serving certificate for `names`, with a new key.
pub async fn issue_serving(
    state: &State,
    names: &[String],
    life: Duration,
) -> Result<(), TlsError> {
    let authority = load(state, Role::Serving).await?;
    let crosses = cross_signatures(state).await?;
    serve(state, &authority, names, &crosses, life).await
}

/// Signs the serving certificate again for the names it has.
pub async fn renew_serving(state: &State) -> Result<(), TlsError> {
    let names = serving_names(state).await?;
    issue_serving(state, &names, SERVING_LIFE).await
}

/// Replaces the authority of `role`, with overlap.
///
/// Serving: the new one is served cross-signed by the old one, so those who trust only the old one
/// go on working until it expires. Agent: both are believed until [`finish`], and every agent has a
/// certificate of the new one after its next renewal.
pub async fn rotate(state: &State, role: Role) -> Result<(), TlsError> {
    let old = load(state, role).await?;
    let names = if role == Role::Serving { serving_names(state).await? } else { Vec::new() };
    let new = Authority::create(role.common_name(), AUTHORITY_LIFE)?;
    let bundle = new.certificate_pem() + &bundle(state, role).await?;
    let mut crosses = cross_signatures(state).await?;
    if role == Role::Serving {
        crosses.insert(0, old.cross_sign(&new)?);
    }
    // The bundle first: with the old key it still loads the old authority.
    overwrite(state, &role.certificate(), bundle.as_bytes()).await?;
    overwrite(state, &role.key(), new.key_pem().as_bytes()).await?;
    if role == Role::Serving {
        serve(state, &new, &names, &crosses, SERVING_LIFE).await?;
    }
    Ok(())
}

/// Ends the overlap of a rotation: only the issuing authority of `role` is believed from now on.
/// Agents that have not renewed since, and kubeconfigs with the old CA, are refused.
pub async fn finish(state: &State, role: Role) -> Result<(), TlsError> {
    let authority = load(state, role).await?;
    overwrite(state, &role.certificate(), authority.certificate_pem().as_bytes()).await?;
    if role == Role::Serving {
        let names = serving_names(state).await?;
        serve(state, &authority, &names, &[], SERVING_LIFE).await?;
    }
    Ok(())
}

/// How long ago the issuing authority of `role` was made.
pub async fn age(state: &State, role: Role) -> Result<Duration, TlsError> {
    let life_left = load(state, role).await?.expires().duration_since(SystemTime::now());
    Ok(AUTHORITY_LIFE.saturating_sub(life_left.unwrap_or_default()))
}

/// DNS names and IP addresses of the serving certificate.
pub async fn serving_names(state: &State) -> Result<Vec<String>, TlsError> {
    let chain = chain(state).await?;
    let unusable = || {
        TlsError::Unusable(format!(
            "{} holds no certificate with names; run `pki issue --name NAME`",
            Document::ServingCertificate
        ))
    };
    let leaf = chain.first().ok_or_else(unusable)?;
    let names = super::inspect::names(leaf).ok_or_else(unusable)?;
    if names.is_empty() { Err(unusable()) } else { Ok(names) }
}

/// When to sign the serving certificate again: at two thirds of its life.
pub(super) fn renewal_time(leaf: &CertificateDer<'_>) -> Option<SystemTime> {
    let parsed = identity::parse(leaf)?;
    let start = identity::time(parsed.validity().not_before);
    let life = identity::time(parsed.validity().not_after).duration_since(start).ok()?;
    Some(start + life * 2 / 3)
}

/// Writes the chain and key that the hub serves. The chain carries the cross-signed authority
/// instead of the self-signed one during a rotation: some verifiers stop at the first issuer they
/// find, and those who trust the new one need neither.
async fn serve(
    state: &State,
    authority: &Authority,
    names: &[String],
    crosses: &[CertificateDer<'static>],
    life: Duration,
) -> Result<(), TlsError> {
    let issued = authority.issue_server(names, life)?;
    let mut served = issued.chain_pem;
    if !crosses.is_empty() {
        let leaf = ca::certificates(served.as_bytes())?.swap_remove(0);
        served = std::iter::once(&leaf).chain(crosses).map(|one| ca::pem(one)).collect();
    }
    overwrite(state, &Document::ServingKey, issued.key_pem.as_bytes()).await?;
    overwrite(state, &Document::ServingCertificate, served.as_bytes()).await
}

/// Cross-signed authorities of the chain that is served now and that still help somebody.
async fn cross_signatures(state: &State) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let Some(_) = state.store().read(&Document::ServingCertificate).await? else {
        return Ok(Vec::new());
    };
    let mut chain = chain(state).await?;
    chain.retain(|certificate| {
        identity::parse(certificate).is_some_and(|found| {
            found.is_ca() && found.subject() != found.issuer() && found.validity().is_valid()
        })
    });
    Ok(chain)
}

async fn chain(state: &State) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let document = Document::ServingCertificate;
    let text = text(state, &document).await?;
    ca::certificates(text.as_bytes())
        .map_err(|error| TlsError::Unusable(format!("{document}: {error}")))
}

async fn text(state: &State, document: &Document) -> Result<zeroize::Zeroizing<String>, TlsError> {
    let Some(found) = state.store().read(document).await? else {
        let remedy = match document {
            Document::ServingCertificate | Document::ServingKey => "run `pki issue`",
            _ => "run `pki init`, or check --dir or --state-namespace",
        };
        return Err(TlsError::Unusable(format!("{document} does not exist; {remedy}")));
    };
    let text = std::str::from_utf8(&found.contents)
        .map_err(|_| TlsError::Unusable(format!("{document} is not a PEM text")))?;
    Ok(zeroize::Zeroizing::new(text.to_owned()))
}

async fn overwrite(state: &State, document: &Document, contents: &[u8]) -> Result<(), TlsError> {
    let expected = match state.store().read(document).await? {
        Some(found) => Expected::Version(found.version),
        None => Expected::Absent,
    };
    put(state, document, contents, expected).await
}

async fn put(
    state: &State,
    document: &Document,
    contents: &[u8],
    expected: Expected,
) -> Result<(), TlsError> {
    state.store().write(document, contents.to_vec().into(), expected).await?;
    Ok(())
}

// === impl Role ===

impl Role {
    /// The document with its bundle.
    pub fn certificate(self) -> Document {
        match self {
            Self::Serving => Document::ServingCaCertificate,
            Self::Agent => Document::AgentCaCertificate,
        }
    }

    /// The document with its key.
    pub fn key(self) -> Document {
        match self {
            Self::Serving => Document::ServingCaKey,
            Self::Agent => Document::AgentCaKey,
        }
    }

    fn common_name(self) -> &'static str {
        match self {
            Self::Serving => "cluster-proxy serving CA",
            Self::Agent => "cluster-proxy agent CA",
        }
    }
}

/// Life of an authority. Long, because replacing one is a decision, not a timer.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Life of a serving certificate. The hub signs it again at two thirds.
pub const SERVING_LIFE: Duration = Duration::from_secs(90 * 86_400);
