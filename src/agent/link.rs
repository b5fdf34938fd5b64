//! What the hub says on one tunnel, for whoever keeps it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::presence::{Limit, Place};

/// One tunnel, as far as the hub has spoken on it. Clones share it.
#[derive(Clone)]
pub(super) struct Link {
    /// The replica that greeted us, once it did.
    pub(super) greeting: Arc<watch::Sender<Option<Greeting>>>,
    /// The hub asked us to dial elsewhere.
    pub(super) leave: CancellationToken,
    place: Arc<Place>,
    limit: Limit,
}

/// Who greeted us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    /// The hub process at the other end.
    pub(super) replica: String,
    /// The hub processes that live on its state, as of its last word.
    pub(super) living: Vec<String>,
    /// Whether the tunnel is wanted: false when this replica has its tunnels.
    pub(super) welcome: bool,
}

// === impl Link ===

impl Link {
    /// A tunnel that takes `place`, if the replica that greets us is below `limit`.
    pub(super) fn new(place: Arc<Place>, limit: Limit) -> Self {
        let greeting = Arc::new(watch::Sender::new(None));
        Self { greeting, leave: CancellationToken::new(), place, limit }
    }

    /// Takes the place of one more tunnel to `replica`. False when that has its tunnels.
    pub(super) fn claim(&self, replica: &str) -> bool {
        self.place.take(replica, &self.limit)
    }

    /// The hub said who it is, and was answered.
    pub(super) fn greeted(&self, greeting: Greeting) {
        self.greeting.send_replace(Some(greeting));
    }

    /// The hub said who lives now.
    pub(super) fn told(&self, living: Vec<String>) {
        self.greeting.send_if_modified(|greeting| match greeting {
            Some(greeting) if greeting.living != living => {
                greeting.living = living;
                true
            }
            _ => false,
        });
    }
}
