//! `hub`: from flags and environment to a running hub.

mod controllers;
mod limits;
mod oidc;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytesize::ByteSize;
use clap::Args;

use self::controllers::ControllerArgs;
use self::limits::LimitArgs;
use self::oidc::OidcArgs;
use super::state::StateArgs;
use super::written::{DelegationArgs, NamesArgs, PolicyArgs, ServiceArgs};
use crate::accounts::api::MANAGED_NAMESPACE;
use crate::drain::Drain;
use crate::hub::authn::{AuthnConfig, HubApi};
use crate::hub::hosts::AllowedHost;
use crate::hub::limits::Limits;
use crate::hub::memory::MemoryBound;
use crate::hub::{AccessLog, Hub, HubConfig};
use crate::kubernetes::{ApiReader, ApiServer};
use crate::listen::descriptors;

/// Flags of `hub`.
#[derive(Debug, Args)]
pub(crate) struct HubArgs {
    /// Where clients connect (HTTPS)
    #[arg(
        long,
        env = "CLUSTER_PROXY_LISTEN",
        value_name = "IP:PORT",
        default_value = "0.0.0.0:9092"
    )]
    listen: SocketAddr,

    /// Where agents connect (mutual TLS)
    #[arg(
        long,
        env = "CLUSTER_PROXY_AGENT_LISTEN",
        value_name = "IP:PORT",
        default_value = "0.0.0.0:8091"
    )]
    agent_listen: SocketAddr,

    /// Health, metrics and fleet state (plain HTTP: keep it on loopback)
    #[arg(
        long,
        env = "CLUSTER_PROXY_ADMIN_ADDRESS",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:8000"
    )]
    admin_address: SocketAddr,

    /// A second listener with health and metrics only, for probes and scrapers of a cluster
    #[arg(long, env = "CLUSTER_PROXY_METRICS_ADDRESS", value_name = "IP:PORT")]
    metrics_address: Option<SocketAddr>,

    /// Hosts by which clients may call the hub, each with or without its port; repeat it, or separate
    /// them by commas [default: any]
    #[arg(long, env = "CLUSTER_PROXY_ALLOWED_HOST", value_name = "HOST", value_delimiter = ',')]
    allowed_host: Vec<AllowedHost>,

    #[command(flatten)]
    home: StateArgs,

    /// Accept only service accounts of this namespace (default: the one of managed service accounts)
    #[arg(
        long,
        env = "CLUSTER_PROXY_MANAGED_ONLY",
        value_name = "NAMESPACE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = MANAGED_NAMESPACE
    )]
    managed_only: Option<String>,

    /// Accept tokens without an end, from Secrets of type kubernetes.io/service-account-token
    #[arg(long, env = "CLUSTER_PROXY_ALLOW_LEGACY_TOKENS")]
    allow_legacy_tokens: bool,

    /// Ask the hub's own API server about tokens that are no JSON Web Tokens, such as those of a token
    /// file or of a webhook
    #[arg(long, env = "CLUSTER_PROXY_ALLOW_OPAQUE_TOKENS")]
    allow_opaque_tokens: bool,

    #[command(flatten)]
    names: NamesArgs,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    delegation: DelegationArgs,

    /// Where the access log goes: `-` for standard output, a file (opened again on SIGHUP), or `off`
    #[arg(long, env = "CLUSTER_PROXY_ACCESS_LOG", value_name = "-|FILE|off", default_value = "-", value_parser = access_log)]
    access_log: AccessLog,

    /// Worker threads [default: one per core]
    #[arg(long, env = "CLUSTER_PROXY_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    workers: Option<u16>,

    /// How long a stopping hub goes on serving, not ready any more, so that balancers notice in time;
    /// part of --drain-timeout [default: a third of it, 10s at most]
    #[arg(long, env = "CLUSTER_PROXY_MIN_DRAIN_DURATION", value_name = "DURATION", value_parser = humantime::parse_duration)]
    min_drain_duration: Option<Duration>,

    /// How long a hub takes to stop at most; streams that run then are cut
    #[arg(long, env = "CLUSTER_PROXY_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,

    /// How long an API server may think before it answers; its own limit is 60 s
    #[arg(long, env = "CLUSTER_PROXY_RESPONSE_HEAD_TIMEOUT", value_name = "DURATION", default_value = "70s", value_parser = humantime::parse_duration)]
    response_head_timeout: Duration,

    /// Life of the certificates that agents get
    #[arg(long, env = "CLUSTER_PROXY_AGENT_CERTIFICATE_LIFE", value_name = "DURATION", default_value = "24h", value_parser = humantime::parse_duration)]
    agent_certificate_life: Duration,

    /// How long after its end an agent's certificate can still be renewed
    #[arg(long, env = "CLUSTER_PROXY_RENEWAL_GRACE", value_name = "DURATION", default_value = "30d", value_parser = humantime::parse_duration)]
    renewal_grace: Duration,

    #[command(flatten)]
    oidc: OidcArgs,

    #[command(flatten)]
    services: ServiceArgs,

    #[command(flatten)]
    controllers: ControllerArgs,

    #[command(flatten)]
    limits: LimitArgs,
}

