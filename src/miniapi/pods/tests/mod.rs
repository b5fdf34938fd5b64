//! Sessions over an in-memory connection, with a real HTTP server and a real WebSocket client.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::*;

mod attach;
mod forward;
mod spdy;

type Socket = WebSocketStream<DuplexStream>;

/// A runtime with one Pod `web` of one container `main`.
fn runtime() -> (PodRuntime, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let runtime = PodRuntime::new(Some(directory.path().to_owned()));
    runtime.start("default", "web", &["main".to_owned()]);
    (runtime, directory)
}

/// A connection to an HTTP server that has one subresource of the Pod.
fn connection(runtime: &PodRuntime, subresource: Subresource) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(16 << 10);
    let runtime = runtime.clone();
    let service = service_fn(move |request| {
        let answer = runtime.connect(request, subresource, "default", "web");
        async move { Ok::<_, std::convert::Infallible>(answer) }
    });
    tokio::spawn(
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(theirs), service)
            .with_upgrades(),
    );
    ours
}

async fn open(runtime: &PodRuntime, protocol: &str, query: &str) -> Result<Socket, Error> {
    upgrade(runtime, Subresource::Exec, protocol, query).await
}

async fn upgrade(
    runtime: &PodRuntime,
    subresource: Subresource,
    protocol: &str,
    query: &str,
) -> Result<Socket, Error> {
    let ours = connection(runtime, subresource);
    let mut request = format!("ws://pods/exec?{query}").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    tokio_tungstenite::client_async(request, ours).await.map(|(socket, _)| socket)
}

async fn session(runtime: &PodRuntime, query: &str) -> Socket {
    open(runtime, V5, query).await.unwrap()
}

/// The query that runs `script` in a shell.
fn sh(script: &str, options: &str) -> String {
    let encoded: String = script.bytes().map(|byte| format!("%{byte:02x}")).collect();
    format!("command=sh&command=-c&command={encoded}&{options}")
}

/// What a session wrote, and its verdict.
struct Outcome {
    stdout: String,
    stderr: String,
    status: Value,
}

async fn outcome(mut socket: Socket) -> Outcome {
    let (mut stdout, mut stderr, mut status) = (Vec::new(), Vec::new(), Value::Null);
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(message) = message else {
            continue;
        };
        match message[0] {
            1 => stdout.extend_from_slice(&message[1..]),
            2 => stderr.extend_from_slice(&message[1..]),
            3 => status = serde_json::from_slice(&message[1..]).unwrap(),
            other => panic!("channel {other}"),
        }
    }
    Outcome {
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
        status,
    }
}

async fn run(runtime: &PodRuntime, query: &str) -> Outcome {
    tokio::time::timeout(PATIENCE, outcome(session(runtime, query).await)).await.unwrap()
}

/// The next line of standard output.
async fn line(socket: &mut Socket) -> String {
    let mut text = String::new();
    while !text.ends_with('\n') {
        let message =
            tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        if let Message::Binary(message) = message {
            assert_eq!(message[0], 1, "{message:?}");
            text.push_str(std::str::from_utf8(&message[1..]).unwrap());
        }
    }
    text.trim_end().to_owned()
}

