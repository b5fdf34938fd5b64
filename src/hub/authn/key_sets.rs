//! The key set of one cluster, or of the hub: what was published, what of it counts, and when to
//! ask again. No I/O; [`super::refresh`] does that.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::keys::{Jwk, PublicKey};
use super::ownership::{Owner, Owners};
use super::token::Unverified;
use crate::fleet::About;

/// One source of keys.
pub(super) struct KeySet {
    /// Whose set it is.
    pub(super) owner: Owner,
    snapshot: ArcSwap<Snapshot>,
    published: Mutex<Arc<Material>>,
    /// Whether the hub's keys counted as its own when it was last settled.
    hub_itself: AtomicBool,
    /// Whether the last attempt to read it worked, and when asked.
    schedule: Mutex<Schedule>,
    /// Says that an attempt was made; no value is needed for that.
    attempts: watch::Sender<()>,
}

/// What verifies tokens right now: immutable, replaced whole.
pub(super) struct Snapshot {
    /// Unique in this process: an equal number means equal keys, issuers and audiences.
    pub(super) generation: u64,
    /// Keys that are this owner's.
    keys: Vec<Arc<PublicKey>>,
    /// Accepted `iss`.
    pub(super) issuers: Vec<String>,
    /// Accepted `aud`.
    pub(super) audiences: Vec<String>,
    /// When the keys were read.
    read_at: SystemTime,
}

/// What a source said when it was last read, before ownership.
#[derive(Clone, Default)]
pub(super) struct Material {
    /// Every usable key it published.
    pub(super) keys: Vec<Arc<PublicKey>>,
    /// The same, and the rest, as it is stored.
    pub(super) kept: Kept,
}

/// A key set as it is stored: [`crate::state::Document::KeySet`], [`crate::state::Document::HubKeySet`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Kept {
    /// Public keys.
    pub(super) keys: Vec<Jwk>,
    /// Issuers that the agent told.
    pub(super) issuers: Vec<String>,
    /// `issuer` of the API server's discovery document.
    pub(super) discovered_issuer: Option<String>,
    /// Audiences that the agent told.
    pub(super) audiences: Vec<String>,
    /// Seconds since the epoch.
    pub(super) read_at: u64,
}

/// Who made a signature, as far as one key set knows.
pub(super) enum Signer {
    /// A key of the set.
    Key(Arc<PublicKey>),
    /// None, though the set has a key of the name that the token gives.
    Forged,
    /// None, and the set lacks a key of that name: it may have been read too early.
    Unknown,
}

#[derive(Default)]
struct Schedule {
    /// When the next periodic read is due; none before the first.
    next: Option<Instant>,
    started: Option<Instant>,
    /// A token with an unknown key wants it now.
    wanted: bool,
    /// When a token last wanted it.
    asked: Option<Instant>,
    reading: bool,
    /// Whether the source could be reached when last looked at.
    live: bool,
    /// What the agent said when last looked at.
    about: Option<About>,
    /// Whether the last attempt worked.
    answered: bool,
}

// === impl KeySet ===

impl KeySet {
    /// A set that verifies nothing until it is published.
    pub(super) fn new(owner: Owner) -> Self {
        Self {
            owner,
            snapshot: ArcSwap::from_pointee(Snapshot::empty()),
            published: Mutex::default(),
            hub_itself: AtomicBool::new(false),
            schedule: Mutex::default(),
            attempts: watch::Sender::new(()),
        }
    }

    /// What verifies tokens right now.
    pub(super) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// What was last published.
    pub(super) fn material(&self) -> Arc<Material> {
        lock(&self.published).clone()
    }

    /// Replaces what was published. Follow with [`KeySet::settle`].
    pub(super) fn replace(&self, material: Material) {
        *lock(&self.published) = Arc::new(material);
    }

    /// Works out which published keys count. Without a change the generation stays.
    pub(super) fn settle(&self, owners: &Owners, hub_itself: bool) {
        // Held to the end, so that an older decision never replaces a newer one.
        let material = lock(&self.published);
        self.hub_itself.store(hub_itself, Ordering::Relaxed);
        let ours = |key: &&Arc<PublicKey>| match owners.get(&key.thumbprint) {
            // What the hub and the issuers publish needs nobody's record to be theirs; two issuers
            // may share keys (tenants of one service do).
            _ if !matches!(self.owner, Owner::Cluster(_)) => true,
            Some(Owner::Hub) => hub_itself,
            owner => owner == Some(&self.owner),
        };
        let kept = &material.kept;
        let discovered = kept.discovered_issuer.iter();
        let next = Snapshot {
            generation: next_generation(),
            keys: material.keys.iter().filter(ours).cloned().collect(),
            issuers: kept.issuers.iter().chain(discovered).cloned().collect(),
            audiences: kept.audiences.clone(),
            read_at: SystemTime::UNIX_EPOCH + Duration::from_secs(kept.read_at),
        };
        let current = self.snapshot.load();
        let generation = if current.same(&next) { current.generation } else { next.generation };
        self.snapshot.store(Arc::new(Snapshot { generation, ..next }));
    }

    /// Whether the hub's keys count as its own.
    pub(super) fn is_hub_itself(&self) -> bool {
        self.hub_itself.load(Ordering::Relaxed)
    }

    /// Whether the last attempt to read the set worked.
    pub(super) fn answered(&self) -> bool {
        lock(&self.schedule).answered
    }

