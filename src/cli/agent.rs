//! `agent`: from flags and environment to a running agent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::egress::EgressArgs;
use crate::agent::{Agent, AgentConfig, ExposedService, Exposure, ImpersonationRule};
use crate::drain::Drain;

/// Flags of `agent`.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// The hub's agent listener; repeat it for several hubs
    #[arg(long, env = "CLUSTER_PROXY_HUB", value_name = "HOST:PORT", required = true, value_delimiter = ',', value_parser = host_and_port)]
    hub: Vec<String>,

    /// Folder with this agent's key and certificate, written by `join`
    #[arg(long, env = "CLUSTER_PROXY_DIR", value_name = "DIR", default_value = "agent")]
    dir: PathBuf,

    #[command(flatten)]
    egress: EgressArgs,

    /// Kubeconfig of this cluster's API server [default: the pod's own service account]
    ///
    /// Read again every half minute, with the files it names, and on SIGHUP; what cannot be used
    /// is reported, and the old kept.
    #[arg(long, env = "CLUSTER_PROXY_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Tunnels to each hub
    #[arg(long, env = "CLUSTER_PROXY_TUNNELS", value_name = "N", default_value = "2", value_parser = clap::value_parser!(u8).range(1..=8))]
    tunnels: u8,

    /// Audience of this cluster's tokens, where the agent has no token of its own to read it from
    #[arg(long, env = "CLUSTER_PROXY_AUDIENCE", value_name = "AUDIENCE", value_delimiter = ',')]
    audience: Vec<String>,

    /// A further issuer of this cluster's tokens
    #[arg(long, env = "CLUSTER_PROXY_ISSUER", value_name = "URL", value_delimiter = ',')]
    issuer: Vec<String>,

    /// Which identities of the hub may use this cluster, where its RBAC lets the agent impersonate them:
    /// those that begin with PREFIX (several are separated by commas), or none (`off`)
    #[arg(
        long,
        env = "CLUSTER_PROXY_IMPERSONATION",
        value_name = "PREFIX,...|off",
        default_value = "cluster:",
        value_parser = impersonation
    )]
    impersonation: Impersonation,

    /// A user of the hub who may use this cluster without such a prefix, where the hub names them so as
    /// well (`hub --unprefixed-names`), by exact name; repeat it
    #[arg(long, env = "CLUSTER_PROXY_IMPERSONATION_USER", value_name = "NAME")]
    impersonation_user: Vec<String>,

    /// The same, a group
    #[arg(long, env = "CLUSTER_PROXY_IMPERSONATION_GROUP", value_name = "NAME")]
    impersonation_group: Vec<String>,

    /// A Service of this cluster that callers of the hub may reach, if the hub exposes it as well; all
    /// its ports when none is given
    #[arg(
        long,
        env = "CLUSTER_PROXY_EXPOSE_SERVICE",
        value_name = "NAMESPACE/NAME[:PORT]",
        value_delimiter = ','
    )]
    expose_service: Vec<ExposedService>,

    /// Exposed services may have loopback addresses: those of this host
    #[arg(long, env = "CLUSTER_PROXY_EXPOSE_LOOPBACK_SERVICES")]
    expose_loopback_services: bool,

    /// Authorities of services that speak TLS, PEM, besides those of this machine and of the API server
    ///
    /// Their certificates must be for NAME.NAMESPACE.svc. Read again every half minute, and on SIGHUP;
    /// what cannot be used is reported, and the old kept.
    #[arg(long, env = "CLUSTER_PROXY_ADDITIONAL_SERVICE_CA", value_name = "FILE")]
    additional_service_ca: Option<PathBuf>,

    /// Health and metrics (plain HTTP: keep it on loopback)
    #[arg(
        long,
        env = "CLUSTER_PROXY_ADMIN_ADDRESS",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:8001"
    )]
    admin_address: SocketAddr,

    /// How long running streams may take when the agent stops
    #[arg(long, env = "CLUSTER_PROXY_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,
}

