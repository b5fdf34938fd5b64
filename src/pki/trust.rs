//! By which authorities clients are told to verify the user listener: the hub's own, or those of an
//! operator's file where an operator's certificate is served.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio::time::sleep;

use super::serving::Presented;
use super::{ca, inspect};

/// The authorities, each once, in the order in which they are known. Never empty, never a leaf.
///
/// # Errors
/// [`TrustError`] when there are none.
pub async fn authorities(
    file: Option<&Path>,
    presented: &Presented,
) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let known = match file {
        Some(path) => read(path).await?,
        None => presented.authorities.clone(),
    };
    let mut seen = BTreeSet::new();
    let known: Vec<_> = known
        .into_iter()
        .filter(|one| inspect::is_authority(one) && seen.insert(one.to_vec()))
        .collect();
    match (known.is_empty(), file) {
        (false, _) => Ok(known),
        (true, Some(path)) => Err(TrustError::NoAuthority(path.to_owned())),
        (true, None) => Err(TrustError::ForeignCertificate),
    }
}

/// Ready when [`authorities`] is worth another question: certificates are announced, a file is not.
/// False once nothing is presented any more.
pub async fn changed(file: Option<&Path>, presented: &mut watch::Receiver<Presented>) -> bool {
    let look_again = async {
        match file {
            Some(_) => sleep(FILE_INTERVAL).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        changed = presented.changed() => changed.is_ok(),
        () = look_again => true,
    }
}

async fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let mut pem = Vec::new();
    let outcome = async {
        let file = tokio::fs::File::open(path).await?;
        file.take(MAX_BUNDLE + 1).read_to_end(&mut pem).await
    };
    let outcome = outcome.await;
    let unusable = |why: String| TrustError::File { path: path.to_owned(), why };
    outcome.map_err(|error| unusable(error.to_string()))?;
    if pem.len() as u64 > MAX_BUNDLE {
        return Err(unusable(format!("larger than {MAX_BUNDLE} bytes")));
    }
    ca::certificates(&pem).map_err(|error| unusable(error.to_string()))
}

/// Why there is nothing to verify the user listener by.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// An operator's certificate without its authority.
    #[error(
        "the serving certificate is not of the hub's own authority: name the authority's certificate with --serving-ca"
    )]
    ForeignCertificate,
    /// The file cannot be read or used.
    #[error("--serving-ca: cannot use {path}: {why}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Only leaves: verifiers need an authority.
    #[error(
        "--serving-ca: {0} holds no authority's certificate; a serving certificate is not enough"
    )]
    NoAuthority(PathBuf),
}

/// As often as the hub looks for its own certificates.
const FILE_INTERVAL: Duration = Duration::from_secs(2);

/// All public authorities together fit, and so do some entries with it into one object (1.5 MiB).
const MAX_BUNDLE: u64 = 256 << 10;
