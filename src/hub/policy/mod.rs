//! Which identities of the hub are let through, and to what. Callers with a token of the cluster
//! itself are its RBAC's to judge, and pass.
//!
//! | what | file |
//! |---|---|
//! | the file's format, and the decision | [`rules`] |
//! | names that may end in `*` | [`patterns`] |
//! | what a request wants, in Kubernetes' words | [`request`] |
//! | what no rule lets through: asked of the hub's own API server | [`delegation`] |
//! | which clusters somebody may see | [`seen`] |
//! | read at the start, and again when it changes | [`followed`](super::followed) |

pub(crate) mod delegation;
mod patterns;
mod request;
mod rules;
mod seen;

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::uri::PathAndQuery;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use self::delegation::{Delegation, FRESH, NotDelegated, Question};
pub(crate) use self::patterns::is_one_of;
use self::request::Request;
pub(crate) use self::request::Wanted;
pub(crate) use self::rules::Policy;
pub(crate) use self::seen::Seen;
use super::HubError;
use super::authn::{HubApi, Identity};
use super::followed::{Document, FollowMetrics, Followed, Source};
use crate::name::ClusterName;
use crate::telemetry::series::add;

/// The policy in force. Clones share it.
#[derive(Clone)]
pub struct Policies {
    /// Without one no identity of the hub is let in.
    policy: Followed<Policy>,
    /// Who is asked about what no rule lets through.
    delegation: Option<Delegation>,
    decisions: IntCounterVec,
}

struct Metrics {
    decisions: IntCounterVec,
    of_policy: FollowMetrics,
}

/// What let a request through.
enum By {
    Rule,
    /// The hub's own API server.
    Review,
}

/// What a caller asks of a cluster, as long as it lasts.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who.
    pub identity: Arc<Identity>,
    /// Where.
    pub cluster: ClusterName,
    /// How.
    pub method: Method,
    /// What, as the API server sees it.
    pub target: PathAndQuery,
}

