//! What runs inside a Pod: its main program and its log, the processes that `exec` starts, and a few
//! services on fixed ports.
//!
//! A Pod here is a name, a log that ticks, and a scratch folder. `attach` reaches the program that
//! writes the log, `port-forward` the [`services`]. `exec` starts a **real process of
//! this machine** in that folder, with an empty environment, as the user who runs this program.
//! **This is not isolation**: the process sees every file, socket and process that its user sees.
//! Therefore the API server that owns a [`PodRuntime`] listens on loopback only, asks for a token
//! before it lets anybody in, and is left out of images (cargo feature `sandbox`).
//!
//! The processes of a Pod end with it, with the stream that started them, and with the runtime.
//!
//! ```text
//!  connect -> upgrade (which protocol)
//!     |-- websocket (channel) --+
//!     |-- remote (spdy) --------+-> session -> process, or attach -> log
//!     |-- forward (spdy) --+
//!     `-- ports (channel) -+-> services <- listen (TCP)
//! ```

mod attach;
mod channel;
mod connect;
mod forward;
mod listen;
mod log;
mod options;
mod ports;
mod process;
mod remote;
mod scratch;
mod services;
mod session;
mod spdy;
mod upgrade;
mod websocket;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::connect::Place;
pub(crate) use self::listen::Listener;
use self::log::Log;
use self::scratch::Scratch;
use self::services::Service;
use super::response::{Body, MiniStatus};

/// What a reader of a log asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogOptions {
    /// Stay and send what is written later.
    pub(crate) follow: bool,
    /// Only so many of the last lines.
    pub(crate) tail_lines: Option<usize>,
    /// Only what was written in the last so many seconds.
    pub(crate) since_seconds: Option<u64>,
    /// Each line starts with the time it was written.
    pub(crate) timestamps: bool,
    /// The log of the container before its last restart.
    pub(crate) previous: bool,
    /// End after so many bytes, in the middle of a line if need be.
    pub(crate) limit_bytes: Option<u64>,
}

/// What a client can be connected to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subresource {
    Exec,
    Attach,
    PortForward,
}

/// All Pods of one cluster. Clones share them; the last one to go ends their processes.
#[derive(Clone, Debug)]
pub(crate) struct PodRuntime {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    pods: Mutex<HashMap<(String, String), Pod>>,
    /// Parent of every Pod's token.
    ended: CancellationToken,
    sessions: TaskTracker,
    permits: Arc<Semaphore>,
    _end_on_drop: DropGuard,
}

#[derive(Debug)]
struct Pod {
    containers: Vec<(String, Log)>,
    /// Those added later, for debugging. Nobody means them without a name.
    ephemeral: Vec<(String, Log)>,
    ended: CancellationToken,
    /// Made by the first `exec`: most Pods never need a folder.
    scratch: Option<Arc<Scratch>>,
}

// === impl PodRuntime ===

impl PodRuntime {
    /// A runtime that keeps scratch folders in `directory` (a temporary one when `None`).
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        let ended = CancellationToken::new();
        Self {
            shared: Arc::new(Shared {
                directory: directory.unwrap_or_else(std::env::temp_dir),
                pods: Mutex::default(),
                sessions: TaskTracker::new(),
                permits: Arc::new(Semaphore::new(MAX_SESSIONS)),
                _end_on_drop: ended.clone().drop_guard(),
                ended,
            }),
        }
    }

    /// A Pod was created; `containers` are the names of its containers. A Pod of the same name
    /// that was here before ends.
    pub(crate) fn start(&self, namespace: &str, name: &str, containers: &[String]) {
        let pod = Pod {
            containers: containers
                .iter()
                .map(|container| (container.clone(), Log::start(name, container)))
                .collect(),
            ephemeral: Vec::new(),
            ended: self.shared.ended.child_token(),
            scratch: None,
        };
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(before) = self.shared.pods().insert(key, pod) {
            before.ended.cancel();
        }
    }

    /// A container was added to a Pod that runs; one that is there already runs on.
    pub(crate) fn debug(&self, namespace: &str, name: &str, container: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(pod) = self.shared.pods().get_mut(&key)
            && pod.ephemeral.iter().all(|(known, _)| known != container)
        {
            pod.ephemeral.push((container.to_owned(), Log::start(name, container)));
        }
    }

    /// A Pod is gone: its processes are killed, its streams end, its scratch folder is deleted.
    pub(crate) fn stop(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(pod) = self.shared.pods().remove(&key) {
            pod.ended.cancel();
        }
    }

    /// Ends every Pod and waits until no process of theirs is left.
    pub(crate) async fn finish(&self) {
        self.shared.ended.cancel();
        self.shared.pods().clear();
        self.shared.sessions.close();
        self.shared.sessions.wait().await;
    }

    /// The log of a container (of the only one when `None`).
    ///
    /// # Errors
    /// 404 for an unknown Pod; 400 for an unknown container, for no container where there are
    /// several, and for `previous`, because no container here ever restarts.
    pub(crate) fn logs(
        &self,
        namespace: &str,
        name: &str,
        container: Option<&str>,
        options: &LogOptions,
    ) -> Result<Body, MiniStatus> {
        let pods = self.shared.pods();
        let pod = find(&pods, namespace, name)?;
        let (container, log) = pod.container(name, container)?;
        if options.previous {
            return Err(MiniStatus::bad_request(format!(
                "previous terminated container \"{container}\" in pod \"{name}\" not found"
            )));
        }
        Ok(log.read(*options, pod.ended.clone()))
    }

    /// Gives what listens on `port` of a Pod an address of this machine, where TLS is spoken if that
    /// is given; `None` where nothing listens. It ends with the Pod.
    pub(crate) fn listen(
        &self,
        namespace: &str,
        name: &str,
        port: u16,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> std::io::Result<Option<Listener>> {
        let place = Place { namespace, pod: name };
        let (Some(service), Ok(ended)) = (Service::on(port), self.shared.alive(place)) else {
            return Ok(None);
        };
        listen::listen(&self.shared, service, place, ended, tls).map(Some)
    }

    /// Answers an authorised request for an interactive subresource of a Pod,
    /// and performs its upgrade.
    pub(crate) fn connect(
        &self,
        request: Request<hyper::body::Incoming>,
        subresource: Subresource,
        namespace: &str,
        name: &str,
    ) -> Response<Body> {
        let place = Place { namespace, pod: name };
        let answer = match subresource {
            Subresource::Exec => connect::exec(&self.shared, request, place),
            Subresource::Attach => connect::attach(&self.shared, request, place),
            Subresource::PortForward => connect::port_forward(&self.shared, request, place),
        };
        answer.unwrap_or_else(MiniStatus::into_response)
    }
}

