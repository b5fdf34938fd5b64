//! `cluster-proxy join`: a one-time token on the hub, its use on the spoke.

use std::io::Write as _;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use rustls_pki_types::ServerName;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use super::egress::EgressArgs;
use super::state::StateArgs;
use super::{Output, print};
use crate::egress::{Egress, EgressError, Leg};
use crate::name::ClusterName;
use crate::pki::authorities::{self, Role};
use crate::pki::credentials::{AgentCredentials, JoinError};
use crate::pki::token::{MAX_LIFE, Token};
use crate::pki::{ca, credentials};
use crate::state::State;

/// Flags of `join`.
#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    #[command(subcommand)]
    command: JoinCommand,
}

#[derive(Debug, Subcommand)]
enum JoinCommand {
    /// On the hub: print a one-time command that enrols a cluster
    Token {
        /// Name of the cluster; the first part of its URL
        cluster: ClusterName,
        #[command(flatten)]
        home: StateArgs,
        /// The hub's agent listener, as the cluster reaches it [default: a name of the serving
        /// certificate, port 8091]
        #[arg(long, value_name = "HOST:PORT")]
        hub: Option<String>,
        /// How long the token works, at most 24h
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
        ttl: Duration,
        /// The cluster is the one that the hub itself runs in: it shares the hub's signing keys
        #[arg(long)]
        hub_itself: bool,
        /// How to write it
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// On the spoke: enrol with the command that the hub printed
    #[command(alias = "enroll")]
    Enrol {
        /// The hub's agent listener
        #[arg(long, value_name = "HOST:PORT")]
        hub: String,
        /// The one-time token
        #[arg(
            long,
            env = "CLUSTER_PROXY_JOIN_TOKEN",
            hide_env_values = true,
            required_unless_present = "unless_enrolled"
        )]
        token: Option<SecretString>,
        /// Hash of the hub's serving CA
        #[arg(long, value_name = "sha256:HEX")]
        ca_hash: String,
        /// Folder for the agent's key and certificate
        #[arg(long, value_name = "DIR", default_value = "agent")]
        dir: PathBuf,
        /// Do nothing where the folder holds a key and a certificate already: for pods, which run
        /// this at every start, with a token that works once
        #[arg(long)]
        unless_enrolled: bool,
        #[command(flatten)]
        egress: EgressArgs,
    },
}

/// `join token -o json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Printed<'a> {
    cluster: &'a ClusterName,
    hub: &'a str,
    token: &'a str,
    ca_hash: &'a str,
    expires: String,
    command: &'a str,
}

