//! Which kinds the hub's API server serves: definitions come and go while we run.

use std::time::Duration;

use kube::Client;
use kube::discovery::{self, ApiResource};

use super::is_code;

/// The kind of a group in the version that the API server prefers, if it serves it.
pub async fn find(
    hub: &Client,
    group: &str,
    kind: &str,
) -> Result<Option<ApiResource>, kube::Error> {
    let found = match tokio::time::timeout(DEADLINE, discovery::group(hub, group)).await {
        Err(_) => return Err(kube::Error::Service("no answer in time".into())),
        Ok(Err(kube::Error::Discovery(kube::error::DiscoveryError::MissingApiGroup(_)))) => {
            return Ok(None);
        }
        Ok(Err(error)) if is_code(&error, 404) => return Ok(None),
        Ok(found) => found?,
    };
    Ok(found.recommended_kind(kind).map(|(resource, _)| resource))
}

/// Whether a kind is certainly not served as `known` any more: it is gone, or has another version.
pub async fn is_gone(hub: &Client, known: &ApiResource) -> bool {
    let found = find(hub, &known.group, &known.kind).await;
    found.is_ok_and(|found| found.as_ref() != Some(known))
}

/// A definition that was made later is found within this.
pub const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// A few small documents.
const DEADLINE: Duration = Duration::from_secs(30);
