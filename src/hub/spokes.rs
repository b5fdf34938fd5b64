//! Small requests of the hub's own to a spoke's API server, through the tunnel and under the
//! agent's ServiceAccount: the spoke's RBAC decides what the hub may ask.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;

use super::authn::{SpokeApi, SpokeApiError};
use super::forward::uri;
use super::live::{Chunks, Spoke};
use super::registry::Registry;
use crate::kubernetes;
use crate::name::ClusterName;
use crate::tunnel::headers::{Fault, MODE, Mode};
use crate::tunnel::opener::{OpenedStream, Opener, StreamClass};

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

impl Spoke for Spokes {
    fn watch<'a>(
        &'a self,
        cluster: &'a ClusterName,
        path: &'a str,
        accept: &'static str,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Chunks), SpokeApiError>> {
        let accept = (header::ACCEPT, HeaderValue::from_static(accept));
        self.stream(cluster, path, HeaderMap::from_iter([accept]), deadline).boxed()
    }
}

impl Spokes {
    /// `GET path` with `headers`; the head within `deadline`, then chunks as they come.
    pub(super) async fn stream(
        &self,
        cluster: &ClusterName,
        path: &str,
        headers: HeaderMap,
        deadline: Duration,
    ) -> Result<(StatusCode, Chunks), SpokeApiError> {
        let picked = self.registry.pick(cluster, StreamClass::Long);
        let (tunnel, permit) =
            picked.map_err(|_| SpokeApiError("the cluster has no free tunnel".to_owned()))?;
        let mut request = as_agent(Method::GET, path, ())?;
        request.headers_mut().extend(headers);
        let head = async {
            let OpenedStream { mut response, .. } =
                tunnel.opener.open(request, true, permit).await?;
            response.receive().await
        };
        let answer = tokio::time::timeout(deadline, head)
            .await
            .map_err(|_| SpokeApiError("no answer in time".to_owned()))?;
        let response = answer.map_err(|error| SpokeApiError(error.to_string()))?;
        no_fault(response.headers())?;
        let (head, body) = response.into_parts();
        let chunks = body.into_data_stream();
        let chunks = chunks.map_err(|error| SpokeApiError(error.to_string()));
        // An agent that leaves waits for its streams: ours goes on over another.
        let leaving = tunnel.leaving.clone().cancelled_owned();
        Ok((head.status, chunks.take_until(leaving).boxed()))
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
    let mut request = as_agent(method, path, body.unwrap_or_default())?;
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_static(kubernetes::DOCUMENTS));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let response = exchange(opener, request, limit, deadline).await?;
    no_fault(response.headers())?;
    Ok((response.status(), response.into_body()))
}

pub(super) fn as_agent<B>(
    method: Method,
    path: &str,
    body: B,
) -> Result<Request<B>, SpokeApiError> {
    let target = PathAndQuery::try_from(path).map_err(|error| SpokeApiError(error.to_string()))?;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri(target);
    request.headers_mut().insert(MODE, Mode::Agent.into());
    Ok(request)
}

pub(super) fn no_fault(headers: &HeaderMap) -> Result<(), SpokeApiError> {
    match Fault::from_headers(headers) {
        Some(fault) => Err(SpokeApiError(format!("the agent answered: {fault}"))),
        None => Ok(()),
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
