//! exec, attach, cp and port-forward by the real kubectl, over SPDY and over WebSockets.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::fleet::{CLUSTERS, Fleet};
use crate::support::PATIENCE;
use crate::support::process::{Kubectl, Process, free_port, text};

/// How a kubectl may stream: to which cluster, over which protocol.
pub(crate) struct Way {
    kubectl: Kubectl,
    websockets: &'static str,
    /// Says so in an assertion.
    pub(crate) name: String,
}

// === impl Way ===

impl Way {
    /// Both protocols for each cluster.
    pub(crate) fn all<'a>(clusters: impl IntoIterator<Item = (&'a str, Kubectl)>) -> Vec<Self> {
        let both = |(cluster, kubectl): (&str, Kubectl)| {
            ["true", "false"].map(|websockets| Self {
                kubectl: kubectl.clone(),
                websockets,
                name: format!("{cluster}, WebSockets {websockets}"),
            })
        };
        clusters.into_iter().flat_map(both).collect()
    }

    /// Each way through separate processes.
    pub(crate) fn through(fleet: &Fleet) -> Vec<Self> {
        Self::all(CLUSTERS.map(|cluster| (cluster, fleet.kubectl(cluster).clone())))
    }

    /// The command line `kubectl ARGS`, not started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.kubectl.command(args);
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", self.websockets);
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", self.websockets);
        command
    }

    /// `kubectl apply`, and what it said.
    pub(crate) fn apply(&self, manifest: &str) -> String {
        self.kubectl.run_with(&["apply", "-f", "-"], manifest)
    }
}

/// A kubectl that is killed when it is dropped.
pub(crate) struct Running(pub(crate) Child);

// === impl Running ===

impl Running {
    /// Starts it; its standard streams are ours.
    pub(crate) fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command to its end, with this on its standard input and then the end of it.
fn fed(command: &mut Command, input: &[u8]) -> std::process::Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[tokio::test]
async fn exec_and_attach_over_spdy_and_websockets() {
    let Some(fleet) = Fleet::start("exec_and_attach_over_spdy_and_websockets").await else {
        return;
    };
    Way::through(&fleet).iter().for_each(exec_and_attach);
}

#[tokio::test]
async fn exec_and_attach_in_the_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    let kubeconfig = directory.join("box/kubeconfig");
    let Some(kubectl) = Kubectl::new("exec_and_attach_in_the_sandbox", &kubeconfig) else { return };
    let port = free_port().to_string();
    let mut sandbox =
        Process::start("sandbox", directory, &["sandbox", "--dir", "box", "--port", &port]);
    sandbox.wait_for_start("ready", PATIENCE).await;
    let clusters = ["cluster1", "cluster2"];
    let ways = Way::all(clusters.map(|cluster| (cluster, kubectl.context(cluster))));
    ways.iter().for_each(exec_and_attach);
}

fn exec_and_attach(way: &Way) {
    let how = &way.name;
    for code in [0, 7] {
        let script = format!("read a; echo got $a; cat; echo err >&2; exit {code}");
        let args = ["exec", "-v=8", "-i", "hello", "--", "sh", "-c", &script];
        // `cat` ends with its input, and with it the script.
        let output = fed(&mut way.command(&args), b"one\ntwo\n");
        assert_eq!(output.stdout, b"got one\ntwo\n", "{how}: {}", text(&output));
        assert_eq!(output.status.code(), Some(code), "{how}: {}", text(&output));
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(log.lines().any(|line| line == "err"), "{how}: {log}");
        // What was asked for is what is used.
        assert_eq!(log.contains("SPDY/3.1"), how.ends_with("false"), "{how}: {log}");
    }
    let missing = way.command(&["exec", "hello", "--", "no-such-program"]).output().unwrap();
    assert_ne!(missing.status.code(), Some(0), "{how}");
    assert!(text(&missing).contains("executable file not found"), "{how}: {}", text(&missing));

    let mut attach = Running::start(&mut way.command(&["attach", "-i", "hello"]));
    let mut lines = BufReader::new(attach.0.stdout.take().unwrap()).lines();
    let mut stdin = attach.0.stdin.take().unwrap();
    stdin.write_all(how.as_bytes()).unwrap();
    stdin.write_all(b"\n").unwrap();
    let wanted = format!("read {how}");
    assert!(lines.any(|line| line.unwrap() == wanted), "{how}");
}

