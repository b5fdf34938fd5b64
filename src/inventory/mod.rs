//! Publishes the hub into `ClusterProfile.status.accessProviders` (KEP-4322, KEP-5339), where
//! consumers such as multicluster-runtime look for a way to each cluster.
//!
//! ```text
//!  certificates -> publication ─┐
//!  fleet -> reachability ───────┼─> desired (pure) -> contest -> write -> ClusterProfile/status
//!  profiles -> publisher ───────┘
//! ```
//!
//! Entries of others, their fields, conditions and finalizers stay as they are, whatever the lists of
//! the installed definition merge like (`surface`).

pub mod api;
pub mod contest;
pub mod desired;
mod metrics;
mod publication;
mod publisher;
pub mod reachability;
mod rival;
mod surface;
mod write;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use self::contest::Contests;
use self::desired::PathCondition;
use self::metrics::Metrics;
use self::publisher::{Publisher, View};
use self::reachability::Reachability;
use self::surface::Surface;
use crate::fleet::Fleet;
use crate::kubernetes::describe;
use crate::pki::tls::Presented;

pub use self::publication::Address;

/// What to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InventoryConfig {
    /// Cluster manager whose profiles are ours: the value of their label.
    pub manager: String,
    /// Entries by name; the first is the one that consumers know. Not empty, no name twice.
    pub entries: Vec<(String, Address)>,
    /// CA bundle, PEM, that clients have to trust where the served certificate is an operator's own.
    pub serving_ca: Option<PathBuf>,
    /// Whether the path condition is published.
    pub path_condition: bool,
}

/// What the publisher finds in its hub.
pub struct Surroundings {
    /// A client of the hub's API server.
    pub client: Client,
    /// Port of the user listener.
    pub port: u16,
    /// The fleet, which must know every enrolled cluster from the start.
    pub fleet: watch::Receiver<Fleet>,
    /// What clients of the user listener are shown.
    pub presented: watch::Receiver<Presented>,
}

/// The publisher, ready to run.
pub struct Inventory {
    config: InventoryConfig,
    around: Surroundings,
    metrics: Arc<Metrics>,
    contests: Arc<Mutex<Contests>>,
}

// === impl Inventory ===

impl Inventory {
    /// Starts nothing yet.
    ///
    /// # Errors
    /// When `registry` has metrics of these names.
    pub fn new(
        config: InventoryConfig,
        around: Surroundings,
        registry: &prometheus::Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Arc::new(Metrics::register(registry)?);
        Ok(Self { config, around, metrics, contests: Arc::default() })
    }

    /// Publishes; never returns. May be dropped at any time and run again: what it knows of rivals
    /// stays.
    pub async fn run(&self) {
        let published = watch::Sender::new(None);
        let view = watch::Sender::new(View::default());
        let follow_view = follow_view(self.around.fleet.clone(), published.subscribe(), &view);
        tokio::select! {
            () = publication::follow(&self.config, &self.around, &published, &self.metrics) => {}
            () = follow_view => {}
            () = self.publish(view.subscribe()) => {}
        }
    }

    /// Runs a publisher for the definition that is installed, and another one when that changes.
    async fn publish(&self, mut view: watch::Receiver<View>) {
        // Nothing can be compared before that.
        if view.wait_for(|view| view.publication.is_some()).await.is_err() {
            return;
        }
        let mut surface = None;
        loop {
            self.metrics.served(surface.is_some());
            let publisher = async {
                match surface.clone() {
                    Some(surface) => self.publisher(surface, view.clone()).run().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = publisher => {}
                changed = self.surface_other_than(&surface) => {
                    if changed.is_none() {
                        tracing::warn!("the hub's API server has no ClusterProfiles any more");
                    }
                    surface = changed;
                }
            }
        }
    }

    fn publisher(&self, surface: Surface, view: watch::Receiver<View>) -> Publisher {
        tracing::debug!(?surface, "ClusterProfiles are served");
        if !surface.definition_known {
            tracing::warn!(
                "the hub may not read the CustomResourceDefinition {}, and writes whole lists: grant it (deploy/README.md)",
                api::DEFINITION
            );
        }
        Publisher {
            client: self.around.client.clone(),
            surface,
            manager: self.config.manager.clone(),
            condition: match self.config.path_condition {
                true => PathCondition::On,
                false => PathCondition::Off,
            },
            view,
            metrics: self.metrics.clone(),
            contests: self.contests.clone(),
        }
    }

    /// Ready once ClusterProfiles are served in another way than `known`.
    async fn surface_other_than(&self, known: &Option<Surface>) -> Option<Surface> {
        // The first look is at once; after that, definitions change with upgrades.
        if known.is_some() {
            sleep(LOOK_AGAIN).await;
        }
        loop {
            match surface::look(&self.around.client).await {
                Ok(found) if found != *known => return found,
                Ok(_) => sleep(LOOK_AGAIN).await,
                Err(error) => {
                    let error = describe(&error);
                    tracing::warn!(error, "cannot ask whether there are ClusterProfiles");
                    sleep(ASK_AGAIN).await;
                }
            }
        }
    }
}

/// Puts together what profiles are compared with. Never returns but with the hub.
async fn follow_view(
    mut fleet: watch::Receiver<Fleet>,
    mut published: watch::Receiver<Option<desired::Publication>>,
    view: &watch::Sender<View>,
) {
    let mut reachability = Reachability::default();
    loop {
        let enrolled = reachability.observe(&fleet.borrow_and_update(), Instant::now());
        let next = View { publication: published.borrow_and_update().clone(), enrolled };
        view.send_if_modified(|view| {
            let changed = *view != next;
            if changed {
                *view = next;
            }
            changed
        });
        let word = async {
            match reachability.next_change() {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let open = tokio::select! {
            changed = fleet.changed() => changed.is_ok(),
            changed = published.changed() => changed.is_ok(),
            () = word => true,
        };
        if !open {
            return;
        }
    }
}

/// How often a hub looks for a definition that came, went or changed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// After an API server did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(5);

#[cfg(test)]
#[cfg(feature = "sandbox")]
mod tests;
