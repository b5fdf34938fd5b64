//! The admin listener: health, readiness, metrics, fleet state. Plain HTTP, loopback by default.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use prometheus::{Encoder, Registry as MetricsRegistry, TextEncoder};
use tokio::sync::watch;

use super::metrics::Metrics;
use super::registry::Registry;
use crate::drain::Drain;
use crate::fleet::Fleet;
use crate::pki::tls::ServingTls;

/// What the admin pages are made from. Clones share it.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) collected: MetricsRegistry,
    pub(crate) metrics: Metrics,
    pub(crate) registry: Registry,
    pub(crate) fleet: watch::Receiver<Fleet>,
    pub(crate) tls: ServingTls,
    pub(crate) drain: Drain,
}

// === impl Admin ===

impl Admin {
    /// Health, readiness and metrics: no names of users, safe to scrape from elsewhere.
    pub(crate) fn metrics_router(self) -> Router {
        Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self)
    }

    /// The same, and the state of the fleet.
    pub(crate) fn router(self) -> Router {
        let fleet = Router::new().route("/fleet", get(fleet)).with_state(self.clone());
        self.metrics_router().merge(fleet)
    }
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    if admin.drain.is_stopping() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if !admin.registry.is_settled() {
        (StatusCode::SERVICE_UNAVAILABLE, "waiting for agents\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    for (certificate, end) in admin.tls.expiries() {
        let end = end.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let gauge = admin.metrics.certificate_expiry.with_label_values(&[certificate]);
        gauge.set(end.as_secs_f64());
    }
    admin.metrics.reload_failed.set(f64::from(u8::from(admin.tls.reload_failed())));
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&admin.collected.gather(), &mut text) {
        Ok(()) => {
            ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn fleet(State(admin): State<Admin>) -> Json<Fleet> {
    Json(admin.fleet.borrow().clone())
}
