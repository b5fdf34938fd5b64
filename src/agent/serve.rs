//! A request from the tunnel becomes a request to the API server, or is refused.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::access::Accesses;
use super::headers;
use super::hello::{Greeter, no_body};
use super::impersonation::ImpersonationRule;
use super::link::Link;
use super::metrics::Metrics;
use super::services::{Exposure, Services, TrustError};
use super::upgrade;
use super::upstream::{Account, UpstreamError};
use crate::hop;
use crate::telemetry::trace::TraceParent;
use crate::tunnel::connect;
use crate::tunnel::headers::{FAULT, Fault, Mode, TOOK, took_value};
use crate::tunnel::pump::{BodyError, BodySender, ReceiveBody};
use crate::tunnel::server::{Handler, Responder};
use crate::tunnel::service::ServiceTarget;

/// What all tunnels of an agent share.
pub(super) struct Service {
    pub(super) accesses: Accesses,
    pub(super) greeter: Greeter,
    pub(super) metrics: Metrics,
    /// `None` lets no identity of the hub in.
    impersonation: Option<ImpersonationRule>,
    /// What the owner exposes beside the API server.
    pub(super) services: Services,
    /// The last attempt reached the API server: a change is worth a line, each failure is not.
    reachable: AtomicBool,
}

/// Serves the streams of one tunnel.
#[derive(Clone)]
pub(super) struct TunnelHandler {
    pub(super) service: Arc<Service>,
    pub(super) link: Link,
}

/// How a request ended, for the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The API server's answer was passed on whole.
    Answered(StatusCode),
    /// An upgraded connection, whichever way it ended.
    Upgraded,
    /// The hub reset the stream.
    Cancelled,
    /// The answer broke off on its way.
    Cut,
    /// An answer of our own.
    Fault(Fault),
}

// === impl TunnelHandler ===

impl Handler for TunnelHandler {
    async fn handle(&self, request: Request<ReceiveBody>, responder: Responder) {
        let mode = Mode::from_headers(request.headers());
        let outcome = match TraceParent::from_headers(request.headers()) {
            Some(caller) => {
                let trace_id = caller.trace_id();
                self.traced(mode, request, responder)
                    .instrument(tracing::debug_span!("request", %trace_id))
                    .await
            }
            // The hub's own.
            None => self.serve(mode, request, responder).await,
        };
        self.service.metrics.request(mode, outcome.as_str());
    }
}

impl TunnelHandler {
    /// Serves a request that can be followed: its lines, and one at its end, bear the trace.
    async fn traced(
        &self,
        mode: Option<Mode>,
        request: Request<ReceiveBody>,
        responder: Responder,
    ) -> Outcome {
        let started = Instant::now();
        let outcome = self.serve(mode, request, responder).await;
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(outcome = outcome.as_str(), duration_ms, "a request ended");
        outcome
    }

    async fn serve(
        &self,
        mode: Option<Mode>,
        request: Request<ReceiveBody>,
        responder: Responder,
    ) -> Outcome {
        match mode {
            // What most requests do not do is boxed: a future is as large as its largest part, and
            // is moved whole for each of them.
            Some(Mode::Tunnel) => Box::pin(self.exchange(request, responder)).await,
            Some(mode @ (Mode::Caller | Mode::Agent)) => {
                self.service.forward(mode, request, responder).await
            }
            Some(Mode::Impersonate) if !self.service.lets_in(request.headers()) => {
                refuse(responder, Fault::NotImpersonated)
            }
            Some(Mode::Impersonate) => {
                self.service.forward(Mode::Impersonate, request, responder).await
            }
            Some(Mode::Service) => Box::pin(self.service.to_service(request, responder)).await,
            None => refuse(responder, Fault::Refused),
        }
    }
}

// === impl Service ===

impl Service {
    pub(super) fn new(
        accesses: Accesses,
        greeter: Greeter,
        metrics: Metrics,
        impersonation: Option<ImpersonationRule>,
        exposure: Exposure,
    ) -> Result<Self, TrustError> {
        let services = Services::new(accesses.clone(), exposure)?;
        let reachable = AtomicBool::new(true);
        Ok(Self { accesses, greeter, metrics, impersonation, services, reachable })
    }