/// Runs an agent until SIGINT or SIGTERM.
pub(crate) async fn run(args: AgentArgs) -> anyhow::Result<ExitCode> {
    super::dumps::forbid();
    let stop = super::stop_signal()?;
    let config = args.into_config()?;
    let patience = config.drain_timeout;
    let agent = Agent::build(config).await.context("the agent cannot start")?;
    tracing::info!(admin = %agent.admin_address(), "agent starts");

    let drain = Drain::new();
    let reloaded = agent.clone();
    super::on_hangup(&drain, move || reloaded.reload())?;
    let mut running = drain.spawn(agent.run(drain.clone()));
    let ended = tokio::select! {
        signal = stop => {
            let patience = humantime::format_duration(patience).to_string();
            tracing::info!(signal, patience, "stopping: running streams may finish; a second signal stops at once");
            None
        }
        ended = &mut running => Some(ended),
    };
    super::finish(&drain, patience).await.context("the agent cannot stop in order")?;
    ended.unwrap_or(Ok(Ok(()))).context("the agent failed")?.context("the agent failed")?;
    Ok(ExitCode::SUCCESS)
}

// === impl AgentArgs ===

impl AgentArgs {
    fn into_config(self) -> anyhow::Result<AgentConfig> {
        if !self.dir.is_dir() {
            bail!(
                "--dir: there is no folder `{}`; run the `cluster-proxy join` command that the hub printed for this cluster",
                self.dir.display()
            );
        }
        if let Some(path) = self.kubeconfig.as_deref().filter(|path| !path.is_file()) {
            bail!("--kubeconfig: there is no file `{}`", path.display());
        }
        let (users, groups) = (self.impersonation_user, self.impersonation_group);
        let impersonation = match self.impersonation.0 {
            Some(rule) => {
                let named = rule.with_names(users, groups).map_err(anyhow::Error::msg);
                Some(named.context("--impersonation-user, --impersonation-group")?)
            }
            None if users.is_empty() && groups.is_empty() => None,
            None => bail!(
                "--impersonation off lets nobody in: leave out --impersonation-user and --impersonation-group"
            ),
        };
        Ok(AgentConfig {
            hub: self.hub,
            egress: self.egress.read()?,
            directory: self.dir,
            kubeconfig: self.kubeconfig,
            tunnels: usize::from(self.tunnels),
            audiences: self.audience,
            issuers: self.issuer,
            impersonation,
            services: Exposure {
                services: self.expose_service,
                loopback: self.expose_loopback_services,
                additional_ca: self.additional_service_ca,
            },
            admin: self.admin_address,
            drain_timeout: self.drain_timeout,
        })
    }
}

/// A value of `--impersonation`.
#[derive(Clone, Debug)]
struct Impersonation(Option<ImpersonationRule>);

fn impersonation(value: &str) -> Result<Impersonation, String> {
    match value {
        "off" => Ok(Impersonation(None)),
        prefixes => {
            let prefixes = prefixes.split(',').map(str::to_owned).collect();
            ImpersonationRule::new(prefixes).map(|rule| Impersonation(Some(rule)))
        }
    }
}

/// Accepts `name:port`, `address:port` and `[address]:port`.
fn host_and_port(value: &str) -> Result<String, String> {
    let expected = || format!("expected HOST:PORT, for example hub.example.com:{AGENT_PORT}");
    let (host, port) = value.rsplit_once(':').ok_or_else(expected)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) || host.contains('/') {
        return Err(expected());
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(value.to_owned()),
        _ => Err(expected()),
    }
}

/// The hub's default agent listener.
const AGENT_PORT: u16 = 8091;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_of_the_hub_begin_as_the_owner_says() {
        let rule = |value| impersonation(value).map(|Impersonation(rule)| rule);
        assert_eq!(rule("off"), Ok(None));
        assert_eq!(rule("cluster:"), Ok(Some(ImpersonationRule::default())));
        assert!(
            rule("cluster:,oidc:").is_ok_and(|rule| rule != Some(ImpersonationRule::default()))
        );
        for bad in ["", "cluster:,", "cluster:,system:", "system:"] {
            assert!(rule(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hub_is_a_host_and_a_port() {
        for good in ["hub:8091", "127.0.0.1:1", "[::1]:8091", "hub.example.com:65535"] {
            assert_eq!(host_and_port(good).as_deref(), Ok(good));
        }
        for bad in ["hub", "hub:", ":8091", "hub:0", "hub:65536", "::1:8091", "https://hub:8091"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }
}
