//! `cluster-proxy pki`: the hub's authorities and its serving certificate.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::{Output, print, table};
use crate::pki::authorities::{self, Role, SERVING_LIFE};
use crate::pki::inspect::{self, Summary};
use crate::pki::join::CERTIFICATE_LIFE;
use crate::state::{Document, FolderStore, State};

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
        folder: Folder,
        /// DNS name or IP address of the hub; repeat for more [default: this host, localhost]
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
    },
    /// Sign a serving certificate for other names, in place of the one there is
    Issue {
        #[command(flatten)]
        folder: Folder,
        /// DNS name or IP address of the hub; repeat for more. Names not given are dropped
        #[arg(long = "name", value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// Show certificates: subject, names, validity, hash
    Inspect {
        #[command(flatten)]
        folder: Folder,
        /// A file of PEM certificates [default: every certificate in --dir]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// How to write it
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Sign the serving certificate again, for the names it has (a running hub does so itself)
    Renew {
        #[command(flatten)]
        folder: Folder,
    },
    /// Replace an authority, with a time in which the old one works too
    RotateCa {
        /// Which one
        #[arg(value_enum)]
        which: Which,
        #[command(flatten)]
        folder: Folder,
        /// End the overlap: the old authority is no longer believed; shuts out who lacks the new
        #[arg(long)]
        finish: bool,
        /// With --finish: even if agents may not have heard of the new authority yet
        #[arg(long, requires = "finish")]
        force: bool,
    },
}

/// Where the hub's state lives.
#[derive(Clone, Debug, Args)]
pub(super) struct Folder {
    /// Folder with the hub's certificates and enrolments
    #[arg(long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,
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
        PkiCommand::Init { folder, mut names } => {
            if names.is_empty() {
                names = default_names();
            }
            let state = folder.create()?;
            authorities::init(&state, &names).await.context("pki init")?;
            folder.tell(&format!(
                "created two authorities and a certificate for {}",
                names.join(", ")
            ))?;
        }
        PkiCommand::Issue { folder, names } => {
            let state = folder.open()?;
            // None before the first one.
            let before = authorities::serving_names(&state).await.unwrap_or_default();
            authorities::issue_serving(&state, &names, SERVING_LIFE).await.context("pki issue")?;
            folder.tell(&format!("signed a serving certificate for {}", names.join(", ")))?;
            let dropped: Vec<_> = before.into_iter().filter(|name| !names.contains(name)).collect();
            if !dropped.is_empty() {
                let dropped = dropped.join(", ");
                folder.tell(&format!("clients that use {dropped} will be refused from now on"))?;
            }
        }
        PkiCommand::Renew { folder } => {
            authorities::renew_serving(&folder.open()?).await.context("pki renew")?;
            folder.tell("signed the serving certificate again")?;
        }
        PkiCommand::RotateCa { which, folder, finish, force } => {
            rotate(&folder, which, finish, force).await.context("pki rotate-ca")?;
        }
        PkiCommand::Inspect { folder, file, output } => {
            let found = match file {
                Some(file) => vec![read(&file)?],
                None => folder.certificates()?,
            };
            print(&match output {
                Output::Json => serde_json::to_string_pretty(&found)? + "\n",
                Output::Table => in_words(&found),
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

// === impl Folder ===

impl Folder {
    /// The state in a folder that exists.
    pub(super) fn open(&self) -> anyhow::Result<State> {
        if !self.dir.is_dir() {
            bail!(
                "--dir {}: there is no such folder; create one with `pki init`",
                self.dir.display()
            );
        }
        self.create()
    }

    fn create(&self) -> anyhow::Result<State> {
        let store = FolderStore::open(&self.dir)
            .with_context(|| format!("--dir {}", self.dir.display()))?;
        Ok(State::new(std::sync::Arc::new(store)))
    }

    fn tell(&self, what: &str) -> std::io::Result<()> {
        print(&format!("{}: {what}\n", self.dir.display()))
    }

    fn certificates(&self) -> anyhow::Result<Vec<Inspected>> {
        let documents = [
            Document::ServingCaCertificate,
            Document::ServingCertificate,
            Document::AgentCaCertificate,
        ];
        let files = documents.map(|document| self.dir.join(document.to_string()));
        // An agent's folder is shown as well as a hub's.
        let others = ["agent.crt", "hub-ca.crt"].map(|name| self.dir.join(name));
        let files: Vec<_> = files.into_iter().chain(others).filter(|file| file.exists()).collect();
        if files.is_empty() {
            bail!(
                "--dir {}: there are no certificates here; create them with `pki init`",
                self.dir.display()
            );
        }
        files.iter().map(|file| read(file)).collect()
    }
}

async fn rotate(folder: &Folder, which: Which, finish: bool, force: bool) -> anyhow::Result<()> {
    let state = folder.open()?;
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
        folder.tell("only the newest authority is believed from now on")?;
        return Ok(());
    }
    authorities::rotate(&state, role).await?;
    folder.tell(match role {
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
    let certificates = inspect::summaries(&pem, SystemTime::now()).context(shown.clone())?;
    Ok(Inspected { file: shown, certificates })
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
