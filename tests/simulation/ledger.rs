//! What callers saw, and what the faults of a run excuse.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// How something went wrong for a caller. What is not listed here is never right: an answer of somebody
/// else, a part that looks like a whole, a 401 for a good token, no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection to the hub.
    Refused,
    /// An error of ours in place of the answer: 502, 503 or 504.
    Answered(u16),
    /// The answer broke off, or did not come.
    Cut,
    /// A watch that was told to begin again.
    Ended,
}

/// One thing that a caller did.
pub(crate) struct Deed {
    pub(crate) what: String,
    pub(crate) cluster: usize,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    pub(crate) result: Result<(), Failure>,
}

/// A time in which failures of some kinds have a reason.
#[derive(Clone, Debug)]
pub(crate) struct Excuse {
    pub(crate) kinds: Vec<Kind>,
    /// All, where it is `None`.
    pub(crate) cluster: Option<usize>,
    /// For what began from then on.
    pub(crate) begun: Duration,
    /// For failures from then on.
    pub(crate) from: Duration,
    /// For what began before; open until everything is well again.
    pub(crate) to: Option<Duration>,
}

/// [`Failure`] without its details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Refused,
    Answered,
    Cut,
    Ended,
}

/// Shared by callers and judge.
#[derive(Default)]
pub(crate) struct Ledger {
    deeds: Mutex<Vec<Deed>>,
    wrongs: Mutex<Vec<String>>,
    running: AtomicUsize,
    stop: AtomicBool,
}

// === impl Excuse ===

impl Excuse {
    fn covers(&self, deed: &Deed, kind: Kind) -> bool {
        self.kinds.contains(&kind)
            && self.cluster.is_none_or(|cluster| cluster == deed.cluster)
            && deed.from >= self.begun
            && deed.to >= self.from
            && self.to.is_none_or(|to| deed.from <= to)
    }
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn begin(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self, deed: Deed) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        self.deeds.lock().unwrap().push(deed);
    }

    /// Nothing excuses this.
    pub(crate) fn wrong(&self, what: String) {
        self.wrongs.lock().unwrap().push(what);
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// How many things callers did, and how many of them failed with a reason.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let deeds = self.deeds.lock().unwrap();
        (deeds.len(), deeds.iter().filter(|deed| deed.result.is_err()).count())
    }

    /// Everything that went wrong and has no excuse.
    pub(crate) fn judge(&self, excuses: &[Excuse]) -> Vec<String> {
        let mut found = self.wrongs.lock().unwrap().clone();
        for deed in self.deeds.lock().unwrap().iter() {
            let Err(failure) = deed.result else { continue };
            let kind = match failure {
                Failure::Refused => Kind::Refused,
                Failure::Answered(502..=504) => Kind::Answered,
                Failure::Cut => Kind::Cut,
                Failure::Ended => Kind::Ended,
                Failure::Answered(_) => {
                    found.push(format!("{deed}"));
                    continue;
                }
            };
            if !excuses.iter().any(|excuse| excuse.covers(deed, kind)) {
                found.push(format!("{deed}"));
            }
        }
        found
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, cluster, from, to, result } = self;
        write!(f, "c{cluster} {what}, from {from:.3?} to {to:.3?}: {result:?}")
    }
}
