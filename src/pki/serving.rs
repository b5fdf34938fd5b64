//! The hub's two server configurations, kept fresh.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;
use rustls_pki_types::CertificateDer;
use tokio::sync::{Notify, watch};

use super::tls::{DockTls, FrontTls, Identity, TlsError};
use super::{authorities, ca, identity};
use crate::state::{Document, State, Version};

/// Both server configurations of a hub, loaded from its state and kept fresh.
#[derive(Clone)]
pub struct ServingTls {
    /// For the user listener.
    pub front: FrontTls,
    /// For the agent listener.
    pub dock: DockTls,
    shared: Arc<Shared>,
}

struct Shared {
    /// One for the life of the process, so that a reload does not void clients' tickets.
    ticketer: Arc<dyn ProducesTickets>,
    loaded: Mutex<Loaded>,
    reload_failed: AtomicBool,
    /// Look now.
    asked: Notify,
    presented: watch::Sender<Presented>,
}

/// What clients are shown, and by what they should verify it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presented {
    /// The certificate chain of both listeners, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The serving CA's bundle: the issuing certificate first, then predecessors that are still
    /// believed. Empty where an operator's own certificate is served.
    pub authorities: Vec<CertificateDer<'static>>,
}

/// What is served now.
struct Loaded {
    versions: Versions,
    expiries: Vec<(&'static str, SystemTime)>,
    renew_at: Option<SystemTime>,
}

/// Versions of [`DOCUMENTS`]; `None` for one that does not exist.
type Versions = [Option<Version>; 4];

/// Everything that is built from one reading of the documents.
struct Built {
    identity: Identity,
    agent_ca: Vec<CertificateDer<'static>>,
    presented: Presented,
    loaded: Loaded,
}

// === impl ServingTls ===

impl ServingTls {
    /// Reads serving certificate, key and agent CA bundle.
    pub async fn load(state: &State) -> Result<Self, TlsError> {
        let built = read(state).await?;
        let ticketer = Ticketer::new().map_err(|error| TlsError::Unusable(error.to_string()))?;
        let front = FrontTls::configure(&built.identity, ticketer.clone())?;
        let dock = DockTls::configure(&built.identity, &built.agent_ca)?;
        Ok(Self {
            front: FrontTls { config: Arc::new(ArcSwap::from_pointee(front)) },
            dock: DockTls { configs: Arc::new(ArcSwap::from_pointee(dock)) },
            shared: Arc::new(Shared {
                ticketer,
                loaded: Mutex::new(built.loaded),
                reload_failed: AtomicBool::new(false),
                asked: Notify::new(),
                presented: watch::Sender::new(built.presented),
            }),
        })
    }

    /// Looks for changed documents every [`POLL`] and swaps them in; a bad one is reported (log,
    /// [`ServingTls::reload_failed`]) and the old kept. Signs the serving certificate again at two
    /// thirds of its life where the state has the serving CA's key. Never returns.
    pub async fn watch(self, state: State) {
        self.watch_by(state, SystemTime::now).await;
    }

