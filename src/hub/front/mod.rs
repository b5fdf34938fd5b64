//! The side that faces clients. One request, step by step: [`route`], authn, [`headers`], forward.
//! Nothing is looked up, revealed or sent before the caller is known.

mod connection;
mod fleet;
pub(crate) mod gate;
pub(crate) mod head;
pub(crate) mod listener;
mod plain;
mod service;

use std::net::SocketAddr;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

use super::admission::Admission;
use super::authn::{Authenticator, Identity};
use super::failure::Failure;
use super::forward::body::ResponseBody;
use super::forward::respond::respond;
use super::forward::{Forwarder, Order, wanted, wanted_protocol};
use super::headers;
use super::hosts::AllowedHosts;
use super::limits::{Limit, Limits};
use super::policy::{Asked, Policies};
use super::record::{Record, Recorder};
use super::route::{Target, route};
use super::services::reviews::SpokeReviews;
use super::services::{Services, service};
use super::verb::RequestKind;
use super::via::Pseudonym;
use crate::drain::Drain;
use crate::listen::activity::Running;
use crate::name::ClusterName;
use crate::pki::tls::FrontTls;
use crate::telemetry::trace::Step;
use crate::tunnel::impersonation;

pub(crate) use connection::{CONNECTION_WINDOW, MEASURED, UPLOAD_WINDOW, serve};

/// Everything a client connection needs.
pub(crate) struct Front {
    pub(crate) tls: FrontTls,
    pub(crate) authenticator: Authenticator,
    pub(crate) policies: Policies,
    pub(crate) services: Services,
    pub(crate) reviews: SpokeReviews,
    pub(crate) forwarder: Forwarder,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) admission: Admission,
    pub(crate) limits: Arc<Limits>,
    pub(crate) allowed_hosts: Arc<AllowedHosts>,
    pub(crate) pseudonym: Arc<Pseudonym>,
    /// Once it stops, HTTP/1.1 clients are asked to connect anew: elsewhere.
    pub(crate) stopping: Drain,
}

/// Counts an open connection until dropped.
struct OpenConnection(prometheus::Gauge);

// === impl Front ===