async fn send(socket: &mut Socket, channel: u8, data: &[u8]) {
    socket.send(Message::binary([&[channel][..], data].concat())).await.unwrap();
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a process has ended (a zombie has).
fn gone(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

fn exit_code(status: &Value) -> &str {
    assert_eq!(status["reason"], "NonZeroExitCode", "{status}");
    assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
    status["details"]["causes"][0]["message"].as_str().unwrap()
}

#[tokio::test]
async fn streams_and_exit_codes_arrive() {
    let (runtime, _directory) = runtime();
    let done = run(&runtime, &sh("echo out;echo err >&2", "stdout=1&stderr=1")).await;
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(done.status["status"], "Success");

    let done = run(&runtime, &sh("exit 3", "stdout=1")).await;
    assert_eq!(exit_code(&done.status), "3");
    let done = run(&runtime, &sh("kill -9 $$", "stdout=1")).await;
    assert_eq!(exit_code(&done.status), "137");

    let done = run(&runtime, "command=no-such-program&stdout=1").await;
    assert_eq!(done.status["reason"], "InternalError");
    let message = done.status["message"].as_str().unwrap();
    assert!(
        message.contains("exec: \"no-such-program\": executable file not found in $PATH"),
        "{message}"
    );
}

#[tokio::test]
async fn the_environment_is_empty_and_the_folder_private() {
    let (runtime, directory) = runtime();
    let done = run(&runtime, "command=env&stdout=1").await;
    let mut variables: Vec<&str> = done.stdout.lines().collect();
    variables.sort_unstable();
    let home = variables[0].strip_prefix("HOME=").unwrap().to_owned();
    assert_eq!(variables[1..], ["PATH=/usr/bin:/bin"]);

    let done = run(&runtime, &sh("pwd;echo x > kept", "stdout=1")).await;
    assert_eq!(done.stdout.trim_end(), home);
    // One folder per Pod: the next session finds what the last one left.
    let done = run(&runtime, "command=cat&command=kept&stdout=1").await;
    assert_eq!(done.stdout, "x\n");
    assert!(PathBuf::from(&home).starts_with(directory.path().canonicalize().unwrap()));
    runtime.stop("default", "web");
    until("the folder is deleted", || !PathBuf::from(&home).exists()).await;
}

#[tokio::test]
async fn a_client_that_says_goodbye_hears_one_and_its_process_ends() {
    let (runtime, _directory) = runtime();
    let mut socket = session(&runtime, &sh("echo $$; exec sleep 600", "stdout=1")).await;
    let pid = line(&mut socket).await;
    assert!(!gone(&pid));
    socket.send(Message::Close(None)).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap();
    assert!(matches!(answer, Some(Ok(Message::Close(_)))), "{answer:?}");
    until("its process is gone", || gone(&pid)).await;
}

#[tokio::test]
async fn stdin_is_half_closed_by_version_5_only() {
    let (runtime, _directory) = runtime();
    for (protocol, ends) in [(V5, true), (V4, false)] {
        let mut socket = open(&runtime, protocol, "command=cat&stdin=1&stdout=1").await.unwrap();
        send(&mut socket, 0, b"one\n").await;
        // Text frames carry the same bytes.
        socket.send(Message::text("\0two\n")).await.unwrap();
        send(&mut socket, 255, &[0]).await;
        if ends {
            let done = tokio::time::timeout(PATIENCE, outcome(socket)).await.unwrap();
            assert_eq!(
                (done.stdout.as_str(), done.status["status"].as_str()),
                ("one\ntwo\n", Some("Success"))
            );
        } else {
            while !line(&mut socket).await.ends_with("two") {}
            send(&mut socket, 0, b"three\n").await;
            assert_eq!(line(&mut socket).await, "three");
        }
    }
}

#[tokio::test]
async fn a_process_that_stops_reading_stdin_does_not_end_the_session() {
    let (runtime, _directory) = runtime();
    let mut socket =
        session(&runtime, &sh("exec 0<&-;sleep 0.2;echo done", "stdin=1&stdout=1")).await;
    send(&mut socket, 0, &vec![b'x'; 200 << 10]).await;
    let done = tokio::time::timeout(PATIENCE, outcome(socket)).await.unwrap();
    assert_eq!((done.stdout.as_str(), done.status["status"].as_str()), ("done\n", Some("Success")));
}

#[tokio::test]
async fn a_terminal_is_real_and_is_resized() {
    let (runtime, _directory) = runtime();
    let query =
        &sh("test -t 0 && test -t 1 && read x && stty size && echo $TERM", "stdin=1&stdout=1");
    let mut socket = session(&runtime, &format!("{query}&tty=1")).await;
    send(&mut socket, 4, br#"{"Width":101,"Height":43}"#).await;
    send(&mut socket, 0, b"go\n").await;
    let done = tokio::time::timeout(PATIENCE, outcome(socket)).await.unwrap();
    assert!(done.stdout.ends_with("43 101\r\nxterm\r\n"), "{:?}", done.stdout);
    assert_eq!(done.status["status"], "Success");
    assert_eq!(exit_code(&run(&runtime, query).await.status), "1", "a pipe is no terminal");

    // The end of standard input ends a shell.
    let mut socket = session(&runtime, "command=sh&stdin=1&stdout=1&tty=1").await;
    send(&mut socket, 0, b"exit_code() { return 5; }; exit_code\n").await;
    send(&mut socket, 255, &[0]).await;
    let done = tokio::time::timeout(PATIENCE, outcome(socket)).await.unwrap();
    assert_eq!(exit_code(&done.status), "5");
}

#[tokio::test]
async fn everything_ends_with_the_pod() {
    let script = "set -m; sleep 1000 & echo $$ $!; wait";
    // With a terminal, `set -m` gives the background job a process group of its own.
    for query in ["stdout=1&stdin=1&tty=1", "stdout=1"] {
        let (runtime, directory) = runtime();
        let script =
            if query.contains("tty") { script } else { script.trim_start_matches("set -m; ") };
        let mut socket = session(&runtime, &sh(script, query)).await;
        let pids = line(&mut socket).await;
        let (shell, job) = pids.split_once(' ').unwrap();
        assert!(!gone(shell) && !gone(job));
        runtime.stop("default", "web");
        let done = tokio::time::timeout(PATIENCE, outcome(socket)).await.unwrap();
        assert_eq!(exit_code(&done.status), "137");
        until("both processes are gone", || gone(shell) && gone(job)).await;
        until("the folder is deleted", || directory.path().read_dir().unwrap().next().is_none())
            .await;
    }
}

#[tokio::test]
async fn everything_ends_with_the_client_and_with_the_runtime() {
    let (runtime, _directory) = runtime();
    let query = &sh("sleep 1000 & echo $$ $!;wait", "stdout=1");
    let mut leaves = session(&runtime, query).await;
    let mut stays = session(&runtime, query).await;
    let (left, stayed) = (line(&mut leaves).await, line(&mut stays).await);
    drop(leaves);
    until("the session that was left is gone", || left.split(' ').all(gone)).await;
    assert!(!stayed.split(' ').any(gone));
    runtime.finish().await;
    assert!(stayed.split(' ').all(gone));
}

#[tokio::test]
async fn what_a_process_leaves_behind_ends_with_it() {
    let (runtime, _directory) = runtime();
    let done = run(&runtime, &sh("sleep 1000 & echo $!", "stdout=1")).await;
    assert_eq!(done.status["status"], "Success");
    until("the background job is gone", || gone(done.stdout.trim())).await;
    // One that left the group holds the pipe, but not the session.
    let done = run(&runtime, &sh("setsid sleep 5 & sleep 0.1;echo done", "stdout=1")).await;
    assert_eq!(done.stdout, "done\n");
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_process() {
    let (runtime, directory) = runtime();
    let script = "while :; do head -c 65536 /dev/zero; printf x >> count; done";
    let mut socket = session(&runtime, &sh(script, "stdout=1")).await;
    let count = || {
        let scratch = directory.path().read_dir().unwrap().next().unwrap().unwrap();
        std::fs::metadata(scratch.path().join("count")).map_or(0, |count| count.len())
    };
    let (mut before, mut quiet) = (0, 0);
    until("the process stands still", || {
        let now = count();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        quiet == 20
    })
    .await;
    assert!(before <= 4, "{before} pieces of 64 KiB were taken from a process that nobody reads");
    for _ in 0..100 {
        socket.next().await.unwrap().unwrap();
    }
    assert!(count() > before, "reading on lets it go on");
}

#[tokio::test]
async fn refusals_start_nothing() {
    let (runtime, directory) = runtime();
    let refused = async |protocol: &str, query: &str| match open(&runtime, protocol, query).await {
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
        Ok(_) => 101,
    };
    assert_eq!(refused(V5, "command=true&stdout=1&container=other").await, 400);
    assert_eq!(refused(V5, "command=true").await, 400);
    assert_eq!(refused("channel.k8s.io", "command=true&stdout=1").await, 400);
    assert!(directory.path().read_dir().unwrap().next().is_none());
    assert_eq!(refused(&format!("other, {V4}"), "command=true&stdout=1&container=main").await, 101);

    let sessions: Vec<Socket> = futures_util::future::join_all(
        (0..MAX_SESSIONS - 1).map(|_| session(&runtime, "command=sleep&command=1000&stdout=1")),
    )
    .await;
    let next = session(&runtime, "command=sleep&command=1000&stdout=1").await;
    assert_eq!(refused(V5, "command=true&stdout=1").await, 429);
    drop((sessions, next));
    runtime.stop("default", "web");
    until("the sessions end", || runtime.shared.permits.available_permits() == MAX_SESSIONS).await;
    assert_eq!(refused(V5, "command=true&stdout=1").await, 404);
}

#[tokio::test]
async fn logs_name_their_container() {
    let (runtime, _directory) = runtime();
    runtime.start("default", "two", &["a".to_owned(), "b".to_owned()]);
    let options = LogOptions::default();
    let code = |pod: &str, container: Option<&str>, options: &LogOptions| {
        runtime.logs("default", pod, container, options).map_or_else(|status| status.code, |_| 200)
    };
    assert_eq!(code("web", None, &options), 200);
    assert_eq!(code("web", Some("other"), &options), 400);
    assert_eq!(code("two", Some("b"), &options), 200);
    assert_eq!(code("two", None, &options), 400);
    assert_eq!(code("none", None, &options), 404);
    assert_eq!(code("web", None, &LogOptions { previous: true, ..options }), 400);

    let mut follower =
        runtime.logs("default", "web", None, &LogOptions { follow: true, ..options }).unwrap();
    assert!(follower.frame().await.unwrap().is_ok());
    runtime.stop("default", "web");
    while follower.frame().await.is_some() {}
}

const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";

/// How long a real process may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
