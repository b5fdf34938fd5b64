//! Flags of what an operator writes down, in files, ConfigMaps and RBAC: the policy, who is asked
//! besides, names without a prefix, and the list of exposed services. `hub` follows them, `auth check`
//! reads them once.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Args;

use super::state::namespace;
use crate::hub::Source;
use crate::hub::authn::UnprefixedNames;

/// Where the policy is.
#[derive(Clone, Debug, Args)]
pub(super) struct PolicyArgs {
    /// Which of the hub's own accounts and users of issuers may ask which clusters for what: a file of
    /// rules, read again when it changes [default: none may]
    #[arg(
        long,
        env = "CLUSTER_PROXY_POLICY",
        value_name = "FILE",
        conflicts_with = "policy_configmap"
    )]
    policy: Option<PathBuf>,

    /// The same, under any keys of a ConfigMap of the hub's namespace; a missing one lets nobody in
    #[arg(long, env = "CLUSTER_PROXY_POLICY_CONFIGMAP", value_name = "[NAMESPACE/]NAME")]
    policy_configmap: Option<ConfigMapName>,
}

/// Who is asked besides.
#[derive(Clone, Debug, Args)]
pub(super) struct DelegationArgs {
    /// Ask the hub's own API server (SubjectAccessReview) about what no rule of the policy lets through:
    /// whether the caller may, in API group cluster-proxy, the request's verb on clusters of that name
    #[arg(long, env = "CLUSTER_PROXY_DELEGATE_AUTHORIZATION")]
    delegate_authorization: bool,
}

/// Names without a prefix.
#[derive(Clone, Debug, Args)]
pub(super) struct NamesArgs {
    /// Which users and groups of the hub's own API server clusters know without `cluster:hub:`, by exact
    /// name: a file of `users` and `groups`, each with its name on clusters [default: none]
    #[arg(long, env = "CLUSTER_PROXY_UNPREFIXED_NAMES", value_name = "FILE")]
    unprefixed_names: Option<PathBuf>,
}

/// Where the list of exposed services is.
#[derive(Clone, Debug, Args)]
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
    #[arg(long, env = "CLUSTER_PROXY_EXPOSED_SERVICES_CONFIGMAP", value_name = "[NAMESPACE/]NAME")]
    exposed_services_configmap: Option<ConfigMapName>,
}

/// A ConfigMap of the hub's cluster; without a namespace it is in the hub's own.
#[derive(Clone, Debug)]
struct ConfigMapName {
    namespace: Option<String>,
    name: String,
}

// === impl PolicyArgs ===

impl PolicyArgs {
    /// Where it is. `namespace`: the hub's, where it has an API server.
    pub(super) fn into_source(self, namespace: Option<String>) -> anyhow::Result<Source> {
        source("--policy-configmap", self.policy, self.policy_configmap, namespace)
    }
}

// === impl DelegationArgs ===

impl DelegationArgs {
    /// Whether it is asked. `has_server`: whether there is an API server of the hub.
    pub(super) fn is_asked(&self, has_server: bool) -> anyhow::Result<bool> {
        if self.delegate_authorization && !has_server {
            bail!("--delegate-authorization: {NO_SERVER}");
        }
        Ok(self.delegate_authorization)
    }
}

// === impl NamesArgs ===

impl NamesArgs {
    /// The names.
    pub(super) fn read(&self) -> anyhow::Result<UnprefixedNames> {
        let Some(file) = &self.unprefixed_names else { return Ok(UnprefixedNames::default()) };
        let names = UnprefixedNames::read(file);
        names.with_context(|| format!("--unprefixed-names {}", file.display()))
    }
}

// === impl ServiceArgs ===

impl ServiceArgs {
    /// Where it is. `namespace`: the hub's, where it has an API server.
    pub(super) fn into_source(self, namespace: Option<String>) -> anyhow::Result<Source> {
        let (file, map) = (self.exposed_services, self.exposed_services_configmap);
        source("--exposed-services-configmap", file, map, namespace)
    }
}

fn source(
    flag: &str,
    file: Option<PathBuf>,
    map: Option<ConfigMapName>,
    of_hub: Option<String>,
) -> anyhow::Result<Source> {
    match (file, map, of_hub) {
        (Some(file), ..) => Ok(Source::File(file)),
        (None, None, _) => Ok(Source::None),
        (None, Some(_), None) => bail!("{flag}: {NO_SERVER}"),
        (None, Some(ConfigMapName { namespace, name }), Some(of_hub)) => {
            Ok(Source::ConfigMap { namespace: namespace.unwrap_or(of_hub), name })
        }
    }
}

const NO_SERVER: &str = "there is no API server of the hub: name one with --hub-kubeconfig";

// === impl ConfigMapName ===

impl FromStr for ConfigMapName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (space, name) = match text.split_once('/') {
            Some((space, name)) => (Some(namespace(space)?), name),
            None => (None, text),
        };
        let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let inner = |byte: u8| edge(byte) || matches!(byte, b'-' | b'.');
        let bytes = name.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        let good = (1..=253).contains(&bytes.len())
            && ends.into_iter().flatten().all(|byte| edge(*byte))
            && bytes.iter().all(|byte| inner(*byte));
        if good {
            Ok(Self { namespace: space, name: name.to_owned() })
        } else {
            Err("the name of a ConfigMap is [a-z0-9.-], at most 253 long")
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
        policy: PolicyArgs,
        #[command(flatten)]
        services: ServiceArgs,
    }

    /// Where the policy and the list are.
    fn sources(flags: &[&str], has_server: bool) -> Option<[Source; 2]> {
        let flags = std::iter::once(&"hub").chain(flags);
        let Command { policy, services } = Command::try_parse_from(flags).ok()?;
        let namespace = has_server.then(|| "hub".to_owned());
        Some([policy.into_source(namespace.clone()).ok()?, services.into_source(namespace).ok()?])
    }

    fn map(namespace: &str, name: &str) -> Source {
        Source::ConfigMap { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn a_file_or_a_config_map_or_nothing() {
        assert_eq!(sources(&[], true), Some([Source::None, Source::None]));
        for (at, flag) in ["--policy", "--exposed-services"].into_iter().enumerate() {
            let (file, of_map) = (format!("{flag}=x"), format!("{flag}-configmap=y.z"));
            let only =
                |flags: &[&str], has_server| sources(flags, has_server).map(|all| all[at].clone());
            assert_eq!(only(&[&file], false), Some(Source::File("x".into())));
            assert_eq!(only(&[&of_map], true), Some(map("hub", "y.z")));
            let elsewhere = format!("{flag}-configmap=ops/y");
            assert_eq!(only(&[&elsewhere], true), Some(map("ops", "y")));
            assert_eq!(only(&[&of_map], false), None);
            assert_eq!(only(&[&file, &of_map], true), None);
            for bad in ["", "Y", "a/", "/b", "a/b/c", "..", "a%2fb", "-a"] {
                assert_eq!(only(&[&format!("{flag}-configmap={bad}")], true), None, "{bad:?}");
            }
        }
    }
}
