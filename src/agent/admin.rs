//! Health and metrics of the agent, plain HTTP.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

use super::metrics::Metrics;
use super::presence::Presence;

/// `/livez`: the process runs. `/readyz`: at least one tunnel is in use. `/metrics`.
pub(super) fn router(presence: Arc<Presence>, metrics: Metrics) -> Router {
    let ready = move || async move {
        if presence.is_ready() {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "no tunnel to the hub\n")
        }
    };
    let render = move || async move { ([(CONTENT_TYPE, TEXT)], metrics.render()).into_response() };
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
}

/// Prometheus' text format.
const TEXT: &str = "text/plain; version=0.0.4";
