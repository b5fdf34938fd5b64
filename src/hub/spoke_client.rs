//! kube clients of spokes: each request is a stream of a tunnel.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use kube::client::Body;
use tower::Service;

use super::authn::SpokeApiError;
use super::registry::Registry;
use super::spokes::{Spokes, as_agent, exchange, no_fault};
use crate::kubernetes::SpokeClients;
use crate::name::ClusterName;
use crate::tunnel::opener::StreamClass;

/// The body of an answer.
type Answer = UnsyncBoxBody<Bytes, SpokeApiError>;

/// Requests of a kube client to one spoke.
#[derive(Clone)]
struct SpokeService {
    spokes: Spokes,
    cluster: ClusterName,
}

// === impl Spokes ===

impl SpokeClients for Spokes {
    fn client(&self, cluster: &ClusterName) -> kube::Client {
        let service = SpokeService { spokes: self.clone(), cluster: cluster.clone() };
        kube::Client::new(service, "default")
    }
}

// === impl SpokeService ===

impl Service<Request<Body>> for SpokeService {
    type Response = Response<Answer>;
    type Error = SpokeApiError;
    type Future = BoxFuture<'static, Result<Response<Answer>, SpokeApiError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SpokeApiError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { spokes, cluster } = self.clone();
        async move {
            if is_watch(&request) {
                watch(&spokes, &cluster, request).await
            } else {
                ask(&spokes.registry, &cluster, request).await
            }
        }
        .boxed()
    }
}

async fn watch(
    spokes: &Spokes,
    cluster: &ClusterName,
    request: Request<Body>,
) -> Result<Response<Answer>, SpokeApiError> {
    let mut headers = HeaderMap::new();
    copy(request.headers(), &mut headers);
    let (status, chunks) = spokes.stream(cluster, path(&request), headers, DEADLINE).await?;
    let mut line = 0;
    let chunks = chunks.map(move |chunk| {
        let chunk = chunk?;
        line = grown(line, &chunk).ok_or_else(|| SpokeApiError("an endless event".to_owned()))?;
        Ok(chunk)
    });
    let mut response = Response::new(StreamBody::new(chunks.map_ok(Frame::data)).boxed_unsync());
    *response.status_mut() = status;
    Ok(response)
}

async fn ask(
    registry: &Registry,
    cluster: &ClusterName,
    request: Request<Body>,
) -> Result<Response<Answer>, SpokeApiError> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map_err(|error| SpokeApiError(error.to_string()))?.to_bytes();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = as_agent(head.method, path, body)?;
    copy(&head.headers, request.headers_mut());
    let picked = registry.pick(cluster, StreamClass::Short);
    let (tunnel, _) =
        picked.map_err(|_| SpokeApiError("the cluster has no free tunnel".to_owned()))?;
    let response = exchange(&tunnel.opener, request, MAX_BODY, DEADLINE).await?;
    no_fault(response.headers())?;
    Ok(response.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync()))
}

/// How long the last line is once `chunk` has come; nothing when one is longer than any event. The
/// client would read it into memory to its end.
fn grown(line: usize, chunk: &[u8]) -> Option<usize> {
    chunk.split(|byte| *byte == b'\n').enumerate().try_fold(line, |line, (index, part)| {
        let length = if index == 0 { line + part.len() } else { part.len() };
        (length <= MAX_EVENT).then_some(length)
    })
}

/// What the client wants to say of its body and of the answer's. Nothing else crosses.
fn copy(from: &HeaderMap, to: &mut HeaderMap) {
    for name in [ACCEPT, CONTENT_TYPE] {
        if let Some(value) = from.get(&name) {
            to.insert(name, value.clone());
        }
    }
}

fn path(request: &Request<Body>) -> &str {
    request.uri().path_and_query().map_or("/", |path| path.as_str())
}

fn is_watch(request: &Request<Body>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|pair| pair == "watch=true")
}

/// Time for a whole exchange, or for the head of a watch.
const DEADLINE: Duration = Duration::from_secs(30);

/// Bodies, each way: above what an API server takes in one object (3 MiB), and enough for a page of a
/// list.
const MAX_BODY: usize = 16 << 20;

/// One event of a watch: an object of an API server has 3 MiB at most.
const MAX_EVENT: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_may_be_as_long_as_objects_and_no_longer() {
        let half = vec![b'x'; MAX_EVENT / 2];
        let line = grown(0, &half).and_then(|line| grown(line, &half));
        assert_eq!(line, Some(MAX_EVENT));
        assert_eq!(grown(MAX_EVENT, b"x"), None);
        assert_eq!(grown(MAX_EVENT, b"\nxy"), Some(2), "the next one");
        assert_eq!(grown(3, b"a\n"), Some(0));
        let long = [b"a\n", &half[..], &half[..], b"x\nb"].concat();
        assert_eq!(grown(0, &long), None, "in the middle of a chunk");
    }
}
