//! Which spokes are there: one watch of labelled ServiceAccounts per connected cluster, and what
//! follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::context::Context;
use super::spoke::Spoke;
use super::status::Problem;
use super::visit;
use crate::name::ClusterName;

/// Which spokes can be asked.
#[derive(Default)]
pub(super) struct Presence {
    spokes: Mutex<BTreeMap<ClusterName, Visited>>,
}

/// A connected spoke.
struct Visited {
    standing: Standing,
    /// An account of it is gone.
    gone: Arc<Notify>,
}

/// How it is with a connected spoke.
enum Standing {
    /// It has just arrived, or something is in the way.
    Arriving(Option<Problem>),
    /// Its ServiceAccounts are known.
    Ready(Arc<Spoke>),
}

// === impl Presence ===

impl Presence {
    /// The spoke.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub(super) fn spoke(&self, cluster: &ClusterName) -> Result<Arc<Spoke>, Away> {
        match self.lock().get(cluster).map(|visited| &visited.standing) {
            None => Err(Away::Offline),
            Some(Standing::Arriving(None)) => Err(Away::Arriving),
            Some(Standing::Arriving(Some(problem))) => Err(Away::Unusable(problem.clone())),
            Some(Standing::Ready(spoke)) => Ok(spoke.clone()),
        }
    }

    /// It can be asked now.
    pub(super) fn ready(&self, cluster: &ClusterName, spoke: Arc<Spoke>) {
        if let Some(visited) = self.lock().get_mut(cluster) {
            visited.standing = Standing::Ready(spoke);
        }
    }

    /// Something is in the way. Returns whether that is new.
    pub(super) fn failed(&self, cluster: &ClusterName, problem: Problem) -> bool {
        match self.lock().get_mut(cluster).map(|visited| &mut visited.standing) {
            Some(Standing::Arriving(known)) if known.as_ref() == Some(&problem) => false,
            Some(standing) => {
                *standing = Standing::Arriving(Some(problem));
                true
            }
            None => false,
        }
    }

    /// Accounts of some clusters are gone: what they left at their spokes goes too.
    pub(super) fn accounts_gone(&self, is_meant: impl Fn(&ClusterName) -> bool) {
        for (_, visited) in self.lock().iter().filter(|(name, _)| is_meant(name)) {
            visited.gone.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ClusterName, Visited>> {
        // Entries are replaced whole.
        self.spokes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a spoke cannot be asked.
#[derive(Debug)]
pub(super) enum Away {
    /// It has no tunnel.
    Offline,
    /// It has just got one: in a moment more is known.
    Arriving,
    /// It has, and does not let us see its ServiceAccounts.
    Unusable(Problem),
}

/// Follows the fleet: starts and ends one [`visit`] per connected cluster that we serve. Never
/// returns.
pub(super) async fn follow(context: Arc<Context>) {
    let mut fleet = context.config.fleet.clone();
    let mut addons = context.addons.subscribe();
    let mut visits = JoinSet::new();
    let mut running = BTreeMap::new();
    loop {
        let (enrolled, connected) = {
            let fleet = fleet.borrow_and_update();
            let connected = fleet.clusters.iter().filter(|(_, state)| !state.tunnels.is_empty());
            let connected: BTreeSet<ClusterName> =
                connected.map(|(name, _)| name.clone()).collect();
            (fleet.clusters.keys().cloned().collect::<BTreeSet<_>>(), connected)
        };
        let served = addons.borrow_and_update().clone();
        let is_ours = |name: &ClusterName| {
            served.as_ref().is_some_and(|others| !others.contains(name.as_str()))
        };
        let wanted: BTreeSet<_> = connected.into_iter().filter(is_ours).collect();
        running.retain(|name, visit: &mut tokio::task::AbortHandle| {
            let stays = wanted.contains(name);
            if !stays {
                visit.abort();
                context.presence.lock().remove(name);
            }
            stays
        });
        for name in wanted {
            running.entry(name).or_insert_with_key(|name| {
                let gone = Arc::new(Notify::new());
                let visited = Visited { standing: Standing::Arriving(None), gone: gone.clone() };
                context.presence.lock().insert(name.clone(), visited);
                visits.spawn(visit::run(context.clone(), name.clone(), gone))
            });
        }
        announce(&context, enrolled);
        tokio::select! {
            changed = fleet.changed() => if changed.is_err() { return std::future::pending().await },
            _ = addons.changed() => {}
            // Only those that were told to end do.
            Some(_) = visits.join_next() => {}
        }
        // Every probe of every cluster is a change of the fleet.
        sleep(BETWEEN_LOOKS).await;
    }
}

/// Accounts of clusters that were enrolled, or are not any more, are looked at again.
fn announce(context: &Context, enrolled: BTreeSet<ClusterName>) {
    let before = context.enrolled.send_replace(enrolled);
    let now = context.enrolled.borrow();
    let changed: BTreeSet<&str> =
        before.symmetric_difference(&now).map(ClusterName::as_str).collect();
    if !changed.is_empty() {
        context.copies_stale.notify_one();
        context.trigger_clusters(|namespace| changed.contains(namespace));
    }
}

/// A cluster that has come is noticed within this.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
