//! `health`: how the clusters behind a hub are, from anywhere.
//!
//! The hub knows it already, by the requests that it sends through every few seconds: it is asked once,
//! for all clusters, so that a dead one costs no wait. No credential goes to a cluster.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;

use super::front::{Caller, FrontArgs};
use super::kubeconfig::select::{Profiles, Which};
use super::progress::patiently;
use super::{Output, print, table};
use crate::credential::hub::{HubApi, Pinned};
use crate::fleet::{ClusterPage, FleetPage, Health};
use crate::name::ClusterName;

/// Flags of `health`.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    front: FrontArgs,

    /// Kubeconfig of the hub's own cluster, whose user the hub is asked as, and where --selector looks
    /// [default: what kubectl takes now; in a pod the pod's account]
    #[arg(long, value_name = "FILE")]
    hub_kubeconfig: Option<std::path::PathBuf>,

    /// A cluster; repeat it for several [default: every one that the caller may see]
    #[arg(long = "cluster", value_name = "NAME", value_delimiter = ',', group = "health-of")]
    clusters: Vec<ClusterName>,

    /// Every cluster that the caller may see: the default
    #[arg(long, group = "health-of")]
    all: bool,

    /// Clusters whose ClusterProfiles in the hub's own API have these labels, as kubectl takes them
    #[arg(long, short = 'l', value_name = "LABELS", group = "health-of")]
    selector: Option<String>,

    /// How long to wait for the hub
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Shows them. 0: all are healthy; 1: one is not; 2: the hub does not say, or not of all.
pub(crate) async fn run(args: HealthArgs) -> anyhow::Result<ExitCode> {
    let unsaid = ExitCode::from(super::USAGE);
    match look(&args).await {
        Ok(page) => {
            show(&page, args.output)?;
            Ok(match &page.incomplete {
                _ if !all_well(&page) => ExitCode::FAILURE,
                Some(why) => super::complain(&anyhow::anyhow!("{why}"), unsaid),
                None => ExitCode::SUCCESS,
            })
        }
        Err(error) => Ok(super::complain(&error, unsaid)),
    }
}

fn all_well(page: &FleetPage) -> bool {
    page.clusters.iter().all(|one| one.health == Health::Healthy)
}

async fn look(args: &HealthArgs) -> anyhow::Result<FleetPage> {
    let asked = tokio::time::timeout(args.timeout, ask(args)).await;
    asked.unwrap_or_else(|_| {
        let waited = humantime::format_duration(args.timeout);
        Err(anyhow::anyhow!("{} has not answered within {waited}", args.front.server))
    })
}

async fn ask(args: &HealthArgs) -> anyhow::Result<FleetPage> {
    let (kubeconfig, context) = (args.hub_kubeconfig.clone(), args.front.hub_context.clone());
    let wanted = match &args.selector {
        None => args.clusters.clone(),
        selector => {
            let pinned = Pinned::find(kubeconfig.clone(), context)?;
            let hub = HubApi::connect(pinned.as_ref()).await?;
            let which = Which { clusters: Vec::new(), all: false, selector: selector.clone() };
            Profiles { hub: &hub, namespace: None }.choose(&which).await?
        }
    };
    let caller = Caller { front: &args.front, kubeconfig };
    let page = patiently("asking the hub", caller.fleet()).await?;
    Ok(if wanted.is_empty() { page } else { only(page, &wanted) })
}

/// The clusters of `page` that are wanted, those that it lacks as well.
fn only(page: FleetPage, wanted: &[ClusterName]) -> FleetPage {
    let mut found = page.clusters;
    found.retain(|one| wanted.contains(&one.name));
    for name in wanted {
        if !found.iter().any(|one| one.name == *name) {
            let unseen = ClusterPage::unseen(name.clone());
            let reason = page.incomplete.clone().or(unseen.reason);
            found.push(ClusterPage { reason, ..unseen });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    FleetPage { clusters: found, incomplete: None }
}

/// Writes a page to standard output.
pub(super) fn show(page: &FleetPage, output: Output) -> anyhow::Result<()> {
    let text = match output {
        Output::Json => serde_json::to_string_pretty(page)? + "\n",
        Output::Table if page.clusters.is_empty() => {
            "no cluster is enrolled that this caller may see\n".to_owned()
        }
        Output::Table => in_words(page, SystemTime::now(), is_coloured()),
    };
    print(&text)?;
    Ok(())
}

fn in_words(page: &FleetPage, now: SystemTime, coloured: bool) -> String {
    let head =
        ["NAME", "HEALTH", "LATENCY", "PROBED", "TUNNELS", "KUBERNETES", "CERTIFICATE", "REASON"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(page.clusters.iter().map(|one| row(one, now)));
    let text = table(&rows);
    if !coloured {
        return text;
    }
    let is_down = |line: usize| {
        let cluster = line.checked_sub(1).and_then(|at| page.clusters.get(at));
        cluster.is_some_and(|one| one.health != Health::Healthy)
    };
    let lines = text.lines().enumerate();
    lines
        .map(
            |(number, line)| {
                if is_down(number) { format!("{RED}{line}{PLAIN}\n") } else { format!("{line}\n") }
            },
        )
        .collect()
}

fn row(one: &ClusterPage, now: SystemTime) -> [String; 8] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let health = match one.health {
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
        Health::Disconnected => "disconnected",
        Health::Unknown => "unknown",
    };
    [
        one.name.to_string(),
        health.to_owned(),
        or_dash(one.latency_ms.map(|latency| format!("{latency}ms"))),
        or_dash(one.last_probe.map(|at| format!("{} ago", span(now.duration_since(at).ok())))),
        format!("{} of {}", one.tunnels, agents(one.agents)),
        or_dash(one.api_server_version.clone()),
        or_dash(one.certificate_expires.map(|at| match at.duration_since(now) {
            Ok(left) => format!("{} left", span(Some(left))),
            Err(_) => "expired".to_owned(),
        })),
        one.reason.clone().unwrap_or_default(),
    ]
}

fn agents(number: usize) -> String {
    if number == 1 { "1 agent".to_owned() } else { format!("{number} agents") }
}

/// A length of time in its largest unit, as kubectl shows ages. Clocks differ a little: below zero is
/// zero.
fn span(length: Option<Duration>) -> String {
    let seconds = length.map_or(0, |length| length.as_secs());
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Colours are for terminals, unless their owner wants none (no-color.org).
fn is_coloured() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    std::io::stdout().is_terminal() && !dumb && !set("NO_COLOR")
}

const RED: &str = "\u{1b}[31m";
const PLAIN: &str = "\u{1b}[0m";

#[cfg(test)]
mod tests;
