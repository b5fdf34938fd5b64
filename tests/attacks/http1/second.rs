//! nginx and haproxy as plain reverse proxies in front of a recording API server of their own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::io::InspectReader;
use tokio_util::task::AbortOnDropHandle;

use super::wire::Wire;
use crate::ground::{Seen, answer};
use crate::support::process::{Process, free_port, text};
use crate::support::{PATIENCE, eventually};

/// A program that reads HTTP/1.1 and passes it on.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// The package that has it.
    pub(crate) package: &'static str,
    /// What runs it in the foreground; the file of its configuration follows.
    run: &'static [&'static str],
    configuration: fn(listen: SocketAddr, upstream: SocketAddr) -> String,
}

pub(crate) const NGINX: Program = Program {
    name: "nginx",
    package: "nginx-light",
    run: &["-p", ".", "-e", "stderr", "-c"],
    configuration: nginx,
};

pub(crate) const HAPROXY: Program =
    Program { name: "haproxy", package: "haproxy", run: &["-db", "-f"], configuration: haproxy };

/// A program that runs, and what came through it.
pub(crate) struct Second {
    address: SocketAddr,
    recorder: Recorder,
    _process: Process,
    _directory: TempDir,
}

/// An API server that takes everything, and writes down the bytes as well.
struct Recorder {
    address: SocketAddr,
    seen: Arc<Seen>,
    bytes: Arc<Mutex<Vec<u8>>>,
    _task: AbortOnDropHandle<()>,
}

// === impl Program ===

impl Program {
    fn find(&self) -> Option<PathBuf> {
        // Where Debian has them is in the path of root alone.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
        folders.map(|folder| folder.join(self.name)).find(|file| file.is_file())
    }

    /// The version that it says it has, `None` when there is no such program.
    pub(crate) fn version(&self) -> Option<String> {
        let output = Command::new(self.find()?).arg("-v").output().unwrap();
        let said = text(&output);
        let words = said.split([' ', '/', '\n']);
        let version = words
            .skip_while(|word| !word.contains("ersion"))
            .find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
        Some(version.unwrap_or_else(|| panic!("no version: {said}")).to_owned())
    }

    pub(crate) async fn start(&self) -> Second {
        let directory = TempDir::new().unwrap();
        let recorder = Recorder::start().await;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let file = directory.path().join("configuration");
        std::fs::write(&file, (self.configuration)(address, recorder.address)).unwrap();
        let mut process =
            Process::spawn(self.name, directory.path(), self.command(directory.path(), &file));
        eventually("it listens", PATIENCE, || {
            assert!(!process.has_ended(), "{}: {}", self.name, process.log());
            async { TcpStream::connect(address).await.ok() }
        })
        .await;
        Second { address, recorder, _process: process, _directory: directory }
    }

    fn command(&self, directory: &Path, configuration: &Path) -> Command {
        let mut command = Command::new(self.find().unwrap());
        command.args(self.run).arg(configuration).current_dir(directory).env_clear();
        command
    }
}

// === impl Second ===

impl Second {
    pub(crate) async fn wire(&self) -> Wire {
        Wire::over(TcpStream::connect(self.address).await.unwrap())
    }

    pub(crate) fn seen(&self) -> &Seen {
        &self.recorder.seen
    }

    /// Whether bytes of `case` came through, read as a request or not.
    pub(crate) fn passed(&self, case: &str) -> bool {
        let name = format!("/namespaces/{case}/");
        let bytes = self.recorder.bytes.lock().unwrap();
        bytes.windows(name.len()).any(|window| window == name.as_bytes())
    }
}

// === impl Recorder ===

impl Recorder {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, bytes) = (Arc::<Seen>::default(), Arc::<Mutex<Vec<u8>>>::default());
        let (writes, copies) = (Arc::clone(&seen), Arc::clone(&bytes));
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (seen, bytes) = (Arc::clone(&writes), Arc::clone(&copies));
                let stream = InspectReader::new(stream, move |read: &[u8]| {
                    bytes.lock().unwrap().extend(read);
                });
                let service = hyper::service::service_fn(move |request| {
                    let seen = Arc::clone(&seen);
                    async move { Ok::<_, Infallible>(answer(request, "", &seen).await) }
                });
                // Attacks break connections.
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, seen, bytes, _task: AbortOnDropHandle::new(task) }
    }
}

/// As shipped, but for short patience with requests that do not end, and HTTP/1.1 to the upstream.
fn nginx(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "daemon off;
master_process off;
pid nginx.pid;
error_log stderr info;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    scgi_temp_path scgi;
    uwsgi_temp_path uwsgi;
    client_header_timeout 2s;
    client_body_timeout 2s;
    server {{
        listen {listen};
        location / {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
        }}
    }}
}}
"
    )
}

/// As shipped, but for the same; and no request shares a connection with another's.
fn haproxy(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "defaults
    mode http
    timeout connect 10s
    timeout client 2s
    timeout http-request 2s
    timeout server 20s
    http-reuse never
frontend front
    bind {listen}
    default_backend api
backend api
    server api {upstream}
"
    )
}