/// Runs a hub until SIGINT or SIGTERM.
pub(crate) async fn run(args: HubArgs) -> anyhow::Result<ExitCode> {
    super::dumps::forbid();
    let stop = super::stop_signal()?;
    let server = args.home.hub_server()?;
    let reader = server.clone().map(ApiReader::new).transpose()?;
    let hub_api = reader.clone().map(|reader| Arc::new(reader) as Arc<dyn HubApi>);
    let config = args.into_config(server, hub_api)?;
    let patience = config.drain_timeout;
    let hub = Hub::build(config).await.context("the hub cannot start")?;
    let addresses = hub.addresses();
    tracing::info!(user = %addresses.user, agents = %addresses.agents, admin = %addresses.admin, "hub is listening");

    let drain = Drain::new();
    if let Some(reader) = reader {
        let stopping = drain.clone();
        drain.spawn(async move {
            tokio::select! {
                () = reader.keep_fresh() => {}
                () = stopping.stopping() => {}
            }
        });
    }
    super::on_hangup(&drain, hub.reloader())?;
    let mut running = drain.spawn(hub.run(drain.clone()));
    let ended = tokio::select! {
        signal = stop => {
            let patience = humantime::format_duration(patience).to_string();
            tracing::info!(signal, patience, "stopping: running streams may finish; a second signal stops at once");
            None
        }
        ended = &mut running => Some(ended),
    };
    // The hub waits as long by itself, and then closes its tunnels.
    super::finish(&drain, patience + CLOSING).await.context("the hub cannot stop in order")?;
    ended.unwrap_or(Ok(Ok(()))).context("the hub failed")?.context("the hub failed")?;
    Ok(ExitCode::SUCCESS)
}

// === impl HubArgs ===

impl HubArgs {
    fn into_config(
        self,
        server: Option<ApiServer>,
        hub_api: Option<Arc<dyn HubApi>>,
    ) -> anyhow::Result<HubConfig> {
        let min_drain =
            self.min_drain_duration.unwrap_or_else(|| NOTICED.min(self.drain_timeout / 3));
        if min_drain > self.drain_timeout {
            bail!(
                "--min-drain-duration: {} is more than --drain-timeout, {}",
                humantime::format_duration(min_drain),
                humantime::format_duration(self.drain_timeout)
            );
        }
        let state = self.home.open()?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = self.workers.map_or(cores, usize::from);
        let limits = told(fit(self.limits.into_limits(), workers));
        let namespace = server.is_some().then(|| self.home.hub_namespace());
        let issuers = self.oidc.into_issuers(namespace.clone())?;
        let policy = self.policy.into_source(namespace.clone())?;
        let delegate_authorization = self.delegation.is_asked(server.is_some())?;
        if self.allow_opaque_tokens && server.is_none() {
            bail!(
                "--allow-opaque-tokens: there is no API server of the hub: name one with --hub-kubeconfig"
            );
        }
        let names = self.names.read()?;
        for told in names.told() {
            tracing::warn!("--unprefixed-names: every cluster whose owner agrees knows {told}");
        }
        let services = self.services.into_source(namespace)?;
        Ok(HubConfig {
            user: self.listen,
            agents: self.agent_listen,
            admin: self.admin_address,
            metrics: self.metrics_address,
            state,
            hub_api,
            controllers: server.map(|server| self.controllers.into_config(server)).transpose()?,
            authn: AuthnConfig {
                managed_only: self.managed_only,
                allow_legacy_tokens: self.allow_legacy_tokens,
                waiting: limits.waiting_strangers(),
                issuers,
                opaque_tokens: self.allow_opaque_tokens,
                names: Arc::new(names),
            },
            policy,
            delegate_authorization,
            services,
            access_log: self.access_log,
            workers,
            min_drain,
            drain_timeout: self.drain_timeout,
            head_timeout: self.response_head_timeout,
            certificate_life: self.agent_certificate_life,
            renewal_grace: self.renewal_grace,
            allowed_hosts: self.allowed_host.into_iter().collect(),
            limits,
        })
    }
}

