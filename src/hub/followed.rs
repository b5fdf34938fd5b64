//! What an operator writes down in a file or in a ConfigMap of the hub's cluster, and changes while
//! the hub runs: read when it starts, and again when it changes. What cannot be used is reported,
//! and the last good one kept.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use prometheus::{IntCounter, IntGauge};
use serde::Deserialize;
use tokio::sync::{Notify, watch};

use super::authn::HubApi;

/// Where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nowhere.
    #[default]
    None,
    /// In a file.
    File(PathBuf),
    /// Under any keys of a ConfigMap on the hub's API server; a missing one is an empty one.
    ConfigMap {
        /// Of the hub.
        namespace: String,
        /// Of the ConfigMap.
        name: String,
    },
}

/// What can be written there.
pub(crate) trait Document: Sized + Send + Sync + 'static {
    /// What people call it, and a verb in the singular fits.
    const WHAT: &'static str;

    /// Of the texts under the keys of a ConfigMap, in their order; that of a file has the key "".
    ///
    /// # Errors
    /// Says what is wrong, and where.
    fn parse(texts: &[(&str, &str)]) -> Result<Self, String>;

    /// How many rules or entries it has.
    fn size(&self) -> usize;
}

/// The document in force. Clones share it.
pub(crate) struct Followed<T>(Arc<Inner<T>>);

struct Inner<T> {
    source: Source,
    /// Whose ConfigMap it is.
    hub_api: Option<Arc<dyn HubApi>>,
    /// `None` until it was read.
    current: watch::Sender<Option<Arc<T>>>,
    /// What was last read, also where it could not be used.
    read: Mutex<Option<Bytes>>,
    /// Look now.
    asked: Notify,
    metrics: FollowMetrics,
}

/// What an operator can see of it.
#[derive(Clone, Debug)]
pub(crate) struct FollowMetrics {
    /// Rules or entries in force.
    pub(crate) size: IntGauge,
    /// Looks that brought nothing that can be used, each problem once.
    pub(crate) failures: IntCounter,
}

/// A document that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Its file, or the API server that has its ConfigMap.
    #[error("the {what} ({at}) cannot be read: {why}")]
    Unreadable {
        /// What people call it.
        what: &'static str,
        /// Where it should be.
        at: String,
        /// What the system or the API server said.
        why: String,
    },
    /// What is in it.
    #[error("the {what} ({at}) cannot be used: {why}")]
    Wrong {
        /// What people call it.
        what: &'static str,
        /// Where it is.
        at: String,
        /// What is wrong.
        why: String,
    },
}

/// Reads a document for those who only want to know what it says.
///
/// # Errors
/// As a hub that starts with it.
pub(crate) async fn read<T: Document>(
    source: &Source,
    hub_api: Option<&dyn HubApi>,
) -> Result<T, Unusable> {
    parse(source, &fetch::<T>(source, hub_api).await?)
}

// === impl Followed ===

impl<T: Document> Followed<T> {
    /// Reads what is in a file. What is in a ConfigMap is first read by [`Followed::follow`]: the
    /// hub's API server may be away when the hub starts.
    ///
    /// # Errors
    /// When a file cannot be read or used: a hub must not start with something else than its
    /// operator wrote.
    pub(crate) fn load(
        source: Source,
        hub_api: Option<Arc<dyn HubApi>>,
        metrics: FollowMetrics,
    ) -> Result<Self, Unusable> {
        let (document, read) = match &source {
            Source::File(file) => {
                let bytes = read_file::<T>(file)?;
                (Some(parse::<T>(&source, &bytes)?), Some(bytes))
            }
            Source::None | Source::ConfigMap { .. } => (None, None),
        };
        metrics.count(document.as_ref());
        let current = watch::Sender::new(document.map(Arc::new));
        let (read, asked) = (Mutex::new(read), Notify::new());
        Ok(Self(Arc::new(Inner { source, hub_api, current, read, asked, metrics })))
    }

    /// Where it is.
    pub(crate) fn source(&self) -> &Source {
        &self.0.source
    }

    /// As it is in force; `None` where there is none, or none has been read yet.
    pub(crate) fn current(&self) -> Option<Arc<T>> {
        self.0.current.borrow().clone()
    }

