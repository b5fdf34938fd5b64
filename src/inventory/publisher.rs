//! The controller: every profile of ours is compared with what it should say, and written where it
//! differs. Nothing is written that is there already: each write makes consumers rebuild their
//! clients.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use k8s_openapi::jiff::Timestamp;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::api::{CLUSTER_LABEL, MANAGER_LABEL, resource};
use super::contest::{Contests, Verdict, uid};
use super::desired::{self, PathCondition, Plan, Publication, Standing};
use super::metrics::{Metrics, ProfileState, Write};
use super::surface::Surface;
use super::{rival, write};
use crate::kubernetes::{FIELD_MANAGER, describe, in_time};
use crate::name::ClusterName;

/// What profiles are compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// `None` until it is known for the first time.
    pub(super) publication: Option<Publication>,
    /// Enrolled clusters, and what the path condition says of each.
    pub(super) enrolled: BTreeMap<ClusterName, Option<bool>>,
}

/// What does not change while the publisher runs.
pub(super) struct Publisher {
    pub(super) client: Client,
    pub(super) surface: Surface,
    pub(super) manager: String,
    pub(super) condition: PathCondition,
    pub(super) view: watch::Receiver<View>,
    pub(super) metrics: Arc<Metrics>,
    /// Outlives a change of the surface.
    pub(super) contests: Arc<Mutex<Contests>>,
}

/// Why a profile is not as it should be.
#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    /// The API server's word, or none of it.
    #[error("{}", describe(.0))]
    Api(#[from] kube::Error),
    /// Somebody else writes all the time.
    #[error("others wrote it {ATTEMPTS} times in a row while we tried to")]
    Busy,
}

// === impl Publisher ===

impl Publisher {
    /// Publishes for ever.
    pub(super) async fn run(self) {
        let resource = resource(&self.surface.version);
        let profiles: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let selector = format!("{MANAGER_LABEL}={},{CLUSTER_LABEL}", self.manager);
        let ours = watcher::Config::default().labels(&selector);
        let controller = Controller::new_with(profiles, ours, resource.clone())
            .with_config(controller::Config::default().concurrency(AT_ONCE))
            .reconcile_all_on(changes(self.view.clone()));
        let store = controller.store();
        let (metrics, contests) = (self.metrics.clone(), self.contests.clone());
        let context = Arc::new(Context {
            events: Recorder::new(self.client.clone(), Reporter::from(FIELD_MANAGER)),
            resource,
            publisher: self,
        });
        let reconcile = |profile: Arc<DynamicObject>, context: Arc<Context>| async move {
            context.reconcile(&profile).await
        };
        let mut reconciled = controller.run(reconcile, failed, context).boxed();
        let mut ticks = interval(FORGET_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                outcome = reconciled.next() => match outcome {
                    // Failures of single profiles were told when they happened.
                    Some(Err(controller::Error::QueueError(error))) => {
                        tracing::warn!(%error, "ClusterProfiles cannot be watched");
                    }
                    Some(_) => {}
                    None => return,
                },
                _ = ticks.tick() => {
                    let here: HashSet<String> =
                        store.state().iter().map(|profile| uid(profile).to_owned()).collect();
                    metrics.retain(&here);
                    lock(&contests).retain(&here);
                }
            }
        }
    }
}

/// What reconciling needs.
struct Context {
    publisher: Publisher,
    resource: ApiResource,
    events: Recorder,
}

// === impl Context ===

