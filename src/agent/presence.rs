//! Which tunnels are in use, by hub replica.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::IntGauge;

/// The tunnels in use of one agent.
pub(super) struct Presence {
    replicas: Mutex<HashMap<String, usize>>,
    gauge: IntGauge,
}

/// One tunnel's place; empty until it is greeted, and again once it is told to go.
pub(super) struct Place {
    presence: Arc<Presence>,
    replica: Mutex<Option<String>>,
}

// === impl Presence ===

impl Presence {
    pub(super) fn new(gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { replicas: Mutex::default(), gauge })
    }

    /// Whether any tunnel is in use.
    pub(super) fn is_ready(&self) -> bool {
        self.gauge.get() > 0
    }

    pub(super) fn place(self: &Arc<Self>) -> Place {
        Place { presence: self.clone(), replica: Mutex::default() }
    }
}

// === impl Place ===

impl Place {
    /// Counts the tunnel as one to `replica`, unless that has `limit` already: two addresses of
    /// one replica need no tunnels each.
    pub(super) fn take(&self, replica: &str, limit: Option<usize>) -> bool {
        let mut replicas = lock(&self.presence.replicas);
        let count = replicas.entry(replica.to_owned()).or_default();
        if limit.is_some_and(|limit| *count >= limit) {
            return false;
        }
        *count += 1;
        *lock(&self.replica) = Some(replica.to_owned());
        self.presence.gauge.inc();
        true
    }

    /// Counts it no longer. May be called again.
    pub(super) fn give_back(&self) {
        let mut replicas = lock(&self.presence.replicas);
        let Some(replica) = lock(&self.replica).take() else { return };
        if let Some(count) = replicas.get_mut(&replica) {
            *count -= 1;
            if *count == 0 {
                replicas.remove(&replica);
            }
        }
        self.presence.gauge.dec();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// No section below panics half-way, so a poisoned value is still a good one.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_has_its_number_and_no_more() {
        let presence = Presence::new(IntGauge::new("tunnels", "t").unwrap());
        let places: Vec<Place> = (0..4).map(|_| presence.place()).collect();
        assert!(!presence.is_ready());
        assert!(places[0].take("r1", Some(2)));
        assert!(places[1].take("r1", Some(2)));
        assert!(!places[2].take("r1", Some(2)), "surplus");
        assert!(places[2].take("r2", Some(2)), "another replica");
        assert!(places[3].take("r1", None), "a replacement");
        places[0].give_back();
        places[0].give_back();
        assert_eq!(presence.gauge.get(), 3);
        drop(places);
        assert!(!presence.is_ready());
        assert!(presence.replicas.lock().unwrap().is_empty());
    }
}
