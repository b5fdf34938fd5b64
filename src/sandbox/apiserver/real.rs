//! A real kube-apiserver with its etcd, as processes on loopback.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::files::Files;
use super::guarded::Guarded;
use crate::kubernetes::{ApiReader, ApiServer, EndpointError};
use crate::pki::tls::TlsError;

/// A folder with `kube-apiserver` and `etcd`: what `KUBEBUILDER_ASSETS` names. With `fake-kubelet`,
/// which `tests/apiserver/build` makes, there is a Node too, and Pods run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assets {
    directory: PathBuf,
}

/// A kube-apiserver that answers. Its processes end when it is dropped.
#[derive(Debug)]
pub struct RealApi {
    server: ApiServer,
    kubelet: Option<Guarded>,
    apiserver: Guarded,
    etcd: Guarded,
}

/// Why there is no kube-apiserver.
#[derive(Debug, thiserror::Error)]
pub enum RealError {
    /// Nobody said where the programs are, or they are not there.
    #[error(
        "{0}; KUBEBUILDER_ASSETS names a folder with kube-apiserver and etcd, and \
         tests/apiserver/build makes one and prints it"
    )]
    Assets(String),
    /// A file of its folder.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key.
    #[error("cannot make a signing key: {0}")]
    Key(String),
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Our credentials.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A program that cannot be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// Which one.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program that ended by itself.
    #[error("{program} of {name} ended; it said last:\n{last_words}")]
    Ended {
        /// Which one.
        program: &'static str,
        /// Of which cluster.
        name: String,
        /// The end of its log.
        last_words: String,
    },
    /// It runs and does not answer.
    #[error("{program} of {name} is not ready after {} s: {why}", READY.as_secs())]
    NotReady {
        /// Which one.
        program: &'static str,
        /// Of which cluster.
        name: String,
        /// The last answer.
        why: String,
    },
}

// === impl Assets ===

