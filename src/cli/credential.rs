//! `credential`: the exec plugin of kubeconfigs and of ClusterProfile consumers.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::credential::exec::{Asked, VARIABLE};
use crate::credential::hub::{GUARD, HubApi, Pinned};
use crate::credential::source::{self, Place};
use crate::kubernetes;

/// Flags of `credential`.
#[derive(Debug, Args)]
pub(crate) struct CredentialArgs {
    /// The managed service account whose token to give
    #[arg(long = "managed-serviceaccount", value_name = "NAME", value_parser = account)]
    account: Option<String>,

    /// Namespace of the ClusterProfile, with a copy of the account's Secret [default: $NAMESPACE, the
    /// pod's, the context's, `default`]
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "cluster_namespace")]
    namespace: Option<String>,

    /// Take the account's own Secret, in the namespace that has the cluster's name
    #[arg(long)]
    cluster_namespace: bool,

    /// Kubeconfig of the hub's own cluster [default: the pod's account; outside of a pod what kubectl
    /// takes]
    #[arg(long, value_name = "FILE")]
    hub_kubeconfig: Option<PathBuf>,

    /// Context in it [default: its current one]
    #[arg(long, value_name = "NAME")]
    hub_context: Option<String>,

    /// Take the token from DIR/tokens/CLUSTER, where a sandbox writes it
    #[arg(long, value_name = "DIR", conflicts_with_all = [
        "account", "namespace", "cluster_namespace", "hub_kubeconfig", "hub_context",
    ])]
    dir: Option<PathBuf>,
}

/// Answers one question of a client.
pub(crate) async fn run(args: CredentialArgs) -> anyhow::Result<ExitCode> {
    if std::env::var_os(GUARD).is_some() {
        bail!(
            "the hub's kubeconfig gets its credentials by way of this very plugin: name the kubeconfig of the hub's own cluster with --hub-kubeconfig and --hub-context"
        );
    }
    let asked = Asked::read(std::env::var(VARIABLE).ok().as_deref())?;
    let token = match &args.dir {
        Some(dir) => source::from_folder(dir, &asked.cluster)?,
        None => {
            let account = args.account.as_deref();
            let account = account.context("--managed-serviceaccount flag is required")?;
            let pinned = Pinned::find(args.hub_kubeconfig, args.hub_context)?;
            let hub = HubApi::connect(pinned.as_ref()).await?;
            let place = match args.cluster_namespace {
                true => Place::Own,
                false => {
                    Place::Copy { namespace: namespace(args.namespace, hub.namespace.clone()) }
                }
            };
            source::from_secret(&hub, &place, &asked.cluster, account).await?
        }
    };
    super::print(&asked.answer(&token, SystemTime::now())?)?;
    Ok(ExitCode::SUCCESS)
}

/// In the order of upstream's plugin, after our own flag.
fn namespace(flag: Option<String>, context: Option<String>) -> String {
    let variable = || std::env::var("NAMESPACE").ok().filter(|name| !name.is_empty());
    flag.or_else(variable)
        .or_else(kubernetes::pod_namespace)
        .or(context)
        .unwrap_or_else(|| "default".to_owned())
}

/// A name of an object (RFC 1123): it becomes part of a path.
pub(super) fn account(name: &str) -> Result<String, String> {
    let letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let inner = bytes.iter().all(|byte| letter(byte) || b"-.".contains(byte));
    let ends = bytes.first().is_some_and(letter) && bytes.last().is_some_and(letter);
    if inner && ends && bytes.len() <= 253 {
        Ok(name.to_owned())
    } else {
        Err("expected the name of a ManagedServiceAccount".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_an_object() {
        for good in ["test", "a.b-c", "0"] {
            assert!(account(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "-a", "a/b", "../a", "a?x"] {
            assert!(account(bad).is_err(), "{bad}");
        }
    }
}
