//! Flags of services: where the list of exposed ones is.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use crate::hub::ExposedServices;

/// Flags of `hub` about services of clusters.
#[derive(Debug, Args)]
#[command(next_help_heading = "Services of clusters")]
pub(super) struct ServiceArgs {
    /// Which services of clusters callers may reach, under
    /// /CLUSTER/api/v1/namespaces/NS/services/SCHEME:NAME:PORT/proxy-service/: a file of
    /// entries, read again when it changes [default: none]
    #[arg(
        long,
        env = "CLUSTER_PROXY_EXPOSED_SERVICES",
        value_name = "FILE",
        conflicts_with = "exposed_services_configmap"
    )]
    exposed_services: Option<PathBuf>,

    /// The same, under any keys of a ConfigMap of the hub's namespace; a missing one exposes nothing
    #[arg(long, env = "CLUSTER_PROXY_EXPOSED_SERVICES_CONFIGMAP", value_name = "NAME")]
    exposed_services_configmap: Option<String>,
}

// === impl ServiceArgs ===

impl ServiceArgs {
    /// Where the list is. `namespace`: the hub's, where it has an API server.
    pub(super) fn into_source(self, namespace: Option<String>) -> anyhow::Result<ExposedServices> {
        match (self.exposed_services, self.exposed_services_configmap, namespace) {
            (Some(file), ..) => Ok(ExposedServices::File(file)),
            (None, None, _) => Ok(ExposedServices::None),
            (None, Some(_), None) => bail!(
                "--exposed-services-configmap: there is no API server of the hub: name one with --hub-kubeconfig"
            ),
            (None, Some(name), Some(namespace)) => {
                Ok(ExposedServices::ConfigMap { namespace, name })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        services: ServiceArgs,
    }

    fn source(flags: &[&str], has_server: bool) -> Option<ExposedServices> {
        let flags = std::iter::once(&"hub").chain(flags);
        let namespace = has_server.then(|| "ns".to_owned());
        Command::try_parse_from(flags).ok()?.services.into_source(namespace).ok()
    }

    #[test]
    fn a_file_or_a_config_map_or_nothing() {
        let (file, map) = ("--exposed-services=x", "--exposed-services-configmap=y");
        assert_eq!(source(&[], true), Some(ExposedServices::None));
        assert_eq!(source(&[file], false), Some(ExposedServices::File("x".into())));
        let (namespace, name) = ("ns".to_owned(), "y".to_owned());
        assert_eq!(source(&[map], true), Some(ExposedServices::ConfigMap { namespace, name }));
        assert_eq!(source(&[map], false), None);
        assert_eq!(source(&[file, map], true), None);
    }
}
