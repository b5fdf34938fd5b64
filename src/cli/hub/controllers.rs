//! Flags of what the hub keeps up to date in its own API server.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use crate::accounts::api::MANAGED_NAMESPACE;
use crate::cli::kubeconfig;
use crate::cli::state::namespace;
use crate::hub::{AccountsOptions, ControllersConfig};
use crate::inventory::api::OCM;
use crate::inventory::{Address, InventoryConfig};
use crate::kubernetes::{self, ApiServer};

/// Flags of `hub` about the objects of its own API server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Objects in the hub's own cluster")]
pub(super) struct ControllerArgs {
    /// Namespace of the Lease by which one of several hubs is chosen to write [default: the pod's;
    /// `default` outside of one]
    #[arg(long, env = "CLUSTER_PROXY_LEASE_NAMESPACE", value_name = "NAMESPACE")]
    lease_namespace: Option<String>,

    /// Namespace of managed service accounts on the spokes, or `off` to serve none. No agent may live
    /// in it
    #[arg(long, env = "CLUSTER_PROXY_ACCOUNTS_NAMESPACE", value_name = "NAMESPACE|off", default_value = MANAGED_NAMESPACE, value_parser = namespace)]
    accounts_namespace: String,

    /// Serve managed service accounts of clusters that Open Cluster Management's own add-on serves,
    /// too
    #[arg(long, env = "CLUSTER_PROXY_TAKE_OVER")]
    take_over: bool,

    /// Serve clusters whether or not Open Cluster Management accepts them (`hubAcceptsClient` of the
    /// ManagedCluster of that name), where the hub's cluster is a hub of it
    #[arg(long, env = "CLUSTER_PROXY_IGNORE_MANAGED_CLUSTERS")]
    ignore_managed_clusters: bool,

    /// URL of the hub for consumers of ClusterProfiles, or `off` to publish nothing [default: the
    /// Service cluster-proxy of the pod's namespace; outside of a pod, the first name of the serving
    /// certificate that leads beyond this machine; both with the port of --listen]
    #[arg(long, env = "CLUSTER_PROXY_PUBLISH_URL", value_name = "URL|off", value_parser = publish_url)]
    publish_url: Option<PublishUrl>,

    /// Name of the entry that consumers look for
    #[arg(long, env = "CLUSTER_PROXY_PUBLISH_NAME", value_name = "NAME", default_value = OCM, value_parser = entry_name)]
    publish_name: String,

    /// A further entry, for example one for clients outside of the hub's cluster; repeat it, or
    /// separate them by commas
    #[arg(long, env = "CLUSTER_PROXY_PUBLISH_ALSO", value_name = "NAME=URL", value_delimiter = ',', value_parser = also)]
    publish_also: Vec<(String, String)>,

    /// Cluster manager whose profiles get the entries (their label x-k8s.io/cluster-manager)
    #[arg(long, env = "CLUSTER_PROXY_PUBLISH_MANAGER", value_name = "NAME", default_value = OCM, value_parser = label_value)]
    publish_manager: String,

    /// Publish the condition ClusterProxyReachable too: whether requests get through. It changes after
    /// a minute at the earliest, because consumers build their clients anew at each change
    #[arg(long, env = "CLUSTER_PROXY_PUBLISH_PATH_CONDITION")]
    publish_path_condition: bool,

    /// Authority of the certificate that clients see, PEM, where that is an operator's own
    #[arg(long, env = "CLUSTER_PROXY_SERVING_CA", value_name = "FILE")]
    serving_ca: Option<PathBuf>,
}

/// Value of `--publish-url`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PublishUrl {
    Off,
    Url(String),
}

// === impl ControllerArgs ===

impl ControllerArgs {
    /// What to run before the API server `server`.
    pub(super) fn into_config(mut self, server: ApiServer) -> anyhow::Result<ControllersConfig> {
        let namespace = kubernetes::pod_namespace();
        let lease_namespace = self.lease_namespace.take().or_else(|| namespace.clone());
        Ok(ControllersConfig {
            server,
            lease_namespace: lease_namespace.unwrap_or_else(|| "default".to_owned()),
            accounts: self.accounts(),
            managed_clusters: !self.ignore_managed_clusters,
            inventory: self.inventory(namespace)?,
        })
    }

    fn accounts(&self) -> Option<AccountsOptions> {
        (self.accounts_namespace != "off").then(|| AccountsOptions {
            namespace: self.accounts_namespace.clone(),
            take_over: self.take_over,
            serving_ca: self.serving_ca.clone(),
        })
    }

