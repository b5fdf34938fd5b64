//! What requests of controllers have in common: who we are, and for how long we wait.

use std::time::Duration;

use kube::api::{PatchParams, PostParams};

/// Who we are in `metadata.managedFields`.
pub const FIELD_MANAGER: &str = "cluster-proxy";

/// For creating and replacing objects.
pub fn post() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// For patches that are no applies.
pub fn patch() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// Waits for the answer to `request`, which must not be a watch: for 30 s at most.
///
/// # Errors
/// Those of the request, and [`kube::Error::Service`] when there is no answer in time. What was asked
/// for may still be done.
pub async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(answer) => answer,
        Err(_) => Err(kube::Error::Service("no answer in time".into())),
    }
}

/// Requests of controllers are small.
const DEADLINE: Duration = Duration::from_secs(30);
