//! Which clusters Open Cluster Management's own `managed-serviceaccount` add-on serves: there we
//! stand back.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt as _;
use kube::api::{DynamicObject, PartialObjectMeta};
use kube::discovery::ApiResource;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::sleep;

use super::ask::explain_watch;
use super::context::Context;
use super::served;

/// Names of clusters that the add-on serves; nothing until that is known.
pub(super) type Served = Option<Arc<BTreeSet<String>>>;

/// Whom others serve.
#[derive(Debug, Default)]
pub(super) struct Addons {
    served: watch::Sender<Served>,
}

// === impl Addons ===

impl Addons {
    pub(super) fn subscribe(&self) -> watch::Receiver<Served> {
        self.served.subscribe()
    }

    /// Whether somebody else serves a cluster: yes, until it is known.
    pub(super) fn serve(&self, cluster: &str) -> bool {
        self.served.borrow().as_ref().is_none_or(|served| served.contains(cluster))
    }

    /// Takes over whom they serve now. Returns the clusters for which that changed.
    fn set(&self, now: BTreeSet<String>) -> BTreeSet<String> {
        let before = self.served.borrow().clone();
        let known = before.is_some();
        let before = before.unwrap_or_default();
        if known && *before == now {
            return BTreeSet::new();
        }
        for cluster in now.difference(&before) {
            tracing::info!(
                cluster,
                "Open Cluster Management's own add-on serves its managed service accounts: standing back"
            );
        }
        for cluster in before.difference(&now) {
            tracing::info!(cluster, "serving its managed service accounts");
        }
        let changed = before.symmetric_difference(&now).cloned().collect();
        self.served.send_replace(Some(Arc::new(now)));
        changed
    }
}

/// Follows the add-ons. Never returns.
pub(super) async fn follow(context: Arc<Context>) {
    if context.config.take_over {
        set(&context, BTreeSet::new());
        return std::future::pending().await;
    }
    loop {
        match find(&context.config.hub).await {
            Ok(Some(resource)) => watch(&context, resource).await,
            // Nobody can have one.
            Ok(None) => set(&context, BTreeSet::new()),
            Err(error) => tracing::warn!(
                error = %super::ask::explain("no discovery", &error),
                "cannot see whether others serve managed service accounts: waiting"
            ),
        }
        sleep(served::LOOK_AGAIN).await;
    }
}

/// The add-ons as the hub serves them, if it does.
async fn find(hub: &Client) -> Result<Option<ApiResource>, kube::Error> {
    served::find(hub, GROUP, KIND).await
}

/// Follows them until there is no such kind in this version any more.
async fn watch(context: &Context, resource: ApiResource) {
    let api =
        Api::<PartialObjectMeta<DynamicObject>>::all_with(context.config.hub.clone(), &resource);
    let config = Config::default().fields(&format!("metadata.name={NAME}"));
    let writer =
        reflector::store::Writer::<PartialObjectMeta<DynamicObject>>::new(resource.clone());
    let addons = writer.as_reader();
    let mut events = pin!(watcher(api, config).default_backoff().reflect(writer));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init | Event::InitApply(_)) => {}
            Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) => {
                let namespaces = addons.state();
                let namespaces =
                    namespaces.iter().filter_map(|addon| addon.metadata.namespace.clone());
                set(context, namespaces.collect());
            }
            Err(error) => {
                tracing::warn!(
                    error = %explain_watch("no watch of managedclusteraddons", &error),
                    "cannot see whether others serve managed service accounts"
                );
                if served::is_gone(&context.config.hub, &resource).await {
                    return;
                }
            }
        }
    }
}

fn set(context: &Context, now: BTreeSet<String>) {
    let was_known = context.addons.served.borrow().is_some();
    let changed = context.addons.set(now);
    if was_known && changed.is_empty() {
        return;
    }
    context.trigger_clusters(|namespace| !was_known || changed.contains(namespace));
    context.copies_stale.notify_one();
}

const GROUP: &str = "addon.open-cluster-management.io";
const KIND: &str = "ManagedClusterAddOn";
const NAME: &str = "managed-serviceaccount";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_served_by_us_until_it_is_known() {
        let addons = Addons::default();
        assert!(addons.serve("c1"));
        assert!(addons.set(BTreeSet::from(["c2".to_owned()])).contains("c2"));
        assert!(!addons.serve("c1") && addons.serve("c2"));
        let changed = addons.set(BTreeSet::from(["c1".to_owned()]));
        assert_eq!(changed, BTreeSet::from(["c1".to_owned(), "c2".to_owned()]));
        assert!(addons.set(BTreeSet::from(["c1".to_owned()])).is_empty());
    }
}
