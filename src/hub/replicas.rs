//! The hubs on one state: what others write is taken over, the living find each other, and agents
//! are told whom to dial.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::acceptance::Acceptance;
use super::dock;
use super::metrics::Metrics;
use super::registry::Registry;
use crate::drain::Drain;
use crate::name::ClusterName;
use crate::state::{Enrolment, Registration, Replica, State, StateError, seconds};

/// This hub among the living. Clones share it.
#[derive(Clone)]
pub(crate) struct Replicas {
    state: State,
    registry: Registry,
    acceptance: Acceptance,
    /// Ids of the living, ordered; this hub's own is among them until it leaves.
    living: Arc<watch::Sender<Vec<String>>>,
    own: Arc<Mutex<Own>>,
    id: Arc<str>,
}

struct Own {
    /// `None` once the hub leaves.
    registration: Option<Arc<dyn Registration>>,
    /// What the others were told last.
    said: Replica,
}

// === impl Replicas ===

impl Replicas {
    /// Lists this hub as living, and looks around for the first time.
    pub(crate) async fn join(
        state: State,
        registry: Registry,
        acceptance: Acceptance,
    ) -> Result<Self, StateError> {
        let id = uuid::Uuid::new_v4().to_string();
        let said = Replica::new(id.clone(), seconds(SystemTime::now()));
        let registration = Some(state.register(said.clone()).await?.into());
        let replicas = Self {
            state,
            registry,
            acceptance,
            living: Arc::new(watch::Sender::new(vec![id.clone()])),
            own: Arc::new(Mutex::new(Own { registration, said })),
            id: id.into(),
        };
        replicas.look().await?;
        Ok(replicas)
    }

    /// Names this process.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Which clusters may be served.
    pub(crate) fn acceptance(&self) -> &Acceptance {
        &self.acceptance
    }

    /// Ids of the living, as of the last look.
    pub(crate) fn living(&self) -> Vec<String> {
        self.living.borrow().clone()
    }

    /// Looks every [`INTERVAL`] at what commands and other hubs wrote; never returns. Agents are
    /// told by tasks of `tasks`.
    pub(crate) async fn follow(self, metrics: Metrics, tasks: Drain) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = self.living();
        loop {
            ticks.tick().await;
            match self.look().await {
                Ok(gone) => gone.iter().for_each(|name| metrics.forget(name)),
                // What was known goes on: an unreadable folder must not end a fleet.
                Err(error) => {
                    tracing::warn!(%error, "the state cannot be read, what was known stays")
                }
            }
            let living = self.living();
            if living != told {
                tracing::info!(?living, "the hubs on this state changed");
                for tunnel in self.registry.tunnels() {
                    let living = living.clone();
                    tasks.spawn(async move { dock::tell(&tunnel, living).await });
                }
                told = living;
            }
            if let Err(error) = self.describe().await {
                tracing::warn!(%error, "the other hubs cannot be told what this one serves");
            }
        }
    }

    /// Takes this hub off the list: no agent has to reach it any more.
    pub(crate) fn leave(&self) {
        drop(self.own().registration.take());
    }

    /// Takes over enrolments, removals, revocations and who lives. Returns the clusters that went.
    async fn look(&self) -> Result<Vec<ClusterName>, StateError> {
        let enrolments = self.state.enrolments().await?;
        let replicas = self.state.replicas().await?;
        let gone = self.registry.sync(&enrolments, &self.acceptance);
        self.registry.expect(expected(&self.id, &replicas, &enrolments));
        let mut living: BTreeSet<String> = replicas.into_iter().map(|replica| replica.id).collect();
        if self.own().registration.is_some() {
            living.insert(self.id.to_string());
        }
        let living: Vec<String> = living.into_iter().collect();
        self.living.send_if_modified(|known| {
            let changed = *known != living;
            *known = living;
            changed
        });
        Ok(gone)
    }

    /// Tells the others what this hub serves, where that changed.
    async fn describe(&self) -> Result<(), StateError> {
        let settled = self.registry.is_settled();
        let connected = self.registry.connected().into_iter().collect();
        let (registration, now) = {
            let own = self.own();
            let now = Replica { settled, connected, ..own.said.clone() };
            match &own.registration {
                Some(registration) if now != own.said => (Arc::clone(registration), now),
                _ => return Ok(()),
            }
        };
        registration.update(now.clone()).await?;
        self.own().said = now;
        Ok(())
    }

    fn own(&self) -> std::sync::MutexGuard<'_, Own> {
        // Both fields are whole at every moment.
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which clusters a hub that starts waits for: those that its settled peers serve. A cluster that
/// nobody has seen need not be waited for; where nobody could have seen it, every one counts.
fn expected(
    own: &str,
    replicas: &[Replica],
    enrolments: &BTreeMap<ClusterName, Enrolment>,
) -> BTreeSet<ClusterName> {
    let mut peers = replicas.iter().filter(|peer| peer.id != own && peer.settled).peekable();
    if peers.peek().is_some() {
        return peers.flat_map(|peer| peer.connected.iter().cloned()).collect();
    }
    let alive = enrolments.iter().filter(|(_, enrolment)| !enrolment.revoked);
    alive.map(|(name, _)| name.clone()).collect()
}

/// `clusters revoke` must end tunnels within 10 s, and a new hub should have its agents soon; a
/// look costs little.
const INTERVAL: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_waits_for_what_its_peers_serve() {
        let name = |name: &str| ClusterName::parse(name).unwrap();
        let enrolment = |revoked| Enrolment {
            key_sha256: String::new(),
            enrolled_at: 0,
            certificate_expires: 0,
            cluster_uid: None,
            hub_itself: false,
            revoked,
            replaces: None,
        };
        let enrolments: BTreeMap<_, _> = [("c1", false), ("c2", false), ("lost", true)]
            .map(|(cluster, revoked)| (name(cluster), enrolment(revoked)))
            .into();
        let own = Replica { settled: true, ..Replica::new("own".into(), 0) };
        let peer = |settled, connected: &[&str]| Replica {
            settled,
            connected: connected.iter().map(|cluster| name(cluster)).collect(),
            ..Replica::new("peer".into(), 0)
        };
        let of = |replicas: &[Replica]| expected("own", replicas, &enrolments);
        assert_eq!(of(std::slice::from_ref(&own)), [name("c1"), name("c2")].into());
        // A peer that waits itself proves nothing.
        assert_eq!(of(&[own.clone(), peer(false, &["c1"])]), [name("c1"), name("c2")].into());
        assert_eq!(of(&[own, peer(true, &["c1"])]), [name("c1")].into());
    }
}