    /// Tells of changes from now on. The sender lives as long as we do.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Arc<T>>> {
        self.0.current.subscribe()
    }

    /// Makes [`Followed::follow`] look now, and say what is wrong again.
    pub(crate) fn ask(&self) {
        self.0.asked.notify_one();
    }

    /// Takes over a change within [`POLL`]; what cannot be used is reported, and the last good one
    /// kept. Never returns.
    pub(crate) async fn follow(self) {
        if self.0.source == Source::None {
            return std::future::pending().await;
        }
        let mut reported: Option<Unusable> = None;
        let mut asked = false;
        loop {
            let looked = self.look(asked).await;
            if let Err(error) = &looked {
                let error = error.to_string();
                if asked || reported.as_ref().is_none_or(|before| before.to_string() != error) {
                    self.0.metrics.failures.inc();
                    tracing::error!(error, "keeping the {} as it was", T::WHAT);
                }
            }
            match (looked, &reported) {
                // What was wrong with it still is.
                (Ok(Looked::Same), Some(Unusable::Wrong { .. })) => {}
                (looked, _) => reported = looked.err(),
            }
            asked = tokio::select! {
                () = tokio::time::sleep(POLL) => false,
                () = self.0.asked.notified() => true,
            };
        }
    }

    /// Looks once; `again` also where nothing has changed.
    async fn look(&self, again: bool) -> Result<Looked, Unusable> {
        let bytes = fetch::<T>(&self.0.source, self.0.hub_api.as_deref()).await?;
        {
            let mut last = self.0.read.lock().unwrap_or_else(PoisonError::into_inner);
            if last.as_ref() == Some(&bytes) && !again {
                return Ok(Looked::Same);
            }
            *last = Some(bytes.clone());
        }
        let document = parse::<T>(&self.0.source, &bytes)?;
        self.0.metrics.count(Some(&document));
        tracing::info!(size = document.size(), "the {} was read", T::WHAT);
        self.0.current.send_replace(Some(Arc::new(document)));
        Ok(Looked::Read)
    }
}

impl<T> Clone for Followed<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// What a look brought.
enum Looked {
    /// Nothing new.
    Same,
    /// A document that is in force now.
    Read,
}

// === impl FollowMetrics ===

impl FollowMetrics {
    fn count<T: Document>(&self, document: Option<&T>) {
        let size = document.map_or(0, T::size);
        self.size.set(i64::try_from(size).unwrap_or(i64::MAX));
    }
}

// === impl Source ===

/// As people look for it.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("nowhere"),
            Self::File(file) => file.display().fmt(f),
            Self::ConfigMap { namespace, name } => write!(f, "ConfigMap {namespace}/{name}"),
        }
    }
}

/// The file, or the ConfigMap as its API server sends it, whole; nothing where there is none.
async fn fetch<T: Document>(
    source: &Source,
    hub_api: Option<&dyn HubApi>,
) -> Result<Bytes, Unusable> {
    match source {
        Source::None => Ok(Bytes::new()),
        Source::File(file) => {
            let file = file.clone();
            let bytes = tokio::task::spawn_blocking(move || read_file::<T>(&file)).await;
            // A join error means that the runtime is going away.
            let Ok(bytes) = bytes else { return std::future::pending().await };
            bytes
        }
        Source::ConfigMap { namespace, name } => {
            let unreadable =
                |why: String| Unusable::Unreadable { what: T::WHAT, at: source.to_string(), why };
            let Some(api) = hub_api else {
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
    }
}

fn read_file<T: Document>(file: &Path) -> Result<Bytes, Unusable> {
    let unreadable = |why: String| {
        let at = file.display().to_string();
        Unusable::Unreadable { what: T::WHAT, at, why }
    };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(|error| unreadable(error.to_string()))?;
    let read = opened.take(MAX_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(unreadable(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(bytes.into())
}

fn parse<T: Document>(source: &Source, bytes: &[u8]) -> Result<T, Unusable> {
    let wrong = |why: String| Unusable::Wrong { what: T::WHAT, at: source.to_string(), why };
    match source {
        Source::ConfigMap { .. } => {
            let map = match bytes {
                [] => ConfigMap::default(),
                bytes => serde_json::from_slice(bytes)
                    .map_err(|_| wrong("it is no ConfigMap".to_owned()))?,
            };
            let texts = map.data.iter().map(|(key, text)| (key.as_str(), text.as_str()));
            T::parse(&texts.collect::<Vec<_>>()).map_err(wrong)
        }
        Source::File(_) | Source::None => {
            let text = str::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?;
            T::parse(&[("", text)]).map_err(wrong)
        }
    }
}

/// What an error in the text under `key` begins with.
pub(crate) fn of_key(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("key {key}: ") }
}

#[derive(Default, Deserialize)]
struct ConfigMap {
    #[serde(default)]
    data: BTreeMap<String, String>,
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
