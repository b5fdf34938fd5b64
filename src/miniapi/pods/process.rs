//! A child process with its streams, and the end of everything it started.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use bytes::Bytes;
use pty_process::{OwnedWritePty, Size};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};

use super::attach;
use super::options::RemoteOptions;

/// A running process. Dropping it kills its process group.
pub(super) struct Process {
    child: Child,
    group: Group,
    /// Its leader was reaped and its members were killed: the number may be somebody else's now.
    over: bool,
}

/// The client's side of a process's streams.
pub(super) struct Streams {
    pub(super) stdin: Option<Stdin>,
    pub(super) stdout: Option<Output>,
    pub(super) stderr: Option<Output>,
}

/// Something that a process writes to.
pub(super) type Output = Box<dyn AsyncRead + Send + Unpin>;

/// What feeds a process.
pub(super) enum Stdin {
    Pipe(ChildStdin),
    Terminal(OwnedWritePty),
    /// Of a container's main program.
    Main(attach::Input),
}

/// Starts what `options` asks for in `scratch`.
///
/// # Errors
/// What the system said; `NotFound` when there is no such program.
pub(super) fn spawn(options: &RemoteOptions, scratch: &Path) -> io::Result<(Process, Streams)> {
    let (program, arguments) = options
        .command
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(scratch)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", scratch);
    if options.tty { on_terminal(command) } else { on_pipes(command, options) }
}

fn on_pipes(mut command: Command, options: &RemoteOptions) -> io::Result<(Process, Streams)> {
    let pipe = |wanted: bool| {
        if wanted { Stdio::piped() } else { Stdio::null() }
    };
    let mut child = command
        .stdin(pipe(options.stdin))
        .stdout(pipe(options.stdout))
        .stderr(pipe(options.stderr))
        .process_group(0)
        .spawn()?;
    let streams = Streams {
        stdin: child.stdin.take().map(Stdin::Pipe),
        stdout: child.stdout.take().map(|stdout| Box::new(stdout) as Output),
        stderr: child.stderr.take().map(|stderr| Box::new(stderr) as Output),
    };
    Ok((Process::new(child, false)?, streams))
}

fn on_terminal(mut command: Command) -> io::Result<(Process, Streams)> {
    command.env("TERM", "xterm");
    let (terminal, other_end) = pty_process::open().map_err(io::Error::other)?;
    // Becomes the leader of a session of its own, whose controlling terminal this is.
    let child =
        pty_process::Command::from(command).spawn(other_end).map_err(|error| match error {
            pty_process::Error::Io(error) => error,
            other => io::Error::other(other),
        })?;
    let (output, input) = terminal.into_split();
    let streams = Streams {
        // Kept even when the client sends nothing: it still resizes.
        stdin: Some(Stdin::Terminal(input)),
        stdout: Some(Box::new(output)),
        stderr: None,
    };
    Ok((Process::new(child, true)?, streams))
}

// === impl Process ===

impl Process {
    fn new(child: Child, leads_session: bool) -> io::Result<Self> {
        let leader = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .ok_or_else(|| io::Error::other("the process ended before it began"))?;
        Ok(Self { child, group: Group { leader, leads_session }, over: false })
    }

    /// Waits for the process, kills what it left behind, and returns its exit code as a shell
    /// would say it (128 and the number of the signal that killed it).
    pub(super) async fn wait(&mut self) -> io::Result<i32> {
        let status = self.child.wait().await?;
        if !self.over {
            self.group.kill();
            self.over = true;
        }
        Ok(exit_code(status))
    }

    /// What to kill while somebody else waits. Good until [`Process::wait`] returns.
    pub(super) fn group(&self) -> Group {
        self.group
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.over {
            self.group.kill();
        }
    }
}

// === impl Stdin ===

impl Stdin {
    /// Hands `data` over; waits while the process does not read.
    pub(super) async fn write(&mut self, data: &Bytes) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.write_all(data).await,
            Self::Terminal(terminal) => terminal.write_all(data).await,
            Self::Main(input) => input.write(data).await,
        }
    }

    /// No more will come. A terminal cannot be half closed: it gets the end-of-file character.
    pub(super) async fn close(mut self) -> io::Result<()> {
        match &mut self {
            Self::Pipe(pipe) => pipe.shutdown().await,
            Self::Terminal(terminal) => terminal.write_all(&[END_OF_TRANSMISSION]).await,
            // The program goes on, and others may attach to it.
            Self::Main(_) => Ok(()),
        }
    }

    /// The client's window has another size.
    pub(super) fn resize(&self, rows: u16, columns: u16) {
        if let Self::Terminal(terminal) = self
            && let Err(error) = terminal.resize(Size::new(rows, columns))
        {
            tracing::debug!(%error, "cannot resize a terminal");
        }
    }
}

/// A process and what it started: its process group, and with a terminal its whole session (an
/// interactive shell gives each job a group of its own).
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    leader: Pid,
    leads_session: bool,
}

// === impl Group ===

impl Group {
    /// Kills every member.
    pub(super) fn kill(self) {
        // Nobody left is what we want, so "no such process" is a success. The number of a group
        // is not given out again while it has a member.
        let _ = kill_process_group(self.leader, Signal::KILL);
        if self.leads_session {
            for member in session_members(self.leader) {
                let _ = kill_process(member, Signal::KILL);
            }
        }
    }
}

/// Processes of a session, from `/proc` (proc_pid_stat(5), field 6); none where there is no `/proc`.
fn session_members(session: Pid) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let member = |entry: std::fs::DirEntry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The second field is a file name in parentheses and may hold anything, ')' too.
        let (_, fields) = stat.rsplit_once(") ")?;
        let found: i32 = fields.split(' ').nth(3)?.parse().ok()?;
        (found == session.as_raw_nonzero().get()).then_some(pid)
    };
    entries.flatten().filter_map(member).collect()
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| SIGNALLED + status.signal().unwrap_or(0))
}

/// EOT, Control-D: what a terminal in its usual mode takes for the end of input.
const END_OF_TRANSMISSION: u8 = 4;

/// What shells add to the number of the signal that ended a process.
const SIGNALLED: i32 = 128;
