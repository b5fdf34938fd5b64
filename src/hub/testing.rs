//! The hub's own API server, as the tests of this folder answer for it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, StatusCode};

use super::authn::{HubApi, SpokeApiError};

/// One that a test answers for.
pub(crate) trait Answering: Send + Sync + 'static {
    /// Code and body, or nothing where nobody listens.
    fn answer(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> impl Future<Output = Option<(u16, Bytes)>> + Send;
}

impl<T: Answering> HubApi for T {
    fn get<'a>(
        &'a self,
        path: &'a str,
        _limit: usize,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>> {
        Box::pin(async { told(self.answer(Method::GET, path, Bytes::new()).await) })
    }

    fn post<'a>(
        &'a self,
        path: &'a str,
        body: Bytes,
        _limit: usize,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>> {
        Box::pin(async { told(self.answer(Method::POST, path, body).await) })
    }
}

fn told(said: Option<(u16, Bytes)>) -> Result<(StatusCode, Bytes), SpokeApiError> {
    let refused = || SpokeApiError("connection refused".to_owned());
    let (status, body) = said.ok_or_else(refused)?;
    Ok((StatusCode::from_u16(status).unwrap(), body))
}