impl Assets {
    /// The programs in `directory`; `None` when nobody named one.
    ///
    /// # Errors
    /// [`RealError::Assets`] when it is not named, or one is missing.
    pub fn find(directory: Option<&Path>) -> Result<Self, RealError> {
        let Some(directory) = directory.filter(|directory| !directory.as_os_str().is_empty())
        else {
            return Err(RealError::Assets("KUBEBUILDER_ASSETS is not set".to_owned()));
        };
        for program in [APISERVER, ETCD] {
            if !directory.join(program).is_file() {
                let why = format!("there is no {program} in {}", directory.display());
                return Err(RealError::Assets(why));
            }
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// Whether there is a fake kubelet too, so that Pods run.
    pub fn has_kubelet(&self) -> bool {
        self.program(KUBELET).is_file()
    }

    fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

// === impl RealApi ===

impl RealApi {
    /// Starts etcd and a kube-apiserver for the cluster `name`, and returns once it is ready. What
    /// must survive is kept in `directory`: objects, authority, signing key. Users of a file
    /// `tokens.csv` there, which nobody makes, are let in as well (Kubernetes documentation, "Static
    /// token file").
    ///
    /// # Errors
    /// [`RealError`].
    pub async fn start(assets: &Assets, name: &str, directory: &Path) -> Result<Self, RealError> {
        let node = format!("{name}-control-plane");
        let files = Files::make(directory, &node)?;
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::try_start(assets, name, &node, &files).await {
                // Most likely somebody took a port between our look and its own.
                Err(RealError::Ended { last_words, .. })
                    if tries < TRIES && last_words.contains("address already in use") => {}
                done => return done,
            }
        }
    }

    async fn try_start(
        assets: &Assets,
        name: &str,
        node: &str,
        files: &Files,
    ) -> Result<Self, RealError> {
        let [client_port, peer_port, port] =
            free_ports().map_err(|source| RealError::File { path: files.path(""), source })?;
        let spawn = |program: &str, arguments: Vec<OsString>| {
            let log = files.path(&format!("{program}.log"));
            let program = assets.program(program);
            Guarded::spawn(&program, arguments, &log)
                .map_err(|source| RealError::Start { program, source })
        };
        let mut etcd = spawn(ETCD, etcd_flags(files, client_port, peer_port))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, client_port));
        ready(ETCD, name, &mut etcd, async || {
            TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
        })
        .await?;

        let mut apiserver = spawn(APISERVER, apiserver_flags(files, client_port, port))?;
        let server = ApiServer {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port,
            server_name: Ipv4Addr::LOCALHOST.to_string(),
            ca_pem: files.ca_pem.clone(),
            ca_file: None,
            credentials: files.admin.clone(),
        };
        let reader = ApiReader::new(server.clone())?;
        ready(APISERVER, name, &mut apiserver, async || {
            match reader.get("/readyz", MAX_ANSWER, ANSWER).await {
                Ok((status, _)) if status.is_success() => Ok(()),
                Ok((status, _)) => Err(status.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await?;
        let kubelet = if assets.has_kubelet() {
            let url = format!("https://{}", server.authority());
            let flags = [flag("server", url), flag("dir", files.path("")), flag("node", node)];
            Some(spawn(KUBELET, flags.to_vec())?)
        } else {
            None
        };
        Ok(Self { server, kubelet, apiserver, etcd })
    }

    /// Where it is, and the credentials of somebody with all rights there.
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// Whether Pods run.
    pub fn has_kubelet(&self) -> bool {
        self.kubelet.is_some()
    }

    /// Waits until one of its processes has ended by itself, and says which, with its last words.
    /// May be given up and asked again.
    pub async fn ended(&mut self) -> String {
        let kubelet = async {
            match &mut self.kubelet {
                Some(kubelet) => kubelet.ended().await,
                None => std::future::pending().await,
            }
        };
        let program = tokio::select! {
            _ = self.etcd.ended() => ETCD,
            _ = self.apiserver.ended() => APISERVER,
            _ = kubelet => KUBELET,
        };
        let words = match (program, &self.kubelet) {
            (ETCD, _) => self.etcd.last_words(),
            (KUBELET, Some(kubelet)) => kubelet.last_words(),
            _ => self.apiserver.last_words(),
        };
        format!("{program}; it said last:\n{words}")
    }

    /// Ends its processes, each before the one that it needs.
    pub async fn stop(self) {
        if let Some(kubelet) = self.kubelet {
            kubelet.stop().await;
        }
        self.apiserver.stop().await;
        self.etcd.stop().await;
    }
}

/// Asks again and again, as long as the program runs.
async fn ready(
    program: &'static str,
    name: &str,
    process: &mut Guarded,
    mut ask: impl AsyncFnMut() -> Result<(), String>,
) -> Result<(), RealError> {
    let deadline = Instant::now() + READY;
    loop {
        let Err(why) = ask().await else { return Ok(()) };
        if process.has_ended().is_ok_and(|ended| ended.is_some()) {
            let last_words = process.last_words();
            return Err(RealError::Ended { program, name: name.to_owned(), last_words });
        }
        if Instant::now() >= deadline {
            return Err(RealError::NotReady { program, name: name.to_owned(), why });
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn etcd_flags(files: &Files, port: u16, peer_port: u16) -> Vec<OsString> {
    let url = format!("https://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    vec![
        flag("data-dir", files.path("etcd")),
        flag("listen-client-urls", &url),
        flag("advertise-client-urls", &url),
        // Nobody dials it: there is one member. Its own name for itself is kept with its data.
        flag("listen-peer-urls", peer),
        flag("cert-file", files.path("etcd.crt")),
        flag("key-file", files.path("etcd.key")),
        flag("client-cert-auth", "true"),
        flag("trusted-ca-file", files.path("ca.crt")),
        // A power cut may cost the last seconds of a trial.
        flag("unsafe-no-fsync", "true"),
        flag("log-level", "warn"),
    ]
}

fn apiserver_flags(files: &Files, etcd: u16, port: u16) -> Vec<OsString> {
    let users = files.path("tokens.csv");
    let users = users.is_file().then(|| flag("token-auth-file", users));
    let flags = vec![
        flag("etcd-servers", format!("https://127.0.0.1:{etcd}")),
        flag("etcd-cafile", files.path("ca.crt")),
        flag("etcd-certfile", files.path("etcd-client.crt")),
        flag("etcd-keyfile", files.path("etcd-client.key")),
        flag("bind-address", "127.0.0.1"),
        flag("advertise-address", "127.0.0.1"),
        flag("secure-port", port.to_string()),
        flag("tls-cert-file", files.path("apiserver.crt")),
        flag("tls-private-key-file", files.path("apiserver.key")),
        flag("client-ca-file", files.path("ca.crt")),
        flag("kubelet-certificate-authority", files.path("ca.crt")),
        flag("kubelet-client-certificate", files.path("kubelet-client.crt")),
        flag("kubelet-client-key", files.path("kubelet-client.key")),
        flag("kubelet-preferred-address-types", "InternalIP"),
        flag("authorization-mode", "Node,RBAC"),
        flag("service-account-issuer", ISSUER),
        flag("service-account-key-file", files.path("accounts.key")),
        flag("service-account-signing-key-file", files.path("accounts.key")),
        flag("service-cluster-ip-range", "10.96.0.0/16"),
        // Nobody looks for API servers in an Endpoints object, which must not name a loopback address.
        flag("endpoint-reconciler-type", "none"),
    ];
    flags.into_iter().chain(users).collect()
}

fn flag(name: &str, value: impl Into<OsString>) -> OsString {
    let mut flag = OsString::from(format!("--{name}="));
    flag.push(value.into());
    flag
}

/// Ports of the loopback that nobody has right now, no two alike.
fn free_ports() -> io::Result<[u16; 3]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held = [bind()?, bind()?, bind()?];
    let port = |held: &TcpListener| held.local_addr().map(|address| address.port());
    Ok([port(&held[0])?, port(&held[1])?, port(&held[2])?])
}

const APISERVER: &str = "kube-apiserver";
const ETCD: &str = "etcd";
const KUBELET: &str = "fake-kubelet";

/// What kube-apiserver is told to call itself in most clusters.
const ISSUER: &str = "https://kubernetes.default.svc";

/// Starts before an address in use is an error.
const TRIES: u32 = 3;

/// An idle machine needs five seconds; CI starts three at once on two cores.
const READY: Duration = Duration::from_secs(180);

/// Time between two questions.
const AGAIN: Duration = Duration::from_millis(100);

/// One question may take this long.
const ANSWER: Duration = Duration::from_secs(5);

/// `/readyz` says `ok`, or names what is not.
const MAX_ANSWER: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_named_with_the_command_that_builds_them() {
        let folder = tempfile::tempdir().unwrap();
        let nobody = Assets::find(None).unwrap_err().to_string();
        assert!(nobody.contains("KUBEBUILDER_ASSETS is not set"), "{nobody}");
        std::fs::write(folder.path().join(APISERVER), "").unwrap();
        let half = Assets::find(Some(folder.path())).unwrap_err().to_string();
        assert!(half.contains("no etcd in") && half.contains("tests/apiserver/build"), "{half}");
        std::fs::write(folder.path().join(ETCD), "").unwrap();
        Assets::find(Some(folder.path())).unwrap();
    }
}
