//! The policy's file: read when the hub starts, and again when it changes.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Policies;
use super::rules::{Policy, PolicyError};

/// A policy that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Its file.
    #[error("the policy {} cannot be read: {source}", .file.display())]
    Unreadable {
        /// Where it should be.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// More than anybody writes.
    #[error("the policy {} has more than {MAX_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    /// What is in it.
    #[error("the policy {} cannot be used: {why}", .file.display())]
    Wrong {
        /// Where it is.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Two metrics of one name: a mistake of ours.
    #[error("metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

// === impl Policies ===

impl Policies {
    /// Makes [`Policies::follow`] look now, and say what is wrong again.
    pub(crate) fn ask(&self) {
        self.0.asked.notify_one();
    }

    /// Takes over a changed policy within [`POLL`]; one that cannot be used is reported, and the
    /// last good one kept. Never returns.
    pub(crate) async fn follow(self) {
        let Some(file) = self.0.file.clone() else { return std::future::pending().await };
        let mut reported = None;
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(POLL) => false,
                () = self.0.asked.notified() => true,
            };
            let (policies, path) = (self.clone(), file.clone());
            let refreshed = tokio::task::spawn_blocking(move || policies.refresh(&path, asked));
            // A join error means that the runtime is going away.
            let Ok(outcome) = refreshed.await else { return std::future::pending().await };
            let outcome = outcome.map_err(|error| error.to_string());
            if let Err(error) = &outcome
                && (asked || reported.as_ref() != Some(error))
            {
                self.0.metrics.reload_failures.inc();
                tracing::error!(error, "keeping the policy that was in use");
            }
            match outcome {
                Ok(Looked::Same) if reported.is_some() => {}
                outcome => reported = outcome.err(),
            }
        }
    }

    /// Looks once; `again` also where nothing has changed.
    fn refresh(&self, file: &Path, again: bool) -> Result<Looked, Unusable> {
        let bytes = read(file)?;
        {
            let mut last = self.0.read.lock().unwrap_or_else(PoisonError::into_inner);
            if *last == bytes && !again {
                return Ok(Looked::Same);
            }
            last.clone_from(&bytes);
        }
        let policy = Arc::new(parse(file, &bytes)?);
        self.0.metrics.count(Some(&policy));
        tracing::info!(rules = policy.len(), "the policy was read");
        self.0.current.send_replace(Some(policy));
        Ok(Looked::Read)
    }
}

/// What a look at the file brought.
enum Looked {
    /// Nothing new; what was wrong with it still is.
    Same,
    /// A policy that is in force now.
    Read,
}

/// The file, whole.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, Unusable> {
    let unreadable = |source| Unusable::Unreadable { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Unusable::TooLarge(file.to_owned()));
    }
    Ok(bytes)
}

/// What is in it.
pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Policy, Unusable> {
    let text = str::from_utf8(bytes).map_err(|error| PolicyError::Shape(error.to_string()));
    text.and_then(Policy::parse)
        .map_err(|error| Unusable::Wrong { file: file.to_owned(), why: error.to_string() })
}

/// A ConfigMap that is mounted has no more either.
const MAX_BYTES: u64 = 1 << 20;

/// How often the file is looked at.
const POLL: Duration = Duration::from_secs(2);
