//! Which replicas of one hub must have tunnels, by what they say of each other.
//!
//! A replica speaks for as long as we have a tunnel to it. One that says goodbye, or that nobody
//! names any more, need not be reached.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::presence::Presence;

/// The replicas behind one name of a hub.
pub(super) struct Coverage {
    presence: Arc<Presence>,
    /// Wanted to each replica.
    tunnels: usize,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    /// Who lives, by who said so.
    living: HashMap<String, Vec<String>>,
    /// Replicas that said goodbye, while others still name them.
    leaving: BTreeSet<String>,
}

/// What is to be looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// A replica that lives and lacks tunnels.
    pub(super) replica: String,
    /// How many live, this one included.
    pub(super) living: usize,
}

// === impl Coverage ===

impl Coverage {
    pub(super) fn new(presence: Arc<Presence>, tunnels: usize) -> Self {
        Self { presence, tunnels, said: Mutex::default() }
    }

    /// `replica` took a new tunnel of ours, and says who lives. It may have sent us away before, when
    /// our key was replaced.
    pub(super) fn greeted(&self, replica: &str, living: Vec<String>) {
        self.said().leaving.remove(replica);
        self.heard(replica, living);
    }

    /// `speaker`, to which there is a tunnel, says who lives.
    pub(super) fn heard(&self, speaker: &str, living: Vec<String>) {
        self.said().living.insert(speaker.to_owned(), living);
        self.presence.changed();
    }

    /// `replica` asked us to dial elsewhere.
    pub(super) fn left(&self, replica: &str) {
        let mut said = self.said();
        said.living.remove(replica);
        said.leaving.insert(replica.to_owned());
    }

    /// The first replica that lives and lacks tunnels.
    pub(super) fn missing(&self) -> Option<Missing> {
        let said = &mut *self.said();
        said.living.retain(|speaker, _| self.presence.count(speaker) > 0);
        let living: BTreeSet<&String> = said.living.values().flatten().collect();
        said.leaving.retain(|replica| living.contains(replica));
        let count = living.len();
        let mut wanted = living.into_iter().filter(|replica| !said.leaving.contains(*replica));
        let replica = wanted.find(|replica| self.presence.count(replica) < self.tunnels)?;
        Some(Missing { replica: replica.clone(), living: count })
    }

    /// Ready while a replica lacks tunnels.
    pub(super) async fn lacking(&self) {
        let mut changes = self.presence.changes();
        while self.missing().is_none() {
            // Invariant: the sender is in the presence that we hold.
            changes.changed().await.expect("the presence is there");
        }
    }

    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        // No section panics half-way, so a poisoned value is still a good one.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::IntGauge;

    use super::*;
    use crate::agent::presence::{Limit, Place};

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    fn tunnel(presence: &Arc<Presence>, replica: &str) -> Place {
        let place = presence.place();
        assert!(place.take(replica, &Limit { tunnels: 1, instead_of: None }));
        place
    }

    #[tokio::test(start_paused = true)]
    async fn who_lives_is_to_be_reached() {
        let presence = Presence::new(IntGauge::new("tunnels", "t").unwrap());
        let coverage = Coverage::new(presence.clone(), 1);
        assert_eq!(coverage.missing(), None, "nobody has said anything");
        let one = tunnel(&presence, "r1");
        coverage.heard("r1", ids(&["r1", "r2"]));
        let missing = |replica: &str, living| Some(Missing { replica: replica.to_owned(), living });
        assert_eq!(coverage.missing(), missing("r2", 2));
        let two = tunnel(&presence, "r2");
        coverage.heard("r2", ids(&["r1", "r2"]));
        assert_eq!(coverage.missing(), None);

        // A lost tunnel is noticed by who waits, and a new replica by whoever hears of it.
        let lacking =
            async { tokio::time::timeout(Duration::from_secs(1), coverage.lacking()).await };
        let (noticed, ()) = tokio::join!(lacking, async { drop(two) });
        assert!(noticed.is_ok());
        let two = tunnel(&presence, "r2");
        let quiet = tokio::time::timeout(Duration::from_secs(1), coverage.lacking()).await;
        assert!(quiet.is_err());
        coverage.heard("r2", ids(&["r1", "r2", "r3"]));
        assert_eq!(coverage.missing(), missing("r3", 3));

        // One that left is not dialled because others have not noticed yet.
        coverage.heard("r2", ids(&["r1", "r2"]));
        one.give_back();
        coverage.left("r1");
        assert_eq!(coverage.missing(), None);
        coverage.heard("r2", ids(&["r2"]));
        assert_eq!(coverage.missing(), None);
        assert!(coverage.said().leaving.is_empty(), "nobody names it: forgotten");

        // One that sent us away with the old key and takes the new one is to be reached again.
        coverage.left("r2");
        coverage.heard("r1", ids(&["r1", "r2", "r3"]));
        coverage.greeted("r2", ids(&["r2", "r3"]));
        coverage.left("r3");
        assert_eq!(coverage.missing(), None);
        coverage.greeted("r3", ids(&["r2", "r3"]));
        assert_eq!(coverage.missing(), missing("r3", 2));

        // A speaker that is gone says nothing.
        coverage.heard("r2", ids(&["r2", "r4"]));
        drop(two);
        assert_eq!(coverage.missing(), None);
    }
}
