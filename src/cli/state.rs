//! Where the hub's state lives: the flags that `hub` and the commands beside it share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::kubernetes::{self, ApiServer};
use crate::state::{FolderStore, SecretStore, State};

/// Flags of a home of state.
#[derive(Clone, Debug, Args)]
pub(super) struct StateArgs {
    /// Folder of certificates, enrolments and join tokens, made by `pki init`
    #[arg(long, env = "CLUSTER_PROXY_DIR", value_name = "DIR", default_value = "certs")]
    dir: PathBuf,

    /// Keep them as Secrets of this namespace of the hub's own cluster instead of in --dir
    #[arg(
        long,
        env = "CLUSTER_PROXY_STATE_NAMESPACE",
        value_name = "NAMESPACE",
        conflicts_with = "dir",
        value_parser = namespace
    )]
    state_namespace: Option<String>,

    #[command(flatten)]
    server: HubServerArgs,
}

/// How the hub's own cluster is reached.
#[derive(Clone, Debug, Args)]
pub(super) struct HubServerArgs {
    /// Kubeconfig of the hub's own cluster, where there is one and this runs outside of it
    #[arg(long, env = "CLUSTER_PROXY_HUB_KUBECONFIG", value_name = "FILE")]
    hub_kubeconfig: Option<PathBuf>,
}

// === impl HubServerArgs ===

impl HubServerArgs {
    /// The API server of the hub's own cluster, where there is one: that of the kubeconfig, or of
    /// the pod.
    pub(super) fn server(&self) -> anyhow::Result<Option<ApiServer>> {
        Ok(match &self.hub_kubeconfig {
            Some(path) => Some(ApiServer::from_kubeconfig(path, None).context("--hub-kubeconfig")?),
            None if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() => None,
            None => Some(ApiServer::in_cluster()?),
        })
    }
}

// === impl StateArgs ===

impl StateArgs {
    /// The API server of the hub's own cluster, where there is one.
    pub(super) fn hub_server(&self) -> anyhow::Result<Option<ApiServer>> {
        self.server.server()
    }

    /// Where the kubeconfig of the hub's own cluster is, if somebody said so.
    pub(super) fn hub_kubeconfig(&self) -> Option<&Path> {
        self.server.hub_kubeconfig.as_deref()
    }

    /// The state, in a folder that exists.
    pub(super) fn open(&self) -> anyhow::Result<State> {
        if self.state_namespace.is_none() && !self.dir.is_dir() {
            let dir = self.dir.display();
            bail!(
                "--dir: there is no folder `{dir}`; make one with `cluster-proxy pki init --dir {dir}`"
            );
        }
        self.create()
    }

    /// The state, in a folder that is made when it is missing.
    pub(super) fn create(&self) -> anyhow::Result<State> {
        let Some(namespace) = &self.state_namespace else {
            let store = FolderStore::open(&self.dir)
                .with_context(|| format!("--dir {}", self.dir.display()))?;
            return Ok(State::new(Arc::new(store)));
        };
        let Some(server) = self.hub_server()? else {
            bail!(
                "--state-namespace: which cluster? Name its kubeconfig with --hub-kubeconfig (inside \
                 of a pod none is needed)"
            );
        };
        let client = kubernetes::client(&server).context("--state-namespace")?;
        Ok(State::new(Arc::new(SecretStore::new(client, namespace))))
    }

    /// The folder, where the state is in one.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.state_namespace.is_none().then_some(&*self.dir)
    }

    /// The namespace of the hub: that of its state, else that of its pod.
    pub(super) fn hub_namespace(&self) -> String {
        hub_namespace(self.state_namespace.clone())
    }

    /// Says `what` of this home.
    pub(super) fn tell(&self, what: &str) -> std::io::Result<()> {
        super::print(&format!("{}: {what}\n", self.shown()))
    }

    /// As people know it.
    pub(super) fn shown(&self) -> String {
        match &self.state_namespace {
            Some(namespace) => format!("namespace {namespace}"),
            None => self.dir.display().to_string(),
        }
    }
}

/// The namespace of a hub: that of its state, else that of its pod.
pub(super) fn hub_namespace(of_state: Option<String>) -> String {
    of_state.or_else(kubernetes::pod_namespace).unwrap_or_else(|| "default".to_owned())
}

/// A namespace's name, an RFC 1123 label.
pub(super) fn namespace(value: &str) -> Result<String, &'static str> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let good = (1..=63).contains(&value.len())
        && value.bytes().all(inner)
        && !value.starts_with('-')
        && !value.ends_with('-');
    if good { Ok(value.to_owned()) } else { Err("a namespace is [a-z0-9-], at most 63 long") }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        state: StateArgs,
    }

    #[test]
    fn a_namespace_or_a_folder_and_not_both() {
        let parse = |args: &[&str]| {
            Command::try_parse_from([&["command"], args].concat())
                .map(|command| command.state.shown())
        };
        assert_eq!(parse(&[]).unwrap(), "certs");
        assert_eq!(parse(&["--dir", "x"]).unwrap(), "x");
        assert_eq!(parse(&["--state-namespace", "hub"]).unwrap(), "namespace hub");
        assert!(parse(&["--state-namespace", "hub", "--dir", "x"]).is_err());
        for bad in ["", "a/b", "../x", "-a", "a-", "A", "a.b", &"a".repeat(64)] {
            assert!(parse(&[&format!("--state-namespace={bad}")]).is_err(), "{bad:?}");
        }
    }
}
