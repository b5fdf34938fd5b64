//! Copies of accounts' Secrets beside ClusterProfiles: for consumers that may read their own
//! namespace and nothing else. What belongs where is decided by `copies`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, DynamicObject, PartialObjectMeta, PostParams, Preconditions};
use kube::discovery::ApiResource;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use tokio::time::{sleep, timeout};

use super::api::SYNCED_FROM;
use super::ask::{explain, explain_watch, is_code};
use super::context::{Context, namespace_of};
use super::copies::{Plan, Profile, Source, plan};
use super::served;
use crate::name::ClusterName;

type Profiles = Store<PartialObjectMeta<DynamicObject>>;

/// Keeps the copies. Never returns.
pub(super) async fn follow(context: Arc<Context>) {
    loop {
        match served::find(&context.config.hub, GROUP, KIND).await {
            Ok(Some(resource)) => work(&context, resource).await,
            Ok(None) => {}
            Err(error) => {
                let error = explain("no discovery", &error);
                tracing::warn!(error, "copies for ClusterProfiles wait");
            }
        }
        sleep(served::LOOK_AGAIN).await;
    }
}

/// Works until there is no such kind in this version any more.
async fn work(context: &Context, resource: ApiResource) {
    let api_version = resource.api_version.clone();
    let hub = &context.config.hub;
    let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(hub.clone(), &resource);
    let config = Config::default().labels(&format!("{MANAGER}={OCM},{CLUSTER}"));
    let writer = reflector::store::Writer::new(resource.clone());
    let profiles: Profiles = writer.as_reader();
    let changes = watcher(api, config).default_backoff().reflect(writer);
    let mut profile_events = pin!(changes);
    let (copies, writer) = reflector::store::<Secret>();
    let changes = watcher(Api::<Secret>::all(hub.clone()), Config::default().labels(SYNCED_FROM))
        .modify(|copy| copy.managed_fields_mut().clear());
    let mut copy_events = pin!(changes.default_backoff().reflect(writer));
    let is_change = |is_init: bool| (!is_init).then(|| context.copies_stale.notify_one());
    let rounds = rounds(context, &profiles, &copies, &api_version);
    let mut rounds = pin!(rounds);
    loop {
        tokio::select! {
            Some(event) = profile_events.next() => match event {
                Ok(event) => drop(is_change(matches!(event, Event::Init | Event::InitApply(_)))),
                Err(error) => {
                    let error = explain_watch("no watch of ClusterProfiles", &error);
                    tracing::warn!(error, "copies for ClusterProfiles wait");
                    if served::is_gone(hub, &resource).await {
                        return;
                    }
                }
            },
            Some(event) = copy_events.next() => match event {
                Ok(event) => drop(is_change(matches!(event, Event::Init | Event::InitApply(_)))),
                Err(error) => {
                    let error = explain_watch("no watch of Secrets", &error);
                    tracing::warn!(error, "copies for ClusterProfiles wait");
                }
            },
            () = &mut rounds => return,
        }
    }
}

/// Plans and carries out, whenever something changed. Returns only when nobody watches any more.
async fn rounds(context: &Context, profiles: &Profiles, copies: &Store<Secret>, api_version: &str) {
    let known = tokio::try_join!(
        profiles.wait_until_ready(),
        copies.wait_until_ready(),
        context.accounts.wait_until_ready(),
        context.secrets.wait_until_ready(),
    );
    if known.is_err() {
        return;
    }
    let mut pauses = retries().build();
    let mut retry = None;
    loop {
        let changed = context.copies_stale.notified();
        match retry {
            // A change is worth a try before its time.
            Some(pause) => drop(timeout(pause, changed).await),
            None => changed.await,
        }
        // What changes together is done together.
        sleep(TOGETHER).await;
        let sources = sources(context);
        let profiles: Vec<_> = profiles
            .state()
            .iter()
            .filter_map(|profile| profile_of(profile, api_version))
            .collect();
        let is_others = |cluster: &str| context.addons.serve(cluster);
        let plan = plan(&sources, &profiles, &copies.state(), is_others, |cluster| {
            let name = ClusterName::parse(cluster);
            name.is_ok_and(|name| context.enrolled.borrow().contains(&name))
        });
        if carry_out(context, plan).await {
            retry = None;
            pauses = retries().build();
        } else {
            retry = Some(pauses.next().unwrap_or(RETRY_MOST));
        }
    }
}

fn retries() -> ExponentialBuilder {
    let builder = ExponentialBuilder::new().with_min_delay(RETRY).with_max_delay(RETRY_MOST);
    builder.without_max_times()
}