    /// [`ServingTls::watch`], by another clock.
    pub(super) async fn watch_by(self, state: State, clock: impl Fn() -> SystemTime) {
        let mut reported = None;
        let mut renewal_not_before = tokio::time::Instant::now();
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(POLL) => false,
                () = self.shared.asked.notified() => true,
            };
            let now = tokio::time::Instant::now();
            if self.renewal_due(clock()) && now >= renewal_not_before {
                renewal_not_before = now + RENEWAL_RETRY;
                self.renew(&state).await;
            }
            let outcome = self.refresh(&state).await.map_err(|error| error.to_string());
            // Once per kind of failure, not every two seconds.
            if let Err(error) = &outcome
                && (asked || reported.as_ref() != Some(error))
            {
                tracing::warn!(%error, "cannot use the changed certificates, keeping the old ones");
            }
            reported = outcome.err();
        }
    }

    /// Looks once, and swaps in what changed; both listeners change together. Returns whether
    /// something changed.
    ///
    /// # Errors
    /// [`TlsError`] when the documents cannot be read or used: the old ones stay in use.
    pub async fn refresh(&self, state: &State) -> Result<bool, TlsError> {
        let outcome = self.swap(state).await;
        self.shared.reload_failed.store(outcome.is_err(), Ordering::Relaxed);
        outcome
    }

    /// Makes [`ServingTls::watch`] look now, and say what is wrong again.
    pub fn ask(&self) {
        self.shared.asked.notify_one();
    }

    /// What is presented, as it changes.
    pub fn presented(&self) -> watch::Receiver<Presented> {
        self.shared.presented.subscribe()
    }

    /// Whether the documents in the state differ from those in use and cannot be used.
    pub fn reload_failed(&self) -> bool {
        self.shared.reload_failed.load(Ordering::Relaxed)
    }

    /// What expires when (`serving`, `serving-ca`, `agent-ca`), for metrics.
    pub fn expiries(&self) -> Vec<(&'static str, SystemTime)> {
        self.loaded().expiries.clone()
    }

    async fn swap(&self, state: &State) -> Result<bool, TlsError> {
        let built = read(state).await?;
        if built.loaded.versions == self.loaded().versions {
            return Ok(false);
        }
        let front = FrontTls::configure(&built.identity, self.shared.ticketer.clone())?;
        let dock = DockTls::configure(&built.identity, &built.agent_ca)?;
        self.front.config.store(front.into());
        self.dock.configs.store(dock.into());
        *self.loaded() = built.loaded;
        self.shared.presented.send_replace(built.presented);
        tracing::info!("serving changed certificates");
        Ok(true)
    }

    fn renewal_due(&self, now: SystemTime) -> bool {
        self.loaded().renew_at.is_some_and(|at| at <= now)
    }

    async fn renew(&self, state: &State) {
        // Without the key the certificate comes from elsewhere, and so does the next one.
        match state.store().read(&Document::ServingCaKey).await {
            Ok(None) => return,
            Ok(Some(_)) => {}
            Err(error) => tracing::warn!(%error, "cannot read the serving CA's key"),
        }
        match authorities::renew_serving(state).await {
            Ok(()) => tracing::info!("signed the serving certificate again"),
            Err(error) => tracing::warn!(%error, "cannot sign the serving certificate again"),
        }
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, Loaded> {
        self.shared.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ServingTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingTls").field("expiries", &self.expiries()).finish_non_exhaustive()
    }
}

async fn read(state: &State) -> Result<Built, TlsError> {
    let mut versions = Versions::default();
    let mut contents = [const { None }; 4];
    for (index, document) in DOCUMENTS.iter().enumerate() {
        if let Some(found) = state.store().read(document).await? {
            versions[index] = Some(found.version);
            contents[index] = Some(found.contents);
        }
    }
    let [Some(chain), Some(key), Some(agent_ca), serving_ca] = contents else {
        let missing = DOCUMENTS.iter().zip(&versions).find(|(_, version)| version.is_none());
        return Err(TlsError::Unusable(format!(
            "{} does not exist; run `pki init`, or check --dir or --state-namespace",
            missing.map_or_else(String::new, |(document, _)| document.to_string())
        )));
    };
    let of = |document: Document| {
        move |error| TlsError::Unusable(format!("{document} cannot be used: {error}"))
    };
    let identity = Identity::parse(&chain, &key).map_err(of(Document::ServingCertificate))?;
    let agent_ca = ca::certificates(&agent_ca).map_err(of(Document::AgentCaCertificate))?;
    // Optional: an operator's own serving certificate comes without its authority.
    let serving_ca = serving_ca
        .map(|pem| ca::certificates(&pem))
        .transpose()
        .map_err(of(Document::ServingCaCertificate))?
        .unwrap_or_default();
    let mut expiries = Vec::new();
    for (name, certificate) in [
        ("serving", identity.chain().first()),
        ("serving-ca", serving_ca.first()),
        ("agent-ca", agent_ca.first()),
    ] {
        if let Some(parsed) = certificate.and_then(identity::parse) {
            expiries.push((name, identity::time(parsed.validity().not_after)));
        }
    }
    let renew_at = identity.chain().first().and_then(authorities::renewal_time);
    let presented = Presented { chain: identity.chain().to_vec(), authorities: serving_ca };
    Ok(Built { identity, agent_ca, presented, loaded: Loaded { versions, expiries, renew_at } })
}

/// What a change of means new configurations. The last may be missing.
const DOCUMENTS: [Document; 4] = [
    Document::ServingCertificate,
    Document::ServingKey,
    Document::AgentCaCertificate,
    Document::ServingCaCertificate,
];

/// A replaced certificate is served within this and the time of one reading.
const POLL: Duration = Duration::from_secs(2);

/// A third of 90 days is left when this matters: no hurry.
const RENEWAL_RETRY: Duration = Duration::from_secs(60);
