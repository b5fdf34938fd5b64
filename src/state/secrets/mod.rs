//! Documents as Secrets of one namespace, and living hubs as Leases there. `names` says which.

mod calls;
mod hubs;
mod names;

use std::fmt;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch};
use serde_json::json;

use self::calls::{Action, Refusal, call, list};
use self::hubs::Hubs;
use self::names::{ENROLMENT, ENROLMENT_KEY, ENROLMENTS, Place, labels, selector};
use super::document::Enrolments;
use super::{Document, Expected, Registration, Replica, StateError, Store, Version, Versioned};
use crate::hash;
use crate::kubernetes::{patch, post};
use crate::name::ClusterName;

/// A [`Store`] in one namespace of the hub's API server. A document is a Secret of its own, and its
/// version is the Secret's resourceVersion. A Secret holds 1 MiB, the owners of all keys too.
pub struct SecretStore {
    secrets: Api<Secret>,
    namespace: String,
    hubs: Hubs,
}

// === impl SecretStore ===

impl SecretStore {
    /// The store in `namespace`, which has to exist before the first write. Sends nothing.
    pub fn new(client: kube::Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            namespace: namespace.to_owned(),
            hubs: Hubs::new(client, namespace),
        }
    }

    /// `NAMESPACE/NAME`, as messages name a Secret.
    fn shown(&self, secret: &str) -> String {
        format!("Secret {}/{secret}", self.namespace)
    }

    async fn get(&self, document: &Document) -> Result<Option<Versioned>, StateError> {
        let place = Place::of(document);
        let shown = self.shown(&place.secret);
        match call(Action::Read, &shown, || self.secrets.get(&place.secret)).await? {
            Ok(secret) => contents(secret, place.key, &shown).map(Some),
            Err(Refusal::NotFound(_)) => Ok(None),
            Err(refusal) => Err(refusal.into_error(Action::Read, &shown)),
        }
    }

    async fn put(
        &self,
        document: &Document,
        contents: Bytes,
        expected: Expected,
    ) -> Result<Version, StateError> {
        let place = Place::of(document);
        let shown = self.shown(&place.secret);
        let data = [(place.key.to_owned(), ByteString(contents.into()))].into();
        let labels = labels(place.component);
        let written = match expected {
            Expected::Absent => {
                let metadata = ObjectMeta {
                    name: Some(place.secret.clone()),
                    labels: Some(labels),
                    ..ObjectMeta::default()
                };
                let secret = Secret {
                    metadata,
                    type_: Some("Opaque".to_owned()),
                    data: Some(data),
                    ..Secret::default()
                };
                call(Action::Write, &shown, || async {
                    self.secrets.create(&post(), &secret).await
                })
                .await?
            }
            Expected::Version(Version(version)) => {
                // What others wrote beside our key stays.
                let change = Patch::Merge(json!({
                    "metadata": {"resourceVersion": version, "labels": labels},
                    "data": data,
                }));
                let parameters = patch();
                let send = || self.secrets.patch(&place.secret, &parameters, &change);
                match call(Action::Write, &shown, send).await? {
                    // It was deleted.
                    Err(Refusal::NotFound(_)) => Err(Refusal::Conflict),
                    other => other,
                }
            }
        };
        let secret = written.map_err(|refusal| refusal.into_error(Action::Write, &shown))?;
        version(&secret.metadata, &shown)
    }

    async fn remove(&self, document: &Document) -> Result<(), StateError> {
        let secret = Place::of(document).secret;
        let shown = self.shown(&secret);
        let parameters = DeleteParams::default();
        match call(Action::Delete, &shown, || self.secrets.delete(&secret, &parameters)).await? {
            Ok(_) | Err(Refusal::NotFound(_)) => Ok(()),
            Err(refusal) => Err(refusal.into_error(Action::Delete, &shown)),
        }
    }

    /// Names the list of enrolments in errors.
    fn enrolments_shown(&self) -> String {
        self.shown(&format!("{ENROLMENT}*"))
    }

    async fn list_enrolments(&self) -> Result<Enrolments, StateError> {
        let page = |parameters: ListParams| async move { self.secrets.list(&parameters).await };
        let secrets = list(&self.enrolments_shown(), &selector(ENROLMENTS), page).await?;
        let found = secrets.into_iter().filter_map(|secret| {
            let name = secret.metadata.name.as_deref()?;
            let cluster = ClusterName::parse(name.strip_prefix(ENROLMENT)?).ok()?;
            let shown = self.shown(name);
            Some((cluster, contents(secret, ENROLMENT_KEY, &shown).map(|found| found.contents)))
        });
        Ok(found.collect())
    }

    async fn mark(&self) -> Result<String, StateError> {
        let page =
            |parameters: ListParams| async move { self.secrets.list_metadata(&parameters).await };
        let secrets = list(&self.enrolments_shown(), &selector(ENROLMENTS), page).await?;
        let mut versions = String::new();
        for secret in secrets {
            versions += secret.metadata.name.as_deref().unwrap_or_default();
            versions += " ";
            versions += secret.metadata.resource_version.as_deref().unwrap_or_default();
            versions += "\n";
        }
        Ok(hash::sha256_hex(versions.as_bytes()))
    }
}

impl Store for SecretStore {
    fn read<'a>(
        &'a self,
        document: &'a Document,
    ) -> BoxFuture<'a, Result<Option<Versioned>, StateError>> {
        self.get(document).boxed()
    }

    fn write<'a>(
        &'a self,
        document: &'a Document,
        contents: Bytes,
        expected: Expected,
    ) -> BoxFuture<'a, Result<Version, StateError>> {
        self.put(document, contents, expected).boxed()
    }

    fn delete<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<(), StateError>> {
        self.remove(document).boxed()
    }

    fn enrolments(&self) -> BoxFuture<'_, Result<Enrolments, StateError>> {
        self.list_enrolments().boxed()
    }

    fn enrolments_mark(&self) -> BoxFuture<'_, Result<Option<String>, StateError>> {
        self.mark().map(|mark| mark.map(Some)).boxed()
    }

    fn register(
        &self,
        replica: Replica,
    ) -> BoxFuture<'_, Result<Box<dyn Registration>, StateError>> {
        self.hubs.register(replica).boxed()
    }

    fn replicas(&self) -> BoxFuture<'_, Result<Vec<Replica>, StateError>> {
        self.hubs.list().boxed()
    }
}

impl fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretStore").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

fn contents(secret: Secret, key: &str, shown: &str) -> Result<Versioned, StateError> {
    let version = version(&secret.metadata, shown)?;
    let found = secret.data.and_then(|mut data| data.remove(key));
    let Some(ByteString(contents)) = found else {
        let reason = format!("it has no key {key}; restore it from a backup");
        return Err(StateError::Damaged { document: shown.to_owned(), reason });
    };
    Ok(Versioned { contents: contents.into(), version })
}

fn version(metadata: &ObjectMeta, shown: &str) -> Result<Version, StateError> {
    metadata.resource_version.clone().map(Version).ok_or_else(|| StateError::Damaged {
        document: shown.to_owned(),
        reason: "the API server gave it no resourceVersion".to_owned(),
    })
}

#[cfg(test)]
#[cfg(feature = "sandbox")]
mod tests;
