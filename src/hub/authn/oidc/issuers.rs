//! Where the list of issuers comes from.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::config::IssuerConfig;
use super::file;

/// The configured issuers, and the file to look for newer ones in.
#[derive(Clone, Debug, Default)]
pub struct Issuers {
    configs: Vec<IssuerConfig>,
    file: Option<PathBuf>,
}

/// Why a list of issuers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuersError {
    /// The file cannot be read.
    #[error("cannot read it: {0}")]
    Read(#[from] std::io::Error),
    /// It says something that is wrong, or that we do not do.
    #[error("{0}")]
    Content(String),
}

// === impl Issuers ===

impl Issuers {
    /// These, for ever.
    pub fn of(configs: Vec<IssuerConfig>) -> Self {
        Self { configs, file: None }
    }

    /// Those of a file (`--authentication-config`).
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub fn of_file(path: &Path) -> Result<Self, IssuersError> {
        Ok(Self { configs: read(path)?, file: Some(path.to_owned()) })
    }

    /// What is configured.
    pub fn configs(&self) -> &[IssuerConfig] {
        &self.configs
    }

    /// Reads the file again; `None` where nothing changed. Blocks for as long as a disk takes.
    ///
    /// # Errors
    /// When it cannot be used any more: what was read before stays.
    pub fn changed(&self) -> Result<Option<Self>, IssuersError> {
        let Some(file) = &self.file else { return Ok(None) };
        let next = Self::of_file(file)?;
        Ok((next.configs != self.configs).then_some(next))
    }
}

fn read(path: &Path) -> Result<Vec<IssuerConfig>, IssuersError> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    file::parse(&text).map_err(IssuersError::Content)
}

/// With 64 issuers and a certificate authority each.
const MAX_FILE: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_followed_and_a_bad_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("issuers.yaml");
        let issuer = |name: &str| {
            format!(
                "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {{url: 'https://{name}.example', audiences: [a]}}\n  claimMappings: {{username: {{claim: sub, prefix: 'x:'}}}}\n"
            )
        };
        assert!(matches!(Issuers::of_file(&path), Err(IssuersError::Read(_))));
        std::fs::write(&path, issuer("a")).unwrap();
        let issuers = Issuers::of_file(&path).unwrap();
        assert!(issuers.changed().unwrap().is_none());
        std::fs::write(&path, "jwt: []").unwrap();
        assert!(matches!(issuers.changed(), Err(IssuersError::Content(_))));
        std::fs::write(&path, issuer("b")).unwrap();
        let next = issuers.changed().unwrap().unwrap();
        assert_eq!(next.configs()[0].url.as_str(), "https://b.example");
        assert!(Issuers::of(issuers.configs.clone()).changed().unwrap().is_none());
    }
}
