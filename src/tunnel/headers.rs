//! The typed headers of the wire. Both ends strip everything that starts with [`PREFIX`] from
//! outsiders: the hub from clients and from answers, the agent from the API server.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Every header of ours starts so.
pub const PREFIX: &str = "cluster-proxy-";

/// How a request stands before the spoke's API server ([`Mode`]).
pub const MODE: HeaderName = HeaderName::from_static("cluster-proxy-mode");
/// The method that a client used for an upgrade: CONNECT hides it, and POST and GET are
/// different RBAC verbs.
pub const METHOD: HeaderName = HeaderName::from_static("cluster-proxy-method");
/// The upgrade token (`websocket`, `SPDY/3.1`): wanted on a request; on a 200 it says that the
/// API server answered 101.
pub const UPGRADE: HeaderName = HeaderName::from_static("cluster-proxy-upgrade");
/// The service that a request is for ([`ServiceTarget`](super::service::ServiceTarget)): exactly one
/// with [`Mode::Service`], none with another mode.
pub const SERVICE: HeaderName = HeaderName::from_static("cluster-proxy-service");
/// On an answer that the agent made itself: which [`Fault`].
pub const FAULT: HeaderName = HeaderName::from_static("cluster-proxy-fault");

/// On an answer of the API server: microseconds that the agent waited for its head, so that the hub
/// can tell a slow API server from a slow way. Optional.
pub const TOOK: HeaderName = HeaderName::from_static("cluster-proxy-took");

/// The three ways to stand before the spoke's API server, the way to its services, and the tunnel's
/// own exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The caller's own token passes through unchanged.
    Caller,
    /// The agent's token with `Impersonate-*` built by the hub from a verified identity.
    Impersonate,
    /// The agent's own token; only the hub's own controllers ask for it.
    Agent,
    /// For a service of the spoke ([`SERVICE`]) and not for the API server. Authorization is there
    /// only where the hub lets the caller's own token cross; the agent never adds one of its own.
    Service,
    /// Not for the API server: hello and leave.
    Tunnel,
}

/// What went wrong at the agent, for an answer that no API server made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The API server could not be reached, or its TLS failed.
    Unreachable,
    /// The connection broke after the request was written.
    Interrupted,
    /// The API server's answer was not HTTP, or broke its rules.
    BadAnswer,
    /// The API server refused the agent's own token.
    AgentRefused,
    /// The request broke a rule of the wire: no or unknown mode, `caller` without Authorization.
    Refused,
    /// The spoke's owner lets no identity of the hub in, or not under this name.
    NotImpersonated,
    /// The spoke's owner does not expose this service, or no service may have its address.
    ServiceRefused,
    /// No such Service, or it has no such port or no ready endpoint.
    NoService,
    /// The service could not be reached, or its TLS failed.
    ServiceUnreachable,
    /// The service's certificate is of no authority that the agent knows, or cannot be used.
    ServiceUntrusted,
    /// The service's certificate is for other names.
    ServiceMisnamed,
    /// The service's certificate has expired, or is not valid yet.
    ServiceExpired,
}

// === impl Mode ===

impl Mode {
    const ALL: [Self; 5] =
        [Self::Caller, Self::Impersonate, Self::Agent, Self::Service, Self::Tunnel];

    /// The header value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Impersonate => "impersonate",
            Self::Agent => "agent",
            Self::Service => "service",
            Self::Tunnel => "tunnel",
        }
    }

    /// The one mode that `headers` names; `None` when it is missing, repeated or unknown.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        single(headers, &MODE)?.parse().ok()
    }
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text).ok_or(())
    }
}

impl From<Mode> for HeaderValue {
    fn from(mode: Mode) -> Self {
        Self::from_static(mode.as_str())
    }
}

// === impl Fault ===

impl Fault {
    const ALL: [Self; 12] = [
        Self::Unreachable,
        Self::Interrupted,
        Self::BadAnswer,
        Self::AgentRefused,
        Self::Refused,
        Self::NotImpersonated,
        Self::ServiceRefused,
        Self::NoService,
        Self::ServiceUnreachable,
        Self::ServiceUntrusted,
        Self::ServiceMisnamed,
        Self::ServiceExpired,
    ];

    /// The header value, and the metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Interrupted => "interrupted",
            Self::BadAnswer => "bad-answer",
            Self::AgentRefused => "agent-refused",
            Self::Refused => "refused",
            Self::NotImpersonated => "not-impersonated",
            Self::ServiceRefused => "service-refused",
            Self::NoService => "no-service",
            Self::ServiceUnreachable => "service-unreachable",
            Self::ServiceUntrusted => "service-untrusted",
            Self::ServiceMisnamed => "service-misnamed",
            Self::ServiceExpired => "service-expired",
        }
    }

    /// The fault that `headers` names, if the agent made this answer. An unknown word (a newer
    /// agent) reads as [`Fault::BadAnswer`].
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(&FAULT)?;
        let known = |fault: &Self| fault.as_str().as_bytes() == value.as_bytes();
        Some(Self::ALL.into_iter().find(known).unwrap_or(Self::BadAnswer))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How long the agent says that the API server took for the head of this answer.
pub fn took(headers: &HeaderMap) -> Option<Duration> {
    let micros: u32 = single(headers, &TOOK)?.parse().ok()?;
    Some(Duration::from_micros(micros.into()))
}

/// The header value of [`TOOK`]; longer than an hour is said to be that.
pub fn took_value(took: Duration) -> HeaderValue {
    HeaderValue::from(u32::try_from(took.as_micros()).unwrap_or(u32::MAX))
}

/// The value of a header that may stand only once.
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()
}

/// Removes every header of ours. What an outsider sends under our prefix means nothing.
pub fn strip(headers: &mut HeaderMap) {
    let ours = |name: &&HeaderName| name.as_str().starts_with(PREFIX);
    let names: Vec<HeaderName> = headers.keys().filter(ours).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for mode in Mode::ALL {
            let headers = HeaderMap::from_iter([(MODE, HeaderValue::from(mode))]);
            assert_eq!(Mode::from_headers(&headers), Some(mode));
        }
        for fault in Fault::ALL {
            let value = HeaderValue::from_static(fault.as_str());
            assert_eq!(Fault::from_headers(&HeaderMap::from_iter([(FAULT, value)])), Some(fault));
        }
    }

    #[test]
    fn a_repeated_or_unknown_mode_is_none() {
        let mut headers = HeaderMap::from_iter([(MODE, HeaderValue::from(Mode::Agent))]);
        assert!(Mode::from_headers(&headers).is_some());
        headers.append(MODE, Mode::Caller.into());
        assert!(Mode::from_headers(&headers).is_none());
        headers.insert(MODE, HeaderValue::from_static("root"));
        assert!(Mode::from_headers(&headers).is_none());
    }

    #[test]
    fn strip_takes_ours_and_leaves_theirs() {
        let mut headers = HeaderMap::new();
        headers.insert(MODE, Mode::Agent.into());
        headers.insert("cluster-proxy-anything", HeaderValue::from_static("x"));
        headers.insert("cluster-prox", HeaderValue::from_static("theirs"));
        strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["cluster-prox"]);
    }
}
