//! Everything that can keep a request from its answer, as the hub sees it.

use std::time::Duration;

use super::admission::TooMany;
use super::authn::AuthnError;
use super::front::head::HeadTooLarge;
use super::headers::HeaderError;
use super::hosts::HostError;
use super::limits::Limit;
use super::policy::Denied;
use super::route::RouteError;
use super::services::{NotExposed, ServicePathError};
use super::via::Loop;
use crate::name::ClusterName;
use crate::tunnel::connect::ConnectError;
use crate::tunnel::headers::Fault;
use crate::tunnel::opener::OpenError;
use crate::tunnel::service::ServiceTarget;

/// Why a request gets an answer of ours instead of an API server's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The target is not one.
    #[error("{0}")]
    Route(#[from] RouteError),
    /// The head is larger than the hub takes.
    #[error(transparent)]
    Head(#[from] HeadTooLarge),
    /// As many requests in flight as there may be.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// It is for no host, or for another one.
    #[error(transparent)]
    Host(#[from] HostError),
    /// It was here before.
    #[error(transparent)]
    Loop(#[from] Loop),
    /// The headers cannot be forwarded.
    #[error("{0}")]
    Headers(#[from] HeaderError),
    /// The caller was not let in, or could not be judged.
    #[error(transparent)]
    Authn(#[from] AuthnError),
    /// An identity of the hub that the policy does not let through.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// A path to a service that none has, or that is none.
    #[error(transparent)]
    Service(#[from] ServicePathError),
    /// A service that the hub's operator does not expose.
    #[error(transparent)]
    NotExposed(#[from] NotExposed),
    /// No cluster of that name is enrolled; only who may ask for it hears so.
    #[error("no cluster {0} is enrolled: check its name")]
    NoCluster(ClusterName),
    /// The request's body broke off, or broke its framing.
    #[error("the request body could not be read: {0}")]
    Body(String),
    /// A body over the limit that the operator set, bytes.
    #[error("the request body has more than the {0} bytes that the hub takes (--max-body)")]
    BodyTooLarge(u64),
    /// An upgrade request that cannot be carried.
    #[error("{0}")]
    Upgrade(#[from] ConnectError),
    /// No live tunnel.
    #[error(
        "cluster {cluster} has no connected agent: check that its agent runs and reaches the hub"
    )]
    NoTunnel {
        /// The cluster.
        cluster: ClusterName,
        /// Back any moment: the hub starts or drains, or the tunnel was lost a moment ago.
        soon: bool,
    },
    /// Every tunnel is at its limit of streams.
    #[error("cluster {0} has as many requests in flight as its tunnels carry: try again")]
    Full(ClusterName),
    /// More tokens hold streams than are supervised.
    #[error(
        "cluster {0} has live streams of as many different tokens as the hub supervises: try again"
    )]
    TooManyTokens(ClusterName),
    /// The tunnel broke under a request that must not be repeated by us.
    #[error("the tunnel to cluster {cluster} was lost while the request was under way: {reason}")]
    TunnelLost {
        /// The cluster.
        cluster: ClusterName,
        /// What the tunnel saw.
        reason: String,
    },
    /// The agent gave up on this one stream.
    #[error("the agent of cluster {cluster} ended the request: {reason}")]
    Reset {
        /// The cluster.
        cluster: ClusterName,
        /// HTTP/2 reason.
        reason: String,
    },
    /// The agent answered in place of the API server.
    #[error("{}", fault_text(.fault, .cluster))]
    Fault {
        /// The cluster.
        cluster: ClusterName,
        /// What it said.
        fault: Fault,
    },
    /// The agent answered in place of a service.
    #[error("{}", service_fault_text(.fault, .cluster, .service))]
    ServiceFault {
        /// The cluster.
        cluster: ClusterName,
        /// The service.
        service: Box<ServiceTarget>,
        /// What it said.
        fault: Fault,
    },
    /// No response head in time.
    #[error("the API server of cluster {cluster} sent no response within {}", humantime::format_duration(*.after))]
    HeadTimeout {
        /// The cluster.
        cluster: ClusterName,
        /// The deadline.
        after: Duration,
    },
}

/// The hop that failed: a closed set, for metrics and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// Nothing failed, or the API server itself said no.
    None,
    /// The request was wrong.
    Client,
    /// The hub could not say who is calling, or would not let them in.
    Authentication,
    /// The hub's policy.
    Policy,
    /// A limit of the hub.
    Limit,
    /// No tunnel, or it broke.
    Tunnel,
    /// The agent.
    Agent,
    /// The spoke's API server.
    ApiServer,
    /// A service of the spoke.
    Service,
}

// === impl Failure ===

impl Failure {
    /// Which hop failed.
    pub(crate) fn hop(&self) -> Hop {
        match self {
            Self::Route(_)
            | Self::Host(_)
            | Self::Loop(_)
            | Self::Headers(_)
            | Self::Body(_)
            | Self::NoCluster(_)
            | Self::Service(_)
            | Self::Upgrade(_) => Hop::Client,
            Self::Authn(_) => Hop::Authentication,
            Self::Denied(_) | Self::NotExposed(_) => Hop::Policy,
            Self::Full(_)
            | Self::Head(_)
            | Self::TooMany(_)
            | Self::TooManyTokens(_)
            | Self::BodyTooLarge(_) => Hop::Limit,
            Self::NoTunnel { .. } | Self::TunnelLost { .. } => Hop::Tunnel,
            Self::Reset { .. } => Hop::Agent,
            Self::Fault { fault, .. } => match fault {
                Fault::Unreachable | Fault::Interrupted | Fault::BadAnswer => Hop::ApiServer,
                Fault::AgentRefused
                | Fault::Refused
                | Fault::NotImpersonated
                | Fault::ServiceRefused
                | Fault::NoService
                | Fault::ServiceUnreachable
                | Fault::ServiceUntrusted
                | Fault::ServiceMisnamed
                | Fault::ServiceExpired => Hop::Agent,
            },
            Self::ServiceFault { fault, .. } => match fault {
                Fault::NoService
                | Fault::ServiceUnreachable
                | Fault::ServiceUntrusted
                | Fault::ServiceMisnamed
                | Fault::ServiceExpired
                | Fault::Interrupted
                | Fault::BadAnswer => Hop::Service,
                Fault::Unreachable => Hop::ApiServer,
                Fault::ServiceRefused
                | Fault::AgentRefused
                | Fault::Refused
                | Fault::NotImpersonated => Hop::Agent,
            },
            Self::HeadTimeout { .. } => Hop::ApiServer,
        }
    }

    /// The limit of the hub that was reached.
    pub(crate) const fn limit(&self) -> Option<Limit> {
        match self {
            Self::Head(large) => Some(large.limit()),
            Self::TooMany(refused) => Some(refused.limit),
            Self::BodyTooLarge(_) => Some(Limit::Body),
            Self::Full(_) => Some(Limit::TunnelStreams),
            Self::TooManyTokens(_) => Some(Limit::LiveTokens),
            _ => None,
        }
    }
}

// === impl Hop ===

impl Hop {
    /// Who broke off a stream after its head: the agent resets a stream where its API server's
    /// answer broke, and does not say more.
    pub(crate) const fn of(error: &OpenError) -> Self {
        match error {
            OpenError::Reset(_) => Self::Agent,
            OpenError::Unread => Self::Limit,
            _ => Self::Tunnel,
        }
    }

    /// The metric label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Client => "client",
            Self::Authentication => "hub-authentication",
            Self::Policy => "hub-policy",
            Self::Limit => "hub-limit",
            Self::Tunnel => "tunnel",
            Self::Agent => "agent",
            Self::ApiServer => "api-server",
            Self::Service => "service",
        }
    }
}

fn fault_text(fault: &Fault, cluster: &ClusterName) -> String {
    let what = match fault {
        Fault::Unreachable => "cannot reach its API server",
        Fault::Interrupted => "lost its API server while the request was under way",
        Fault::BadAnswer => "got an answer from its API server that is not valid HTTP",
        Fault::AgentRefused => {
            "was refused by its API server: check the agent's own ServiceAccount token and RBAC"
        }
        Fault::Refused => "refuses this kind of request",
        Fault::ServiceRefused
        | Fault::NoService
        | Fault::ServiceUnreachable
        | Fault::ServiceUntrusted
        | Fault::ServiceMisnamed
        | Fault::ServiceExpired => {
            "took this request for one to a service: it breaks the rules of the tunnel"
        }
        Fault::NotImpersonated => {
            "does not let this identity of the hub in: its owner decides that (--impersonation)"
        }
    };
    format!("the agent of cluster {cluster} {what}")
}

fn service_fault_text(fault: &Fault, cluster: &ClusterName, service: &ServiceTarget) -> String {
    let what = match fault {
        Fault::ServiceRefused => {
            return format!(
                "the agent of cluster {cluster} does not expose service {service}: its owner decides that (agent --expose-service)"
            );
        }
        Fault::NoService => {
            return format!(
                "cluster {cluster} has no service {service}: check its name, that it has this port, and that a pod behind it is ready"
            );
        }
        Fault::ServiceUnreachable => {
            return format!(
                "the agent of cluster {cluster} cannot reach service {service}: check what its pods listen on, and whether that is http or https"
            );
        }
        Fault::ServiceUntrusted => {
            return format!(
                "the agent of cluster {cluster} does not believe the certificate of service {service}: give it the authority that signed it (agent --additional-service-ca)"
            );
        }
        Fault::ServiceMisnamed => {
            let ServiceTarget { namespace, name, .. } = service;
            return format!(
                "the certificate of service {service} of cluster {cluster} is not for {name}.{namespace}.svc: have one issued for that name"
            );
        }
        Fault::ServiceExpired => {
            return format!(
                "the certificate of service {service} of cluster {cluster} has expired or is not valid yet: renew it, or look at the clock of the agent"
            );
        }
        Fault::Refused | Fault::NotImpersonated => "does not serve services: upgrade it to reach",
        Fault::AgentRefused => {
            "may not look services up: check its own ServiceAccount token and RBAC, to reach"
        }
        Fault::Unreachable => "cannot reach its API server, where it looks up",
        Fault::Interrupted => "lost, while the request was under way,",
        Fault::BadAnswer => "got an answer that is not valid HTTP from",
    };
    format!("the agent of cluster {cluster} {what} service {service}")
}

#[cfg(test)]
mod tests;
