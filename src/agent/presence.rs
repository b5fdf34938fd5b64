//! Which tunnels are in use, by hub replica.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::IntGauge;
use tokio::sync::watch;

/// The tunnels in use of one agent.
pub(super) struct Presence {
    replicas: Mutex<HashMap<String, usize>>,
    gauge: IntGauge,
    /// Moves with every tunnel that comes or goes, and with news of replicas.
    changes: watch::Sender<()>,
}

/// One tunnel's place; empty until it is greeted, and again once it is told to go.
pub(super) struct Place {
    presence: Arc<Presence>,
    replica: Mutex<Option<String>>,
}

/// How many tunnels a replica may have for one more to be of use.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    /// Tunnels to each replica.
    pub(super) tunnels: usize,
    /// The replica whose tunnel this one replaces: there it is of use however many there are.
    pub(super) instead_of: Option<String>,
}

// === impl Presence ===

impl Presence {
    pub(super) fn new(gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { replicas: Mutex::default(), gauge, changes: watch::Sender::new(()) })
    }

    /// Whether any tunnel is in use.
    pub(super) fn is_ready(&self) -> bool {
        self.gauge.get() > 0
    }

    pub(super) fn place(self: &Arc<Self>) -> Place {
        Place { presence: self.clone(), replica: Mutex::default() }
    }

    /// Tunnels to `replica`.
    pub(super) fn count(&self, replica: &str) -> usize {
        lock(&self.replicas).get(replica).copied().unwrap_or_default()
    }

    /// Something is to be looked at again.
    pub(super) fn changed(&self) {
        self.changes.send_replace(());
    }

    /// Told of every change.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

// === impl Place ===

impl Place {
    /// Counts the tunnel as one to `replica`, unless that has enough already: two addresses of one
    /// replica need no tunnels each.
    pub(super) fn take(&self, replica: &str, limit: &Limit) -> bool {
        let mut replicas = lock(&self.presence.replicas);
        let count = replicas.entry(replica.to_owned()).or_default();
        if *count >= limit.tunnels && limit.instead_of.as_deref() != Some(replica) {
            return false;
        }
        // Greeted twice: the last word counts.
        let before = lock(&self.replica).replace(replica.to_owned());
        *count += 1;
        match before {
            Some(before) => subtract(&mut replicas, &before),
            None => self.presence.gauge.inc(),
        }
        self.presence.changed();
        true
    }

    /// Counts it no longer. May be called again.
    pub(super) fn give_back(&self) {
        let mut replicas = lock(&self.presence.replicas);
        let Some(replica) = lock(&self.replica).take() else { return };
        subtract(&mut replicas, &replica);
        self.presence.gauge.dec();
        self.presence.changed();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn subtract(replicas: &mut HashMap<String, usize>, replica: &str) {
    if let Some(count) = replicas.get_mut(replica) {
        *count -= 1;
        if *count == 0 {
            replicas.remove(replica);
        }
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
        let two = Limit { tunnels: 2, instead_of: None };
        assert!(!presence.is_ready());
        assert!(places[0].take("r1", &two));
        assert!(places[1].take("r1", &two));
        assert!(!places[2].take("r1", &two), "surplus");
        assert!(places[2].take("r2", &two), "another replica");
        let replacement = |replica: &str| Limit { tunnels: 2, instead_of: Some(replica.into()) };
        assert!(!places[3].take("r1", &replacement("r2")), "not where it was to be");
        assert!(places[3].take("r1", &replacement("r1")), "a replacement");
        assert_eq!((presence.count("r1"), presence.count("r2")), (3, 1));
        places[0].give_back();
        places[0].give_back();
        assert_eq!(presence.gauge.get(), 3);
        drop(places);
        assert!(!presence.is_ready());
        assert!(presence.replicas.lock().unwrap().is_empty());
    }
}
