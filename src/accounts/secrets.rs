//! The Secrets of accounts on the hub: watched, written, and deleted after their account.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use tokio::time::sleep;

use super::api::{MANAGED, PROXY_CA};
use super::ask::{explain, explain_watch, is_code};
use super::context::Context;
use super::desired::{is_labelled, is_managed};
use super::memory::Key;
use super::status::{Problem, SECRET_NOT_MANAGED};

/// Follows the labelled Secrets of all namespaces. Never returns.
pub(super) async fn follow(context: Arc<Context>, writer: Writer<Secret>) {
    let api = Api::<Secret>::all(context.config.hub.clone());
    let watched = watcher(api, Config::default().labels(&format!("{MANAGED}=true")))
        .modify(|secret| secret.managed_fields_mut().clear());
    let mut events = pin!(watched.default_backoff().reflect(writer));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init | Event::InitApply(_)) => continue,
            Ok(Event::InitDone) => context.trigger_clusters(|_| true),
            Ok(Event::Apply(secret)) => {
                let key = key_of(&secret);
                let version = secret.metadata.resource_version.as_deref();
                if !context.memory.is_secret_ours(&key, version) {
                    context.trigger(&key.0, &key.1);
                }
            }
            Ok(Event::Delete(secret)) => {
                let (namespace, name) = key_of(&secret);
                context.trigger(&namespace, &name);
            }
            Err(error) => {
                let error = explain_watch("no watch of Secrets", &error);
                tracing::warn!(%error, "managed service accounts wait");
                continue;
            }
        }
        context.copies_stale.notify_one();
        context.secrets_stale.notify_one();
    }
}

/// Deletes Secrets of ours whose account is gone, as they appear. Garbage collection does the same
/// where there is a kube-controller-manager. Never returns.
pub(super) async fn sweep(context: Arc<Context>) {
    let known =
        (context.accounts.wait_until_ready().await, context.secrets.wait_until_ready().await);
    if known.0.is_err() || known.1.is_err() {
        // Their writers are dropped together with us.
        return std::future::pending().await;
    }
    loop {
        context.secrets_stale.notified().await;
        for secret in context.secrets.state_filter(is_written_by_us) {
            let (namespace, name) = key_of(&secret);
            if context.has_account(&namespace, &name) {
                continue;
            }
            if let Err(error) = delete(&context, &secret, &namespace, &name).await {
                let error = explain("no cleaning", &error);
                tracing::warn!(namespace, name, error, "a Secret without an account stays for now");
                context.secrets_stale.notify_one();
                sleep(RETRY).await;
            }
        }
    }
}

async fn delete(
    context: &Context,
    secret: &Secret,
    namespace: &str,
    name: &str,
) -> Result<(), kube::Error> {
    if !context.is_certainly_gone(namespace, name).await? {
        return Ok(());
    }
    let api = Api::<Secret>::namespaced(context.config.hub.clone(), namespace);
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: secret.uid(),
            resource_version: secret.resource_version(),
        }),
        ..DeleteParams::default()
    };
    match context.slots.ask(api.delete(name, &params)).await {
        Err(error) if is_code(&error, 404) || is_code(&error, 409) => Ok(()),
        done => done.map(|_| {
            tracing::info!(namespace, name, "deleted the Secret of an account that is gone")
        }),
    }
}

/// The Secret of an account.
///
/// # Errors
/// When the one of that name is not made for it.
pub(super) async fn find(context: &Context, key: &Key) -> Result<Option<Arc<Secret>>, Problem> {
    let known = watched(context, key);
    let version = known.as_ref().and_then(|secret| secret.metadata.resource_version.as_deref());
    let is_outdated = context.memory.is_secret_outdated(key, version);
    if let Some(secret) = known.filter(|_| !is_outdated) {
        return Ok(Some(secret));
    }
    // There may be one without the label, or one that the watch does not know yet.
    let api = Api::<Secret>::namespaced(context.config.hub.clone(), &key.0);
    let found = context.slots.ask(api.get_opt(&key.1)).await;
    let found =
        found.map_err(|error| Problem::report(explain("cannot read the Secret", &error)))?;
    match found {
        Some(secret) if !is_managed(&secret) => Err(Problem {
            reason: SECRET_NOT_MANAGED,
            message: format!(
                "there is a Secret of this name without the label {MANAGED}=true: choose another \
                 name, or delete or label it"
            ),
        }),
        found => Ok(found.map(Arc::new)),
    }
}

/// Writes the Secret of an account.
pub(super) async fn write(context: &Context, key: &Key, wanted: &Secret) -> Result<(), Problem> {
    let api = Api::<Secret>::namespaced(context.config.hub.clone(), &key.0);
    let outdated = watched(context, key).and_then(|secret| secret.resource_version());
    // Whoever else wrote these fields is overruled: they are what the account says.
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = context.slots.ask(api.patch(&key.1, &params, &Patch::Apply(wanted))).await;
    let written =
        written.map_err(|error| Problem::report(explain("cannot write the Secret", &error)))?;
    context.memory.secret_written(key, outdated, written.metadata.resource_version);
    Ok(())
}

fn watched(context: &Context, key: &Key) -> Option<Arc<Secret>> {
    context.secrets.get(&ObjectRef::new(&key.1).within(&key.0))
}

fn key_of(secret: &Secret) -> Key {
    (secret.namespace().unwrap_or_default(), secret.name_any())
}

/// Nobody else knows this key, and who takes a Secret over from us drops it.
fn is_written_by_us(secret: &Secret) -> bool {
    let has_our_key = secret.data.as_ref().is_some_and(|data| data.contains_key(PROXY_CA));
    has_our_key && is_labelled(&secret.metadata) && secret.metadata.deletion_timestamp.is_none()
}

/// Who writes, as `managedFields` say it.
pub(super) const FIELD_MANAGER: &str = "cluster-proxy-accounts";

const RETRY: Duration = Duration::from_secs(5);
