//! Which clusters Open Cluster Management lets in, where the hub's cluster is a hub of it too: those
//! whose `ManagedCluster` has `spec.hubAcceptsClient: true` and is not being deleted. Others that are
//! enrolled are not served until they are accepted: no tunnel, no join, and nothing for callers.
//!
//! | the hub's API server | what counts |
//! |---|---|
//! | has no `ManagedCluster`s, twice in a row | every cluster that is enrolled |
//! | has them, and lets us list and watch | those that are accepted |
//! | has them, and does not let us | what it said last; before its first word, every cluster that is enrolled; the log says what is missing |
//! | is being rid of their definition, and so of all of them | what it said last, until it is gone; before its first word, those that are still there |
//! | does not answer | what it said last; before its first word, every cluster that is enrolled |

mod known;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::DynamicObject;
use kube::discovery::ApiResource;
use kube::runtime::watcher::{self, Config};
use kube::runtime::{WatchStreamExt as _, watcher as watch_of};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use self::known::Known;
use super::controllers::ControllersConfig;
use crate::kubernetes::{self, EndpointError, explain, explain_watch, is_code, served};
use crate::name::ClusterName;
use crate::state::Enrolment;

/// Whom Open Cluster Management accepts. Clones share it; the default accepts everybody.
#[derive(Clone, Default)]
pub(crate) struct Acceptance {
    hub: Option<Client>,
    view: Arc<watch::Sender<View>>,
}

/// What is known.
#[derive(Debug, Default, PartialEq, Eq)]
struct View {
    /// Whether the API server was asked, whatever came of it.
    looked: bool,
    /// `None` where everybody is accepted.
    accepted: Option<BTreeSet<ClusterName>>,
}

/// What the log was told last: each problem once.
#[derive(Default)]
struct Told(String);

// === impl Acceptance ===

impl Acceptance {
    /// Looks for the first time, but not for long: an API server that is away must not keep a hub
    /// from its start.
    ///
    /// # Errors
    /// When there can be no client of the API server.
    pub(crate) async fn start(config: Option<&ControllersConfig>) -> Result<Self, EndpointError> {
        let Some(config) = config.filter(|config| config.managed_clusters) else {
            return Ok(Self::default());
        };
        Ok(Self::of(kubernetes::client(&config.server)?).await)
    }

    async fn of(hub: Client) -> Self {
        let acceptance = Self { hub: Some(hub), view: Arc::default() };
        let mut view = acceptance.view.subscribe();
        tokio::select! {
            _ = view.wait_for(|view| view.looked) => {}
            () = acceptance.clone().follow() => {}
            () = sleep(FIRST_LOOK) => {}
        }
        acceptance
    }

    /// Whether it may join, and be served.
    pub(crate) fn accepts(&self, cluster: &ClusterName) -> bool {
        let view = self.view.borrow();
        view.accepted.as_ref().is_none_or(|accepted| accepted.contains(cluster))
    }

    /// Those of the enrolled clusters that are served.
    pub(crate) fn served<'a>(&self, enrolled: &'a Enrolments) -> Cow<'a, Enrolments> {
        let view = self.view.borrow();
        let Some(accepted) = &view.accepted else { return Cow::Borrowed(enrolled) };
        let served = enrolled.iter().filter(|(name, _)| accepted.contains(*name));
        Cow::Owned(served.map(|(name, enrolment)| (name.clone(), enrolment.clone())).collect())
    }

    /// Follows the hub's API server. Never returns.
    pub(crate) async fn follow(self) {
        let Some(hub) = &self.hub else { return pending().await };
        let mut told = Told::default();
        let mut missing = 0;
        loop {
            match served::find(hub, GROUP, KIND).await {
                Ok(Some(resource)) => {
                    missing = 0;
                    self.watch(hub, &resource, &mut told).await;
                }
                Ok(None) => {
                    missing += 1;
                    // An API server that has just started knows its definitions a moment later.
                    if missing >= CERTAIN || !self.view.borrow().looked {
                        self.learn(None);
                    }
                }
                Err(error) => {
                    told.problem(&explain("no discovery", &error));
                    self.looked();
                }
            }
            sleep(served::LOOK_AGAIN).await;
        }
    }

    /// Follows them until we may not, or until there is no such kind in this version any more.
    async fn watch(&self, hub: &Client, resource: &ApiResource, told: &mut Told) {
        let api = Api::<DynamicObject>::all_with(hub.clone(), resource);
        let mut events = pin!(watch_of(api, Config::default()).default_backoff());
        let mut known = Known::after(self.view.borrow().accepted.clone());
        loop {
            let ask_at = known.ask_at();
            let doubted = async {
                match ask_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        if known.take(&event, Instant::now()) {
                            told.0.clear();
                            self.learn(Some(known.all()));
                        }
                    }
                    Some(Err(error)) => {
                        told.problem(&explain_watch(RIGHT, &error));
                        self.looked();
                        if is_forbidden(&error) || served::is_gone(hub, resource).await {
                            return;
                        }
                    }
                    None => return,
                },
                () = doubted => {
                    let asked = Instant::now();
                    if served::takes_new(hub, resource).await.unwrap_or(false) {
                        known.believe(asked);
                        self.learn(Some(known.all()));
                    } else {
                        known.doubt(Instant::now());
                    }
                }
            }
        }
    }

    fn learn(&self, accepted: Option<BTreeSet<ClusterName>>) {
        let now = View { looked: true, accepted };
        self.view.send_if_modified(|view| {
            if *view == now {
                return false;
            }
            match (&view.accepted, &now.accepted) {
                (None, Some(accepted)) => tracing::info!(
                    accepted = accepted.len(),
                    "serving the clusters that Open Cluster Management accepts"
                ),
                (Some(_), None) => tracing::info!(
                    "the hub's API server has no ManagedClusters any more: serving all that are enrolled"
                ),
                _ => {}
            }
            *view = now;
            true
        });
    }

    fn looked(&self) {
        self.view.send_if_modified(|view| !std::mem::replace(&mut view.looked, true));
    }
}

// === impl Told ===

impl Told {
    fn problem(&mut self, error: &str) {
        if self.is_new(error) {
            tracing::warn!(
                error,
                "cannot see whom Open Cluster Management accepts: nothing changes"
            );
        }
    }

    fn is_new(&mut self, error: &str) -> bool {
        let is_new = self.0 != error;
        error.clone_into(&mut self.0);
        is_new
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
            is_code(error, 403)
        }
        _ => false,
    }
}

type Enrolments = BTreeMap<ClusterName, Enrolment>;

const GROUP: &str = "cluster.open-cluster-management.io";
const KIND: &str = "ManagedCluster";
const RIGHT: &str = "no list and watch of managedclusters (cluster.open-cluster-management.io)";
/// So many looks in a row that find no such kind are believed.
const CERTAIN: u32 = 2;
/// How long a hub that starts waits for the first word.
const FIRST_LOOK: Duration = Duration::from_secs(5);

#[cfg(test)]
#[cfg(feature = "sandbox")]
mod tests;
