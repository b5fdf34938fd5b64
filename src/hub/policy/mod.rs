//! Which identities of the hub are let through, and to what. Callers with a token of the cluster
//! itself are its RBAC's to judge, and pass.
//!
//! | what | file |
//! |---|---|
//! | the file's format, and the decision | [`rules`] |
//! | names that may end in `*` | [`patterns`] |
//! | what a request wants, in Kubernetes' words | [`request`] |
//! | read at the start, and again when it changes | [`followed`](super::followed) |

mod patterns;
mod request;
mod rules;

use std::sync::Arc;

use http::Method;
use http::uri::PathAndQuery;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

pub(crate) use self::patterns::is_one_of;
use self::request::Request;
pub(crate) use self::request::Wanted;
pub(crate) use self::rules::Policy;
use super::HubError;
use super::authn::{HubApi, Identity};
use super::followed::{Document, FollowMetrics, Followed, Source};
use crate::name::ClusterName;
use crate::telemetry::series::add;

/// The policy in force. Clones share it.
#[derive(Clone)]
pub(crate) struct Policies {
    /// Without one no identity of the hub is let in.
    policy: Followed<Policy>,
    decisions: IntCounterVec,
}

struct Metrics {
    decisions: IntCounterVec,
    of_policy: FollowMetrics,
}

/// What a caller asks of a cluster, as long as it lasts.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) identity: Arc<Identity>,
    pub(crate) cluster: ClusterName,
    pub(crate) method: Method,
    pub(crate) target: PathAndQuery,
}

/// Why an identity of the hub is not let through. Says the same whether or not there is such a
/// cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// Nobody has said who may.
    #[error(
        "identities of the hub are let in by a policy alone, and this hub has none: set --policy or --policy-configmap (README.md)"
    )]
    NoPolicy,
    /// An outage, or a policy that cannot be used.
    #[error("the hub has not yet been able to read its policy: its log says why")]
    Unread,
    /// No rule.
    #[error(
        "no rule of the hub's policy (--policy, --policy-configmap) lets {user} {what} on cluster {cluster}"
    )]
    NoRule {
        /// Who.
        user: String,
        /// Verb and object.
        what: String,
        /// Where.
        cluster: ClusterName,
    },
    /// The policy changed.
    #[error("the hub's policy stopped allowing this while it was under way")]
    Withdrawn,
    /// They are somebody else's word already.
    #[error(
        "{0} reaches clusters by impersonation, and cannot impersonate others: leave out Impersonate-* headers (kubectl: --as)"
    )]
    Impersonates(String),
}

// === impl Policies ===

impl Policies {
    /// Reads a policy that is in a file; one in a ConfigMap later ([`Followed::load`]).
    ///
    /// # Errors
    /// As [`Followed::load`].
    pub(crate) fn load(
        source: Source,
        hub_api: Option<Arc<dyn HubApi>>,
        registry: &Registry,
    ) -> Result<Self, HubError> {
        let Metrics { decisions, of_policy } = Metrics::register(registry)?;
        Ok(Self { policy: Followed::load(source, hub_api, of_policy)?, decisions })
    }

    /// The policy as it is written, for those who follow it.
    pub(crate) fn policy(&self) -> &Followed<Policy> {
        &self.policy
    }

    /// Whether a request may go on to its cluster. Counts the decision.
    ///
    /// # Errors
    /// Says why not.
    pub(crate) fn decide(&self, asked: &Asked) -> Result<(), Denied> {
        let decided = self.judge(asked);
        if asked.identity.impersonation.is_some() {
            self.count(decided.as_ref().err());
        }
        decided
    }

    /// Refuses an identity of the hub that wants to speak for somebody else.
    pub(crate) fn impersonates(&self, identity: &Identity) -> Denied {
        let denied = Denied::Impersonates(identity.user.clone());
        self.count(Some(&denied));
        denied
    }

    /// Ready once the policy does not allow any more what was asked.
    pub(crate) async fn withdrawn(&self, asked: &Asked) {
        // Taken before the first look, so that no change falls between the two.
        let mut changes = self.policy.changes();
        while self.judge(asked).is_ok() {
            // It fails only without a sender, which lives as long as we do.
            let _ = changes.changed().await;
        }
    }

    fn judge(&self, asked: &Asked) -> Result<(), Denied> {
        let Asked { identity, cluster, method, target } = asked;
        let Some(impersonated) = &identity.impersonation else { return Ok(()) };
        let policy = self.policy.current().ok_or_else(|| match self.policy.source() {
            Source::None => Denied::NoPolicy,
            Source::File(_) | Source::ConfigMap { .. } => Denied::Unread,
        })?;
        let request = Request::new(method, target);
        let wanted = request.wanted();
        if policy.allows(&identity.user, &impersonated.groups, cluster, wanted) {
            return Ok(());
        }
        let (user, what) = (identity.user.clone(), wanted.to_string());
        Err(Denied::NoRule { user, what, cluster: cluster.clone() })
    }

    fn count(&self, denied: Option<&Denied>) {
        self.decisions.with_label_values(&labels(denied)).inc();
    }
}

// === impl Policy ===

impl Document for Policy {
    const WHAT: &'static str = "policy";

    fn parse(texts: &[(&str, &str)]) -> Result<Self, String> {
        Self::parse(texts.iter().copied()).map_err(|error| error.to_string())
    }

    fn size(&self) -> usize {
        self.len()
    }
}

// === impl Wanted ===

impl std::fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Resource { verb, group, resource, subresource, namespace, name } => {
                write!(f, "{verb} {resource}")?;
                if !subresource.is_empty() {
                    write!(f, "/{subresource}")?;
                }
                if !group.is_empty() {
                    write!(f, " of API group {group}")?;
                }
                if !name.is_empty() {
                    write!(f, " of {name}")?;
                }
                match *namespace {
                    "" => f.write_str(" at the cluster scope"),
                    namespace => write!(f, " in namespace {namespace}"),
                }
            }
            Self::Path { method, path } => {
                write!(f, "{} the path {path}", method.as_str().to_ascii_lowercase())
            }
            Self::Unclear => f.write_str("ask for what is no path of an API server"),
        }
    }
}

// === impl Metrics ===

impl Metrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let decisions = Opts::new(
            "cluster_proxy_authorizations_total",
            "Decisions of the policy about identities of the hub.",
        );
        let size = IntGauge::new("cluster_proxy_policy_rules", "Rules of the policy in force.");
        let failures = IntCounter::new(
            "cluster_proxy_policy_reload_failures_total",
            "Policies that could not be read or used; the last good one was kept.",
        );
        let of_policy =
            FollowMetrics { size: add(registry, size)?, failures: add(registry, failures)? };
        let decisions = add(registry, IntCounterVec::new(decisions, &["decision", "by"]))?;
        Ok(Self { decisions, of_policy })
    }
}

fn labels(denied: Option<&Denied>) -> [&'static str; 2] {
    match denied {
        None => ["allowed", "rule"],
        Some(Denied::NoPolicy) => ["denied", "no-policy"],
        Some(Denied::Unread) => ["denied", "unread"],
        Some(Denied::NoRule { .. } | Denied::Withdrawn) => ["denied", "no-rule"],
        Some(Denied::Impersonates(_)) => ["denied", "impersonates"],
    }
}

#[cfg(test)]
mod tests;
