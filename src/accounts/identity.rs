//! Which hub this is: the uid of `kube-system` of its API server, which is the same for every replica
//! and lives as long as that cluster. What we make on spokes is marked with it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt as _};
use tokio::time::sleep;

use super::ask::explain;
use super::context::Context;
use super::served::LOOK_AGAIN;

/// Reads it. Returns whether it is known now.
pub(super) async fn learn(context: &Context) -> Result<(), String> {
    let api = Api::<Namespace>::all(context.config.hub.clone());
    let found = context.slots.ask(api.get_metadata(KUBE_SYSTEM)).await;
    let found = found.map_err(|error| explain("cannot get the namespace kube-system", &error))?;
    let uid = found.uid().ok_or("the namespace kube-system has no uid")?;
    // Nobody else sets it while this runs, and it is the same for ever.
    context.hub_uid.get_or_init(|| uid);
    Ok(())
}

/// Reads it until it is known. Never returns.
pub(super) async fn follow(context: Arc<Context>) {
    while context.hub_uid.get().is_none() {
        sleep(LOOK_AGAIN).await;
        if learn(&context).await.is_ok() {
            // What waits for a mark or for its end.
            context.trigger_clusters(|_| true);
            context.presence.accounts_gone(|_| true);
        }
    }
    std::future::pending().await
}

const KUBE_SYSTEM: &str = "kube-system";
