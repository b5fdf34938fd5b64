//! What an operator types: one file per command, from flags to a validated configuration.
//!
//! Exit codes: 0 for success, 1 for a failure, 2 for a command line that makes no sense; `kubectl` has
//! kubectl's, and `health` 2 where it cannot tell, because 1 says that a cluster is down. A failure
//! is one line on standard error, `error: ...`, with its causes and what to do about it.

mod agent;
mod auth;
mod clusters;
mod completions;
mod credential;
mod dumps;
mod egress;
mod front;
mod health;
mod hub;
mod join;
mod kubeconfig;
mod kubectl;
#[cfg(feature = "sandbox")]
mod miniapi;
mod output;
mod pki;
mod progress;
#[cfg(feature = "sandbox")]
mod sandbox;
mod state;
mod version;
mod written;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

#[cfg(any(test, fuzzing))]
pub(crate) use self::kubeconfig::fuzzing;
use self::output::{Output, table};
use crate::drain::Drain;
use crate::telemetry::log::{self, Format};

/// One HTTPS endpoint in front of a fleet of Kubernetes clusters.
#[derive(Debug, Parser)]
#[command(
    name = "cluster-proxy",
    version,
    long_version = version::LONG,
    about = "One HTTPS endpoint in front of a fleet of Kubernetes clusters",
    long_about = LONG_ABOUT,
    after_help = "Try it without a cluster: cluster-proxy sandbox",
    propagate_version = true,
    disable_help_subcommand = true
)]
struct Cli {
    /// What to log: error, warn, info, debug, trace, or directives as in RUST_LOG
    #[arg(long, global = true, env = "RUST_LOG", value_name = "LEVEL", help_heading = "Logging")]
    log_level: Option<String>,

    /// How to write log lines
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Logging"
    )]
    log_format: Format,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub: clients arrive on one port, agents on another
    Hub(Box<hub::HubArgs>),
    /// Run the agent of a cluster: it dials the hub and serves what comes through the tunnel
    Agent(Box<agent::AgentArgs>),
    /// Try everything on this machine: a hub, two clusters and their agents in one process
    #[cfg(feature = "sandbox")]
    Sandbox(sandbox::SandboxArgs),
    /// Create, show and replace the hub's authorities and certificates
    Pki(pki::PkiArgs),
    /// Enrol a cluster: a one-time token on the hub, its use on the spoke
    Join(join::JoinArgs),
    /// List, remove and revoke enrolled clusters
    Clusters(clusters::ClustersArgs),
    /// Run an in-memory Kubernetes API, to try hub and agent by hand
    #[cfg(feature = "sandbox")]
    Miniapi(miniapi::MiniapiArgs),
    /// Ask what a policy of the hub lets whom do
    Auth(auth::AuthArgs),
    /// Show how the clusters behind a hub are; fails when one is down
    Health(Box<health::HealthArgs>),
    /// Write a kubeconfig for clusters behind the hub
    Kubeconfig(kubeconfig::KubeconfigArgs),
    /// Run kubectl on a cluster behind the hub
    Kubectl(Box<kubectl::KubectlArgs>),
    /// Give kubectl the token of a managed service account (exec plugin of such kubeconfigs)
    Credential(credential::CredentialArgs),
    /// Write what a shell needs to complete this command line
    Completions(completions::CompletionsArgs),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" that go to standard output and exit with 0. Nobody is
            // left to tell when even that fails.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    run(cli).unwrap_or_else(|error| {
        if let Some(usage) = error.downcast_ref::<clap::Error>() {
            let _ = usage.print();
            return ExitCode::from(USAGE);
        }
        complain(&error, ExitCode::FAILURE)
    })
}

/// Says on standard error what went wrong.
fn complain(error: &anyhow::Error, code: ExitCode) -> ExitCode {
    let _ = writeln!(io::stderr(), "error: {}", one_line(error));
    code
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let level = cli.log_level.filter(|level| !level.is_empty());
    log::start(level.as_deref().unwrap_or_else(|| cli.command.log_level()), cli.log_format)?;
    // One thread: the hub starts its own workers, and an agent needs no more.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(cli.command.run())
}

// === impl Command ===

impl Command {
    /// The level where neither flag nor environment names one.
    fn log_level(&self) -> &'static str {
        match self {
            Self::Hub(_) | Self::Agent(_) => "info",
            // Standard error is kubectl's.
            Self::Credential(_) | Self::Kubectl(_) => "off",
            // Commands whose output is for people keep quiet unless something is wrong.
            _ => "warn",
        }
    }

    async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Hub(args) => hub::run(*args).await,
            Self::Agent(args) => agent::run(*args).await,
            #[cfg(feature = "sandbox")]
            Self::Sandbox(args) => sandbox::run(args).await,
            Self::Pki(args) => pki::run(args).await,
            Self::Join(args) => join::run(args).await,
            Self::Clusters(args) => clusters::run(args).await,
            #[cfg(feature = "sandbox")]
            Self::Miniapi(args) => miniapi::run(args).await,
            Self::Auth(args) => auth::run(args).await,
            Self::Health(args) => health::run(*args).await,
            Self::Kubeconfig(args) => kubeconfig::run(args).await,
            Self::Kubectl(args) => kubectl::run(*args).await,
            Self::Credential(args) => credential::run(args).await,
            Self::Completions(args) => completions::run(&args),
        }
    }
}

