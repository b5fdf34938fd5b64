//! Managed service accounts made real: for each `ManagedServiceAccount` in the namespace of an
//! enrolled cluster, a ServiceAccount and a token on the spoke, and a Secret and a status on the hub.
//!
//! ```text
//!  accounts, Secrets (watch) --\                      /--> spoke: ServiceAccount, TokenRequest, TokenReview
//!  spokes' ServiceAccounts -----+--> queue -> controller
//!  fleet, OCM's add-ons --------/     (desired, status)\--> hub: Secret, then status
//! ```
//!
//! | question | file |
//! |---|---|
//! | what is published, and what is ours | [`api`] |
//! | what should be (pure) | `desired`, `status`, `token`, `duration` |
//! | one look at one account | `controller`, with `secrets` and `spoke` |
//! | who is there, what is left over | `presence`, `visit`, `heard`, `sweep`, `secrets` |
//! | whose it is on a spoke | `identity` |
//! | where others serve | `addons` |
//! | copies beside ClusterProfiles | `sync`, with `copies` (pure) |
//! | when to try again | `memory` |

mod addons;
pub mod api;
mod ask;
mod context;
mod controller;
mod copies;
mod desired;
mod duration;
mod few;
mod heard;
mod held;
mod identity;
mod memory;
mod metrics;
mod presence;
mod secrets;
mod spoke;
mod status;
mod sweep;
mod sync;
#[cfg(test)]
mod testing;
#[cfg(test)]
#[cfg(feature = "sandbox")]
mod tests;
mod token;
mod visit;

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::{Config as ControllerConfig, ReconcileRequest};
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, applier, reflector, watcher as watch_of};
use kube::{Api, Client, ResourceExt as _};
use prometheus::Registry;
use tokio::sync::watch;
use tokio::time::sleep;

use self::api::ManagedServiceAccount;
use self::ask::{explain, explain_watch};
use self::context::{Context, namespace_of};
use self::metrics::Metrics;
use crate::fleet::Fleet;
use crate::kubernetes::{SpokeClients, served};

/// The time of day.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What the controller of accounts needs.
#[derive(Clone)]
pub struct AccountsConfig {
    /// The hub's API server.
    pub hub: Client,
    /// The spokes' API servers.
    pub spokes: Arc<dyn SpokeClients>,
    /// Who is enrolled and connected.
    pub fleet: watch::Receiver<Fleet>,
    /// CA bundle of the user listener, PEM; empty where it is not known.
    pub serving_ca: watch::Receiver<Arc<str>>,
    /// Namespace of managed ServiceAccounts on spokes. The agent must not live in it.
    pub namespace: String,
    /// Serve clusters that Open Cluster Management's own add-on serves, too.
    pub take_over: bool,
    /// The time of day.
    pub clock: Clock,
}

/// The controller of accounts, not at work yet.
pub struct Accounts {
    config: AccountsConfig,
    metrics: Metrics,
}

type Queue = BoxStream<'static, Result<ReconcileRequest<ManagedServiceAccount>, Infallible>>;

// === impl Accounts ===

impl Accounts {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When they are there already.
    pub fn new(config: AccountsConfig, registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::new(registry, config.clock.clone())?;
        Ok(Self { config, metrics })
    }

    /// Works as soon as the hub's API server serves accounts. Never returns, and ends when it is
    /// dropped; it can be run again.
    pub async fn run(&self) {
        let _idle = IdleOnDrop(&self.metrics);
        loop {
            let kind = served::find(&self.config.hub, GROUP, KIND).await;
            match kind {
                Ok(Some(_)) => self.work().await,
                Ok(None) => tracing::debug!("the hub does not serve {KIND}: looking again"),
                Err(error) => {
                    let error = explain("no discovery", &error);
                    tracing::warn!(error, "managed service accounts wait");
                }
            }
            sleep(served::LOOK_AGAIN).await;
        }
    }

