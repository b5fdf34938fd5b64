//! exec, attach, cp and port-forward by the real kubectl, over SPDY and over WebSockets.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::PATIENCE;
use crate::support::process::{Kubectl, Process, free_port, text};

/// Every combination that a kubectl may use.
fn each(kubectl: &Kubectl, check: impl Fn(&dyn Fn(&[&str]) -> Command, &str)) {
    for context in ["cluster1", "cluster2"] {
        for websockets in ["true", "false"] {
            let kubectl = kubectl.context(context);
            let command = |args: &[&str]| {
                let mut command = kubectl.command(args);
                command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
                command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets);
                command
            };
            check(&command, &format!("{context}, WebSockets {websockets}"));
        }
    }
}

async fn sandbox(test: &str, directory: &Path) -> Option<(Process, Kubectl)> {
    let kubectl = Kubectl::new(test, &directory.join("box/kubeconfig"))?;
    let port = free_port().to_string();
    let mut sandbox =
        Process::start("sandbox", directory, &["sandbox", "--dir", "box", "--port", &port]);
    sandbox.wait_for_start("ready", PATIENCE).await;
    Some((sandbox, kubectl))
}

fn piped(command: &mut Command) -> Child {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[tokio::test]
async fn exec_and_attach_over_spdy_and_websockets() {
    let directory = tempfile::tempdir().unwrap();
    let test = "exec_and_attach_over_spdy_and_websockets";
    let Some((_sandbox, kubectl)) = sandbox(test, directory.path()).await else { return };
    each(&kubectl, |command, how| {
        // What was asked for is what is used.
        let script = "read a; echo got $a; cat; echo err >&2; exit 7";
        let mut exec = command(&["exec", "-v=8", "-i", "hello", "--", "sh", "-c", script]);
        let mut exec = piped(&mut exec);
        exec.stdin.take().unwrap().write_all(b"one\ntwo\n").unwrap();
        let output = exec.wait_with_output().unwrap();
        assert_eq!(output.stdout, b"got one\ntwo\n", "{how}: {}", text(&output));
        assert_eq!(output.status.code(), Some(7), "{how}: {}", text(&output));
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(log.lines().any(|line| line == "err"), "{how}: {log}");
        assert_eq!(log.contains("SPDY/3.1"), how.ends_with("false"), "{how}: {log}");

        let mut attach = piped(&mut command(&["attach", "-i", "hello"]));
        let mut lines = BufReader::new(attach.stdout.take().unwrap()).lines();
        let mut stdin = attach.stdin.take().unwrap();
        stdin.write_all(how.as_bytes()).unwrap();
        stdin.write_all(b"\n").unwrap();
        let wanted = format!("read {how}");
        assert!(lines.any(|line| line.unwrap() == wanted), "{how}");
        attach.kill().unwrap();
        attach.wait().unwrap();
    });
}

#[tokio::test]
async fn cp_brings_200_mib_back_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let test = "cp_brings_200_mib_back_unchanged";
    let Some((_sandbox, kubectl)) = sandbox(test, directory.path()).await else { return };
    let [big, back] = ["big", "back"].map(|name| directory.path().join(name));
    let mut random = File::open("/dev/urandom").unwrap().take(SIZE);
    std::io::copy(&mut random, &mut File::create(&big).unwrap()).unwrap();
    each(&kubectl, |command, how| {
        // All of it over each protocol once; the second cluster gets a sample.
        if how.starts_with("cluster2") {
            File::options().write(true).open(&big).unwrap().set_len(SAMPLE).unwrap();
        }
        for (from, to) in
            [(big.to_str().unwrap(), "hello:big"), ("hello:big", back.to_str().unwrap())]
        {
            let output = command(&["cp", from, to]).output().unwrap();
            assert!(output.status.success(), "{how}: {}", text(&output));
        }
        let same = Command::new("cmp").args([&big, &back]).output().unwrap();
        assert!(same.status.success(), "{how}: {}", text(&same));
        std::fs::remove_file(&back).unwrap();
    });
}

#[tokio::test]
async fn port_forward_carries_ten_connections_and_a_gibibyte() {
    let directory = tempfile::tempdir().unwrap();
    let test = "port_forward_carries_ten_connections_and_a_gibibyte";
    let Some((_sandbox, kubectl)) = sandbox(test, directory.path()).await else { return };
    each(&kubectl, |command, how| {
        let mut forward = piped(&mut command(&["port-forward", "pod/hello", ":7"]));
        let mut said = String::new();
        let mut output = BufReader::new(forward.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        // Forwarding from 127.0.0.1:PORT -> 7
        let address = said.split_whitespace().nth(2).unwrap_or_else(|| panic!("{how}: {said:?}"));
        std::thread::scope(|scope| {
            for number in 0..CONNECTIONS {
                scope.spawn(move || echo(address, number));
            }
        });
        forward.kill().unwrap();
        forward.wait().unwrap();
    });
}

/// Sends bytes to an echo and expects them back, each at its place, and then the end.
fn echo(address: &str, number: u8) {
    let mut reading = TcpStream::connect(address).unwrap();
    let mut writing = reading.try_clone().unwrap();
    // Its length has no factor in common with that of anything on the way.
    let block: Vec<u8> = (0..65_537usize).map(|at| (at ^ at >> 8) as u8 ^ number).collect();
    let blocks = EACH / block.len();
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

const CONNECTIONS: u8 = 10;

/// Bytes that a connection sends and gets back: with two clusters, two protocols, ten connections
/// and two directions, a gibibyte in all.
const EACH: usize = (1 << 30) / (2 * 2 * 2 * CONNECTIONS as usize) + 65_537;
