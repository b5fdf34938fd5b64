//! Services of clusters, as callers of the hub reach them: only those that its operator exposes.
//!
//! | what | file |
//! |---|---|
//! | the list's format, and the decision | [`list`] |
//! | which service a path names | [`path`] |
//! | read at the start, and again when it changes | [`follow`] |
//! | whether the cluster stands by its own token, which no API server sees here | [`reviews`] |
//!
//! The hub's list is the first of two: the owner of a cluster exposes services as well, and the agent
//! refuses what is none.

mod follow;
mod list;
mod path;
pub(crate) mod reviews;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::{Notify, watch};

pub use self::follow::UnusableList;
pub(crate) use self::list::{Entry, Exposed};
pub(crate) use self::path::{ServicePath, ServicePathError, service};
use super::authn::HubApi;
use crate::name::ClusterName;
use crate::telemetry::series::add;
use crate::tunnel::service::ServiceTarget;

/// Where the list of exposed services is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExposedServices {
    /// Nowhere: none is exposed.
    #[default]
    None,
    /// In a file.
    File(PathBuf),
    /// Under any keys of a ConfigMap on the hub's API server; a missing one exposes nothing.
    ConfigMap {
        /// Of the hub.
        namespace: String,
        /// Of the ConfigMap.
        name: String,
    },
}

/// The list in force. Clones share it.
#[derive(Clone)]
pub(crate) struct Services(Arc<Inner>);

struct Inner {
    source: ExposedServices,
    /// Whose ConfigMap it is.
    hub_api: Option<Arc<dyn HubApi>>,
    /// `None` until it was read.
    current: watch::Sender<Option<Arc<Exposed>>>,
    /// What was last read, also where it could not be used.
    read: Mutex<Vec<u8>>,
    /// Look now.
    asked: Notify,
    metrics: Metrics,
}

struct Metrics {
    decisions: IntCounterVec,
    entries: IntGauge,
    reload_failures: IntCounter,
}

/// What the list says of an exposed service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// A token of the service's own cluster reaches it.
    pub(crate) pass_token: bool,
}

/// Why a service is not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotExposed {
    /// Nobody has said which are.
    #[error(
        "services are reached by a list of exposed ones alone, and this hub has none: set --exposed-services or --exposed-services-configmap (README.md)"
    )]
    NoList,
    /// An outage, or a list that cannot be used.
    #[error("the hub has not yet been able to read its list of exposed services: its log says why")]
    Unread,
    /// No entry.
    #[error(
        "service {service} of cluster {cluster} is not in the hub's list of exposed services (--exposed-services, --exposed-services-configmap)"
    )]
    NotListed {
        /// Which.
        service: ServiceTarget,
        /// Where.
        cluster: ClusterName,
    },
    /// The list changed.
    #[error("the hub's list of exposed services stopped allowing this while it was under way")]
    Withdrawn,
}

/// Reads a list for those who only want to know what it says.
///
/// # Errors
/// As a hub that starts with it.
pub(crate) fn read(file: &std::path::Path) -> Result<Exposed, UnusableList> {
    follow::of_file(file, &follow::read_file(file)?)
}

// === impl Services ===

impl Services {
    /// Reads a list that is in a file. One in a ConfigMap is first read by [`Services::follow`]: the
    /// hub's API server may be away when the hub starts.
    ///
    /// # Errors
    /// When a file cannot be read or used: a hub must not start with another list than its
    /// operator's.
    pub(crate) fn load(
        source: ExposedServices,
        hub_api: Option<Arc<dyn HubApi>>,
        registry: &Registry,
    ) -> Result<Self, UnusableList> {
        let metrics = Metrics::register(registry)?;
        let (exposed, read) = match &source {
            ExposedServices::File(file) => {
                let bytes = follow::read_file(file)?;
                (Some(Arc::new(follow::of_file(file, &bytes)?)), bytes)
            }
            ExposedServices::None | ExposedServices::ConfigMap { .. } => (None, Vec::new()),
        };
        metrics.count(exposed.as_deref());
        let current = watch::Sender::new(exposed);
        let (read, asked) = (Mutex::new(read), Notify::new());
        Ok(Self(Arc::new(Inner { source, hub_api, current, read, asked, metrics })))
    }

    /// Whether a service may be reached, and how. Counts the decision.
    ///
    /// # Errors
    /// Says why not.
    pub(crate) fn decide(
        &self,
        cluster: &ClusterName,
        service: &ServiceTarget,
    ) -> Result<Allowed, NotExposed> {
        let decided = self.judge(cluster, service);
        self.0.metrics.decided(decided.as_ref().err());
        decided
    }

    /// Ready once the list does not say of the service any more what was `allowed`.
    pub(crate) async fn withdrawn(
        &self,
        cluster: &ClusterName,
        service: &ServiceTarget,
        allowed: Allowed,
    ) {
        // Taken before the first look, so that no change falls between the two.
        let mut changes = self.0.current.subscribe();
        let stands = |now: Allowed| now.pass_token || !allowed.pass_token;
        while self.judge(cluster, service).is_ok_and(stands) {
            // Invariant: the sender lives as long as we do.
            let _ = changes.changed().await;
        }
    }

    fn judge(&self, cluster: &ClusterName, service: &ServiceTarget) -> Result<Allowed, NotExposed> {
        let exposed = self.0.current.borrow().clone();
        let exposed = exposed.ok_or(match self.0.source {
            ExposedServices::None => NotExposed::NoList,
            ExposedServices::File(_) | ExposedServices::ConfigMap { .. } => NotExposed::Unread,
        })?;
        match exposed.find(cluster, service) {
            Some((_, Entry { pass_token, .. })) => Ok(Allowed { pass_token: *pass_token }),
            None => {
                Err(NotExposed::NotListed { service: service.clone(), cluster: cluster.clone() })
            }
        }
    }
}

// === impl Metrics ===

impl Metrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let decisions = Opts::new(
            "cluster_proxy_service_decisions_total",
            "What the list of exposed services said of those that were asked for.",
        );
        Ok(Self {
            decisions: add(registry, IntCounterVec::new(decisions, &["decision", "by"]))?,
            entries: add(
                registry,
                IntGauge::new(
                    "cluster_proxy_exposed_services",
                    "Entries of the list of exposed services in force.",
                ),
            )?,
            reload_failures: add(
                registry,
                IntCounter::new(
                    "cluster_proxy_exposed_services_reload_failures_total",
                    "Lists of exposed services that could not be read or used; the last good one was kept.",
                ),
            )?,
        })
    }

    fn decided(&self, refused: Option<&NotExposed>) {
        let labels = match refused {
            None => ["allowed", "entry"],
            Some(NotExposed::NoList) => ["denied", "no-list"],
            Some(NotExposed::Unread) => ["denied", "unread"],
            Some(NotExposed::NotListed { .. } | NotExposed::Withdrawn) => ["denied", "no-entry"],
        };
        self.decisions.with_label_values(&labels).inc();
    }

    fn count(&self, exposed: Option<&Exposed>) {
        let entries = exposed.map_or(0, Exposed::len);
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests;
