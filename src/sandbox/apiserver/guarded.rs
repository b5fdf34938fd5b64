//! A program of somebody else that must not outlive us, however we end.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, ChildStdin, Command};

/// A running program. It gets SIGTERM when this is dropped, and when our process is killed; SIGKILL
/// when that is not enough.
#[derive(Debug)]
pub(super) struct Guarded {
    shell: Child,
    /// Its end tells the shell to stop the program.
    alive: Option<ChildStdin>,
    log: PathBuf,
}

// === impl Guarded ===

impl Guarded {
    /// Starts `program`; what it prints goes to the file `log`, which begins anew.
    pub(super) fn spawn(
        program: &Path,
        arguments: impl IntoIterator<Item = OsString>,
        log: &Path,
    ) -> io::Result<Self> {
        let output = File::create(log)?;
        let mut shell = Command::new("/bin/sh")
            .args(["-c", GUARD, "sh", PATIENCE])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Control-C at our terminal is for us alone: the order of the end matters.
            .process_group(0)
            .spawn()?;
        let alive = shell.stdin.take();
        Ok(Self { shell, alive, log: log.to_owned() })
    }

    /// Waits until it has ended by itself. May be given up and asked again.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.shell.wait().await
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.shell.try_wait()
    }

    /// SIGTERM, and SIGKILL when that takes too long; returns when it is gone.
    pub(super) async fn stop(mut self) {
        drop(self.alive.take());
        // An error would mean that there is no shell to wait for.
        let _ = self.shell.wait().await;
    }

    /// The last lines that it printed, for an error.
    pub(super) fn last_words(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS)))?;
            let mut bytes = Vec::new();
            file.take(LAST_WORDS).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }
}

/// Runs its arguments, after the first, until its standard input ends, which is when its parent lets
/// go of it. The first says how many seconds to wait then.
const GUARD: &str = r#"
patience=$1; shift
exec 3<&0
"$@" 3<&- </dev/null & program=$!
{
  read -r never <&3; kill -TERM "$program"
  sleep "$patience" <&-; kill -KILL "$program"
} >/dev/null 2>&1 & guard=$!
wait "$program"; code=$?
kill "$guard" 2>/dev/null
exit "$code"
"#;

/// Seconds. etcd and kube-apiserver take one or two; a kube-apiserver whose etcd is gone waits for it
/// for ever.
const PATIENCE: &str = "10";

/// Bytes of a log that are quoted.
const LAST_WORDS: u64 = 2048;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn spawn(script: &str, log: &Path) -> Guarded {
        let arguments = ["-c", script].map(OsString::from);
        Guarded::spawn(Path::new("/bin/sh"), arguments, log).unwrap()
    }

    /// Waits until the log holds `text`.
    async fn logged(log: &Path, text: &str) {
        for _ in 0..1000 {
            if std::fs::read_to_string(log).is_ok_and(|all| all.contains(text)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{text:?} is not in {}", log.display());
    }

    const TRAPS: &str = "trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.01; done";

    #[tokio::test]
    async fn a_program_is_told_to_stop_and_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut program = spawn(TRAPS, &log);
        logged(&log, "up").await;
        assert!(program.has_ended().unwrap().is_none());
        program.stop().await;
        assert!(std::fs::read_to_string(&log).unwrap().contains("told"));
    }

    #[tokio::test]
    async fn a_program_that_is_dropped_is_told_too() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let program = spawn(TRAPS, &log);
        logged(&log, "up").await;
        drop(program);
        logged(&log, "told").await;
    }

    /// Not with the patience of above: nothing waits that long here.
    #[tokio::test]
    async fn a_program_that_does_not_listen_is_killed() {
        let trap = "trap '' TERM; echo up; while :; do sleep 0.01; done";
        let arguments = ["-c", GUARD, "sh", "0", "/bin/sh", "-c", trap];
        let mut shell = Command::new("/bin/sh");
        shell.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut said = [0; 3];
        let mut output = shell.stdout.take().unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut output, &mut said).await.unwrap();
        assert!(shell.try_wait().unwrap().is_none());
        drop(shell.stdin.take());
        assert_eq!(shell.wait().await.unwrap().code(), Some(128 + 9));
    }

    #[tokio::test]
    async fn an_end_of_its_own_is_seen_with_its_code_and_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut program = spawn("echo why; exit 3", &folder.path().join("log"));
        assert_eq!(program.ended().await.unwrap().code(), Some(3));
        assert_eq!(program.last_words(), "why\n");
    }
}
