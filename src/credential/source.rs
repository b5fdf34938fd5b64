//! Where the token of a managed service account is: in a Secret of the hub's API, or in a folder.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use zeroize::Zeroizing;

use super::hub::HubApi;
use crate::kubernetes::{describe, read_bounded};
use crate::name::ClusterName;

/// Which Secret of a cluster and an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The account's own, in the namespace that has the cluster's name.
    Own,
    /// The copy beside the ClusterProfiles of this namespace.
    Copy {
        /// The namespace.
        namespace: String,
    },
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing there. The first words are those of upstream's plugin.
    #[error(
        "failed to get synced credential secret: there is no Secret {namespace}/{name}; {remedy}"
    )]
    NoSecret {
        /// Where.
        namespace: String,
        /// Which.
        name: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Not allowed, or no answer.
    #[error("failed to get synced credential secret: the hub's API server {server}: {why}")]
    Api {
        /// Where it is.
        server: String,
        /// What it said, or what kept it from that.
        why: String,
    },
    /// A Secret of another kind.
    #[error("failed to get synced credential secret: Secret {0} has no key `token`")]
    NoKey(String),
    /// A file.
    #[error("cannot read {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

// === impl Place ===

impl Place {
    /// Namespace and name of the Secret.
    pub fn secret(&self, cluster: &ClusterName, account: &str) -> (String, String) {
        match self {
            Self::Own => (cluster.to_string(), account.to_owned()),
            Self::Copy { namespace } => (namespace.clone(), format!("{cluster}-{account}")),
        }
    }

    const fn remedy(&self) -> &'static str {
        match self {
            Self::Own => {
                "create a ManagedServiceAccount of that name there, or wait until the cluster is connected"
            }
            Self::Copy { .. } => {
                "label the ManagedServiceAccount authentication.open-cluster-management.io/sync-to-clusterprofile=true"
            }
        }
    }
}

/// The token in the Secret of `account` for `cluster`.
pub async fn from_secret(
    hub: &HubApi,
    place: &Place,
    cluster: &ClusterName,
    account: &str,
) -> Result<Zeroizing<String>, SourceError> {
    let (namespace, name) = place.secret(cluster, account);
    let secrets: Api<Secret> = Api::namespaced(hub.client.clone(), &namespace);
    let failed = |why| SourceError::Api { server: hub.server.clone(), why };
    let found = tokio::time::timeout(PATIENCE, secrets.get_opt(&name))
        .await
        .map_err(|_| failed(format!("no answer within {} s", PATIENCE.as_secs())))?
        .map_err(|error| failed(describe(&error)))?;
    let secret = found.ok_or_else(|| SourceError::NoSecret {
        namespace: namespace.clone(),
        name: name.clone(),
        remedy: place.remedy(),
    })?;
    let token = secret.data.and_then(|mut data| data.remove("token"));
    let token = token.and_then(|token| String::from_utf8(token.0).ok());
    token.map(Zeroizing::new).ok_or_else(|| SourceError::NoKey(format!("{namespace}/{name}")))
}

/// The token in `DIR/tokens/CLUSTER`, where a sandbox writes them.
pub fn from_folder(folder: &Path, cluster: &ClusterName) -> Result<Zeroizing<String>, SourceError> {
    let path = folder.join("tokens").join(cluster.as_str());
    let text = read_bounded(&path, MAX_TOKEN).and_then(|bytes| {
        String::from_utf8(bytes)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
    });
    text.map(Zeroizing::new).map_err(|source| SourceError::File { path, source })
}

/// kubectl waits, and a person with it.
const PATIENCE: Duration = Duration::from_secs(15);

/// No header can be as long as this.
const MAX_TOKEN: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_of_names() {
        let cluster = "c1".parse().unwrap();
        let copy = Place::Copy { namespace: "fleet".to_owned() };
        let names = |place: &Place| place.secret(&cluster, "test");
        assert_eq!(names(&copy), ("fleet".to_owned(), "c1-test".to_owned()));
        assert_eq!(names(&Place::Own), ("c1".to_owned(), "test".to_owned()));
    }

    #[test]
    fn a_folder_has_a_file_per_cluster() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tokens")).unwrap();
        std::fs::write(folder.path().join("tokens/c1"), "t\n").unwrap();
        let read = |cluster: &str| from_folder(folder.path(), &cluster.parse().unwrap());
        assert_eq!(&*read("c1").unwrap(), "t\n");
        assert!(read("c2").unwrap_err().to_string().contains("tokens/c2"));
    }
}
