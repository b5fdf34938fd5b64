//! From an authorised request to a response: pick a tunnel, send, judge what failed.
//!
//! Wiring and policy only; bytes move in [`stream`] and [`upgrade`].

pub(crate) mod body;
pub(crate) mod ending;
mod events;
mod live;
pub(crate) mod respond;
mod stream;
mod upgrade;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use hyper::body::{Body as _, Incoming};

use super::admission::Place;
use super::authn::Identity;
use super::failure::Failure;
use super::headers::Peer;
use super::live::LiveStreams;
use super::policy::{Asked, Policies};
use super::record::Record;
use super::registry::{PickError, Registry, Tunnel};
use super::services::{Allowed, Services};
use super::unread::UnreadBudget;
use super::verb::{RequestKind, Span};
use crate::drain::Drain;
use crate::name::ClusterName;
use crate::tunnel::headers::{self, Fault, Mode};
use crate::tunnel::opener::{OpenError, StreamClass, StreamPermit};
use crate::tunnel::service::ServiceTarget;
use body::ResponseBody;

pub(crate) use upgrade::{WantedUpgrade, wanted, wanted_protocol};

/// Sends requests to spokes. Clones share the registry.
#[derive(Clone)]
pub(crate) struct Forwarder {
    pub(crate) registry: Registry,
    pub(crate) policies: Policies,
    pub(crate) services: Services,
    pub(crate) live: LiveStreams,
    /// Ends streams, and owns what goes on after a response head.
    pub(crate) drain: Drain,
    /// How long an API server may think, counted from the end of the request's body.
    pub(crate) head_timeout: Duration,
    /// Bytes of a request's body, where the operator set a limit.
    pub(crate) max_body: Option<u64>,
    /// What clients do not read.
    pub(crate) unread: UnreadBudget,
}

/// A request that was let in: what to send, and on whose behalf.
pub(crate) struct Order {
    pub(crate) cluster: ClusterName,
    pub(crate) identity: Arc<Identity>,
    pub(crate) kind: RequestKind,
    pub(crate) method: Method,
    pub(crate) target: PathAndQuery,
    /// The client's path named no cluster: paths of the answer are the client's.
    pub(crate) at_home: bool,
    /// `None` where it goes to the API server.
    pub(crate) service: Option<ServiceOrder>,
    pub(crate) request_id: HeaderValue,
    /// Already those of the upstream request, mode included.
    pub(crate) headers: HeaderMap,
    /// What authentication has checked, for those who check it again while a stream runs. Where it
    /// may cross, it is among the headers as well.
    pub(crate) authorization: Option<HeaderValue>,
}

/// What a request to a service has besides.
pub(crate) struct ServiceOrder {
    pub(crate) service: ServiceTarget,
    /// Where the client finds the service's own root, without the first slash.
    pub(crate) root: String,
    /// What the list of exposed services says of it.
    pub(crate) allowed: Allowed,
    /// What the policy judges instead of the target, which is the service's own.
    pub(crate) asked: PathAndQuery,
}

// === impl Forwarder ===

impl Forwarder {
    /// Sends `order` with `body`, which has its `place`, and answers with the API server's response. `record` is taken when
    /// the stream outlives the response (an upgrade); otherwise it stays for the response body.
    pub(crate) async fn forward(
        &self,
        order: Order,
        upgrade: Option<WantedUpgrade>,
        (body, place): (Incoming, Option<Place>),
        record: &mut Option<Box<Record>>,
    ) -> Result<Response<ResponseBody>, Failure> {
        // Refused before anything is sent where the request says how long its body is.
        if let Some(most) = self.max_body.filter(|most| body.size_hint().lower() > *most) {
            return Err(Failure::BodyTooLarge(most));
        }
        let short = order.kind.span == Span::Short && upgrade.is_none();
        let live = if short { None } else { self.enter(&order)? };
        match upgrade {
            // Boxed: a future is as large as its largest part, and is moved whole for each request.
            Some(upgrade) => Box::pin(upgrade::forward(self, order, upgrade, live, record)).await,
            None => stream::forward(self, order, (body, place), live, record).await,
        }
    }