    /// Asks for a read because of an unknown key. Returns what to wait for: a read that is under
    /// way or wanted already is shared, and a new one is granted once per [`UNKNOWN_KEY_INTERVAL`].
    pub(super) fn ask(&self) -> Option<watch::Receiver<()>> {
        let mut schedule = lock(&self.schedule);
        if !schedule.reading && !schedule.wanted {
            let recently = |asked: Instant| asked.elapsed() < UNKNOWN_KEY_INTERVAL;
            if schedule.asked.is_some_and(recently) {
                return None;
            }
            schedule.asked = Some(Instant::now());
            schedule.wanted = true;
        }
        Some(self.attempts.subscribe())
    }

    /// Whether a read should start now; the caller starts it. `live` is whether it can work.
    /// A source that has just come up, or says something new of itself, is read at once.
    pub(super) fn start(&self, live: bool, about: Option<&About>) -> bool {
        let now = Instant::now();
        let mut schedule = lock(&self.schedule);
        let news = live && (!schedule.live || schedule.about.as_ref() != about);
        schedule.live = live;
        if news {
            schedule.about = about.cloned();
            // An agent that comes and goes all the time is read no more often than this.
            let earliest = schedule.started.map_or(now, |started| started + SHORTEST_INTERVAL);
            schedule.next = Some(now.max(earliest));
        }
        if !live && schedule.wanted && !schedule.reading {
            schedule.wanted = false;
            self.attempts.send_replace(());
        }
        let due = schedule.wanted || schedule.next.is_none_or(|next| now >= next);
        if schedule.reading || !live || !due {
            return false;
        }
        schedule.started = Some(now);
        schedule.reading = true;
        schedule.wanted = false;
        true
    }

    /// Tells everybody who waits that an attempt was made.
    pub(super) fn attempted(&self, answered: bool) {
        lock(&self.schedule).answered = answered;
        self.attempts.send_replace(());
    }

    /// Ends what [`KeySet::start`] began.
    pub(super) fn finish(&self) {
        let mut schedule = lock(&self.schedule);
        schedule.reading = false;
        let again = match &self.owner {
            // Who is to blame for a 503 of strangers, and cannot tell us that it is back.
            Owner::Reserved(_) if !schedule.answered => RETRY,
            _ => INTERVAL.mul_f64(rand::random_range(0.9..1.1)),
        };
        schedule.next = Some(Instant::now() + again);
        drop(schedule);
        self.attempts.send_replace(());
    }

    /// When [`KeySet::start`] may say yes without news; none while a read is under way or the
    /// source cannot be reached.
    pub(super) fn due(&self) -> Option<Instant> {
        let schedule = lock(&self.schedule);
        schedule.next.filter(|_| schedule.live && !schedule.reading)
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Knows no key.
    pub(super) fn empty() -> Self {
        Self {
            generation: next_generation(),
            keys: Vec::new(),
            issuers: Vec::new(),
            audiences: Vec::new(),
            read_at: SystemTime::UNIX_EPOCH,
        }
    }

    /// Who signed `token`.
    pub(super) fn signer(&self, token: &Unverified<'_>, now: SystemTime) -> Signer {
        let key_id = token.key_id.as_deref();
        if now.duration_since(self.read_at).is_ok_and(|age| age > MAX_AGE) {
            return Signer::Unknown;
        }
        let mut tried = false;
        for key in self.keys.iter().filter(|key| key.may_be(key_id)) {
            if key.verifies(token) {
                return Signer::Key(key.clone());
            }
            tried |= key_id.is_some();
        }
        if tried { Signer::Forged } else { Signer::Unknown }
    }

    /// Whether a key counts here.
    pub(super) fn holds(&self, thumbprint: &str) -> bool {
        self.keys.iter().any(|key| key.thumbprint == thumbprint)
    }

    fn same(&self, other: &Self) -> bool {
        let keys = |snapshot: &Self| -> Vec<Jwk> {
            snapshot.keys.iter().map(|key| key.jwk().clone()).collect()
        };
        keys(self) == keys(other)
            && self.issuers == other.issuers
            && self.audiences == other.audiences
    }
}

// === impl Material ===

impl Material {
    /// What was stored, ready for use.
    pub(super) fn from_kept(kept: Kept) -> Self {
        let keys = kept.keys.iter().cloned().filter_map(PublicKey::from_jwk);
        Self { keys: keys.map(Arc::new).collect(), kept }
    }

    /// Thumbprints of all keys.
    pub(super) fn thumbprints(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.thumbprint.clone()).collect()
    }
}

/// Seconds since the epoch, as they are stored.
pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// These locks guard plain values, which are whole whoever panicked.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that was never used.
pub(super) fn next_generation() -> u64 {
    NEXT_GENERATION.fetch_add(1, Ordering::Relaxed)
}

static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);

/// How often a set is read while its source can be reached.
pub(super) const INTERVAL: Duration = Duration::from_secs(60);

/// How often tokens with an unknown key may cause a read: enough for a rotation that outruns
/// [`INTERVAL`], and nothing to attack with.
pub(super) const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(30);

/// How long a read may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// How soon an issuer that could not be read is tried again, as upstream does.
const RETRY: Duration = Duration::from_secs(10);

const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// A set that nobody could read again for this long verifies nothing: keys may have been withdrawn
/// since. As long as an agent may sleep and come back.
const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

#[cfg(test)]
mod tests;
