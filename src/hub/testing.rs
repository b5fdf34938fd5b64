//! The hub's own API server, as the tests of this folder answer for it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{Method, StatusCode};

use super::authn::{HubApi, SpokeApiError};

/// One that a function answers for: of method, path and body it makes code and body, or nothing where
/// nobody listens.
pub(crate) struct Answers<F>(pub(crate) F);

impl<F, A> HubApi for Answers<F>
where
    F: Fn(Method, String, Bytes) -> A + Send + Sync + 'static,
    A: Future<Output = Option<(u16, Bytes)>> + Send + 'static,
{
    fn get<'a>(
        &'a self,
        path: &'a str,
        _limit: usize,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>> {
        self.0(Method::GET, path.to_owned(), Bytes::new()).map(answer).boxed()
    }

    fn post<'a>(
        &'a self,
        path: &'a str,
        body: Bytes,
        _limit: usize,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>> {
        self.0(Method::POST, path.to_owned(), body).map(answer).boxed()
    }
}

fn answer(said: Option<(u16, Bytes)>) -> Result<(StatusCode, Bytes), SpokeApiError> {
    let refused = || SpokeApiError("connection refused".to_owned());
    let (status, body) = said.ok_or_else(refused)?;
    Ok((StatusCode::from_u16(status).unwrap(), body))
}