/// Runs `join`.
pub(crate) async fn run(args: JoinArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        JoinCommand::Token { cluster, home, hub, ttl, hub_itself, output } => {
            if ttl > MAX_LIFE || ttl < Duration::from_secs(1) {
                bail!("--ttl {}: choose between 1s and 24h", humantime::format_duration(ttl));
            }
            let state = home.open()?;
            token(&state, cluster, hub, ttl, hub_itself, output).await?;
        }
        JoinCommand::Enrol { hub, token, ca_hash, dir, unless_enrolled, egress } => {
            let (host, port) = address(&hub)?;
            if unless_enrolled && let Some(cluster) = enrolled(&dir)? {
                print(&format!("{cluster} is enrolled already, in {}\n", dir.display()))?;
                return Ok(ExitCode::SUCCESS);
            }
            let given = token.filter(|token| !token.expose_secret().is_empty());
            let token = given.with_context(|| {
                format!("{} holds no key and certificate yet: --token is needed", dir.display())
            })?;
            let stream = dial(&egress.read()?, &host, port).await?;
            let cluster =
                credentials::enrol(&host, stream, token.expose_secret(), &ca_hash, dir.clone())
                    .await?;
            print(&format!(
                "enrolled {cluster}. Start its agent with:\n\
                 cluster-proxy agent --hub {hub} --dir {} --kubeconfig FILE\n",
                dir.display()
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The cluster whose key and certificate are in `dir`, if any are. A damaged folder is an error:
/// nothing is replaced that somebody may still want to mend.
fn enrolled(dir: &Path) -> Result<Option<ClusterName>, JoinError> {
    match AgentCredentials::load(dir) {
        Ok(credentials) => Ok(Some(credentials.cluster())),
        Err(JoinError::NotJoined { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn token(
    state: &State,
    cluster: ClusterName,
    hub: Option<String>,
    ttl: Duration,
    hub_itself: bool,
    output: Output,
) -> anyhow::Result<()> {
    // Before the token exists: what is missing would only show on the other machine.
    authorities::load(state, Role::Agent).await?;
    let bundle = authorities::bundle(state, Role::Serving).await?;
    let ca_hash = ca::certificates(bundle.as_bytes())?.first().and_then(ca::key_hash);
    let ca_hash = ca_hash.context("serving-ca.crt cannot be parsed; run `pki inspect`")?;
    let guessed = hub.is_none();
    let hub = match hub {
        Some(hub) => {
            address(&hub)?;
            hub
        }
        None => guess(&authorities::serving_names(state).await?),
    };
    let before = state.enrolment(&cluster).await?;
    let now = SystemTime::now();
    let token = Token::create(state, cluster.clone(), ttl, hub_itself, now).await?;
    let token = token.reveal();
    let command = format!(
        "cluster-proxy join enrol --hub {hub} --token {} --ca-hash {ca_hash} --dir agent",
        token.as_str()
    );
    let expires = humantime::format_rfc3339_seconds(now + ttl).to_string();
    if matches!(output, Output::Json) {
        let printed = Printed {
            cluster: &cluster,
            hub: &hub,
            token: &token,
            ca_hash: &ca_hash,
            expires,
            command: &command,
        };
        return Ok(print(&(serde_json::to_string_pretty(&printed)? + "\n"))?);
    }
    let mut notes = std::io::stderr().lock();
    writeln!(
        notes,
        "Run this where the agent of {cluster} will run. It works once, until {expires}:"
    )?;
    if guessed {
        writeln!(
            notes,
            "(--hub is a guess from the hub's certificate; give --hub for another address)"
        )?;
    }
    if before.is_some() {
        writeln!(notes, "({cluster} is enrolled already: using this replaces its key)")?;
    }
    print(&(command + "\n"))?;
    Ok(())
}

/// Connects to the first address that answers.
async fn dial(egress: &Egress, host: &str, port: u16) -> Result<Leg, EgressError> {
    let mut failure = None;
    for target in egress.resolve(host, port).await? {
        match egress.connect(&target).await {
            Ok(leg) => return Ok(leg),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| EgressError::Config(format!("{host} has no address"))))
}

/// Host and port of `text`; the port of agents when there is none.
fn address(text: &str) -> anyhow::Result<(String, u16)> {
    let invalid = || format!("--hub {text}: give HOST or HOST:PORT, an IPv6 address as [::1]:8091");
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, port.parse().with_context(invalid)?),
        _ => (text, AGENTS_PORT),
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = match bracketed {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => !host.contains(':') && ServerName::try_from(host).is_ok(),
    };
    if !good {
        bail!(invalid());
    }
    Ok((bracketed.unwrap_or(host).to_owned(), port))
}

/// The name of the serving certificate that another machine most likely reaches.
fn guess(names: &[String]) -> String {
    let loopback = |name: &&String| !["localhost", "127.0.0.1", "::1"].contains(&name.as_str());
    let plain = |name: &&String| !name.starts_with('*');
    let name = names.iter().filter(plain).find(loopback).map_or("localhost", String::as_str);
    if name.contains(':') {
        format!("[{name}]:{AGENTS_PORT}")
    } else {
        format!("{name}:{AGENTS_PORT}")
    }
}

/// The hub's default for agents.
const AGENTS_PORT: u16 = 8091;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, host, port) in [
            ("hub", "hub", 8091),
            ("hub:1", "hub", 1),
            ("10.0.0.1:8091", "10.0.0.1", 8091),
            ("[::1]:8091", "::1", 8091),
            ("[::1]", "::1", 8091),
        ] {
            assert_eq!(address(text).unwrap(), (host.to_owned(), port));
        }
        for bad in ["", "https://hub", "hub:x", "hub:99999", "user@hub:1", "a b", "::1", "[hub]:1"]
        {
            assert!(address(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn guesses_prefer_what_others_can_reach() {
        let names =
            |names: &[&str]| guess(&names.iter().map(|&name| name.into()).collect::<Vec<_>>());
        assert_eq!(names(&["localhost", "::1", "hub.example.com"]), "hub.example.com:8091");
        assert_eq!(names(&["*.example.com", "localhost"]), "localhost:8091");
        assert_eq!(names(&["fd00::1"]), "[fd00::1]:8091");
    }
}
