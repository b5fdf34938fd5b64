//! The API servers of a fleet: in-memory ones as processes, or kube-apiserver with its etcd.

use std::path::{Path, PathBuf};

use cluster_proxy::kubernetes;
use cluster_proxy::sandbox::apiserver::real::{Assets, RealApi};
use cluster_proxy::sandbox::provision;

use crate::support::process::{Process, free_port};
use crate::support::{PATIENCE, assets};

/// Which ones.
#[derive(Clone)]
pub(crate) enum Apis {
    Embedded,
    Real(Assets),
}

/// A running one. Both end when this is dropped.
pub(crate) enum RunningApi {
    Embedded(Process),
    Real(Box<RealApi>),
}

// === impl Apis ===

impl Apis {
    /// Says that `test` is skipped where there are none.
    pub(crate) fn real(test: &str) -> Option<Self> {
        assets::folder(test).map(|folder| Self::Real(Assets::find(Some(&folder)).unwrap()))
    }

    /// Starts one, with its files in the folder `NAME.api` of `directory`.
    pub(crate) async fn start(&self, directory: &Path, name: &str) -> RunningApi {
        let files = format!("{name}.api");
        match self {
            Self::Embedded => {
                let address = format!("127.0.0.1:{}", free_port());
                let args = ["miniapi", "--address", &address, "--dir", &files, "--name", name];
                let mut api = Process::start(&files, directory, &args);
                api.wait_for_start("ready", PATIENCE).await;
                RunningApi::Embedded(api)
            }
            Self::Real(assets) => {
                let files = directory.join(files);
                std::fs::create_dir_all(files.join("real")).unwrap();
                let user = format!("opaque-kate-of-{name},kate,kate-uid,dev\n");
                std::fs::write(files.join("real/tokens.csv"), user).unwrap();
                let api = RealApi::start(assets, name, &files.join("real")).await.unwrap();
                prepare(&api, name, files).await;
                RunningApi::Real(Box::new(api))
            }
        }
    }
}

// === impl RunningApi ===

impl RunningApi {
    pub(crate) async fn stop(self) {
        match self {
            Self::Embedded(mut process) => drop(process.stop(PATIENCE).await),
            Self::Real(api) => api.stop().await,
        }
    }
}

/// What `miniapi` does by itself.
async fn prepare(api: &RealApi, name: &str, files: PathBuf) {
    let server = api.server();
    let client = kubernetes::client(server).unwrap();
    provision::pods(&client).await.unwrap();
    let admin = provision::admin_token(&client).await.unwrap();
    let agent = provision::agent(&client, server).await.unwrap();
    let token = provision::managed_token(&client, "test", LIFE).await.unwrap();
    std::fs::create_dir(files.join("tokens")).unwrap();
    for (file, text) in [
        ("kubeconfig", provision::kubeconfig(server, name, admin)),
        ("agent.kubeconfig", agent),
        ("tokens/test", token),
    ] {
        std::fs::write(files.join(file), text.as_bytes()).unwrap();
    }
}

/// Longer than a test.
const LIFE: std::time::Duration = std::time::Duration::from_secs(3600);