// === impl Shared ===

impl Shared {
    fn pods(&self) -> MutexGuard<'_, HashMap<(String, String), Pod>> {
        // No section under this lock can leave the map half changed.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to one more session.
    fn permit(&self) -> Result<OwnedSemaphorePermit, MiniStatus> {
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            MiniStatus::new(429, "TooManyRequests", "too many sessions in this cluster")
        })
    }

    /// What ends what is inside this Pod.
    fn alive(&self, place: Place<'_>) -> Result<CancellationToken, MiniStatus> {
        Ok(find(&self.pods(), place.namespace, place.pod)?.ended.clone())
    }

    /// The log of a container's main program, and what ends it.
    fn main(
        &self,
        place: Place<'_>,
        container: Option<&str>,
    ) -> Result<(Log, CancellationToken), MiniStatus> {
        let pods = self.pods();
        let pod = find(&pods, place.namespace, place.pod)?;
        let (_, log) = pod.container(place.pod, container)?;
        Ok((log.clone(), pod.ended.clone()))
    }

    /// Where a process of this Pod runs, and what ends it.
    fn enter(
        &self,
        place: Place<'_>,
        container: Option<&str>,
    ) -> Result<(Arc<Scratch>, CancellationToken), MiniStatus> {
        let Place { namespace, pod: name } = place;
        let mut pods = self.pods();
        find(&pods, namespace, name)?.container(name, container)?;
        let key = (namespace.to_owned(), name.to_owned());
        let pod = pods.get_mut(&key).ok_or_else(|| MiniStatus::not_found("pods", name))?;
        let scratch = match &pod.scratch {
            Some(scratch) => Arc::clone(scratch),
            None => {
                let made = Scratch::create(&self.directory).map_err(|error| {
                    tracing::warn!(%error, directory = %self.directory.display(), "cannot make a scratch folder");
                    MiniStatus::new(500, "InternalError", format!("cannot make a scratch folder: {error}"))
                })?;
                Arc::clone(pod.scratch.insert(Arc::new(made)))
            }
        };
        Ok((scratch, pod.ended.clone()))
    }
}

// === impl Pod ===

impl Pod {
    fn container(&self, pod: &str, name: Option<&str>) -> Result<(&str, &Log), MiniStatus> {
        let found = match name.filter(|name| !name.is_empty()) {
            Some(name) => {
                let mut all = self.containers.iter().chain(&self.ephemeral);
                all.find(|(container, _)| container == name)
            }
            None if self.containers.len() == 1 => self.containers.first(),
            None => {
                let names: Vec<&str> =
                    self.containers.iter().map(|(name, _)| name.as_str()).collect();
                return Err(MiniStatus::bad_request(format!(
                    "a container name must be specified for pod {pod}, choose one of: [{}]",
                    names.join(" ")
                )));
            }
        };
        found.map(|(name, log)| (name.as_str(), log)).ok_or_else(|| {
            let name = name.unwrap_or_default();
            MiniStatus::bad_request(format!("container {name} is not valid for pod {pod}"))
        })
    }
}

fn find<'a>(
    pods: &'a HashMap<(String, String), Pod>,
    namespace: &str,
    name: &str,
) -> Result<&'a Pod, MiniStatus> {
    pods.get(&(namespace.to_owned(), name.to_owned()))
        .ok_or_else(|| MiniStatus::not_found("pods", name))
}

/// Sessions at one time in one cluster: one of `exec` holds a process, three pipes and a socket.
const MAX_SESSIONS: usize = 64;

#[cfg(test)]
mod tests;
