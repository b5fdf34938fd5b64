//! Small requests of the hub's own to a spoke's API server, through the tunnel and under the
//! agent's ServiceAccount: the spoke's RBAC decides what the hub may ask.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode};

use super::authn::{SpokeApi, SpokeApiError};
use super::forward::uri;
use super::registry::Registry;
use crate::name::ClusterName;
use crate::tunnel::headers::{Fault, MODE, Mode};
use crate::tunnel::opener::{Opener, StreamClass};

/// [`SpokeApi`] over the registry's tunnels.
#[derive(Clone, Debug)]
pub(crate) struct Spokes {
    pub(crate) registry: Registry,
}

impl SpokeApi for Spokes {
    fn request<'a>(
        &'a self,
        cluster: &'a ClusterName,
        method: Method,
        path: &'a str,
        body: Option<Bytes>,
        limit: usize,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>> {
        async move {
            let picked = self.registry.pick(cluster, StreamClass::Short);
            let (tunnel, _) =
                picked.map_err(|_| SpokeApiError("the cluster has no free tunnel".to_owned()))?;
            ask(&tunnel.opener, method, path, body, limit, deadline).await
        }
        .boxed()
    }
}

/// One request under the agent's ServiceAccount over one tunnel.
pub(crate) async fn ask(
    opener: &Opener,
    method: Method,
    path: &str,
    body: Option<Bytes>,
    limit: usize,
    deadline: Duration,
) -> Result<(StatusCode, Bytes), SpokeApiError> {
    let target = PathAndQuery::try_from(path).map_err(|error| SpokeApiError(error.to_string()))?;
    let mut request = Request::new(body.unwrap_or_default());
    *request.method_mut() = method;
    *request.uri_mut() = uri(target);
    let headers = request.headers_mut();
    headers.insert(MODE, Mode::Agent.into());
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let response = exchange(opener, request, limit, deadline).await?;
    match Fault::from_headers(response.headers()) {
        Some(fault) => Err(SpokeApiError(format!("the agent answered: {fault}"))),
        None => Ok((response.status(), response.into_body())),
    }
}

/// One whole exchange within `deadline`.
pub(crate) async fn exchange(
    opener: &Opener,
    request: Request<Bytes>,
    limit: usize,
    deadline: Duration,
) -> Result<Response<Bytes>, SpokeApiError> {
    let permit = opener
        .try_permit(StreamClass::Short)
        .ok_or_else(|| SpokeApiError("the tunnel is at its limit of streams".to_owned()))?;
    match tokio::time::timeout(deadline, opener.exchange(request, limit, permit)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(SpokeApiError(error.to_string())),
        Err(_) => Err(SpokeApiError("no answer in time".to_owned())),
    }
}
