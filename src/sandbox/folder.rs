//! The sandbox's folder: what is kept for the next run, and what is written for people.

use std::fs::{self, File, Permissions, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::apiserver::Api;
use super::cluster::Cluster;
use super::hub::Hub;
use super::{HUB, SandboxError};
use crate::kubernetes::{self, Context, ContextUser};
use crate::name::ClusterName;
use crate::state;

/// A folder that no other sandbox uses.
pub(super) struct Folder {
    path: PathBuf,
    /// Locked until it is closed, also by a crash.
    _lock: File,
}

// === impl Folder ===

impl Folder {
    /// Makes the folder where it is missing, closes it to others, and locks it.
    pub(super) fn open(directory: &Path) -> Result<Self, SandboxError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SandboxError::Folder { path, source }
        };
        state::private_folder(directory).map_err(failed(directory))?;
        // Absolute: it becomes part of commands that people copy.
        let path = directory.canonicalize().map_err(failed(directory))?;
        if is_shared(&path) {
            return Err(SandboxError::Shared(path));
        }
        fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(failed(&path))?;
        let data = path.join(DATA);
        state::private_folder(&data).map_err(failed(&data))?;
        let lock = data.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock)
            .map_err(failed(&lock))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, _lock: file }),
            Err(TryLockError::WouldBlock) => Err(SandboxError::Locked(path)),
            Err(TryLockError::Error(source)) => Err(failed(&lock)(source)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the hub keeps its state.
    pub(super) fn hub_state(&self) -> PathBuf {
        self.path.join(DATA).join("hub")
    }

    /// Where the hub's own API server keeps its keys.
    pub(super) fn hub_api(&self) -> PathBuf {
        self.path.join(DATA).join("hub-api")
    }

    /// Where the API server of a cluster keeps its keys.
    pub(super) fn cluster_api(&self, cluster: &ClusterName) -> PathBuf {
        self.path.join(DATA).join("clusters").join(cluster.as_str()).join("api")
    }

    /// Where the agent of a cluster keeps its certificate.
    pub(super) fn agent(&self, cluster: &ClusterName) -> PathBuf {
        self.path.join(DATA).join("clusters").join(cluster.as_str()).join("agent")
    }

    pub(super) fn access_log(&self) -> PathBuf {
        self.path.join("access.log")
    }

    /// Writes the hub's policy, and returns where.
    pub(super) fn policy(&self, text: &str) -> Result<PathBuf, SandboxError> {
        let file = self.path.join("policy.yaml");
        self.write(&file, text)?;
        Ok(file)
    }

    /// Writes the hub's list of exposed services, and returns where.
    pub(super) fn services(&self, text: &str) -> Result<PathBuf, SandboxError> {
        let file = self.path.join("services.yaml");
        self.write(&file, text)?;
        Ok(file)
    }

    /// Writes a file of mode 0600, whole or not at all.
    pub(super) fn write(&self, path: &Path, text: &str) -> Result<(), SandboxError> {
        state::replace(path, text.as_bytes())
            .map_err(|source| SandboxError::Folder { path: path.to_owned(), source })
    }

    /// Writes what people and scripts need to reach the hub and the clusters, each with its token; `visitor` is the
    /// token of the hub's own.
    pub(super) fn publish(
        &self,
        hub: &Hub,
        hub_api: &Api,
        visitor: &str,
        clusters: &[(Cluster, Zeroizing<String>)],
    ) -> Result<(), SandboxError> {
        let mut urls = Map::new();
        let mut url = |name: &str, url: &str| urls.insert(name.to_owned(), Value::from(url));
        url("user", &hub.url());
        url("agents", &format!("https://{}", hub.agents));
        url("admin", &format!("http://{}", hub.admin));
        url("hub-api", &hub_api.url());
        self.write(&self.path.join("tokens").join(HUB), visitor)?;
        let mut contexts = Vec::new();
        for (cluster, token) in clusters {
            let name = cluster.name.as_str();
            url(&format!("{name}-api"), &cluster.api_url);
            self.write(&self.path.join("tokens").join(name), token)?;
            contexts.push(Context {
                name: name.to_owned(),
                server: format!("{}/{name}", hub.url()),
                ca_pem: hub.ca_pem.clone().into_bytes(),
                user: ContextUser::Token(token.clone()),
            });
        }
        contexts.push(Context {
            name: HUB.to_owned(),
            server: hub_api.url(),
            ca_pem: hub_api.server.ca_pem.to_vec(),
            user: ContextUser::Token(hub_api.token.clone()),
        });
        self.write(&self.path.join("ca.crt"), &hub.ca_pem)?;
        self.write(&self.path.join("urls.json"), &format!("{:#}\n", Value::from(urls)))?;
        self.write(&self.path.join("kubeconfig"), &kubernetes::kubeconfig(&contexts))
    }
}

/// What nobody but the sandbox needs to look at.
const DATA: &str = "data";

/// Whether `path` is the home folder, the one for temporary files, or above one of them: a slip of
/// the keyboard that would close it to everybody else.
fn is_shared(path: &Path) -> bool {
    let home = std::env::home_dir().into_iter();
    let folders = home.chain([std::env::temp_dir(), PathBuf::from("/")]);
    folders.filter_map(|folder| folder.canonicalize().ok()).any(|folder| folder.starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sandbox_per_folder_and_nobody_else_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        fs::write(directory.join("mine"), "kept").unwrap();
        let first = Folder::open(&directory).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(Folder::open(&directory), Err(SandboxError::Locked(_))));
        drop(first);
        Folder::open(&directory).unwrap();
        assert_eq!(fs::read_to_string(directory.join("mine")).unwrap(), "kept");

        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Folder::open(&file), Err(SandboxError::Folder { .. })));
    }
}
