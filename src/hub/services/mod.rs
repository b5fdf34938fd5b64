//! Services of clusters, as callers of the hub reach them: only those that its operator exposes.
//!
//! | what | file |
//! |---|---|
//! | the list's format, and the decision | [`list`] |
//! | which service a path names | [`path`] |
//! | read at the start, and again when it changes | [`followed`](super::followed) |
//! | whether the cluster stands by its own token, which no API server sees here | [`reviews`] |
//!
//! The hub's list is the first of two: the owner of a cluster exposes services as well, and the agent
//! refuses what is none.

mod list;
mod path;
pub(crate) mod reviews;

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

pub(crate) use self::list::{Entry, Exposed};
pub(crate) use self::path::{ServicePath, ServicePathError, service};
use super::HubError;
use super::authn::HubApi;
use super::followed::{Document, FollowMetrics, Followed, Source};
use crate::name::ClusterName;
use crate::telemetry::series::add;
use crate::tunnel::service::ServiceTarget;

/// The list in force. Clones share it.
#[derive(Clone)]
pub(crate) struct Services {
    list: Followed<Exposed>,
    decisions: IntCounterVec,
}

struct Metrics {
    decisions: IntCounterVec,
    of_list: FollowMetrics,
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

// === impl Services ===

impl Services {
    /// Reads a list that is in a file; one in a ConfigMap later ([`Followed::load`]).
    ///
    /// # Errors
    /// As [`Followed::load`].
    pub(crate) fn load(
        source: Source,
        hub_api: Option<Arc<dyn HubApi>>,
        registry: &Registry,
    ) -> Result<Self, HubError> {
        let Metrics { decisions, of_list } = Metrics::register(registry)?;
        Ok(Self { list: Followed::load(source, hub_api, of_list)?, decisions })
    }

    /// The list as it is written, for those who follow it.
    pub(crate) fn list(&self) -> &Followed<Exposed> {
        &self.list
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
        let labels = labels(decided.as_ref().err());
        self.decisions.with_label_values(&labels).inc();
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
        let mut changes = self.list.changes();
        let stands = |now: Allowed| now.pass_token || !allowed.pass_token;
        while self.judge(cluster, service).is_ok_and(stands) {
            // It fails only without a sender, which lives as long as we do.
            let _ = changes.changed().await;
        }
    }

    fn judge(&self, cluster: &ClusterName, service: &ServiceTarget) -> Result<Allowed, NotExposed> {
        let exposed = self.list.current().ok_or_else(|| match self.list.source() {
            Source::None => NotExposed::NoList,
            Source::File(_) | Source::ConfigMap { .. } => NotExposed::Unread,
        })?;
        match exposed.find(cluster, service) {
            Some((_, Entry { pass_token, .. })) => Ok(Allowed { pass_token: *pass_token }),
            None => {
                Err(NotExposed::NotListed { service: service.clone(), cluster: cluster.clone() })
            }
        }
    }
}

// === impl Exposed ===

impl Document for Exposed {
    const WHAT: &'static str = "list of exposed services";

    fn parse(texts: &[(&str, &str)]) -> Result<Self, String> {
        Self::parse(texts.iter().copied()).map_err(|error| error.to_string())
    }

    fn size(&self) -> usize {
        self.len()
    }
}

// === impl Metrics ===

impl Metrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let decisions = Opts::new(
            "cluster_proxy_service_decisions_total",
            "What the list of exposed services said of those that were asked for.",
        );
        let size = IntGauge::new(
            "cluster_proxy_exposed_services",
            "Entries of the list of exposed services in force.",
        );
        let failures = IntCounter::new(
            "cluster_proxy_exposed_services_reload_failures_total",
            "Lists of exposed services that could not be read or used; the last good one was kept.",
        );
        let of_list =
            FollowMetrics { size: add(registry, size)?, failures: add(registry, failures)? };
        let decisions = add(registry, IntCounterVec::new(decisions, &["decision", "by"]))?;
        Ok(Self { decisions, of_list })
    }
}

fn labels(refused: Option<&NotExposed>) -> [&'static str; 2] {
    match refused {
        None => ["allowed", "entry"],
        Some(NotExposed::NoList) => ["denied", "no-list"],
        Some(NotExposed::Unread) => ["denied", "unread"],
        Some(NotExposed::NotListed { .. } | NotExposed::Withdrawn) => ["denied", "no-entry"],
    }
}

#[cfg(test)]
mod tests;
