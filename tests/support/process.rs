//! The binary as processes, and the real kubectl.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use super::eventually;

/// A running `cluster-proxy`, or another program. Killed when it is dropped.
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    /// Where its own part of the log begins: one that ran before wrote to the same file.
    begins: usize,
    child: Child,
    /// It leads a process group, which ends with it.
    group: bool,
}

// === impl Process ===

impl Process {
    /// Starts `cluster-proxy ARGS` in `directory`; what it prints goes to a file there.
    pub(crate) fn start(name: &str, directory: &Path, args: &[&str]) -> Self {
        Self::spawn(name, directory, command(directory, args))
    }

    /// The same with at most `files` open files.
    pub(crate) fn start_within(name: &str, directory: &Path, args: &[&str], files: u32) -> Self {
        let inner = command(directory, args);
        let mut command = Command::new("/bin/sh");
        let script = format!(r#"ulimit -n {files} && exec "$@""#);
        command.args(["-c", &script, "sh"]).arg(inner.get_program()).args(inner.get_args());
        command.current_dir(directory).env_clear().env("RUST_LOG", "info").stdin(Stdio::null());
        Self::spawn(name, directory, command)
    }

    /// Starts another program in the same way.
    pub(crate) fn spawn(name: &str, directory: &Path, mut command: Command) -> Self {
        let log = directory.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let begins = usize::try_from(output.metadata().unwrap().len()).unwrap();
        let child = command.stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
        Self { name: name.to_owned(), log, begins, child, group: false }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        let all = fs::read_to_string(&self.log).unwrap_or_default();
        all.get(self.begins..).unwrap_or_default().to_owned()
    }

    /// Waits for a line that holds `text`, and returns it.
    pub(crate) async fn wait_for(&mut self, text: &str, patience: Duration) -> String {
        self.wait_for_line(text, patience, |line| line.contains(text)).await
    }

    /// Waits for a line that starts with `text`, and returns it.
    pub(crate) async fn wait_for_start(&mut self, text: &str, patience: Duration) -> String {
        self.wait_for_line(text, patience, |line| line.starts_with(text)).await
    }

    async fn wait_for_line(
        &mut self,
        text: &str,
        patience: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        let what = format!("{} prints {text:?}", self.name);
        eventually(&what, patience, || {
            let ended = self.child.try_wait().unwrap();
            let log = self.log();
            let line = log.lines().find(|line| wanted(line)).map(str::to_owned);
            assert!(line.is_some() || ended.is_none(), "{} ended: {log}", self.name);
            async move { line }
        })
        .await
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.ended().is_some()
    }

    /// How it has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if self.group {
            let group = format!("-{}", self.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, then waits for the end.
    pub(crate) async fn stop(&mut self, patience: Duration) -> ExitStatus {
        signal(self.id(), "TERM");
        let what = format!("{} stops", self.name);
        eventually(&what, patience, || {
            let ended = self.child.try_wait().unwrap();
            async move { ended }
        })
        .await
    }

    /// The most memory it ever had in use, bytes (VmHWM of proc(5)).
    pub(crate) fn peak_memory(&self) -> u64 {
        self.memory_of("VmHWM:")
    }

    /// The memory it has in use, bytes (VmRSS of proc(5)).
    pub(crate) fn memory(&self) -> u64 {
        self.memory_of("VmRSS:")
    }

    fn memory_of(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// CPU time that it has used, of user and system (proc(5), `stat`).
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        // The name of the program may hold spaces; what follows its last bracket does not.
        let mut fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11);
        let mut ticks = || fields.next().unwrap().parse::<u32>().unwrap();
        (ticks() + ticks()) * TICK
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "--- {}\n{}", self.name, self.log());
        }
    }
}

/// Sends a signal, by name.
pub(crate) fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status();
    assert!(sent.unwrap().success(), "kill -{name} {process}");
}

/// Runs `cluster-proxy ARGS` to its end and returns what it printed.
///
/// # Panics
/// When it fails.
pub(crate) fn run(directory: &Path, args: &[&str]) -> String {
    let output = command(directory, args).stdin(Stdio::null()).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "cluster-proxy {}: {text}", args.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `cluster-proxy ARGS`, which must fail, and returns what it said on standard error.
///
/// # Panics
/// When it succeeds.
pub(crate) fn fails(directory: &Path, args: &[&str]) -> String {
    let output = command(directory, args).output().unwrap();
    assert!(!output.status.success(), "cluster-proxy {} succeeded", args.join(" "));
    String::from_utf8(output.stderr).unwrap()
}

/// Everything that a process printed.
pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// `cluster-proxy ARGS` in `directory` and an environment of nothing, not started.
pub(crate) fn command(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cluster-proxy"));
    command.args(args).current_dir(directory).env_clear().env("RUST_LOG", "info");
    command.stdin(Stdio::null());
    command
}

/// A port of the loopback that nobody has right now, and that nobody is given by
/// chance before it is listened on: it lies below the range from which the kernel
/// takes the ports of connections and of `bind` to port 0, and no caller of this
/// process is given it again.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let end = first_ephemeral_port();
    // Two test programs at once begin at different places, as their ids differ.
    let begin = u16::try_from(std::process::id() % u32::from(OWN_PORTS)).unwrap();
    let step = || NEXT.fetch_add(1, Ordering::Relaxed);
    let port = |step: u16| end - 1 - begin.wrapping_add(step) % OWN_PORTS;
    (0..OWN_PORTS).map(|_| port(step())).find(|&port| free(port)).expect("a free port")
}

