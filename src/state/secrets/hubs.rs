//! Living hubs as Leases: each renews one of its own, and one that stands still is of the dead.
//!
//! The times in the Leases are for people: whether one stands still is judged by our own clock, and
//! only while we can look. Clocks may disagree, and an API server that was away must not kill
//! everybody at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, Preconditions};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::calls::{Action, Refusal, call, list};
use super::names::{labels, selector};
use crate::kubernetes::{patch, post};
use crate::state::{Registration, Replica, StateError};

/// The Leases of hubs in one namespace.
pub(super) struct Hubs {
    leases: Api<Lease>,
    namespace: String,
    seen: Mutex<Seen>,
}

/// What we saw in the lists so far.
#[derive(Default)]
struct Seen {
    /// When the last list came.
    looked: Option<Instant>,
    /// By name of the Lease.
    leases: HashMap<String, Trace>,
}

/// What we saw of one Lease.
struct Trace {
    renewed: Option<MicroTime>,
    /// When we saw that first.
    since: Instant,
    /// Whether we saw it move.
    moved: bool,
}

/// What a Lease says of its hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Alive,
    /// Not seen long enough to bury it, and too old to believe in it.
    Doubtful,
    Dead,
}

/// Our own Lease. It is renewed until this is dropped, and then deleted.
#[derive(Debug)]
struct Member {
    own: Arc<Own>,
    _renewal: AbortOnDropHandle<()>,
}

struct Own {
    leases: Api<Lease>,
    /// Name of the Lease.
    name: String,
    /// As messages name it.
    shown: String,
    /// The last description, for a Lease that somebody deleted.
    said: Mutex<Replica>,
}

// === impl Hubs ===

impl Hubs {
    pub(super) fn new(client: kube::Client, namespace: &str) -> Self {
        let leases = Api::namespaced(client, namespace);
        Self { leases, namespace: namespace.to_owned(), seen: Mutex::default() }
    }

    pub(super) async fn register(
        &self,
        replica: Replica,
    ) -> Result<Box<dyn Registration>, StateError> {
        let name = format!("{HUB}{}", replica.id);
        let own = Arc::new(Own {
            leases: self.leases.clone(),
            shown: self.shown(&name),
            name,
            said: Mutex::new(replica),
        });
        own.create().await?;
        let renewal = tokio::spawn(own.clone().renew_for_ever());
        Ok(Box::new(Member { own, _renewal: AbortOnDropHandle::new(renewal) }))
    }

    /// Everybody who lives, ordered by id. Leases of the dead are deleted on the way.
    pub(super) async fn list(&self) -> Result<Vec<Replica>, StateError> {
        let page = |parameters: ListParams| async move { self.leases.list(&parameters).await };
        let leases = list(&self.shown(&format!("{HUB}*")), &selector(COMPONENT), page).await?;
        let standings = self.seen().judge(&leases, Instant::now());
        let mut replicas = Vec::new();
        for (lease, standing) in leases.into_iter().zip(standings) {
            match standing {
                Standing::Alive => replicas.extend(describe(&lease)),
                Standing::Doubtful => {}
                Standing::Dead => self.bury(lease).await,
            }
        }
        replicas.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(replicas)
    }

    async fn bury(&self, lease: Lease) {
        let name = lease.metadata.name.unwrap_or_default();
        let shown = self.shown(&name);
        // Only what was looked at: it may have been renewed a moment ago.
        let preconditions = Preconditions {
            resource_version: lease.metadata.resource_version,
            uid: lease.metadata.uid,
        };
        let parameters =
            DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let deleted = call(Action::Delete, &shown, || self.leases.delete(&name, &parameters)).await;
        match deleted {
            Ok(_) => tracing::info!(lease = name, "a hub on this state is gone"),
            Err(error) => tracing::warn!(%error, "what a hub left behind stays for now"),
        }
    }