    fn inventory(self, namespace: Option<String>) -> anyhow::Result<Option<InventoryConfig>> {
        let address = match (self.publish_url, namespace) {
            (Some(PublishUrl::Off), _) => return Ok(None),
            (Some(PublishUrl::Url(url)), _) => Address::Url(url),
            (None, Some(namespace)) => Address::Host(format!("cluster-proxy.{namespace}.svc")),
            (None, None) => Address::Certificate,
        };
        let mut entries = vec![(self.publish_name, address)];
        for (name, url) in self.publish_also {
            if entries.iter().any(|(known, _)| *known == name) {
                bail!("--publish-also: there are two entries called `{name}`");
            }
            entries.push((name, Address::Url(url)));
        }
        Ok(Some(InventoryConfig {
            manager: self.publish_manager,
            entries,
            serving_ca: self.serving_ca,
            path_condition: self.publish_path_condition,
        }))
    }
}

fn publish_url(value: &str) -> Result<PublishUrl, String> {
    if value == "off" {
        return Ok(PublishUrl::Off);
    }
    kubeconfig::server(value).map(PublishUrl::Url).map_err(|problem| format!("{problem}, or `off`"))
}

fn also(value: &str) -> Result<(String, String), String> {
    let (name, url) = value.split_once('=').ok_or("expected NAME=URL")?;
    Ok((entry_name(name)?, kubeconfig::server(url)?))
}

/// As ClusterProfile has it.
fn entry_name(name: &str) -> Result<String, String> {
    match name.len() {
        1..=253 => Ok(name.to_owned()),
        _ => Err("expected a name of 1 to 253 characters".to_owned()),
    }
}

/// The grammar of label values; it becomes part of a selector.
fn label_value(value: &str) -> Result<String, String> {
    let letter = |byte: &u8| byte.is_ascii_alphanumeric();
    let bytes = value.as_bytes();
    let inner = bytes.iter().all(|byte| letter(byte) || b"-_.".contains(byte));
    let ends = bytes.first().is_some_and(letter) && bytes.last().is_some_and(letter);
    if inner && ends && bytes.len() <= 63 {
        Ok(value.to_owned())
    } else {
        Err("expected the value of a label: letters, digits, `-`, `_` and `.`, 63 at most"
            .to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ControllerArgs,
    }

    fn read(args: &[&str], namespace: Option<&str>) -> Option<InventoryConfig> {
        let line = Line::try_parse_from(["x"].iter().chain(args)).ok()?;
        line.args.inventory(namespace.map(str::to_owned)).ok()?
    }

    #[test]
    fn where_consumers_go() {
        let main = |args: &[&str], namespace| Some(read(args, namespace)?.entries.remove(0).1);
        let service = Address::Host("cluster-proxy.ocm.svc".to_owned());
        assert_eq!(main(&[], Some("ocm")), Some(service));
        assert_eq!(main(&[], None), Some(Address::Certificate));
        let url = Address::Url("https://hub:1".to_owned());
        assert_eq!(main(&["--publish-url", "https://hub:1/"], Some("ocm")), Some(url));
        assert_eq!(read(&["--publish-url", "off"], None), None);
    }

    #[test]
    fn accounts_have_a_namespace_of_their_own_unless_they_are_off() {
        let accounts =
            |args: &[&str]| Line::try_parse_from(["x"].iter().chain(args)).unwrap().args.accounts();
        let by_default = accounts(&[]).unwrap();
        assert_eq!(by_default.namespace, MANAGED_NAMESPACE);
        assert!(!by_default.take_over && accounts(&["--take-over"]).unwrap().take_over);
        assert_eq!(accounts(&["--accounts-namespace", "off"]), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (args, works) in [
            (&["--publish-also", "a=https://a,b=https://b"][..], true),
            (&["--publish-also", "a=https://a,a=https://b"], false),
            (&["--publish-also", "open-cluster-management=https://a"], false),
            (&["--publish-also", "https://a"], false),
            (&["--publish-url", "https://hub/path"], false),
            (&["--publish-url", "http://hub"], false),
            (&["--publish-name", ""], false),
            (&["--publish-manager", "karmada"], true),
            (&["--publish-manager", "a,b=c"], false),
            (&["--accounts-namespace", "managed-1"], true),
            (&["--accounts-namespace", "a/b"], false),
            (&["--accounts-namespace", "-a"], false),
        ] {
            assert_eq!(read(args, None).is_some(), works, "{args:?}");
        }
    }
}