/// Raises the limit of open files, and fits the connections into it.
fn fit(limits: Limits, workers: usize) -> Limits {
    let descriptors = match descriptors::raise() {
        Ok(None) => return limits,
        Ok(Some(descriptors)) => descriptors,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            return limits;
        }
    };
    let fitting = limits.clone().within(descriptors, workers);
    let (clients, agents) = (fitting.connections, fitting.agent_connections);
    match Fit::of(&limits, &fitting) {
        Fit::Whole => {}
        Fit::Enough => tracing::info!(
            descriptors,
            clients,
            agents,
            "connections are limited by that of open files (ulimit -Hn)"
        ),
        Fit::Few => tracing::warn!(
            descriptors,
            clients,
            agents,
            "fewer connections than configured fit into the limit of open files: raise it (ulimit -Hn)"
        ),
    }
    fitting
}

/// What becomes of the limits of connections where open files are limited.
#[derive(Debug, PartialEq, Eq)]
enum Fit {
    Whole,
    /// Fewer than our defaults, which nobody asked for.
    Enough,
    /// Fewer than somebody asked for, or so few that they will be missed.
    Few,
}

impl Fit {
    fn of(wanted: &Limits, fitting: &Limits) -> Self {
        let of = |limits: &Limits| [limits.connections, limits.agent_connections];
        if of(fitting) == of(wanted) {
            return Self::Whole;
        }
        let is_asked = of(wanted) != of(&Limits::default());
        let is_little = of(fitting).iter().any(|fit| *fit < ENOUGH_CONNECTIONS);
        if is_asked || is_little { Self::Few } else { Self::Enough }
    }
}

/// Says how much memory the limits let others make the hub take.
fn told(limits: Limits) -> Limits {
    let bound = MemoryBound::of(&limits);
    let size = |bytes| ByteSize::b(bytes).to_string();
    let of = |bytes, count: usize| format!("{} for {count}", size(bytes));
    tracing::info!(
        bytes = bound.total(),
        total = size(bound.total()),
        connections = of(bound.connections, limits.connections),
        agents = of(bound.agents, limits.agent_connections),
        requests = of(bound.requests, limits.requests),
        uploads = of(bound.uploads, limits.uploads),
        unread = format!("{} for {}", size(bound.unread), size(limits.unread_bytes)),
        "the bound of memory under these limits; --max-memory makes them fit into less"
    );
    if let Some(most) = container_memory().filter(|most| *most < bound.total()) {
        tracing::warn!(
            container = size(most),
            bound = size(bound.total()),
            "under attack the hub could take more memory than its container may: set --max-memory"
        );
    }
    limits
}

/// The memory limit of the control group that this process is in, where there is one.
fn container_memory() -> Option<u64> {
    std::fs::read_to_string(CONTAINER_MEMORY).ok()?.trim().parse().ok()
}

/// As a container sees its own group (cgroup v2): a number, or `max`.
const CONTAINER_MEMORY: &str = "/sys/fs/cgroup/memory.max";

fn access_log(value: &str) -> Result<AccessLog, String> {
    match value {
        "" => Err("expected `-`, a file, or `off`".to_owned()),
        "-" => Ok(AccessLog::Stdout),
        "off" => Ok(AccessLog::Off),
        path => Ok(AccessLog::File(path.into())),
    }
}

/// A balancer asks for readiness every few seconds, and believes the third answer.
const NOTICED: Duration = Duration::from_secs(10);

/// What the hub needs to close its tunnels once its streams have ended.
const CLOSING: Duration = Duration::from_secs(3);

/// Clients, or agents, of a fleet that is not small.
const ENOUGH_CONNECTIONS: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asked_for_more_or_gets_hardly_any_is_warned() {
        let asked = |connections| Limits { connections, ..Limits::default() };
        let fit = |wanted: Limits, files| Fit::of(&wanted, &wanted.clone().within(files, 2));
        assert_eq!(fit(Limits::default(), 1 << 20), Fit::Whole);
        assert_eq!(fit(Limits::default(), 20_000), Fit::Enough);
        assert_eq!(fit(asked(30_000), 20_000), Fit::Few);
        assert_eq!(fit(Limits::default(), 1024), Fit::Few);
    }
}
