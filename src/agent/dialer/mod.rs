//! Keeps tunnels up: so many to each address of the hub and to each of its replicas, replaced before
//! they end where that can be known.

mod keep;
mod seek;
mod tunnel;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::coverage::Coverage;
use super::dial;
use super::metrics::Metrics;
use super::presence::Presence;
use super::serve::Service;
use crate::drain::Drain;
use crate::egress::{Egress, Target};
use crate::pki::credentials::AgentCredentials;
use crate::tunnel::settings::Settings;

/// What every tunnel of an agent is made with.
pub(super) struct Dialer {
    pub(super) hubs: Vec<String>,
    pub(super) egress: Egress,
    /// To each replica.
    pub(super) tunnels: usize,
    pub(super) credentials: AgentCredentials,
    pub(super) settings: Settings,
    pub(super) service: Arc<Service>,
    pub(super) presence: Arc<Presence>,
    pub(super) metrics: Metrics,
    pub(super) drain: Drain,
    /// Counts renewals of the certificate.
    pub(super) renewed: watch::Receiver<u64>,
}

/// One name of a hub.
struct Hub {
    name: String,
    coverage: Coverage,
    /// Its addresses, as of the last look.
    targets: Mutex<Vec<Target>>,
}

// === impl Dialer ===

impl Dialer {
    /// Dials until the drain stops, then says goodbye on every tunnel.
    pub(super) async fn run(self: Arc<Self>) {
        let hubs: Vec<Arc<Hub>> = self.hubs.iter().map(|name| Arc::new(self.hub(name))).collect();
        let mut slots = JoinSet::new();
        for hub in &hubs {
            slots.spawn(self.clone().seek(hub.clone()));
        }
        let mut known: HashMap<Target, CancellationToken> = HashMap::new();
        let mut backoff = Backoff::new();
        while !self.drain.is_stopping() {
            let complete = self.discover(&hubs, &mut known, &mut slots).await;
            let pause = if known.is_empty() || !complete {
                backoff.after_failure()
            } else {
                backoff.reset();
                RESOLVE_INTERVAL
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.drain.stopping() => {}
            }
            while slots.try_join_next().is_some() {}
        }
        while slots.join_next().await.is_some() {}
    }

    fn hub(&self, name: &str) -> Hub {
        let coverage = Coverage::new(self.presence.clone(), self.tunnels);
        Hub { name: name.to_owned(), coverage, targets: Mutex::default() }
    }

    /// Looks the hub's names up. New addresses get tunnels; one that is gone is not dialled again.
    /// Returns whether every name was found.
    async fn discover(
        self: &Arc<Self>,
        hubs: &[Arc<Hub>],
        known: &mut HashMap<Target, CancellationToken>,
        slots: &mut JoinSet<()>,
    ) -> bool {
        let mut found = Vec::new();
        let mut complete = true;
        for hub in hubs {
            match dial::resolve(&self.egress, &hub.name).await {
                Ok(targets) => {
                    *hub.targets() = targets.clone();
                    found.extend(targets.into_iter().map(|target| (hub, target)));
                }
                Err(error) => {
                    complete = false;
                    tracing::warn!(%error, hub = hub.name, "no way to the hub");
                }
            }
        }
        if complete {
            known.retain(|target, retire| {
                let stays = found.iter().any(|(_, found)| found == target);
                if !stays {
                    retire.cancel();
                }
                stays
            });
        }
        for (hub, target) in found {
            if known.contains_key(&target) {
                continue;
            }
            let retire = CancellationToken::new();
            known.insert(target.clone(), retire.clone());
            for _ in 0..self.tunnels {
                slots.spawn(self.clone().keep(hub.clone(), target.clone(), retire.clone()));
            }
        }
        complete
    }
}

// === impl Hub ===

impl Hub {
    /// The address whose turn it is.
    fn target(&self, turn: usize) -> Option<Target> {
        let targets = self.targets();
        targets.get(turn % targets.len().max(1)).cloned()
    }

    fn targets(&self) -> std::sync::MutexGuard<'_, Vec<Target>> {
        // Nobody panics while holding it.
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new address is found, and a vanished one forgotten, within this time.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
