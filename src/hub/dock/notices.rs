//! What the hub tells agents while their tunnels run.

use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Method, Request};

use crate::hub::forward::uri;
use crate::hub::registry::Tunnel;
use crate::hub::spokes::exchange;
use crate::tunnel::headers::{MODE, Mode};
use crate::tunnel::hello::{self, Hello, Replicas};

/// Tells the agent of one tunnel to dial elsewhere, because this hub leaves.
pub(crate) async fn leave(tunnel: &Tunnel) {
    let request = control(hello::LEAVE_PATH, Bytes::new());
    if let Err(error) = exchange(&tunnel.opener, request, hello::LIMIT, TELL_TIMEOUT).await {
        tracing::debug!(cluster = %tunnel.certificate.cluster, %error, "the agent was not told to move on");
    }
}

/// Tells the agent of one tunnel which hubs live now.
pub(crate) async fn tell(tunnel: &Tunnel, living: Vec<String>) {
    let cluster = &tunnel.certificate.cluster;
    let named = Replicas { replicas: shown(&living) };
    let body = match named.encode() {
        Ok(body) => body,
        Err(error) => return tracing::error!(%error, "the living hubs cannot be named"),
    };
    let request = control(hello::REPLICAS_PATH, body);
    if let Err(error) = exchange(&tunnel.opener, request, hello::LIMIT, TELL_TIMEOUT).await {
        tracing::debug!(%cluster, %error, "the agent was not told of the other hubs");
    }
}

/// As many as a hello holds: an agent that reaches so many has no outage to fear.
pub(super) fn shown(living: &[String]) -> Vec<String> {
    living.iter().take(hello::MOST_REPLICAS).cloned().collect()
}

pub(super) fn control(path: &'static str, body: Bytes) -> Request<Bytes> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri(PathAndQuery::from_static(path));
    request.headers_mut().insert(MODE, Mode::Tunnel.into());
    request
}

/// Telling an agent something that it answers at once.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);
