//! What is remembered of one request until its last byte, for metrics and the access log.
//!
//! The record travels with the response body (or the upgraded stream) and is written when it is
//! dropped: a client that goes away half-way leaves a line like any other.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};
use prometheus::IntGauge;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::access_log::{AccessLine, AccessLogger};
use super::admission::Admitted;
use super::authn::Identity;
use super::failure::{Failure, Hop};
use super::metrics::Metrics;
use super::registry::Registry;
use super::traffic::Traffic;
use super::verb::{RequestKind, Span};
use crate::listen::activity::Running;
use crate::name::ClusterName;
use crate::telemetry::trace::TraceId;

/// Where records go when they end.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) metrics: Metrics,
    pub(crate) log: AccessLogger,
    /// Whose names may become labels.
    pub(crate) registry: Registry,
}

/// One request.
pub(crate) struct Record {
    recorder: Arc<Recorder>,
    started: Instant,
    pub(crate) request_id: HeaderValue,
    trace_id: TraceId,
    client: IpAddr,
    method: Method,
    path: String,
    /// Set once the caller is known; only that of a cluster which is enrolled becomes a label.
    cluster: Option<ClusterName>,
    identity: Option<Arc<Identity>>,
    verb: &'static str,
    code: StatusCode,
    hop: Hop,
    reason: String,
    /// Shared with the request's body, which outlives the head.
    pub(crate) traffic: Arc<Traffic>,
    /// When the head went on its way to the API server, and when the answer's came.
    admitted: Option<Instant>,
    answered: Option<Instant>,
    /// Whether the answer ends by itself: how long a watch is open is nobody's latency.
    ends: bool,
    in_flight: Option<IntGauge>,
    live: Option<IntGauge>,
    /// Keeps the connection from counting as idle.
    serving: Option<Running>,
    /// Its place among the requests in flight.
    counted: Option<Admitted>,
}

// === impl Record ===

impl Record {
    /// A request whose head was just read.
    pub(crate) fn start(
        recorder: Arc<Recorder>,
        request_id: HeaderValue,
        trace_id: TraceId,
        client: IpAddr,
        method: &Method,
        path: &str,
    ) -> Box<Self> {
        Box::new(Self {
            started: Instant::now(),
            request_id,
            trace_id,
            client,
            method: method.clone(),
            path: if recorder.log.is_on() { shortened(path).to_owned() } else { String::new() },
            cluster: None,
            identity: None,
            verb: "other",
            code: CLIENT_GONE,
            hop: Hop::Client,
            reason: String::new(),
            traffic: Arc::default(),
            admitted: None,
            answered: None,
            ends: true,
            in_flight: None,
            live: None,
            serving: None,
            counted: None,
            recorder,
        })
    }

    /// The connection serves this request until the record ends.
    pub(crate) fn serving(&mut self, running: Running) {
        self.serving = Some(running);
    }

    /// What ends the connection that the request came on.
    pub(crate) fn cutter(&self) -> Option<CancellationToken> {
        self.serving.as_ref().map(Running::cutter)
    }

    /// The request counts as in flight until the record ends.
    pub(crate) fn counted(&mut self, admitted: Admitted) {
        self.counted = Some(admitted);
    }

    /// The caller is known.
    pub(crate) fn identified(
        &mut self,
        cluster: &ClusterName,
        who: &Arc<Identity>,
        kind: RequestKind,
    ) {
        self.cluster = Some(cluster.clone());
        self.identity = Some(Arc::clone(who));
        self.verb = kind.verb;
    }

    /// The caller is known, and asks the hub itself.
    pub(crate) fn identified_for_hub(&mut self, who: &Arc<Identity>, kind: RequestKind) {
        self.identity = Some(Arc::clone(who));
        self.verb = kind.verb;
    }

    /// The caller was let in.
    pub(crate) fn admitted(
        &mut self,
        cluster: &ClusterName,
        who: &Arc<Identity>,
        kind: RequestKind,
    ) {
        let metrics = &self.recorder.metrics;
        let now = Instant::now();
        metrics.legs.authentication.observe((now - self.started).as_secs_f64());
        self.admitted = Some(now);
        self.ends = matches!(kind.span, Span::Short | Span::Proxy);
        self.traffic.admitted(metrics, cluster, kind.span);
        let in_flight = metrics.in_flight.with_label_values(&[cluster.as_str()]);
        in_flight.inc();
        self.in_flight = Some(in_flight);
        self.identified(cluster, who, kind);
    }