#[tokio::test]
async fn cp_brings_200_mib_back_unchanged() {
    let Some(fleet) = Fleet::start("cp_brings_200_mib_back_unchanged").await else { return };
    let [big, back] = ["big", "back"].map(|name| fleet.directory().join(name));
    let mut random = File::open("/dev/urandom").unwrap().take(SIZE);
    std::io::copy(&mut random, &mut File::create(&big).unwrap()).unwrap();
    for way in Way::through(&fleet) {
        let how = &way.name;
        // All of it over each protocol once; the second cluster gets a sample.
        if how.starts_with("c2") {
            File::options().write(true).open(&big).unwrap().set_len(SAMPLE).unwrap();
        }
        for (from, to) in
            [(big.to_str().unwrap(), "hello:big"), ("hello:big", back.to_str().unwrap())]
        {
            let output = way.command(&["cp", from, to]).output().unwrap();
            assert!(output.status.success(), "{how}: {}", text(&output));
        }
        let same = Command::new("cmp").args([&big, &back]).output().unwrap();
        assert!(same.status.success(), "{how}: {}", text(&same));
        std::fs::remove_file(&back).unwrap();
    }
}

#[tokio::test]
async fn port_forward_carries_ten_connections_and_then_a_gibibyte_on_one() {
    let test = "port_forward_carries_ten_connections_and_then_a_gibibyte_on_one";
    let Some(fleet) = Fleet::start(test).await else { return };
    for way in Way::through(&fleet) {
        let how = &way.name;
        let mut forward = Running::start(&mut way.command(&["port-forward", "pod/hello", ":7"]));
        let mut said = String::new();
        let mut output = BufReader::new(forward.0.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        // Forwarding from 127.0.0.1:PORT -> 7
        let address = said.split_whitespace().nth(2).unwrap_or_else(|| panic!("{how}: {said:?}"));
        std::thread::scope(|scope| {
            for number in 0..CONNECTIONS {
                scope.spawn(move || echo(address, number, EACH));
            }
        });
        echo(address, CONNECTIONS, GIBIBYTE);
    }
}

/// Sends at least so many bytes to an echo and expects them back, each at its place, and then the
/// end.
fn echo(address: &str, number: u8, bytes: usize) {
    let mut reading = TcpStream::connect(address).unwrap();
    let mut writing = reading.try_clone().unwrap();
    // Its length has no factor in common with that of anything on the way.
    let block: Vec<u8> = (0..65_537usize).map(|at| (at ^ at >> 8) as u8 ^ number).collect();
    let blocks = bytes.div_ceil(block.len());
    std::thread::scope(|scope| {
        let block = &block;
        scope.spawn(move || {
            for _ in 0..blocks {
                writing.write_all(block).unwrap();
            }
            writing.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = vec![0; block.len()];
        for _ in 0..blocks {
            reading.read_exact(&mut got).unwrap();
            assert!(got == *block, "connection {number}");
        }
        assert_eq!(reading.read(&mut got).unwrap(), 0, "the end comes after the last byte");
    });
}

/// Bytes of the large file.
const SIZE: u64 = 200 << 20;

/// Bytes of the file on the second cluster.
const SAMPLE: u64 = 10 << 20;

/// Connections at one time.
const CONNECTIONS: u8 = 10;

/// Bytes that each of them sends and gets back.
const EACH: usize = 8 << 20;

const GIBIBYTE: usize = 1 << 30;