    /// Works until the definition of accounts is gone.
    async fn work(&self) {
        let (accounts, writer) = reflector::store();
        let (secrets, secrets_writer) = reflector::store();
        let context = Context::new(self.config.clone(), self.metrics.clone(), accounts, secrets);
        // Before the first ServiceAccount: it carries the mark from the start.
        if let Err(error) = identity::learn(&context).await {
            tracing::warn!(error, "ServiceAccounts on spokes stay after their accounts for now");
        }
        let queue = queue(context.clone(), writer);
        let looks = applier(
            |account, context| Box::pin(controller::reconcile(account, context)),
            |_, never: &Infallible, _| match *never {},
            context.clone(),
            context.accounts.clone(),
            queue,
            ControllerConfig::default(),
        );
        tracing::info!("serving managed service accounts");
        tokio::select! {
            () = looks.for_each(|_| std::future::ready(())) => {}
            () = secrets::follow(context.clone(), secrets_writer) => {}
            () = secrets::sweep(context.clone()) => {}
            () = addons::follow(context.clone()) => {}
            () = presence::follow(context.clone()) => {}
            () = sync::follow(context.clone()) => {}
            () = follow_authority(&context) => {}
            () = identity::follow(context.clone()) => {}
            () = until_gone(&context) => {}
        }
    }
}

/// What to look at: accounts that changed, and those that other parts name.
fn queue(context: Arc<Context>, writer: Writer<ManagedServiceAccount>) -> Queue {
    let api = Api::<ManagedServiceAccount>::all(context.config.hub.clone());
    let watched = watch_of(api, watcher::Config::default())
        .modify(|account| account.managed_fields_mut().clear());
    let noticing = context.clone();
    let changed = watched
        .default_backoff()
        .reflect(writer)
        .filter_map(move |event| std::future::ready(notice(&noticing, event)));
    let named = stream::unfold(context, async |context| Some((context.next().await, context)));
    stream::select(changed, named).map(|reference| Ok(reference.into())).boxed()
}

/// What follows from an event, beside a look at the account.
fn notice(
    context: &Context,
    event: watcher::Result<Event<ManagedServiceAccount>>,
) -> Option<reflector::ObjectRef<ManagedServiceAccount>> {
    match event {
        Ok(Event::Init) => None,
        Ok(Event::InitApply(account)) => Some(reflector::ObjectRef::from_obj(&account)),
        Ok(Event::Apply(account)) => {
            context.copies_stale.notify_one();
            Some(reflector::ObjectRef::from_obj(&account))
        }
        Ok(Event::Delete(account)) => {
            let (namespace, name) = (namespace_of(&account), account.name_any());
            context.memory.forget(&(namespace.to_owned(), name));
            context.presence.accounts_gone(|cluster| cluster.as_str() == namespace);
            left_over(context);
            None
        }
        Ok(Event::InitDone) => {
            context.memory.retain(|(namespace, name)| context.has_account(namespace, name));
            context.presence.accounts_gone(|_| true);
            left_over(context);
            None
        }
        Err(error) => {
            let error = explain_watch("no watch of managedserviceaccounts", &error);
            tracing::warn!(error, "managed service accounts wait");
            context.watch_failed.notify_one();
            None
        }
    }
}

fn left_over(context: &Context) {
    context.copies_stale.notify_one();
    context.secrets_stale.notify_one();
}

/// A new authority of the user listener belongs into every Secret.
async fn follow_authority(context: &Context) {
    let mut authority = context.config.serving_ca.clone();
    while authority.changed().await.is_ok() {
        context.trigger_clusters(|_| true);
    }
    std::future::pending().await
}

/// Returns once the hub does not serve accounts any more.
async fn until_gone(context: &Context) {
    loop {
        context.watch_failed.notified().await;
        if matches!(served::find(&context.config.hub, GROUP, KIND).await, Ok(None)) {
            return tracing::info!("the hub does not serve managed service accounts any more");
        }
    }
}

/// What is shown of accounts is only true while somebody is at work.
struct IdleOnDrop<'a>(&'a Metrics);

impl Drop for IdleOnDrop<'_> {
    fn drop(&mut self) {
        self.0.idle();
    }
}

const GROUP: &str = "authentication.open-cluster-management.io";
const KIND: &str = "ManagedServiceAccount";