impl Context {
    async fn reconcile(&self, seen: &DynamicObject) -> Result<Action, ReconcileError> {
        if self.plan(seen).is_none() {
            self.settled(seen);
            return Ok(Action::await_change());
        }
        let namespace = seen.namespace().unwrap_or_default();
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.publisher.client.clone(), &namespace, &self.resource);
        for _ in 0..ATTEMPTS {
            // What was seen may be older than our own last write.
            let Some(live) = in_time(api.get_opt(&seen.name_any())).await? else {
                return Ok(Action::await_change());
            };
            let Some(plan) = self.plan(&live) else {
                self.settled(&live);
                return Ok(Action::await_change());
            };
            let verdict = lock(&self.publisher.contests).judge(&live, &plan.claims, Instant::now());
            match verdict {
                Verdict::Waiting(left) => return Ok(Action::requeue(left)),
                Verdict::Contested(left) => {
                    self.report(&live, &plan).await;
                    return Ok(Action::requeue(left));
                }
                Verdict::Write => {}
            }
            if self.write(&api, &live, &plan).await? {
                return Ok(Action::await_change());
            }
        }
        Err(ReconcileError::Busy)
    }

    /// One try; false when somebody else was faster.
    async fn write(
        &self,
        api: &Api<DynamicObject>,
        live: &DynamicObject,
        plan: &Plan,
    ) -> Result<bool, ReconcileError> {
        let publisher = &self.publisher;
        let written = match write::write(api, &publisher.surface, live, plan).await {
            // An apply leaves what others own inside of our entry: then it is replaced whole.
            Ok(after) => match self.plan(&after) {
                Some(rest) => write::replace(api, &publisher.surface, &after, &rest).await,
                None => Ok(after),
            },
            Err(error) => Err(error),
        };
        match written {
            Ok(after) => {
                publisher.metrics.wrote(Write::Done);
                lock(&publisher.contests).wrote(uid(&after), &plan.claims, Instant::now());
                tracing::info!(
                    profile = %ObjectRef::from_obj_with(live, self.resource.clone()),
                    entries = plan.claims.entries.len(),
                    "published"
                );
                self.settled(&after);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                publisher.metrics.wrote(Write::Conflict);
                Ok(false)
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
            Err(error) => {
                publisher.metrics.wrote(Write::Failed);
                Err(error.into())
            }
        }
    }

    fn plan(&self, profile: &DynamicObject) -> Option<Plan> {
        let publisher = &self.publisher;
        let view = publisher.view.borrow();
        let publication = view.publication.as_ref()?;
        let cluster = desired::cluster(profile, &publisher.manager)?;
        let standing = standing(&view, &cluster);
        let now = Timestamp::now();
        desired::plan(profile, publication, &cluster, standing, publisher.condition, now)
    }

    /// Notes that a profile is as it should be.
    fn settled(&self, profile: &DynamicObject) {
        let publisher = &self.publisher;
        let Some(cluster) = desired::cluster(profile, &publisher.manager) else { return };
        let state = match standing(&publisher.view.borrow(), &cluster) {
            Standing::Enrolled { .. } => ProfileState::Published,
            Standing::Unknown => ProfileState::Unknown,
        };
        publisher.metrics.stands(uid(profile), state);
    }

    /// Tells operators of a rival: once for each blow, which is at most every half hour.
    async fn report(&self, live: &DynamicObject, plan: &Plan) {
        self.publisher.metrics.stands(uid(live), ProfileState::Contested);
        let rival = rival::describe(live, &plan.claims);
        let profile = ObjectRef::from_obj_with(live, self.resource.clone());
        tracing::error!(%profile, rival, "another publisher writes over our entry: leaving it alone for a while; stop the other one, or give ours another name with --publish-name");
        let event = Event {
            type_: EventType::Warning,
            reason: "AccessProviderContested".into(),
            note: Some(format!("cluster-proxy leaves its entry alone: {rival}")),
            action: "Publish".into(),
            secondary: None,
        };
        let about = live.object_ref(&self.resource);
        if let Err(error) = in_time(self.events.publish(&event, &about)).await {
            tracing::warn!(error = describe(&error), "no Event could be written about it");
        }
    }
}

fn standing(view: &View, cluster: &ClusterName) -> Standing {
    match view.enrolled.get(cluster) {
        Some(reachable) => Standing::Enrolled { reachable: *reachable },
        None => Standing::Unknown,
    }
}

/// What to do about a failure, which is told once for each profile.
fn failed(profile: Arc<DynamicObject>, error: &ReconcileError, context: Arc<Context>) -> Action {
    if context.publisher.metrics.stands(uid(&profile), ProfileState::Failed) {
        let profile = ObjectRef::from_obj_with(&*profile, context.resource.clone());
        tracing::warn!(%profile, %error, "cannot publish");
    }
    match error {
        // Rights and schemas do not mend themselves.
        ReconcileError::Api(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
            Action::requeue(REFUSED)
        }
        _ => Action::requeue(AGAIN),
    }
}

/// A beat for every change of the view.
fn changes(view: watch::Receiver<View>) -> impl Stream<Item = ()> + Send {
    stream::unfold(view, |mut view| async move {
        view.changed().await.ok()?;
        view.mark_unchanged();
        Some(((), view))
    })
}

fn lock(contests: &Mutex<Contests>) -> MutexGuard<'_, Contests> {
    // A panic in between leaves one record too many or too few.
    contests.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of profiles that went is kept this long at most.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Profiles that are written together: a thousand take seconds, and an API server does not notice.
const AT_ONCE: u16 = 8;

/// Writers that are faster each time are a storm; it is waited for outside.
const ATTEMPTS: usize = 10;

/// After an outage, or among busy writers.
const AGAIN: Duration = Duration::from_secs(2);

/// After a refusal.
const REFUSED: Duration = Duration::from_secs(30);