    /// A response head from the API server goes to the client; `upstream` is how long the agent
    /// says that it waited for it. A stream that may live for ever gets a line of its own now.
    pub(crate) fn answered(
        &mut self,
        code: StatusCode,
        kind: RequestKind,
        upstream: Option<Duration>,
    ) {
        self.code = code;
        self.hop = Hop::None;
        let metrics = &self.recorder.metrics;
        let now = Instant::now();
        self.answered = Some(now);
        self.ends &= kind.span != Span::Interactive;
        if let (Some(admitted), Some(upstream)) = (self.admitted, upstream) {
            // An agent can say what it likes, of its own cluster.
            let upstream = upstream.min(now - admitted);
            metrics.legs.api_server.observe(upstream.as_secs_f64());
            metrics.legs.tunnel.observe((now - admitted - upstream).as_secs_f64());
        }
        let opened = code.is_success() || code == StatusCode::SWITCHING_PROTOCOLS;
        if let (Some(label), Some(cluster), true) = (kind.span.live_label(), &self.cluster, opened)
        {
            let live = metrics.live_streams.with_label_values(&[cluster.as_str(), label]);
            live.inc();
            self.live = Some(live);
            self.write("start");
        }
    }

    /// Answers of our own that the connection's client has not taken.
    pub(crate) fn refusals(&self) -> usize {
        self.serving.as_ref().map_or(0, Running::refusals)
    }

    /// An answer of our own goes to the client.
    pub(crate) fn failed(&mut self, failure: &Failure, code: StatusCode) {
        if let Some(serving) = &mut self.serving {
            serving.refuse();
        }
        self.code = code;
        self.hop = failure.hop();
        self.reason = match failure {
            Failure::Authn(refused) => refused.reason().to_owned(),
            failure => failure.to_string(),
        };
    }

    /// The stream ended otherwise than by its last byte.
    pub(crate) fn ended(&mut self, hop: Hop, reason: impl Into<String>) {
        self.hop = hop;
        self.reason = reason.into();
    }

    /// The stream was ended by us.
    pub(crate) fn ended_by_hub(&mut self, reason: &'static str) {
        let cluster = self.label();
        self.recorder.metrics.streams_ended.with_label_values(&[cluster, reason]).inc();
        self.reason = reason.to_owned();
    }

    /// The cluster as a label: what ends after its cluster was removed must not bring the name back.
    fn label(&self) -> &str {
        let enrolled = |cluster: &&ClusterName| self.recorder.registry.is_enrolled(cluster);
        self.cluster.as_ref().filter(enrolled).map_or("", ClusterName::as_str)
    }

    fn write(&self, event: &'static str) {
        if !self.recorder.log.is_on() {
            return;
        }
        let now = OffsetDateTime::now_utc();
        // A log does not need nanoseconds; what cannot be formatted is no reason to lose a line.
        let now = now.replace_millisecond(now.millisecond()).unwrap_or(now);
        self.recorder.log.log(&AccessLine {
            time: now.format(&Rfc3339).unwrap_or_default(),
            event,
            request_id: self.request_id.to_str().unwrap_or_default(),
            trace_id: self.trace_id,
            cluster: self.cluster.as_ref().map_or("", ClusterName::as_str),
            user: self.identity.as_ref().map_or("", |identity| identity.user.as_str()),
            client: self.client,
            method: shortened(self.method.as_str()),
            verb: self.verb,
            path: &self.path,
            code: self.code.as_u16(),
            hop: self.hop.label(),
            received: self.traffic.received(),
            sent: self.traffic.sent(),
            duration_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            reason: shortened(&self.reason),
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        for gauge in [self.in_flight.take(), self.live.take()].into_iter().flatten() {
            gauge.dec();
        }
        let metrics = &self.recorder.metrics;
        let labels = [self.label(), self.verb, code_label(&self.code), self.hop.label()];
        metrics.requests.with_label_values(&labels).inc();
        if self.ends {
            if let Some(answered) = self.answered {
                metrics.legs.body.observe(answered.elapsed().as_secs_f64());
            }
            metrics.legs.total.observe(self.started.elapsed().as_secs_f64());
        }
        self.write("end");
    }
}

/// What a line shows of a text that a stranger may have made as long as a head: lines wait in a
/// queue that is bounded by their number.
fn shortened(text: &str) -> &str {
    let mut end = text.len().min(LONGEST_SHOWN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Above any path of a Kubernetes API: six segments of at most 253 characters.
const LONGEST_SHOWN: usize = 2048;

/// Nobody was left to send a head to. Not a registered code: nginx's, which log readers know.
const CLIENT_GONE: StatusCode = match StatusCode::from_u16(499) {
    Ok(code) => code,
    Err(_) => StatusCode::BAD_REQUEST,
};

/// A spoke can answer with any number: those that no API server and no hub answers with share
/// labels.
fn code_label(code: &StatusCode) -> &str {
    match code.as_u16() {
        101 | 200 | 201 | 202 | 204 | 206 | 301 | 302 | 304 | 307 | 308 | 400 | 401 | 403 | 404
        | 405 | 406 | 409 | 410 | 412 | 413 | 415 | 417 | 422 | 429 | 431 | 499 | 500 | 501
        | 502 | 503 | 504 => code.as_str(),
        _ => "other",
    }
}

#[cfg(test)]
mod tests;
