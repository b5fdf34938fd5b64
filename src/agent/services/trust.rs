//! Whose certificates the agent believes when a service speaks TLS.
//!
//! Upstream's service proxy believes the cluster's own authority and those of
//! `--additional-service-ca`. So do we, and the authorities of this machine as well: they cannot sign
//! for `NAME.NAMESPACE.svc` unless somebody has put them there to do so. As upstream, there is no
//! switch to believe everybody.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use rustls::ClientConfig;

use crate::pki::tls::{self, TlsError};

/// The authorities of services.
pub(super) struct Trust {
    file: Option<PathBuf>,
    /// What the file had when it was last usable.
    additional: ArcSwap<Vec<u8>>,
    /// From the first connection on, for what was known then.
    built: ArcSwapOption<Built>,
}

struct Built {
    api_server: Bytes,
    additional: Arc<Vec<u8>>,
    config: Arc<ClientConfig>,
}

/// Why a file of authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The system says why.
    #[error("--additional-service-ca: cannot read {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("--additional-service-ca: cannot use {}: {source}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TlsError,
    },
}

// === impl Trust ===

impl Trust {
    /// Reads the file, where one is given.
    pub(super) fn load(file: Option<PathBuf>) -> Result<Self, TrustError> {
        let additional = match &file {
            None => Vec::new(),
            Some(path) => {
                let read = std::fs::read(path);
                check(path, read.map_err(|source| unreadable(path, source))?)?
            }
        };
        let additional = ArcSwap::from_pointee(additional);
        Ok(Self { file, additional, built: ArcSwapOption::empty() })
    }

    /// Reads the file again; whether it has changed.
    pub(super) async fn refresh(&self) -> Result<bool, TrustError> {
        let Some(path) = &self.file else { return Ok(false) };
        let read = tokio::fs::read(path).await.map_err(|source| unreadable(path, source))?;
        if read == **self.additional.load() {
            return Ok(false);
        }
        self.additional.store(Arc::new(check(path, read)?));
        Ok(true)
    }

    /// How services are spoken to, where `api_server` is the bundle of the API server's authorities.
    pub(super) async fn config(&self, api_server: &Bytes) -> Result<Arc<ClientConfig>, TlsError> {
        let additional = self.additional.load_full();
        if let Some(built) = &*self.built.load()
            && built.api_server == *api_server
            && Arc::ptr_eq(&built.additional, &additional)
        {
            return Ok(built.config.clone());
        }
        let (api_server, bundles) = (api_server.clone(), additional.clone());
        let building = tokio::task::spawn_blocking(move || {
            let config = build(&[&api_server, &bundles])?;
            Ok::<_, TlsError>(Built { api_server, additional: bundles, config })
        });
        // A join error means that the runtime is going away.
        let Ok(built) = building.await else { return std::future::pending().await };
        let built = Arc::new(built?);
        self.built.store(Some(built.clone()));
        Ok(built.config.clone())
    }
}

/// Refuses a bundle of which not every certificate can be believed.
fn check(path: &Path, pem: Vec<u8>) -> Result<Vec<u8>, TrustError> {
    let built = build(&[&pem]);
    built.map_err(|source| TrustError::Unusable { path: path.to_owned(), source })?;
    Ok(pem)
}

fn build(bundles: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let bundles: Vec<_> = bundles.iter().copied().filter(|bundle| !bundle.is_empty()).collect();
    tls::private(&bundles, &[b"http/1.1"])
}

fn unreadable(path: &Path, source: std::io::Error) -> TrustError {
    TrustError::Unreadable { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pki::ca::Authority;

    fn authority() -> String {
        Authority::create("an authority", Duration::from_secs(60)).unwrap().certificate_pem()
    }

    /// U71. Upstream goes on without a file that is missing, and never looks again.
    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("service-ca.crt");
        let said = || Trust::load(Some(file.clone())).err().map(|error| error.to_string());
        let starts = |what: &str| {
            let text = said().unwrap();
            let expected = format!("--additional-service-ca: cannot {what} {}: ", file.display());
            assert!(text.starts_with(&expected), "{text}");
        };
        starts("read");
        let half = authority().replace("MII", "MIM");
        for bad in ["", "-----BEGIN", &half] {
            std::fs::write(&file, bad).unwrap();
            // An empty one adds nothing.
            if !bad.is_empty() {
                starts("use");
            }
        }
        std::fs::write(&file, authority() + &authority()).unwrap();
        assert_eq!(said(), None);
        assert!(Trust::load(None).is_ok());
    }

    #[tokio::test]
    async fn a_changed_file_is_taken_over_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("service-ca.crt");
        std::fs::write(&file, authority()).unwrap();
        let trust = Trust::load(Some(file.clone())).unwrap();
        let (api_server, other) = (Bytes::from(authority()), Bytes::from(authority()));
        let first = trust.config(&api_server).await.unwrap();
        assert!(!trust.refresh().await.unwrap());
        let same = async |config| Arc::ptr_eq(&trust.config(&api_server).await.unwrap(), config);
        assert!(same(&first).await);

        for broken in [Some("-----BEGIN"), None] {
            match broken {
                Some(text) => std::fs::write(&file, text).unwrap(),
                None => std::fs::remove_file(&file).unwrap(),
            }
            assert!(trust.refresh().await.is_err());
            assert!(same(&first).await);
        }
        std::fs::write(&file, authority()).unwrap();
        assert!(trust.refresh().await.unwrap());
        assert!(!same(&first).await);
        let second = trust.config(&api_server).await.unwrap();
        assert!(!Arc::ptr_eq(&trust.config(&other).await.unwrap(), &second));
    }
}
