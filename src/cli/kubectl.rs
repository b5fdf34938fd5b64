//! `kubectl`: the real kubectl on a cluster behind the hub, with this terminal and its exit code.
//!
//! It gets a kubeconfig of its own, which is gone when it has ended. What is typed at a terminal reaches
//! it without us, because it is in the same process group; what is sent to us alone is handed on.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};

use anyhow::{Context as _, bail};
use clap::Args;
use rustix::process::{Pid, Signal as Sent, getpgrp, kill_process};
use rustix::termios::tcgetpgrp;
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::kubeconfig::{Credentials, WayArgs, temporary};
use crate::name::ClusterName;

/// Flags of `kubectl`.
#[derive(Debug, Args)]
pub(crate) struct KubectlArgs {
    #[command(flatten)]
    way: WayArgs,

    /// The cluster
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// The program to start
    #[arg(long, value_name = "PROGRAM", default_value = "kubectl")]
    kubectl: PathBuf,

    /// What kubectl is told, after `--`
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// Runs kubectl to its end.
pub(crate) async fn run(args: KubectlArgs) -> anyhow::Result<ExitCode> {
    let clusters = [args.cluster];
    let hub = args.way.hub(false)?;
    let user = Credentials::of(&args.way, hub.as_ref(), &clusters).await?;
    let text = args.way.contexts(&clusters, &user, "")?;
    // Before there is a file that a signal could leave behind.
    let mut signals = Signals::catch()?;
    let file = temporary(&text).context("cannot write a kubeconfig for kubectl")?;
    let mut command = Command::new(&args.kubectl);
    command.args(&args.args).env("KUBECONFIG", file.path());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "there is no {}: install kubectl (https://kubernetes.io/docs/tasks/tools/), or name it with --kubectl",
            args.kubectl.display()
        ),
        Err(error) => {
            return Err(error).context(format!("cannot start {}", args.kubectl.display()));
        }
    };
    let status = loop {
        tokio::select! {
            ended = child.wait() => break ended.context("cannot wait for kubectl")?,
            sent = signals.next() => {
                if let Some(child) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
                    // It may have ended a moment ago, which the next round sees.
                    let _ = kill_process(child, sent);
                }
            }
        }
    };
    Ok(code(status))
}

/// As a shell says it: 128 and the number of the signal that ended it.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Signals that would end us before kubectl has ended. Caught, and no longer ignored, by kubectl.
struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
}

// === impl Signals ===

impl Signals {
    /// Whoever started us may have had signals ignored (`nohup`): those stay so, for kubectl as well.
    fn catch() -> io::Result<Self> {
        let ignored = ignored();
        let catch = |kind: SignalKind| {
            let bit = 1_u64 << (kind.as_raw_value() - 1);
            (ignored & bit == 0).then(|| signal(kind)).transpose()
        };
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    /// The next one to hand on.
    async fn next(&mut self) -> Sent {
        loop {
            let sent = tokio::select! {
                () = caught(&mut self.interrupt) => Sent::INT,
                () = caught(&mut self.terminate) => Sent::TERM,
                () = caught(&mut self.hangup) => Sent::HUP,
            };
            // kubectl takes a second one for impatience.
            if sent != Sent::INT || !is_in_foreground() {
                return sent;
            }
        }
    }
}

/// Whether we are whom the terminal sends an interrupt, and kubectl beside us.
fn is_in_foreground() -> bool {
    let terminal = std::fs::File::open("/dev/tty").ok();
    let group = terminal.and_then(|terminal| tcgetpgrp(terminal).ok());
    group == Some(getpgrp())
}

async fn caught(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// The set of ignored signals (proc(5), `SigIgn`); none where it cannot be known.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: KubectlArgs,
    }

    fn line(folder: &Path, kubectl: &str, args: &[&str]) -> KubectlArgs {
        let at = |name: &str| folder.join(name).display().to_string();
        let (ca, token) = (at("ca"), at("token"));
        fs::write(&ca, "-----BEGIN CERTIFICATE-----\n").unwrap();
        fs::write(&token, "secret").unwrap();
        #[rustfmt::skip]
        let line = [
            "x", "--server", "https://hub", "--ca", &ca, "--token-file", &token, "--cluster", "c1",
            "--kubectl", kubectl, "--",
        ];
        Line::try_parse_from(line.iter().chain(args)).unwrap().args
    }

    /// Runs a script of sh in place of kubectl, and returns what it printed.
    async fn kubectl(folder: &Path, script: &str, args: &[&str]) -> (u8, String) {
        let out = folder.join("out");
        let script = format!("exec >'{}'\n{script}", out.display());
        let args = [&["-c", &script, "kubectl"], args].concat();
        let code = run(line(folder, "sh", &args)).await.unwrap();
        let code = (0..=u8::MAX).find(|&number| ExitCode::from(number) == code).unwrap();
        (code, fs::read_to_string(out).unwrap())
    }

    #[tokio::test]
    async fn arguments_kubeconfig_and_exit_code() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"printf '%s|' "$@"; stat -c ' %a' "$KUBECONFIG"; echo "$KUBECONFIG"; cat "$KUBECONFIG"; exit 7"#;
        let args = ["get", "pods", "-l", "a in (b, c)", "--", "--cluster"];
        let (code, out) = kubectl(folder.path(), script, &args).await;
        assert_eq!(code, 7);
        let mut lines = out.lines();
        assert_eq!(lines.next(), Some("get|pods|-l|a in (b, c)|--|--cluster| 600"), "{out}");
        assert!(!Path::new(lines.next().unwrap()).exists(), "it is gone: {out}");
        assert!(out.contains("server: https://hub/c1") && out.contains("token: secret"), "{out}");
        assert_eq!(kubectl(folder.path(), "exit 0", &[]).await.0, 0);
        assert_eq!(kubectl(folder.path(), "kill -KILL $$", &[]).await.0, 128 + 9);
    }

    #[tokio::test]
    async fn who_has_no_kubectl_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let error = run(line(folder.path(), "/nowhere/kubectl", &["get"])).await.unwrap_err();
        let said = error.to_string();
        assert!(said.contains("/nowhere/kubectl") && said.contains("--kubectl"), "{said}");
    }
}