    fn shown(&self, name: &str) -> String {
        format!("Lease {}/{name}", self.namespace)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Seen ===

impl Seen {
    /// Judges each of `leases`, of a list that came at `now`.
    fn judge(&mut self, leases: &[Lease], now: Instant) -> Vec<Standing> {
        let blind = self.looked.is_none_or(|looked| now - looked > LOOKING);
        self.looked = Some(now);
        let mut before = std::mem::take(&mut self.leases);
        let judge = |lease: &Lease| {
            let name = lease.metadata.name.clone().unwrap_or_default();
            let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
            let trace = match before.remove(&name) {
                Some(trace) if trace.renewed == renewed => {
                    Trace { since: if blind { now } else { trace.since }, ..trace }
                }
                known => Trace { renewed, since: now, moved: known.is_some() },
            };
            let standing = trace.standing(now);
            self.leases.insert(name, trace);
            standing
        };
        leases.iter().map(judge).collect()
    }
}

// === impl Trace ===

impl Trace {
    fn standing(&self, now: Instant) -> Standing {
        // A command looks only once: by the clocks, which are minutes apart at most where anything
        // works.
        let old = |MicroTime(at): &MicroTime| Timestamp::now().duration_since(*at) > LONG_AGO;
        if now - self.since >= LIFE {
            Standing::Dead
        } else if !self.moved && self.renewed.as_ref().is_none_or(old) {
            Standing::Doubtful
        } else {
            Standing::Alive
        }
    }
}

/// What a hub says of itself; one that says nothing of use is alive all the same.
fn describe(lease: &Lease) -> Option<Replica> {
    let id = lease.metadata.name.as_deref()?.strip_prefix(HUB)?.to_owned();
    let said = lease.metadata.annotations.as_ref().and_then(|all| all.get(DESCRIPTION));
    let said = said.and_then(|said| serde_json::from_str::<Replica>(said).ok());
    Some(Replica { id, ..said.unwrap_or_default() })
}

// === impl Own ===

impl Own {
    async fn create(&self) -> Result<(), StateError> {
        let (id, description) = self.description()?;
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(labels(COMPONENT)),
                annotations: Some([(DESCRIPTION.to_owned(), description)].into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(id),
                lease_duration_seconds: i32::try_from(LIFE.as_secs()).ok(),
                acquire_time: Some(now()),
                renew_time: Some(now()),
                ..LeaseSpec::default()
            }),
        };
        let create = || async { self.leases.create(&post(), &lease).await };
        let created = call(Action::Write, &self.shown, create).await?;
        created.map(drop).map_err(|refusal| refusal.into_error(Action::Write, &self.shown))
    }

    /// Renews, with the description where `describe` says so. A Lease that somebody deleted is made
    /// again.
    async fn renew(&self, describe: bool) -> Result<(), StateError> {
        let mut change = json!({"spec": {"renewTime": now()}});
        if describe {
            change["metadata"]["annotations"][DESCRIPTION] = self.description()?.1.into();
        }
        let (change, parameters) = (Patch::Merge(change), patch());
        let send = || self.leases.patch(&self.name, &parameters, &change);
        match call(Action::Write, &self.shown, send).await? {
            Ok(_) => Ok(()),
            Err(Refusal::NotFound(_)) => self.create().await,
            Err(refusal) => Err(refusal.into_error(Action::Write, &self.shown)),
        }
    }

    async fn renew_for_ever(self: Arc<Self>) {
        let mut beat = interval(RENEWAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one is at once, and the Lease is new.
        beat.tick().await;
        loop {
            beat.tick().await;
            let renewed = timeout(ANSWER, self.renew(false)).await;
            let error = match renewed {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", ANSWER.as_secs()),
            };
            tracing::warn!(error, "the other hubs cannot be told that this one lives");
        }
    }

    async fn leave(self: Arc<Self>) {
        let parameters = DeleteParams::default();
        let delete = || self.leases.delete(&self.name, &parameters);
        if let Err(error) = call(Action::Delete, &self.shown, delete).await {
            tracing::warn!(%error, "this hub counts as living for some seconds more");
        }
    }

    /// Id and description.
    fn description(&self) -> Result<(String, String), StateError> {
        let said = self.said();
        let text = serde_json::to_string(&*said).map_err(|error| StateError::Damaged {
            document: self.shown.clone(),
            reason: error.to_string(),
        })?;
        Ok((said.id.clone(), text))
    }

    fn said(&self) -> MutexGuard<'_, Replica> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").field("lease", &self.shown).finish_non_exhaustive()
    }
}

// === impl Member ===

impl Registration for Member {
    fn update(&self, replica: Replica) -> BoxFuture<'_, Result<(), StateError>> {
        *self.own.said() = replica;
        self.own.renew(true).boxed()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Without a runtime the process is over, and the Lease runs out.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(self.own.clone().leave());
        }
    }
}

fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}

/// What the name of a hub's Lease begins with; its id is the rest.
const HUB: &str = "cluster-proxy-hub-";
const COMPONENT: &str = "hub";
/// Annotation with the [`Replica`] as JSON. All annotations of an object may have 256 KiB,
/// the names of its clusters among them.
const DESCRIPTION: &str = "cluster-proxy/replica";

/// How long a Lease has to stand still until its hub counts as dead.
const LIFE: Duration = Duration::from_secs(15);
/// From one renewal to the next: three may fail.
const RENEWAL: Duration = Duration::from_secs(3);
/// For one renewal. The next one is better than an answer that comes later.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest pause between two looks in which nothing can have been missed. A hub looks every 2 s.
const LOOKING: Duration = Duration::from_secs(6);
/// More than clocks differ.
const LONG_AGO: SignedDuration = SignedDuration::from_mins(5);