    fn pick(
        &self,
        cluster: &ClusterName,
        class: StreamClass,
    ) -> Result<(Arc<Tunnel>, StreamPermit), Failure> {
        self.registry.pick(cluster, class).map_err(|error| match error {
            PickError::NoTunnel { soon } => Failure::NoTunnel { cluster: cluster.clone(), soon },
            PickError::Full => Failure::Full(cluster.clone()),
        })
    }
}

// === impl Order ===

impl Order {
    /// The head as it goes into the tunnel. The authority means nothing there: an agent serves one
    /// API server, whatever a request calls it.
    fn head(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri(self.target.clone());
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Where the client finds the root of this API server, the first segment of its path, or that of
    /// the service.
    fn root(&self) -> Option<&str> {
        match &self.service {
            Some(service) => Some(&service.root),
            None => (!self.at_home).then_some(self.cluster.as_str()),
        }
    }

    /// Who answers it.
    pub(crate) fn peer(&self) -> Peer {
        if self.service.is_some() { Peer::Service } else { Peer::ApiServer }
    }

    /// The token that crosses: one of the hub or of an issuer never does, and one of the cluster
    /// reaches its API server, or a service that is to see it.
    pub(crate) fn crossing(&self) -> Option<HeaderValue> {
        let passes = self.service.as_ref().is_none_or(|service| service.allowed.pass_token);
        let crosses = self.identity.impersonation.is_none() && passes;
        self.authorization.clone().filter(|_| crosses)
    }

    /// Takes over the headers of the upstream request, marked with the way it stands before whoever
    /// answers it, and for whom.
    pub(crate) fn stand(&mut self, mut headers: HeaderMap) {
        match &self.service {
            Some(ServiceOrder { service, .. }) => {
                headers.insert(headers::MODE, Mode::Service.into());
                headers.insert(headers::SERVICE, service.into());
            }
            None => self.identity.stand(&mut headers),
        }
        self.headers = headers;
    }

    /// What the policy has let through, which it may not for ever; `None` for those whom it does not
    /// judge.
    fn asked(&self) -> Option<Asked> {
        self.identity.impersonation.is_some().then(|| Asked {
            identity: Arc::clone(&self.identity),
            cluster: self.cluster.clone(),
            method: self.method.clone(),
            target: self.service.as_ref().map_or(&self.target, |service| &service.asked).clone(),
        })
    }

    fn fault(&self, fault: Fault) -> Failure {
        let cluster = self.cluster.clone();
        match &self.service {
            Some(ServiceOrder { service, .. }) => {
                Failure::ServiceFault { cluster, service: Box::new(service.clone()), fault }
            }
            None => Failure::Fault { cluster, fault },
        }
    }

    fn class(&self) -> StreamClass {
        if self.kind.is_long() { StreamClass::Long } else { StreamClass::Short }
    }
}

/// `https://cluster` + target: HTTP/2 wants a scheme and an authority.
pub(crate) fn uri(target: PathAndQuery) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(Authority::from_static("cluster"));
    parts.path_and_query = Some(target);
    // Invariant: scheme, authority and path are all there, and each was parsed before.
    Uri::from_parts(parts).expect("three valid parts make a URI")
}

/// Attempts at one request, the first included. More would only find more of the same.
const ATTEMPTS: usize = 3;

fn failure(error: OpenError, cluster: &ClusterName) -> Failure {
    let cluster = cluster.clone();
    match error {
        OpenError::NotWritten => Failure::NoTunnel { cluster, soon: true },
        OpenError::Lost(reason) => Failure::TunnelLost { cluster, reason },
        // Refused unseen, time and again: the agent has all it carries.
        OpenError::Refused => Failure::Full(cluster),
        OpenError::Reset(_) | OpenError::Invalid(_) | OpenError::Unread => {
            Failure::Reset { cluster, reason: error.to_string() }
        }
    }
}

/// Turns an answer that the agent made itself into a failure; an API server's or a service's passes.
fn check_fault<B>(response: &Response<B>, order: &Order) -> Result<(), Failure> {
    match Fault::from_headers(response.headers()) {
        Some(fault) => Err(order.fault(fault)),
        None => Ok(()),
    }
}
