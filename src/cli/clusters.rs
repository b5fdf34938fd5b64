//! `cluster-proxy clusters`: who is enrolled, and ending that.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::front::{Caller, FrontArgs};
use super::kubeconfig::server;
use super::progress::patiently;
use super::state::StateArgs;
use super::{Output, health, print, table};
use crate::name::ClusterName;

/// Flags of `clusters`.
#[derive(Debug, Args)]
pub(crate) struct ClustersArgs {
    #[command(subcommand)]
    command: ClustersCommand,
}

#[derive(Debug, Subcommand)]
enum ClustersCommand {
    /// Show the enrolled clusters, and how many of the running hubs their agents are connected to; with
    /// --server what that hub says of those that the caller may see, as `health` does
    List {
        #[command(flatten)]
        home: StateArgs,
        /// Ask the hub at this URL instead of reading its state
        #[arg(long, value_name = "URL", value_parser = server, requires = "ca")]
        server: Option<String>,
        /// CA certificate of its user listener, PEM
        #[arg(long, value_name = "FILE", requires = "server")]
        ca: Option<PathBuf>,
        /// File with a bearer token for it, as `health` takes one
        #[arg(long, value_name = "FILE", requires = "server")]
        token_file: Option<PathBuf>,
        /// Context in the kubeconfig of the hub's own cluster, whose user asks it otherwise
        #[arg(long, value_name = "NAME", requires = "server")]
        hub_context: Option<String>,
        /// How to write it
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Un-enrol a cluster: its tunnels and streams end within 10 s, and its keys are free again
    Remove {
        /// Name of the cluster
        cluster: ClusterName,
        #[command(flatten)]
        home: StateArgs,
    },
    /// The agent's key is lost or stolen: end it within 10 s; only a new join token brings it back
    Revoke {
        /// Name of the cluster
        cluster: ClusterName,
        #[command(flatten)]
        home: StateArgs,
    },
}

/// One cluster of `clusters list -o json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: ClusterName,
    /// RFC 3339.
    enrolled: String,
    /// RFC 3339.
    certificate_expires: String,
    revoked: bool,
    hub_itself: bool,
    /// Ids of the running hubs that its agents are connected to.
    connected_to: Vec<String>,
}

/// Runs `clusters`.
pub(crate) async fn run(args: ClustersArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        ClustersCommand::List {
            home,
            server: Some(server),
            ca: Some(ca),
            token_file,
            hub_context,
            output,
        } => {
            let front = FrontArgs { server, ca, token_file, hub_context };
            let kubeconfig = home.hub_kubeconfig().map(Path::to_owned);
            let caller = Caller { front: &front, kubeconfig };
            let asked = patiently("asking the hub", caller.fleet());
            let page = tokio::time::timeout(PATIENCE, asked).await;
            let page = page.with_context(|| format!("{} does not answer", front.server))?;
            let page = page?;
            health::show(&page, output)?;
            if let Some(why) = page.incomplete {
                bail!("{why}");
            }
        }
        ClustersCommand::List { home, output, .. } => {
            let state = home.open()?;
            let hubs = state.replicas().await?;
            let enrolments = state.enrolments().await?;
            let listed: Vec<_> = enrolments
                .into_iter()
                .map(|(name, enrolment)| Listed {
                    connected_to: hubs
                        .iter()
                        .filter(|hub| hub.connected.contains(&name))
                        .map(|hub| hub.id.clone())
                        .collect(),
                    name,
                    enrolled: time(enrolment.enrolled_at),
                    certificate_expires: time(enrolment.certificate_expires),
                    revoked: enrolment.revoked,
                    hub_itself: enrolment.hub_itself,
                })
                .collect();
            print(&match output {
                Output::Json => serde_json::to_string_pretty(&listed)? + "\n",
                Output::Table => in_words(listed, hubs.len()),
            })?;
        }
        ClustersCommand::Remove { cluster, home } => {
            if !home.open()?.remove(&cluster).await? {
                bail!("{cluster} is not enrolled here; `clusters list` shows who is");
            }
            print(&format!("{cluster} is removed; running hubs end its tunnels within 10 s\n"))?;
        }
        ClustersCommand::Revoke { cluster, home } => {
            if !home.open()?.revoke(&cluster).await? {
                bail!("{cluster} is not enrolled here; `clusters list` shows who is");
            }
            print(&format!(
                "the key of {cluster} is revoked; running hubs end its tunnels within 10 s. \
                 Bring it back with `join token {cluster}`\n"
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn in_words(listed: Vec<Listed>, hubs: usize) -> String {
    if listed.is_empty() {
        return "no cluster is enrolled; enrol one with `join token NAME`\n".to_owned();
    }
    let head = ["NAME", "ENROLLED", "CERTIFICATE UNTIL", "CONNECTED TO HUBS", "STATE"];
    let mut rows = vec![head.map(str::to_owned)];
    for one in listed {
        let state = match (one.revoked, one.hub_itself) {
            (true, _) => "revoked",
            (false, true) => "enrolled, hub itself",
            (false, false) => "enrolled",
        };
        let connected = format!("{} of {hubs}", one.connected_to.len());
        rows.push([
            one.name.to_string(),
            one.enrolled,
            one.certificate_expires,
            connected,
            state.into(),
        ]);
    }
    table(&rows)
}

/// RFC 3339; a damaged record may hold a time that does not exist.
fn time(seconds: u64) -> String {
    let latest = UNIX_EPOCH + Duration::from_secs(LATEST);
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(latest).min(latest);
    humantime::format_rfc3339_seconds(at).to_string()
}

/// A person waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// The last second of the year 9999, where RFC 3339 ends.
const LATEST: u64 = 253_402_300_799;
