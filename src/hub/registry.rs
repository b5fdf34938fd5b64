//! Who serves which cluster right now: live tunnels, and the snapshot that others read.
//!
//! The only writer of the [`Fleet`]. Reading is lock-free (one snapshot load a request); changes
//! are rare (a tunnel comes or goes) and take a short lock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::acceptance::Acceptance;
use super::live::LiveStreams;
use crate::fleet::{About, ClusterState, Fleet, Probe, TunnelState};
use crate::name::ClusterName;
use crate::pki::identity::AgentCertificate;
use crate::state::Enrolment;
use crate::tunnel::opener::{Opener, StreamClass, StreamPermit};

/// The live tunnels of every enrolled cluster. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    shared: Arc<Shared>,
}

/// One live tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    /// Unique in this process.
    pub(crate) id: u64,
    /// Which agent process holds the other end.
    pub(crate) agent: String,
    /// Whom it serves: the certificate decides, and nothing else.
    pub(crate) certificate: AgentCertificate,
    /// Opens streams on it.
    pub(crate) opener: Opener,
    /// The worker that reads and writes it.
    pub(crate) worker: ThreadId,
    /// Cancelled once the agent said goodbye, or may take nothing new: what can go on elsewhere
    /// should.
    pub(crate) leaving: CancellationToken,
    /// Cancelled once its key is not the enrolled one any more.
    pub(crate) replaced: CancellationToken,
}

/// Why no stream can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PickError {
    /// No live tunnel. `soon`: the last one was lost a moment ago, or the hub has just started, or
    /// it drains.
    NoTunnel {
        /// Whether a second try in a second is worth it.
        soon: bool,
    },
    /// Live tunnels, no free permit.
    Full,
}

#[derive(Debug)]
struct Shared {
    clusters: ArcSwap<HashMap<ClusterName, Arc<Cluster>>>,
    /// Held while a changed snapshot is made.
    change: Mutex<()>,
    fleet: watch::Sender<Fleet>,
    started: Instant,
    /// Whom a hub that starts waits for; everybody who is enrolled until that is known.
    expected: ArcSwapOption<BTreeSet<ClusterName>>,
    settled: AtomicBool,
    /// The hub drains: another one is the better place to ask.
    draining: AtomicBool,
    ids: AtomicU64,
    live: LiveStreams,
}

#[derive(Clone, Debug, Default)]
struct Cluster {
    tunnels: Vec<Arc<Tunnel>>,
    /// When the last tunnel went; `None` while there is one, and before there ever was.
    lost_at: Option<Instant>,
}

// === impl Registry ===

impl Registry {
    /// A registry that knows no cluster yet. `live` are the streams that end with a cluster.
    pub(crate) fn new(live: LiveStreams) -> Self {
        Self {
            shared: Arc::new(Shared {
                clusters: ArcSwap::default(),
                change: Mutex::new(()),
                fleet: watch::Sender::new(Fleet::default()),
                started: Instant::now(),
                expected: ArcSwapOption::empty(),
                settled: AtomicBool::new(false),
                draining: AtomicBool::new(false),
                ids: AtomicU64::new(1),
                live,
            }),
        }
    }