    /// Whether the owner of this cluster lets in whom `headers` name.
    fn lets_in(&self, headers: &HeaderMap) -> bool {
        let Some(rule) = &self.impersonation else {
            tracing::debug!("an identity of the hub was refused: --impersonation is off");
            return false;
        };
        let checked = rule.check(headers);
        if let Err(error) = &checked {
            tracing::warn!(%error, "an identity of the hub was refused");
        }
        checked.is_ok()
    }

    /// Passes a request on with the rights of its caller, or of the agent.
    async fn forward(
        &self,
        mode: Mode,
        request: Request<ReceiveBody>,
        responder: Responder,
    ) -> Outcome {
        let account = if mode == Mode::Caller { Account::Caller } else { Account::Agent };
        if !connect::is_connect(&request) {
            let mut request = request;
            return match self.clean(mode, request.headers_mut()) {
                // Boxed here, where it holds little: each caller has room for its argument and for
                // what it awaits.
                Ok(()) => Box::pin(self.pass(account, request, responder)).await,
                Err(headers::NotExactlyOne) => refuse(responder, Fault::Refused),
            };
        }
        let Ok((mut request, upgrade)) = connect::decode_request(request) else {
            return refuse(responder, Fault::Refused);
        };
        let clean = |headers: &mut HeaderMap| self.clean(mode, headers);
        match headers::keeping_upgrade(request.headers_mut(), clean) {
            Ok(()) => Box::pin(upgrade::pass(self, account, upgrade, request, responder)).await,
            Err(headers::NotExactlyOne) => refuse(responder, Fault::Refused),
        }
    }

    fn clean(&self, mode: Mode, headers: &mut HeaderMap) -> Result<(), headers::NotExactlyOne> {
        let token = || self.accesses.current().token.header();
        match mode {
            // Never with a token of ours.
            Mode::Caller => return headers::as_caller(headers),
            Mode::Service => headers::as_service(headers),
            Mode::Impersonate => headers::as_impersonator(headers, token()),
            Mode::Agent | Mode::Tunnel => headers::as_agent(headers, token()),
        }
        Ok(())
    }