/// Flags that make no sense together, where clap cannot say it.
fn usage(message: &str) -> anyhow::Error {
    let kind = clap::error::ErrorKind::ArgumentConflict;
    clap::Error::raw(kind, format!("{message}\n")).into()
}

/// The error and its causes on one line, as it may end up in somebody's log. A cause that an outer
/// message already tells is not told again.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.contains(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line
}

/// Ready at the first SIGINT or SIGTERM.
///
/// # Errors
/// When the system refuses a signal handler.
fn stop_signal() -> io::Result<impl Future<Output = &'static str> + Send> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    })
}

/// Calls `reload` on every SIGHUP, until `drain` stops.
///
/// # Errors
/// When the system refuses a signal handler.
fn on_hangup(drain: &Drain, reload: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let stopping = drain.clone();
    drain.spawn(async move {
        loop {
            tokio::select! {
                Some(()) = hangup.recv() => {
                    tracing::info!("SIGHUP: reading again what can change");
                    reload();
                }
                () = stopping.stopping() => return,
            }
        }
    });
    Ok(())
}

/// Lets what runs finish, for `patience` at most; a second signal ends the waiting.
///
/// # Errors
/// When the system refuses a signal handler.
async fn finish(drain: &Drain, patience: Duration) -> io::Result<()> {
    let again = stop_signal()?;
    tokio::select! {
        _ = drain.finish(patience) => {}
        signal = again => {
            tracing::info!(signal, "stopping at once");
            drain.finish(Duration::ZERO).await;
        }
    }
    Ok(())
}

/// Writes `text` to standard output. A reader that has gone away (`| head`) is not an error.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// The command line makes no sense; the same code that clap uses.
const USAGE: u8 = 2;

const LONG_ABOUT: &str = "\
One HTTPS endpoint in front of a fleet of Kubernetes clusters.

An agent in each cluster dials the hub and keeps a tunnel open. A client asks the hub for
https://HUB/CLUSTER/... with a token of that cluster, and the hub sends the request through the
tunnel: get, watch, logs, exec and port-forward work as if the cluster were next door.";

#[cfg(test)]
mod tests {
    // Commands of the sandbox are on the page too.
    #[cfg(feature = "sandbox")]
    mod reference;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_cause_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open a.txt: {source}; check --dir")]
        struct Open {
            source: io::Error,
        }
        let open = |text: &str| Open { source: io::Error::other(text.to_owned()) };
        let told = anyhow::Error::new(open("denied")).context("no start");
        assert_eq!(one_line(&told), "no start: cannot open a.txt: denied; check --dir");
        let lines = anyhow::Error::new(open("first\n  second"));
        assert_eq!(one_line(&lines), "cannot open a.txt: first second; check --dir");
        let untold = anyhow::Error::new(io::Error::other("denied")).context("no start");
        assert_eq!(one_line(&untold), "no start: denied");
    }

    #[test]
    fn pages_that_name_clusters_are_on_loopback_and_those_for_everybody_are_off() {
        for (name, for_everybody) in [("hub", true), ("agent", false)] {
            let root = Cli::command();
            let command = root.find_subcommand(name).unwrap();
            let default = |flag: &str| {
                let flag = command.get_arguments().find(|one| one.get_id() == flag)?;
                Some(flag.get_default_values().iter().map(|value| value.to_str().unwrap()))
            };
            let admin = default("admin_address").unwrap().next().unwrap();
            let admin: std::net::SocketAddr = admin.parse().unwrap();
            assert!(admin.ip().is_loopback(), "{name} --admin-address {admin}");
            let metrics = default("metrics_address").map(Iterator::count);
            assert_eq!(metrics, for_everybody.then_some(0), "{name} --metrics-address");
        }
    }

    #[test]
    fn a_command_is_required_and_unknown_ones_are_refused() {
        for (args, works) in [
            (&["cluster-proxy"][..], false),
            (&["cluster-proxy", "hubb"], false),
            (&["cluster-proxy", "hub", "--workers", "0"], false),
            (&["cluster-proxy", "hub", "--workers", "1"], true),
            (&["cluster-proxy", "agent"], false),
            (&["cluster-proxy", "agent", "--hub", "hub.example.com:8091"], true),
        ] {
            assert_eq!(Cli::try_parse_from(args).is_ok(), works, "{args:?}");
        }
    }
}