fn sources(context: &Context) -> Vec<Source> {
    let accounts = context.accounts.state();
    let secret =
        |namespace: &str, name: &str| context.secrets.get(&ObjectRef::new(name).within(namespace));
    let source = |account: &super::api::ManagedServiceAccount| {
        Source::of(account, secret(namespace_of(account), &account.name_any()))
    };
    accounts.iter().filter_map(|account| source(account)).collect()
}

fn profile_of(profile: &PartialObjectMeta<DynamicObject>, api_version: &str) -> Option<Profile> {
    Some(Profile {
        api_version: api_version.to_owned(),
        namespace: profile.namespace()?,
        name: profile.name_any(),
        uid: profile.uid()?,
        cluster: profile.labels().get(CLUSTER)?.clone(),
    })
}

/// What one of the steps of a plan came to.
enum Step {
    Done,
    /// It has to be tried again.
    Failed,
    /// The name belongs to a Secret of somebody else.
    Taken(super::memory::Key, String),
}

/// Returns whether all of it could be done.
async fn carry_out(context: &Context, plan: Plan) -> bool {
    let creates = plan.create.into_iter().map(|copy| (copy, true));
    let writes = creates.chain(plan.replace.into_iter().map(|copy| (copy, false)));
    let writes = stream::iter(writes).map(|(copy, is_new)| write(context, copy, is_new));
    let written: Vec<_> = writes.buffer_unordered(AT_ONCE).collect().await;
    let deletes = stream::iter(plan.delete).map(|copy| delete(context, copy));
    let deleted: Vec<_> = deletes.buffer_unordered(AT_ONCE).collect().await;
    let mut refused = plan.refused;
    let mut is_done = true;
    for step in written.into_iter().chain(deleted) {
        match step {
            Step::Done => {}
            Step::Failed => is_done = false,
            Step::Taken(account, why) => {
                is_done = false;
                refused.insert(account, why);
            }
        }
    }
    context.set_refused(refused);
    is_done
}

async fn write(context: &Context, copy: Secret, is_new: bool) -> Step {
    let (namespace, name) = (copy.namespace().unwrap_or_default(), copy.name_any());
    let api = Api::<Secret>::namespaced(context.config.hub.clone(), &namespace);
    let params = PostParams {
        field_manager: Some(super::secrets::FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let written = if is_new {
        context.slots.ask(api.create(&params, &copy)).await
    } else {
        context.slots.ask(api.replace(&name, &params, &copy)).await
    };
    match written {
        Ok(_) => Step::Done,
        Err(error) if is_new && is_code(&error, 409) => {
            match context.slots.ask(api.get_opt(&name)).await {
                // Nothing that we may overwrite.
                Ok(Some(other)) if !other.labels().contains_key(SYNCED_FROM) => {
                    let source = copy.annotations().get(super::api::COPIED_FROM);
                    let source = source.and_then(|path| path.split_once('/')).unwrap_or_default();
                    let why = format!("there is another Secret {namespace}/{name}");
                    Step::Taken((source.0.to_owned(), source.1.to_owned()), why)
                }
                // The watch has not told of it yet.
                _ => Step::Failed,
            }
        }
        // The watch tells what changed.
        Err(error) if is_code(&error, 409) => Step::Failed,
        Err(error) => {
            let error = explain("no copy", &error);
            tracing::warn!(namespace, name, error, "a copy for a ClusterProfile is missing or old");
            Step::Failed
        }
    }
}

async fn delete(context: &Context, copy: Arc<Secret>) -> Step {
    let (namespace, name) = (copy.namespace().unwrap_or_default(), copy.name_any());
    let api = Api::<Secret>::namespaced(context.config.hub.clone(), &namespace);
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: copy.uid(),
            resource_version: copy.resource_version(),
        }),
        ..DeleteParams::default()
    };
    match context.slots.ask(api.delete(&name, &params)).await {
        Ok(_) => Step::Done,
        Err(error) if is_code(&error, 404) => Step::Done,
        Err(error) => {
            let error = explain("not deleted", &error);
            tracing::warn!(namespace, name, error, "a copy that nobody wants stays for now");
            Step::Failed
        }
    }
}

const GROUP: &str = "multicluster.x-k8s.io";
const KIND: &str = "ClusterProfile";

/// Label of a ClusterProfile: who manages it.
const MANAGER: &str = "x-k8s.io/cluster-manager";
/// The one whose profiles get copies, as upstream has it: it also deletes profiles that carry its
/// name and that it does not want, so that nobody gets accounts by making one.
const OCM: &str = "open-cluster-management";
/// Label of a ClusterProfile: its cluster.
const CLUSTER: &str = "open-cluster-management.io/cluster-name";

/// Writes at once.
const AT_ONCE: usize = 8;
/// Short for people, long enough for a burst of changes.
const TOGETHER: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_secs(10);
/// What is in the way is mostly somebody else's Secret, or a right that is missing.
const RETRY_MOST: Duration = Duration::from_secs(300);