/// Ports below the kernel's own range that the tests choose from.
const OWN_PORTS: u16 = 8_192;

/// Where the kernel's own range begins: 32768 wherever nobody changed it.
fn first_ephemeral_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok());
    first.filter(|&first| first > 2 * OWN_PORTS).unwrap_or(32_768)
}

/// The real kubectl with one kubeconfig.
#[derive(Clone)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    context: Option<String>,
    http1: bool,
}

// === impl Kubectl ===

impl Kubectl {
    /// `$KUBECTL`, the one that `tests/kubectl/build` made, or the one in PATH; in this order.
    pub(crate) fn find() -> Option<PathBuf> {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/kubectl/kubectl");
        let named = std::env::var_os("KUBECTL").map(PathBuf::from);
        let works = |program: &PathBuf| {
            let version = Command::new(program).args(["version", "--client"]).output();
            version.is_ok_and(|output| output.status.success())
        };
        named.into_iter().chain([built, PathBuf::from("kubectl")]).find(works)
    }

    /// Whether kubectl is 1.`minor` or later; says that `test` is skipped where it is older, or where
    /// there is none.
    pub(crate) fn is_at_least(test: &str, minor: u32) -> bool {
        let found = Self::find().and_then(|program| {
            let output = Command::new(program).args(["version", "--client", "-o", "json"]).output();
            let version: serde_json::Value = serde_json::from_slice(&output.ok()?.stdout).ok()?;
            version["clientVersion"]["minor"].as_str()?.trim_end_matches('+').parse::<u32>().ok()
        });
        let enough = found.is_some_and(|found| found >= minor);
        if !enough {
            let reason = match found {
                Some(found) => format!("kubectl is 1.{found}, and 1.{minor} is needed"),
                None => "there is no kubectl".to_owned(),
            };
            super::skipped(test, &reason, "tests/kubectl/build");
        }
        enough
    }

    /// kubectl with this kubeconfig; says that `test` is skipped where there is none.
    pub(crate) fn new(test: &str, kubeconfig: &Path) -> Option<Self> {
        let Some(program) = Self::find() else {
            super::skipped(test, "there is no kubectl", "tests/kubectl/build");
            return None;
        };
        let kubeconfig = kubeconfig.to_owned();
        Some(Self { program, kubeconfig, context: None, http1: false })
    }

    pub(crate) fn context(&self, name: &str) -> Self {
        Self { context: Some(name.to_owned()), ..self.clone() }
    }

    /// As a kubectl that speaks HTTP/1.1 only.
    pub(crate) fn http1(&self, http1: bool) -> Self {
        Self { http1, ..self.clone() }
    }

    /// Runs it again and again, whenever it ends; what it prints is added to `output`.
    pub(crate) fn looped(&self, args: &[&str], output: &Path) -> Process {
        let once = self.command(args);
        let mut command = Command::new("sh");
        command.args(["-c", r#"while :; do "$@"; sleep 0.2; done"#, "sh"]).arg(once.get_program());
        command.args(once.get_args()).env_clear().process_group(0).stdin(Stdio::null());
        command.envs(once.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let file = File::create(output).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Process { name: "looped".to_owned(), log: output.to_owned(), begins: 0, child, group: true }
    }

    /// The command line `kubectl ARGS`, not started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        let home = self.kubeconfig.parent().unwrap();
        command.env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin");
        command.env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        if self.http1 {
            command.env("DISABLE_HTTP2", "1");
        }
        if let Some(context) = &self.context {
            command.args(["--context", context]);
        }
        command.args(args);
        command
    }

    /// Runs it to its end.
    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it and returns its standard output.
    ///
    /// # Panics
    /// When it fails.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "kubectl {}: {}", args.join(" "), text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it with `input` as its standard input.
    ///
    /// # Panics
    /// When it fails.
    pub(crate) fn run_with(&self, args: &[&str], input: &str) -> String {
        use std::io::Write as _;
        let mut command = self.command(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "kubectl {}: {}", args.join(" "), text(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// 1 / USER_HZ, which is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);
