//! Which kinds the hub's API server serves: definitions come and go while we run.

use std::time::Duration;

use kube::Client;
use kube::discovery::{self, ApiCapabilities, ApiResource, verbs};

use super::is_code;

/// The kind of a group in the version that the API server prefers, if it serves it.
pub async fn find(
    hub: &Client,
    group: &str,
    kind: &str,
) -> Result<Option<ApiResource>, kube::Error> {
    Ok(look(hub, group, kind).await?.map(|(resource, _)| resource))
}

async fn look(
    hub: &Client,
    group: &str,
    kind: &str,
) -> Result<Option<(ApiResource, ApiCapabilities)>, kube::Error> {
    let found = match tokio::time::timeout(DEADLINE, discovery::group(hub, group)).await {
        Err(_) => return Err(kube::Error::Service("no answer in time".into())),
        Ok(Err(kube::Error::Discovery(kube::error::DiscoveryError::MissingApiGroup(_)))) => {
            return Ok(None);
        }
        Ok(Err(error)) if is_code(&error, 404) => return Ok(None),
        Ok(found) => found?,
    };
    Ok(found.recommended_kind(kind))
}

/// Whether objects of a kind can be made. A definition that is being deleted takes none, and discovery
/// says so before the first of its objects goes (apiextensions-apiserver, `Terminating`).
///
/// # Errors
/// When the API server does not say.
pub async fn takes_new(hub: &Client, known: &ApiResource) -> Result<bool, kube::Error> {
    let found = look(hub, &known.group, &known.kind).await?;
    Ok(found.is_some_and(|(_, capabilities)| capabilities.supports_operation(verbs::CREATE)))
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