impl Front {
    /// Answers one request: the API server's answer, or a `Status` of ours.
    async fn handle(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        running: Running,
    ) -> Response<ResponseBody> {
        let request_id = headers::request_id(request.headers());
        let step = Step::start(request.headers());
        let (method, path) = (request.method(), request.uri().path());
        let http1 = request.version() < Version::HTTP_2;
        let upgrade = wanted_protocol(&request).is_some();
        let unused = request.extensions().get::<OnUpgrade>().cloned();
        let recorder = Arc::clone(&self.recorder);
        let id = request_id.clone();
        let mut record = Record::start(recorder, id, step.trace_id(), peer.ip(), method, path);
        record.serving(running);
        let mut record = Some(record);
        let mut response = match self.answer(request, peer, &request_id, &step, &mut record).await {
            Ok(response) => response,
            Err(failure) => {
                let mut response = respond(&failure, &request_id);
                if let Some(limit) = failure.limit() {
                    self.hit(limit);
                }
                if let Some(record) = &mut record {
                    record.failed(&failure, response.status());
                    // Nobody reads them, and anybody may make them.
                    if record.refusals() > UNREAD_REFUSALS {
                        *response.body_mut() = ResponseBody::full(Full::default());
                    }
                }
                response
            }
        };
        if http1 && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // Who was refused another protocol may have begun to speak it: that is no next request.
            if upgrade || self.stopping.is_stopping() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            if let Some(unused) = unused {
                self.forwarder.drain.spawn(shut_down(unused));
            }
        }
        match record {
            Some(record) => response.map(|body| body.recorded(record)),
            None => response,
        }
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        request_id: &HeaderValue,
        step: &Step,
        record: &mut Option<Box<Record>>,
    ) -> Result<Response<ResponseBody>, Failure> {
        head::check(&request, &self.limits)?;
        let waiting = self.admission.wait()?;
        let upload = (!request.body().is_end_stream()).then(|| self.admission.upload());
        let upload = upload.transpose()?;
        let target = route(request.method(), request.uri())?;
        self.allowed_hosts.check(request.headers(), request.uri(), request.version())?;
        headers::check(request.headers())?;
        self.pseudonym.check(request.headers())?;
        let at_home = matches!(target, Target::Home { .. });
        let (cluster, upstream, identity) = match target {
            Target::Cluster { cluster, upstream } => {
                let headers = request.headers_mut();
                let identity = self.authenticator.authenticate(&cluster, headers).await?;
                (cluster, upstream, identity)
            }
            Target::Home { upstream } => {
                let headers = request.headers_mut();
                let found = self.authenticator.authenticate_at_home(headers);
                let (cluster, identity) = Box::pin(found).await?;
                (cluster, upstream, identity)
            }
            Target::Own => return self.own_page(request, request_id, record).await,
        };
        let found = service(&upstream);
        let kind = match found {
            Ok(None) => RequestKind::of(request.method(), &upstream),
            Ok(Some(_)) | Err(_) => RequestKind::SERVICE,
        };
        if let Some(record) = record.as_mut() {
            record.identified(&cluster, &identity, kind);
        }
        let (upstream, service) = match found? {
            Some(found) => {
                let exposed = self.expose(&request, found, &cluster, &identity, at_home);
                let exposed = Box::pin(exposed).await?;
                (exposed.0, Some(exposed.1))
            }
            None => {
                if identity.impersonation.is_some() {
                    self.authorize(&request, &cluster, &identity, &upstream).await?;
                }
                (upstream, None)
            }
        };
        let upgrade = wanted(&mut request);
        if let Some(record) = record.as_mut() {
            record.admitted(&cluster, &identity, kind);
            let long = kind.is_long() || upgrade.is_some();
            record.counted(self.admission.admit(&cluster, &identity, long)?);
        }
        drop(waiting);
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        // Taken out first: what `Connection` names must not take it from us.
        let authorization = headers.remove(header::AUTHORIZATION);
        let mut order = Order {
            cluster,
            identity,
            kind,
            method: parts.method,
            target: upstream,
            at_home,
            service,
            request_id: request_id.clone(),
            headers: HeaderMap::new(),
            authorization,
        };
        let crosses = order.crossing();
        headers::upstream(&mut headers, order.peer(), crosses, peer.ip(), request_id, step);
        self.pseudonym.sign(&mut headers, parts.version);
        order.stand(headers);
        self.forwarder.forward(order, upgrade, (body, upload), record).await
    }

    /// Whether an identity of the hub may go on: by the policy first, so that only who may ask for a
    /// cluster learns whether there is one.
    async fn authorize(
        &self,
        request: &Request<Incoming>,
        cluster: &ClusterName,
        identity: &Arc<Identity>,
        target: &PathAndQuery,
    ) -> Result<(), Failure> {
        if impersonation::is_asked(request.headers()) {
            return Err(self.policies.impersonates(identity).into());
        }
        let asked = Asked {
            identity: Arc::clone(identity),
            cluster: cluster.clone(),
            method: request.method().clone(),
            target: target.clone(),
        };
        self.policies.decide(&asked).await?;
        if self.forwarder.registry.is_enrolled(cluster) {
            Ok(())
        } else {
            Err(Failure::NoCluster(cluster.clone()))
        }
    }

    /// A limit was reached.
    fn hit(&self, limit: Limit) {
        self.recorder.metrics.limit_hits.hit(limit);
    }

    fn open(&self) -> OpenConnection {
        let gauge = self.recorder.metrics.connections.clone();
        gauge.inc();
        OpenConnection(gauge)
    }
}

/// Ends a connection on which an upgrade was asked for and refused. HTTP hands it over as if it had
/// been upgraded, instead of closing it.
async fn shut_down(unused: OnUpgrade) {
    if let Ok(connection) = unused.await {
        // An error says that the client has gone.
        let _ = TokioIo::new(connection).shutdown().await;
    }
}

/// Refusals with a body that one connection may leave unread: more are a head alone, which waits for
/// no window. A client that reads leaves none.
const UNREAD_REFUSALS: usize = 16;

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