    /// Passes a request on to a service, if the owner exposes it.
    async fn to_service(
        &self,
        mut request: Request<ReceiveBody>,
        mut responder: Responder,
    ) -> Outcome {
        let Some(target) = ServiceTarget::from_headers(request.headers()) else {
            return refuse(responder, Fault::Refused);
        };
        let mut upgrade = None;
        if connect::is_connect(&request) {
            let Ok((decoded, asked)) = connect::decode_request(request) else {
                return refuse(responder, Fault::Refused);
            };
            (request, upgrade) = (decoded, Some(asked));
            headers::keeping_upgrade(request.headers_mut(), headers::as_service);
        } else {
            headers::as_service(request.headers_mut());
        }
        let (mut parts, receive) = request.into_parts();
        parts.extensions.clear();
        // The bytes of a stream that is upgraded belong to what comes after.
        let (body, receive) = match upgrade {
            Some(_) => (no_body(), Some(receive)),
            None if receive.is_end_stream() => (no_body(), None),
            None => (receive.map_err(Into::into).boxed_unsync(), None),
        };
        let started = Instant::now();
        let sent = self.services.send(&target, Request::from_parts(parts, body));
        let answer = tokio::select! {
            outcome = sent => match outcome {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::debug!(service = %target, %error, "no answer from a service");
                    return refuse(responder, error.fault());
                }
            },
            _ = responder.cancelled() => return Outcome::Cancelled,
        };
        let took = started.elapsed();
        if let (Some(asked), Some(receive)) = (upgrade, receive) {
            return upgrade::switch(self, Account::Caller, asked, answer, took, receive, responder)
                .await;
        }
        let (response, driver) = answer;
        let outcome = self.respond(Account::Caller, response, took, responder).await;
        drop(driver);
        outcome
    }

    async fn pass(
        &self,
        account: Account,
        request: Request<ReceiveBody>,
        mut responder: Responder,
    ) -> Outcome {
        let (mut parts, body) = request.into_parts();
        parts.extensions.clear();
        let body =
            if body.is_end_stream() { no_body() } else { body.map_err(Into::into).boxed_unsync() };
        let access = self.accesses.current();
        let started = Instant::now();
        let outcome = {
            // Pinned, or there would be room for it twice.
            let sent = pin!(access.upstream.send(account, Request::from_parts(parts, body)));
            tokio::select! {
                outcome = sent => outcome,
                // Dropping the request ends it at the API server, which may be working hard on it.
                _ = responder.cancelled() => return Outcome::Cancelled,
            }
        };
        match outcome {
            Ok(answer) => {
                let took = self.answered(started);
                let outcome = self.respond(account, answer.response, took, responder).await;
                drop(answer.lease);
                outcome
            }
            Err(error) => self.fail(responder, &error),
        }
    }

    /// The API server has sent a head. Returns how long it took.
    pub(super) fn answered(&self, started: Instant) -> Duration {
        self.note(None);
        let took = started.elapsed();
        self.metrics.api_server.observe(took.as_secs_f64());
        took
    }

    /// Passes an answer of the API server on, unless it refuses *us*: the caller must not read a
    /// 401 about a token that is not theirs, and drop their own.
    pub(super) async fn respond<B>(
        &self,
        account: Account,
        response: Response<B>,
        took: Duration,
        responder: Responder,
    ) -> Outcome
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<super::upstream::BoxError>,
    {
        let status = response.status();
        if account == Account::Agent && status == StatusCode::UNAUTHORIZED {
            tracing::warn!("the API server refuses the agent's own credentials");
            return refuse(responder, Fault::AgentRefused);
        }
        // Nobody asked for another protocol, and a tunnel carries none of these heads.
        if status.is_informational() {
            return refuse(responder, Fault::BadAnswer);
        }
        let (parts, body) = response.into_parts();
        let ended = body.is_end_stream();
        let mut headers = parts.headers;
        headers::clean_response(&mut headers);
        headers.insert(TOOK, took_value(took));
        hop::mark_unique(&mut headers);
        let Ok(send) = responder.send(head(status, headers), ended) else {
            return Outcome::Cancelled;
        };
        if ended {
            return Outcome::Answered(status);
        }
        match BodySender::new(body, send).with_trailers().await {
            Ok(_) => Outcome::Answered(status),
            Err(BodyError::Stream(_)) => Outcome::Cancelled,
            Err(BodyError::Source(error)) => {
                tracing::debug!(%error, "an answer of the API server broke off");
                Outcome::Cut
            }
        }
    }

    /// Answers for an API server that did not.
    pub(super) fn fail(&self, responder: Responder, error: &UpstreamError) -> Outcome {
        tracing::debug!(%error, "no answer from the API server");
        if matches!(error, UpstreamError::Unreachable(_)) {
            self.note(Some(error));
        }
        refuse(responder, error.fault())
    }

    /// Logs when the API server becomes unreachable, and when it is back.
    pub(super) fn note(&self, failure: Option<&UpstreamError>) {
        let reachable = failure.is_none();
        if self.reachable.load(Ordering::Relaxed) == reachable
            || self.reachable.swap(reachable, Ordering::Relaxed) == reachable
        {
            return;
        }
        match failure {
            Some(error) => tracing::warn!(%error, "the API server became unreachable"),
            None => tracing::info!("the API server answers again"),
        }
    }
}

// === impl Outcome ===

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Answered(status) => match status.as_u16() / 100 {
                2 => "2xx",
                3 => "3xx",
                4 => "4xx",
                5 => "5xx",
                _ => "other",
            },
            Self::Upgraded => "upgraded",
            Self::Cancelled => "cancelled",
            Self::Cut => "cut",
            Self::Fault(fault) => fault.as_str(),
        }
    }
}

/// Answers without the API server. The hub makes the body that people read.
pub(super) fn refuse(responder: Responder, fault: Fault) -> Outcome {
    let value = HeaderValue::from_static(fault.as_str());
    let headers = HeaderMap::from_iter([(FAULT, value)]);
    // A hub that reset the stream needs no answer.
    let _ = responder.send(head(StatusCode::BAD_GATEWAY, headers), true);
    Outcome::Fault(fault)
}

/// A head of the tunnel's own HTTP version.
pub(super) fn head(status: StatusCode, headers: HeaderMap) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.headers_mut() = headers;
    head
}

#[cfg(test)]
mod tests;
