//! The API servers of a sandbox: small ones in this process, or real ones as processes of their own.

mod files;
mod guarded;
pub mod real;

use std::path::PathBuf;

use zeroize::Zeroizing;

use self::real::{Assets, RealApi};
use super::hub::loopback;
use super::{Part, SandboxError, provision};
use crate::drain::Drain;
use crate::kubernetes::{self, ApiServer, Credentials};
use crate::miniapi::{MiniApi, MiniApiConfig};

/// Which API servers to run.
#[derive(Clone, Debug)]
pub enum ApiServers {
    /// In-memory ones ([`crate::miniapi`]).
    Embedded,
    /// kube-apiserver and etcd.
    Real(Assets),
}

/// A running API server.
pub(super) struct Api {
    /// Where it is, with the token of an account with all rights.
    pub(super) server: ApiServer,
    /// A client under that account.
    pub(super) client: kube::Client,
    /// The same token.
    pub(super) token: Zeroizing<String>,
    /// uid of its namespace `kube-system`, which tells clusters apart.
    pub(super) uid: String,
    pub(super) part: Part,
}

// === impl Api ===

impl Api {
    /// Starts the API server of the cluster `name`, which keeps what must survive in `directory`.
    pub(super) async fn start(
        kind: &ApiServers,
        name: &str,
        directory: PathBuf,
        drain: &Drain,
    ) -> Result<Self, SandboxError> {
        let Started { mut server, part, runs_new_pods } = match kind {
            ApiServers::Embedded => embedded(name, directory, drain).await?,
            ApiServers::Real(assets) => real(assets, name, directory, drain).await?,
        };
        let client = kubernetes::client(&server)?;
        let token = provision::admin_token(&client).await?;
        if runs_new_pods {
            provision::pods(&client).await?;
        }
        server.credentials = Credentials::Token(token.clone());
        let client = kubernetes::client(&server)?;
        let uid = provision::uid(&client).await?;
        Ok(Self { server, client, token, uid, part })
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", self.server.authority())
    }
}

/// What both kinds have in common once they answer.
struct Started {
    server: ApiServer,
    part: Part,
    /// There is a Node, and no Pod yet to try things with.
    runs_new_pods: bool,
}

async fn embedded(name: &str, directory: PathBuf, drain: &Drain) -> Result<Started, SandboxError> {
    let mut config = MiniApiConfig::new(name, loopback(0));
    config.directory = Some(directory);
    let api = MiniApi::bind(config).await?;
    let server = api.server();
    let running = api.run(drain.clone());
    let what = format!("the API server of {name}");
    let part = drain.spawn(async move {
        running.await;
        SandboxError::Ended(what)
    });
    Ok(Started { server, part, runs_new_pods: false })
}

async fn real(
    assets: &Assets,
    name: &str,
    directory: PathBuf,
    drain: &Drain,
) -> Result<Started, SandboxError> {
    let mut api = RealApi::start(assets, name, &directory.join("real")).await?;
    let server = api.server().clone();
    let runs_new_pods = api.has_kubelet();
    let name = name.to_owned();
    let stopping = drain.clone();
    let part = drain.spawn(async move {
        let what = tokio::select! {
            program = api.ended() => format!("{name}: {program}"),
            () = stopping.stopping() => format!("the API server of {name}"),
        };
        api.stop().await;
        SandboxError::Ended(what)
    });
    Ok(Started { server, part, runs_new_pods })
}
