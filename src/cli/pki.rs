//! `cluster-proxy pki`: the hub's authorities and its serving certificate.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::state::StateArgs;
use super::{Output, print, table};
use crate::pki::authorities::{self, Role, SERVING_LIFE};
use crate::pki::inspect::{self, Summary};
use crate::pki::join::CERTIFICATE_LIFE;
use crate::state::Document;

/// Flags of `pki`.
#[derive(Debug, Args)]
pub(crate) struct PkiArgs {
    #[command(subcommand)]
    command: PkiCommand,
}

#[derive(Debug, Subcommand)]
enum PkiCommand {
    /// Create the serving CA, the agent CA and a serving certificate
    Init {
        #[command(flatten)]
        home: StateArgs,
        /// DNS name or IP address of the hub; repeat for more [default: this host, localhost]
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
        /// Do nothing where all of them are there already: for pods, which run this at every start
        #[arg(long)]
        unless_present: bool,
    },
    /// Sign a serving certificate for other names, in place of the one there is
    Issue {
        #[command(flatten)]
        home: StateArgs,
        /// DNS name or IP address of the hub; repeat for more. Names not given are dropped
        #[arg(long = "name", value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// Show certificates: subject, names, validity, hash
    Inspect {
        #[command(flatten)]
        home: StateArgs,
        /// A file of PEM certificates [default: every certificate of the state]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// How to write it
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Sign the serving certificate again, for the names it has (a running hub does so itself)
    Renew {
        #[command(flatten)]
        home: StateArgs,
    },
    /// Replace an authority, with a time in which the old one works too
    RotateCa {
        /// Which one
        #[arg(value_enum)]
        which: Which,
        #[command(flatten)]
        home: StateArgs,
        /// End the overlap: the old authority is no longer believed; shuts out who lacks the new
        #[arg(long)]
        finish: bool,
        /// With --finish: even if agents may not have heard of the new authority yet
        #[arg(long, requires = "finish")]
        force: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    /// Signs what the hub presents
    Serving,
    /// Signs what agents present
    Agent,
}

/// One file of `inspect -o json`.
#[derive(Serialize)]
struct Inspected {
    file: String,
    certificates: Vec<Summary>,
}

/// Runs `pki`.
pub(crate) async fn run(args: PkiArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        PkiCommand::Init { home, mut names, unless_present } => {
            if names.is_empty() {
                names = default_names();
            }
            let state = home.create()?;
            if unless_present && authorities::are_complete(&state).await.context("pki init")? {
                home.tell("two authorities and a certificate are there already")?;
                return Ok(ExitCode::SUCCESS);
            }
            authorities::init(&state, &names).await.context("pki init")?;
            home.tell(&format!(
                "created two authorities and a certificate for {}",
                names.join(", ")
            ))?;
        }
        PkiCommand::Issue { home, names } => {
            let state = home.open()?;
            // None before the first one.
            let before = authorities::serving_names(&state).await.unwrap_or_default();
            authorities::issue_serving(&state, &names, SERVING_LIFE).await.context("pki issue")?;
            home.tell(&format!("signed a serving certificate for {}", names.join(", ")))?;
            let dropped: Vec<_> = before.into_iter().filter(|name| !names.contains(name)).collect();
            if !dropped.is_empty() {
                let dropped = dropped.join(", ");
                home.tell(&format!("clients that use {dropped} will be refused from now on"))?;
            }
        }
        PkiCommand::Renew { home } => {
            authorities::renew_serving(&home.open()?).await.context("pki renew")?;
            home.tell("signed the serving certificate again")?;
        }
        PkiCommand::RotateCa { which, home, finish, force } => {
            rotate(&home, which, finish, force).await.context("pki rotate-ca")?;
        }
        PkiCommand::Inspect { home, file, output } => {
            let found = match file {
                Some(file) => vec![read(&file)?],
                None => certificates(&home).await?,
            };
            print(&match output {
                Output::Json => serde_json::to_string_pretty(&found)? + "\n",
                Output::Table => in_words(&found),
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Every certificate of a home.
async fn certificates(home: &StateArgs) -> anyhow::Result<Vec<Inspected>> {
    let mut found = Vec::new();
    // An agent's folder is shown as well as a hub's.
    if home.folder().is_none_or(Path::is_dir) {
        let state = home.open()?;
        for document in [
            Document::ServingCaCertificate,
            Document::ServingCertificate,
            Document::AgentCaCertificate,
        ] {
            if let Some(pem) = state.store().read(&document).await? {
                found.push(inspected(format!("{}/{document}", home.shown()), &pem.contents)?);
            }
        }
    }
    if let Some(folder) = home.folder() {
        let others = ["agent.crt", "hub-ca.crt"].map(|name| folder.join(name));
        for file in others.iter().filter(|file| file.exists()) {
            found.push(read(file)?);
        }
    }
    if found.is_empty() {
        bail!("{}: there are no certificates here; create them with `pki init`", home.shown());
    }
    Ok(found)
}

async fn rotate(home: &StateArgs, which: Which, finish: bool, force: bool) -> anyhow::Result<()> {
    let state = home.open()?;
    let role = match which {
        Which::Serving => Role::Serving,
        Which::Agent => Role::Agent,
    };
    if finish {
        let age = authorities::age(&state, role).await?;
        if age < EVERYBODY_KNOWS && !force {
            bail!(
                "the new authority is {} old; agents take it with their next renewal, within a \
                 day, and those that have not are shut out. Wait, or give --force",
                humantime::format_duration(Duration::from_secs(age.as_secs()))
            );
        }
        authorities::finish(&state, role).await?;
        home.tell("only the newest authority is believed from now on")?;
        return Ok(());
    }
    authorities::rotate(&state, role).await?;
    home.tell(match role {
        Role::Serving => {
            "created a new serving CA, served cross-signed by the old one. Kubeconfigs with the \
             old CA go on working; join commands printed before do not. When everybody has the \
             new one: pki rotate-ca serving --finish"
        }
        Role::Agent => {
            "created a new agent CA; certificates of the old one are still accepted. When every \
             agent has renewed (a day): pki rotate-ca agent --finish"
        }
    })?;
    Ok(())
}

/// Every agent that is up renews within the life of its certificate.
const EVERYBODY_KNOWS: Duration = CERTIFICATE_LIFE;

fn read(file: &Path) -> anyhow::Result<Inspected> {
    let shown = file.display().to_string();
    let pem = std::fs::read(file).with_context(|| format!("cannot read {shown}"))?;
    inspected(shown, &pem)
}

fn inspected(file: String, pem: &[u8]) -> anyhow::Result<Inspected> {
    let certificates = inspect::summaries(pem, SystemTime::now()).context(file.clone())?;
    Ok(Inspected { file, certificates })
}

fn in_words(found: &[Inspected]) -> String {
    let mut rows = vec![["FILE", "SUBJECT", "NAMES", "UNTIL", "DAYS"].map(str::to_owned)];
    let mut hashes = String::new();
    for Inspected { file, certificates } in found {
        for certificate in certificates {
            rows.push([
                file.clone(),
                certificate.subject.clone(),
                certificate.names.join(","),
                certificate.not_after.clone(),
                certificate.days_left.to_string(),
            ]);
            if certificate.authority {
                // Writing to a String cannot fail.
                let _ = writeln!(hashes, "{}  {}", certificate.key_hash, certificate.subject);
            }
        }
    }
    let mut text = table(&rows);
    if !hashes.is_empty() {
        text += "\nHashes of the authorities' keys (--ca-hash takes the serving CA's):\n";
        text += &hashes;
    }
    text
}

fn default_names() -> Vec<String> {
    let mut names: Vec<_> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    // Where the system does not say, the loopback names are a start.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().to_ascii_lowercase();
    if rustls_pki_types::DnsName::try_from(host.as_str()).is_ok() && !names.contains(&host) {
        names.push(host);
    }
    names
}
