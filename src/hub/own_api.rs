//! The hub's own API server, as [`authn`](super::authn) asks for it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::StatusCode;

use super::authn::{HubApi, SpokeApiError};
use crate::kubernetes::ApiReader;

// === impl ApiReader ===

impl HubApi for ApiReader {
    fn get<'a>(
        &'a self,
        path: &'a str,
        limit: usize,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>> {
        Box::pin(async move {
            let got = Self::get(self, path, limit, deadline).await;
            got.map_err(|error| SpokeApiError(error.to_string()))
        })
    }

    fn post<'a>(
        &'a self,
        path: &'a str,
        body: Bytes,
        limit: usize,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>> {
        Box::pin(async move {
            let answer = Self::post(self, path, body, limit, deadline).await;
            answer.map_err(|error| SpokeApiError(error.to_string()))
        })
    }
}