    /// Snapshots of the fleet, as they change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Fleet> {
        self.shared.fleet.subscribe()
    }

    /// A number for the next tunnel.
    pub(crate) fn next_id(&self) -> u64 {
        self.shared.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether `cluster` is enrolled.
    pub(crate) fn is_enrolled(&self, cluster: &ClusterName) -> bool {
        self.shared.clusters.load().contains_key(cluster)
    }

    /// Names the clusters that a hub that starts waits for.
    pub(crate) fn expect(&self, clusters: BTreeSet<ClusterName>) {
        self.shared.expected.store(Some(Arc::new(clusters)));
    }

    /// Whether the expected clusters have been there since the start, or the hub has waited long
    /// enough for them. Once true it stays so: a cluster that leaves later is lost, not late.
    pub(crate) fn is_settled(&self) -> bool {
        let settled = &self.shared.settled;
        if !settled.load(Ordering::Relaxed) {
            let clusters = self.shared.clusters.load();
            let expected = self.shared.expected.load();
            let is_expected =
                |name| expected.as_ref().is_none_or(|expected| expected.contains(name));
            let mut waited_for = clusters.iter().filter(|(name, _)| is_expected(name));
            let here = waited_for.all(|(_, cluster)| !cluster.tunnels.is_empty());
            settled.store(here || self.shared.started.elapsed() >= SETTLE, Ordering::Relaxed);
        }
        settled.load(Ordering::Relaxed)
    }

    /// The hub drains: whoever finds no tunnel here should come again, to another hub.
    pub(crate) fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// The least loaded live tunnel of `cluster`, rather one of this thread's, and a permit for one
    /// stream on it.
    pub(crate) fn pick(
        &self,
        cluster: &ClusterName,
        class: StreamClass,
    ) -> Result<(Arc<Tunnel>, StreamPermit), PickError> {
        let clusters = self.shared.clusters.load();
        let entry = clusters.get(cluster);
        let now = SystemTime::now();
        let mut usable: Vec<&Arc<Tunnel>> = entry
            .map(|entry| entry.tunnels.iter().filter(|tunnel| tunnel.is_usable(now)).collect())
            .unwrap_or_default();
        if usable.is_empty() {
            let lost = entry.and_then(|entry| entry.lost_at);
            let lost_now = lost.is_some_and(|at| at.elapsed() < JUST_LOST);
            // An agent that said goodbye and still finishes its streams is being replaced.
            let leaving =
                entry.is_some_and(|entry| entry.tunnels.iter().any(|tunnel| tunnel.is_leaving()));
            let draining = self.shared.draining.load(Ordering::Relaxed);
            let soon = lost_now || leaving || draining || !self.is_settled();
            return Err(PickError::NoTunnel { soon });
        }
        let here = std::thread::current().id();
        usable.sort_by_key(|tunnel| distance(tunnel.opener.load(), tunnel.worker == here));
        usable
            .into_iter()
            .find_map(|tunnel| Some((Arc::clone(tunnel), tunnel.opener.try_permit(class)?)))
            .ok_or(PickError::Full)
    }

    /// Adds a tunnel that has said hello. False when its cluster was un-enrolled meanwhile.
    pub(crate) fn add(&self, tunnel: Arc<Tunnel>, about: About) -> bool {
        let name = tunnel.certificate.cluster.clone();
        let _guard = self.lock();
        if !self.is_enrolled(&name) {
            return false;
        }
        self.edit(&name, |cluster| {
            cluster.lost_at = None;
            cluster.tunnels.push(Arc::clone(&tunnel));
        });
        // Noticed now, not at the next question: it may leave again before that.
        self.is_settled();
        self.publish(&name, |state| {
            state.about = Some(about);
            state.tunnels.push(TunnelState {
                id: tunnel.id,
                agent: tunnel.agent.clone(),
                since: SystemTime::now(),
                certificate_expires: tunnel.certificate.expires,
            });
        });
        true
    }

    /// Forgets a tunnel that has ended.
    pub(crate) fn remove(&self, cluster: &ClusterName, id: u64) {
        let _guard = self.lock();
        self.edit(cluster, |entry| {
            entry.tunnels.retain(|tunnel| tunnel.id != id);
            if entry.tunnels.is_empty() {
                entry.lost_at = Some(Instant::now());
            }
        });
        self.publish(cluster, |state| state.tunnels.retain(|tunnel| tunnel.id != id));
    }

    /// Takes over what the state says is enrolled, as far as it is accepted: new names appear, others
    /// go, and tunnels whose key is not (or no longer) the enrolled one end with every stream on them;
    /// where the enrolled key replaces theirs, they only get nothing new. Returns the names that went.
    pub(crate) fn sync(
        &self,
        all: &BTreeMap<ClusterName, Enrolment>,
        acceptance: &Acceptance,
    ) -> Vec<ClusterName> {
        let _guard = self.lock();
        let enrolments = &*acceptance.served(all);
        let before = self.shared.clusters.load_full();
        for (name, cluster) in before.iter() {
            let enrolment = enrolments.get(name);
            // Before its tunnels: a watch that ends cleanly is resumed, one that is cut is not. Of a
            // cluster that had none, too, because there is something to forget.
            match enrolment {
                None if all.contains_key(name) => {
                    tracing::info!(cluster = %name, "Open Cluster Management does not accept it any more: it is not served");
                    self.shared.live.end_cluster(name, "cluster-not-accepted");
                }
                None => self.shared.live.end_cluster(name, "cluster-removed"),
                Some(enrolment) if enrolment.revoked && !cluster.tunnels.is_empty() => {
                    self.shared.live.end_cluster(name, "cluster-revoked");
                }
                Some(_) => {}
            }
            for tunnel in &cluster.tunnels {
                match enrolment {
                    None if all.contains_key(name) => tunnel.opener.close("not-accepted"),
                    None => tunnel.opener.close("removed"),
                    Some(enrolment) if enrolment.revoked => tunnel.opener.close("revoked"),
                    Some(enrolment) => {
                        let key = &tunnel.certificate.key_sha256;
                        if enrolment.key_sha256 == *key {
                            continue;
                        }
                        if enrolment.replaces.as_ref() == Some(key) {
                            tunnel.leaving.cancel();
                            tunnel.replaced.cancel();
                        } else {
                            tunnel.opener.close("replaced");
                        }
                    }
                }
            }
        }
        let same = before.len() == enrolments.len()
            && enrolments.keys().all(|name| before.contains_key(name));
        if !same {
            let keep =
                |name: &ClusterName| (name.clone(), before.get(name).cloned().unwrap_or_default());
            self.shared.clusters.store(Arc::new(enrolments.keys().map(keep).collect()));
        }
        self.shared.fleet.send_if_modified(|fleet| {
            let count = fleet.clusters.len();
            fleet.clusters.retain(|name, _| enrolments.contains_key(name));
            let mut changed = fleet.clusters.len() != count;
            for (name, enrolment) in enrolments {
                let state = fleet.clusters.entry(name.clone()).or_insert_with(|| {
                    changed = true;
                    Arc::default()
                });
                if state.hub_itself != enrolment.hub_itself {
                    Arc::make_mut(state).hub_itself = enrolment.hub_itself;
                    changed = true;
                }
            }
            changed
        });
        before.keys().filter(|name| !enrolments.contains_key(*name)).cloned().collect()
    }

    /// Records the outcome of a real request.
    pub(crate) fn probed(&self, cluster: &ClusterName, probe: Probe) {
        self.publish(cluster, |state| state.probe = Some(probe));
    }

    /// Every live tunnel, for leaving and for probing.
    pub(crate) fn tunnels(&self) -> Vec<Arc<Tunnel>> {
        let clusters = self.shared.clusters.load();
        clusters.values().flat_map(|cluster| cluster.tunnels.iter().cloned()).collect()
    }

    /// Names of clusters that have a tunnel.
    pub(crate) fn connected(&self) -> Vec<ClusterName> {
        let clusters = self.shared.clusters.load();
        let live = clusters.iter().filter(|(_, cluster)| !cluster.tunnels.is_empty());
        live.map(|(name, _)| name.clone()).collect()
    }

    fn edit(&self, name: &ClusterName, change: impl FnOnce(&mut Cluster)) {
        let mut clusters = HashMap::clone(&self.shared.clusters.load());
        if let Some(cluster) = clusters.get_mut(name) {
            change(Arc::make_mut(cluster));
            self.shared.clusters.store(Arc::new(clusters));
        }
    }

    fn publish(&self, name: &ClusterName, change: impl FnOnce(&mut ClusterState)) {
        self.shared.fleet.send_if_modified(|fleet| match fleet.clusters.get_mut(name) {
            Some(state) => {
                change(Arc::make_mut(state));
                true
            }
            None => false,
        });
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // The mutex guards no data of its own: a panic under it leaves a whole snapshot behind.
        self.shared.change.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Tunnel ===

impl Tunnel {
    fn is_leaving(&self) -> bool {
        self.opener.is_closed() || self.leaving.is_cancelled()
    }

    /// Whether new requests may go here. An expired certificate lets running streams finish, and
    /// nothing else; a late ping says that the other end may be gone.
    fn is_usable(&self, now: SystemTime) -> bool {
        !self.is_leaving() && !self.opener.is_suspect() && self.certificate.expires > now
    }
}

/// How far away a tunnel with so many streams is: the next request takes the nearest.
fn distance(load: usize, here: bool) -> usize {
    if here { load } else { load + AWAY }
}

/// So many streams more on a tunnel of this thread are better than one of another: a request that
/// changes threads, and its answer, wake a thread through the kernel each time.
const AWAY: usize = 64;

/// How long after a start a hub waits for the clusters it expects.
const SETTLE: Duration = Duration::from_secs(30);
/// An agent that lost its last tunnel is back within this, if it comes back at all.
const JUST_LOST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_tunnels_are_taken_until_others_are_much_less_loaded() {
        let nearer = |here, away| distance(here, true) < distance(away, false);
        assert!(nearer(0, 0) && nearer(63, 0) && nearer(163, 100));
        assert!(!nearer(65, 0) && !nearer(200, 100));
    }

    #[tokio::test]
    async fn a_hub_that_drains_asks_callers_to_come_again() {
        let live = LiveStreams::new(&prometheus::Registry::new(), 4).unwrap();
        let registry = Registry::new(live);
        let name = ClusterName::parse("c1").unwrap();
        let enrolment = Enrolment {
            key_sha256: String::new(),
            enrolled_at: 0,
            certificate_expires: 0,
            cluster_uid: None,
            hub_itself: false,
            revoked: false,
            replaces: None,
        };
        registry.sync(&[(name.clone(), enrolment)].into(), &Acceptance::default());
        let soon = || match registry.pick(&name, StreamClass::Short) {
            Err(PickError::NoTunnel { soon }) => soon,
            other => panic!("{other:?}"),
        };
        assert!(soon(), "a hub that starts waits for it");
        registry.expect(BTreeSet::new());
        assert!(!soon(), "nobody expects it");
        registry.drain();
        assert!(soon());
    }
}
