//! Which identities of the hub are let through, and to what. Callers with a token of the cluster
//! itself are its RBAC's to judge, and pass.
//!
//! | what | file |
//! |---|---|
//! | the file's format, and the decision | [`rules`] |
//! | names that may end in `*` | [`patterns`] |
//! | what a request wants, in Kubernetes' words | [`request`] |
//! | read at the start, and again when it changes | [`reload`] |

mod patterns;
mod reload;
mod request;
mod rules;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use http::Method;
use http::uri::PathAndQuery;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::{Notify, watch};

pub(crate) use self::patterns::is_one_of;
pub use self::reload::Unusable;
use self::request::Request;
pub(crate) use self::request::Wanted;
pub(crate) use self::rules::Policy;
use super::authn::Identity;
use crate::name::ClusterName;
use crate::telemetry::series::add;

/// The policy in force. Clones share it.
#[derive(Clone)]
pub(crate) struct Policies(Arc<Inner>);

struct Inner {
    /// Where it comes from; without one no identity of the hub is let in.
    file: Option<PathBuf>,
    current: watch::Sender<Option<Arc<Policy>>>,
    /// What was last read, also where it could not be used.
    read: Mutex<Vec<u8>>,
    /// Look now.
    asked: Notify,
    metrics: Metrics,
}

struct Metrics {
    decisions: IntCounterVec,
    rules: IntGauge,
    reload_failures: IntCounter,
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
        "identities of the hub are let in by a policy alone, and this hub has none: set --policy (README.md)"
    )]
    NoPolicy,
    /// No rule.
    #[error("no rule of the hub's policy (--policy) lets {user} {what} on cluster {cluster}")]
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

/// Reads a policy for those who only want to know what it says.
///
/// # Errors
/// As a hub that starts with it.
pub(crate) fn read(file: &std::path::Path) -> Result<Policy, Unusable> {
    reload::parse(file, &reload::read(file)?)
}

// === impl Policies ===

impl Policies {
    /// Reads the policy, where there is one.
    ///
    /// # Errors
    /// When it cannot be read or used: a hub must not start with another policy than its operator's.
    pub(crate) fn load(file: Option<PathBuf>, registry: &Registry) -> Result<Self, Unusable> {
        let metrics = Metrics::register(registry)?;
        let (policy, read) = match &file {
            Some(file) => {
                let bytes = reload::read(file)?;
                (Some(Arc::new(reload::parse(file, &bytes)?)), bytes)
            }
            None => (None, Vec::new()),
        };
        metrics.count(policy.as_deref());
        let current = watch::Sender::new(policy);
        let (read, asked) = (Mutex::new(read), Notify::new());
        Ok(Self(Arc::new(Inner { file, current, read, asked, metrics })))
    }

    /// Whether a request may go on to its cluster. Counts the decision.
    ///
    /// # Errors
    /// Says why not.
    pub(crate) fn decide(&self, asked: &Asked) -> Result<(), Denied> {
        let decided = self.judge(asked);
        if asked.identity.impersonation.is_some() {
            self.0.metrics.decided(decided.as_ref().err());
        }
        decided
    }

    /// Refuses an identity of the hub that wants to speak for somebody else.
    pub(crate) fn impersonates(&self, identity: &Identity) -> Denied {
        let denied = Denied::Impersonates(identity.user.clone());
        self.0.metrics.decided(Some(&denied));
        denied
    }

    /// Ready once the policy does not allow any more what was asked.
    pub(crate) async fn withdrawn(&self, asked: &Asked) {
        // Taken before the first look, so that no change falls between the two.
        let mut changes = self.0.current.subscribe();
        while self.judge(asked).is_ok() {
            // Invariant: the sender lives as long as we do.
            let _ = changes.changed().await;
        }
    }

    fn judge(&self, asked: &Asked) -> Result<(), Denied> {
        let Asked { identity, cluster, method, target } = asked;
        let Some(impersonated) = &identity.impersonation else { return Ok(()) };
        let policy = self.0.current.borrow().clone().ok_or(Denied::NoPolicy)?;
        let request = Request::new(method, target);
        let wanted = request.wanted();
        if policy.allows(&identity.user, &impersonated.groups, cluster, wanted) {
            return Ok(());
        }
        let (user, what) = (identity.user.clone(), wanted.to_string());
        Err(Denied::NoRule { user, what, cluster: cluster.clone() })
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
        Ok(Self {
            decisions: add(registry, IntCounterVec::new(decisions, &["decision", "by"]))?,
            rules: add(
                registry,
                IntGauge::new("cluster_proxy_policy_rules", "Rules of the policy in force."),
            )?,
            reload_failures: add(
                registry,
                IntCounter::new(
                    "cluster_proxy_policy_reload_failures_total",
                    "Changed policies that could not be used; the last good one was kept.",
                ),
            )?,
        })
    }

    fn decided(&self, denied: Option<&Denied>) {
        let labels = match denied {
            None => ["allowed", "rule"],
            Some(Denied::NoPolicy) => ["denied", "no-policy"],
            Some(Denied::NoRule { .. } | Denied::Withdrawn) => ["denied", "no-rule"],
            Some(Denied::Impersonates(_)) => ["denied", "impersonates"],
        };
        self.decisions.with_label_values(&labels).inc();
    }

    fn count(&self, policy: Option<&Policy>) {
        self.rules.set(policy.map_or(0, |policy| i64::try_from(policy.len()).unwrap_or(i64::MAX)));
    }
}

#[cfg(test)]
mod tests;
