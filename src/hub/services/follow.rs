//! The list's file or ConfigMap: read when the hub starts, and again when it changes.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;

use super::list::{Exposed, ListError};
use super::{ExposedServices, Services};

/// A list of exposed services that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnusableList {
    /// Its file, or the API server that has its ConfigMap.
    #[error("the exposed services ({at}) cannot be read: {why}")]
    Unreadable {
        /// Where they should be.
        at: String,
        /// What the system or the API server said.
        why: String,
    },
    /// What is in it.
    #[error("the exposed services ({at}) cannot be used: {why}")]
    Wrong {
        /// Where they are.
        at: String,
        /// What is wrong.
        why: String,
    },
    /// Two metrics of one name: a mistake of ours.
    #[error("metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

// === impl Services ===

impl Services {
    /// Makes [`Services::follow`] look now, and say what is wrong again.
    pub(crate) fn ask(&self) {
        self.0.asked.notify_one();
    }

    /// Takes over a changed list within [`POLL`]; one that cannot be used is reported, and the last
    /// good one kept. Never returns.
    pub(crate) async fn follow(self) {
        if self.0.source == ExposedServices::None {
            return std::future::pending().await;
        }
        let mut reported: Option<UnusableList> = None;
        let mut asked = false;
        loop {
            let looked = self.look(asked).await;
            if let Err(error) = &looked {
                let error = error.to_string();
                if asked || reported.as_ref().is_none_or(|before| before.to_string() != error) {
                    self.0.metrics.reload_failures.inc();
                    tracing::error!(error, "keeping the list of exposed services that was in use");
                }
            }
            match (looked, &reported) {
                // What was wrong with it still is.
                (Ok(Looked::Same), Some(UnusableList::Wrong { .. })) => {}
                (looked, _) => reported = looked.err(),
            }
            asked = tokio::select! {
                () = tokio::time::sleep(POLL) => false,
                () = self.0.asked.notified() => true,
            };
        }
    }

    /// Looks once; `again` also where nothing has changed.
    async fn look(&self, again: bool) -> Result<Looked, UnusableList> {
        match &self.0.source {
            ExposedServices::None => Ok(Looked::Same),
            ExposedServices::File(file) => {
                let path = file.clone();
                let bytes = tokio::task::spawn_blocking(move || read_file(&path)).await;
                // A join error means that the runtime is going away.
                let Ok(bytes) = bytes else { return std::future::pending().await };
                self.take(&bytes?, again, |bytes| of_file(file, bytes))
            }
            ExposedServices::ConfigMap { namespace, name } => {
                let at = format!("ConfigMap {namespace}/{name}");
                let body = self.config_map(&at, namespace, name).await?;
                self.take(&body, again, |body| of_config_map(&at, body))
            }
        }
    }

    /// The ConfigMap, whole; nothing where there is none.
    async fn config_map(
        &self,
        at: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Bytes, UnusableList> {
        let unreadable = |why: String| UnusableList::Unreadable { at: at.to_owned(), why };
        let Some(api) = &self.0.hub_api else {
            return Err(unreadable("there is no API server of the hub".to_owned()));
        };
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
        let answer = api.get(&path, MAX_CONFIG_MAP, DEADLINE).await;
        match answer.map_err(|error| unreadable(error.to_string()))? {
            (StatusCode::OK, body) => Ok(body),
            (StatusCode::NOT_FOUND, _) => Ok(Bytes::new()),
            (status, _) => Err(unreadable(format!("it is answered with {status}"))),
        }
    }

    fn take(
        &self,
        bytes: &[u8],
        again: bool,
        parse: impl FnOnce(&[u8]) -> Result<Exposed, UnusableList>,
    ) -> Result<Looked, UnusableList> {
        {
            let mut last = self.0.read.lock().unwrap_or_else(PoisonError::into_inner);
            let first = self.0.current.borrow().is_none() && last.is_empty();
            if *last == bytes && !again && !first {
                return Ok(Looked::Same);
            }
            bytes.clone_into(&mut last);
        }
        let exposed = Arc::new(parse(bytes)?);
        self.0.metrics.count(Some(&exposed));
        tracing::info!(entries = exposed.len(), "the list of exposed services was read");
        self.0.current.send_replace(Some(exposed));
        Ok(Looked::Read)
    }
}

/// What a look brought.
enum Looked {
    /// Nothing new.
    Same,
    /// A list that is in force now.
    Read,
}

/// The file, whole.
pub(super) fn read_file(file: &Path) -> Result<Vec<u8>, UnusableList> {
    let unreadable = |why: String| UnusableList::Unreadable { at: of(file), why };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(|error| unreadable(error.to_string()))?;
    let read = opened.take(MAX_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(unreadable(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

/// What is in a file: one list.
pub(super) fn of_file(file: &Path, bytes: &[u8]) -> Result<Exposed, UnusableList> {
    let wrong = |why: String| UnusableList::Wrong { at: of(file), why };
    let text = str::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?;
    Exposed::parse([("", text)]).map_err(|error| wrong(error.to_string()))
}

/// What is in a ConfigMap: a list under each key, none where there is no ConfigMap.
fn of_config_map(at: &str, body: &[u8]) -> Result<Exposed, UnusableList> {
    #[derive(Deserialize)]
    struct ConfigMap {
        #[serde(default)]
        data: BTreeMap<String, String>,
    }
    if body.is_empty() {
        return Ok(Exposed::default());
    }
    let wrong = |why: String| UnusableList::Wrong { at: at.to_owned(), why };
    let map: ConfigMap =
        serde_json::from_slice(body).map_err(|_| wrong("it is no ConfigMap".to_owned()))?;
    let documents = map.data.iter().map(|(key, text)| (key.as_str(), text.as_str()));
    Exposed::parse(documents).map_err(|error: ListError| wrong(error.to_string()))
}

fn of(file: &Path) -> String {
    PathBuf::from(file).display().to_string()
}

/// A ConfigMap that is mounted has no more either.
const MAX_BYTES: u64 = 1 << 20;

/// No API server keeps a larger object than this.
const MAX_CONFIG_MAP: usize = 2 * 1024 * 1024;

/// For one look at the hub's API server, which answers in milliseconds.
const DEADLINE: Duration = Duration::from_secs(5);

/// How often a look is taken. A file costs nothing, and a ConfigMap one small request; what is
/// withdrawn ends within ten seconds, the look included.
const POLL: Duration = Duration::from_secs(2);