/// Why an identity of the hub is not let through. Says the same whether or not there is such a
/// cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
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
    /// No rule, and not the hub's own API server.
    #[error(
        "neither the hub's policy nor the RBAC of the hub's cluster lets {user} {what} on cluster {cluster} (a rule there would be: {rule})"
    )]
    NotDelegated {
        /// Who.
        user: String,
        /// Verb and object.
        what: String,
        /// Where.
        cluster: ClusterName,
        /// What the API server was asked.
        rule: String,
    },
    /// No rule, and the hub's own API server does not say.
    #[error("the hub's API server cannot be asked who may: {0}")]
    Unasked(String),
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
    /// Reads a policy that is in a file; one in a ConfigMap later ([`Followed::load`]). `delegate`:
    /// whether the hub's API server is asked about what no rule lets through.
    ///
    /// # Errors
    /// As [`Followed::load`].
    pub fn load(
        source: Source,
        delegate: bool,
        hub_api: Option<Arc<dyn HubApi>>,
        registry: &Registry,
    ) -> Result<Self, HubError> {
        let Metrics { decisions, of_policy } = Metrics::register(registry)?;
        let delegation = hub_api.clone().filter(|_| delegate).map(Delegation::new);
        Ok(Self { policy: Followed::load(source, hub_api, of_policy)?, delegation, decisions })
    }

    /// The policy as it is written, for those who follow it.
    pub(crate) fn policy(&self) -> &Followed<Policy> {
        &self.policy
    }

    /// Whether a request may go on to its cluster. Counts the decision.
    ///
    /// # Errors
    /// Says why not.
    pub async fn decide(&self, asked: &Asked) -> Result<(), Denied> {
        let decided = match self.judge(asked) {
            Ok(()) => Ok(By::Rule),
            Err(denied) => {
                // Boxed: most requests have no need of it, and its future is part of theirs.
                Box::pin(self.delegate(asked, denied, FRESH)).await.map(|()| By::Review)
            }
        };
        if asked.identity.impersonation.is_some() {
            self.count(decided.as_ref());
        }
        decided.map(drop)
    }

    /// Refuses an identity of the hub that wants to speak for somebody else.
    pub(crate) fn impersonates(&self, identity: &Identity) -> Denied {
        let denied = Denied::Impersonates(identity.user.clone());
        self.count(Err(&denied));
        denied
    }

    /// Ready once the policy does not allow any more what was asked.
    pub(crate) async fn withdrawn(&self, asked: &Asked) {
        // Taken before the first look, so that no change falls between the two.
        let mut changes = self.policy.changes();
        let (mut refused, mut pause) = (false, SETTLES);
        loop {
            let Err(denied) = self.judge(asked) else {
                // It fails only without a sender, which lives as long as we do.
                let _ = changes.changed().await;
                continue;
            };
            if self.delegation.is_none() {
                return;
            }
            tokio::select! {
                _ = changes.changed() => continue,
                () = tokio::time::sleep(pause) => {}
            }
            let age = if refused { CONFIRM } else { STREAMS_FRESH };
            match self.delegate(asked, denied, age).await {
                // What cannot be asked ends nothing.
                Ok(()) | Err(Denied::Unasked(_) | Denied::Unread) => refused = false,
                Err(_) if refused => return,
                // An API server whose own caches are still empty says no, too.
                Err(_) => refused = true,
            }
            pause = if refused { CONFIRM } else { STREAMS_FRESH };
        }
    }

    /// Asks the hub's API server about what no rule lets through, or knows what it said less than
    /// `age` ago.
    async fn delegate(&self, asked: &Asked, denied: Denied, age: Duration) -> Result<(), Denied> {
        let Some(delegation) = &self.delegation else { return Err(denied) };
        let Asked { identity, cluster, method, target } = asked;
        let request = Request::new(method, target);
        let wanted = request.wanted();
        let who = || (identity.user.clone(), wanted.to_string(), cluster.clone());
        let Some(question) = Question::about(asked, wanted) else {
            let (user, what, cluster) = who();
            return Err(Denied::NoRule { user, what, cluster });
        };
        match delegation.ask(&question, age).await {
            Ok(()) => Ok(()),
            // A policy that cannot be read could have said yes.
            Err(NotDelegated::Refused) if denied == Denied::Unread => Err(denied),
            Err(NotDelegated::Refused) => {
                let (user, what, cluster) = who();
                Err(Denied::NotDelegated { user, what, cluster, rule: question.words() })
            }
            Err(NotDelegated::Unasked(why)) => Err(Denied::Unasked(why)),
        }
    }

    fn judge(&self, asked: &Asked) -> Result<(), Denied> {
        let Asked { identity, cluster, method, target } = asked;
        let Some(impersonated) = &identity.impersonation else { return Ok(()) };
        let policy = self.in_force()?;
        let request = Request::new(method, target);
        let wanted = request.wanted();
        if policy.allows(&identity.user, &impersonated.groups, cluster, wanted) {
            return Ok(());
        }
        let (user, what) = (identity.user.clone(), wanted.to_string());
        Err(Denied::NoRule { user, what, cluster: cluster.clone() })
    }

    fn in_force(&self) -> Result<Arc<Policy>, Denied> {
        self.policy.current().ok_or_else(|| match self.policy.source() {
            Source::None => Denied::NoPolicy,
            Source::File(_) | Source::ConfigMap { .. } => Denied::Unread,
        })
    }

    fn count(&self, decided: Result<&By, &Denied>) {
        self.decisions.with_label_values(&labels(decided)).inc();
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

fn labels(decided: Result<&By, &Denied>) -> [&'static str; 2] {
    match decided {
        Ok(By::Rule) => ["allowed", "rule"],
        Ok(By::Review) => ["allowed", "subject-access-review"],
        Err(Denied::NoPolicy) => ["denied", "no-policy"],
        Err(Denied::Unread) => ["denied", "unread"],
        Err(Denied::NoRule { .. } | Denied::Withdrawn) => ["denied", "no-rule"],
        Err(Denied::NotDelegated { .. }) => ["denied", "subject-access-review"],
        Err(Denied::Unasked(_)) => ["denied", "unasked"],
        Err(Denied::Impersonates(_)) => ["denied", "impersonates"],
    }
}

/// How old an answer of the hub's API server may be by which a stream goes on: with the pause before
/// the next one and its confirmation, less than ten seconds.
const STREAMS_FRESH: Duration = Duration::from_secs(4);

/// Before the first look at what a request stands on: most are over by then.
const SETTLES: Duration = Duration::from_secs(1);

/// Before a no to a stream is asked for again.
const CONFIRM: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
