//! One of the programs of `tests/consumers`, and what it says it sees.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::process::Process;
use crate::support::{eventually, skipped};

/// client-go waits up to 30 seconds by itself before it asks again after a refusal.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A running program. Killed when it is dropped.
pub(crate) struct Program {
    process: Process,
}

// === impl Program ===

impl Program {
    /// What `tests/consumers/build` makes.
    pub(crate) const ALL: [&str; 5] =
        ["informer", "profile", "operator", "controller-example", "cp-creds"];

    /// Where `tests/consumers/build` puts `name`; says that `test` is skipped where it is not.
    pub(crate) fn find(test: &str, name: &str) -> Option<PathBuf> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/consumers").join(name);
        if !path.is_file() {
            skipped(test, "there are no consumers", "tests/consumers/build");
            return None;
        }
        Some(path)
    }

    /// Starts `name` in `directory`, with the hub's own API server as the one it belongs to.
    ///
    /// # Panics
    /// When it has not been built.
    pub(crate) fn start(name: &str, directory: &Path, args: &[&str]) -> Self {
        let mut command = Self::command(name, directory);
        command.args(args);
        // Each one has a log of its own.
        let mut names = (1..).map(|number| format!("{name}-{number}"));
        let free = |name: &String| !directory.join(format!("{name}.log")).exists();
        Self { process: Process::spawn(&names.find(free).unwrap(), directory, command) }
    }

    /// Its command line, without arguments.
    pub(crate) fn command(name: &str, directory: &Path) -> Command {
        command(&Self::find("", name).unwrap(), directory)
    }

    /// That of `cluster-proxy`, started in the same way.
    pub(crate) fn ours(directory: &Path) -> Command {
        command(Path::new(env!("CARGO_BIN_EXE_cluster-proxy")), directory)
    }

    /// Waits until it ends by itself: whether it says that it was a success.
    pub(crate) async fn end(&mut self) -> bool {
        eventually("the program ends", PATIENCE, || {
            let ended = self.process.has_ended();
            async move { ended.then_some(()) }
        })
        .await;
        self.all("error").is_empty()
    }

    /// Every event by now, oldest first.
    pub(crate) fn events(&self) -> Vec<Value> {
        // The last line may not be whole yet.
        self.process.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The events of one kind.
    pub(crate) fn all(&self, kind: &str) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["event"] == kind).collect()
    }

    /// Requests that failed and answers that were cut.
    pub(crate) fn failures(&self) -> Vec<Value> {
        let mut failures = self.all("failed");
        failures.extend(self.all("cut"));
        failures
    }

    /// Waits until an event is as `wanted`, and returns it.
    pub(crate) async fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(what, PATIENCE, || {
            let found = self.events().into_iter().find(&wanted);
            async move { found }
        })
        .await
    }
}

fn command(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory).env_clear().stdin(Stdio::null());
    command.env("HOME", directory).env("KUBECONFIG", "hub.api/kubeconfig");
    command
}
