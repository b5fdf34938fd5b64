//! Requests to one spoke: its ServiceAccounts, and their tokens.

use std::collections::BTreeMap;
use std::time::Duration;

use arc_swap::ArcSwap;
use k8s_openapi::api::authentication::v1::{
    TokenRequest, TokenRequestSpec, TokenReview, TokenReviewSpec,
};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{
    DeleteParams, ObjectMeta, PartialObjectMeta, Patch, PatchParams, PostParams, Preconditions,
};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use zeroize::Zeroizing;

use super::api::{HUB, MANAGED};
use super::ask::{Slots, explain, is_code, without_message};
use super::desired::is_labelled;
use super::secrets::FIELD_MANAGER;
use super::status::{ACCOUNT_NOT_MANAGED, INVALID, Problem};
use super::token::{Claims, Wanted, subject};
use crate::pki::ca;

/// What is watched of ServiceAccounts.
pub(super) type Account = PartialObjectMeta<ServiceAccount>;

/// A spoke whose ServiceAccounts are watched.
pub(super) struct Spoke {
    pub(super) client: kube::Client,
    /// Where managed ServiceAccounts live.
    pub(super) namespace: String,
    /// Those that are labelled as managed.
    pub(super) accounts: Store<Account>,
    /// CA bundle of its API server, PEM.
    pub(super) ca: ArcSwap<String>,
    pub(super) slots: Slots,
}

/// A token that the spoke gave out.
pub(super) struct Granted {
    pub(super) token: Zeroizing<String>,
    pub(super) expires: Timestamp,
}

// === impl Spoke ===

impl Spoke {
    /// The uid of the ServiceAccount `name`, made if it is not there, with the mark of `hub`.
    ///
    /// # Errors
    /// When there is one that is not labelled as managed: its tokens are not ours to hand out.
    pub(super) async fn ensure_account(
        &self,
        name: &str,
        hub: Option<&String>,
    ) -> Result<String, Problem> {
        let known = self.accounts.get(&ObjectRef::new(name).within(&self.namespace));
        let known = known.filter(|account| account.metadata.deletion_timestamp.is_none());
        if let Some((account, uid)) = known.and_then(|known| known.uid().map(|uid| (known, uid))) {
            self.adopt(name, &account.metadata, hub).await;
            return Ok(uid);
        }
        let wanted = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.namespace.clone()),
                labels: Some(BTreeMap::from([(MANAGED.to_owned(), "true".to_owned())])),
                annotations: hub.map(|hub| BTreeMap::from([(HUB.to_owned(), hub.clone())])),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        let api = self.api::<ServiceAccount>();
        let params = PostParams::default();
        let account = match self.slots.ask(api.create(&params, &wanted)).await {
            Err(error) if is_code(&error, 409) => self
                .slots
                .ask(api.get(name))
                .await
                .map_err(|error| failed("cannot read the ServiceAccount", &error))?,
            created => {
                created.map_err(|error| failed("cannot create the ServiceAccount", &error))?
            }
        };
        if !is_labelled(&account.metadata) {
            return Err(Problem {
                reason: ACCOUNT_NOT_MANAGED,
                message: format!(
                    "the spoke has a ServiceAccount {}/{name} without the label {MANAGED}=true: \
                     choose another name, or label it to hand out its tokens",
                    self.namespace
                ),
            });
        }
        self.adopt(name, &account.metadata, hub).await;
        account.uid().ok_or_else(|| Problem::report("the spoke's ServiceAccount has no uid"))
    }

    /// Marks a ServiceAccount that nobody marked, as hubs did not always and people do not. Without
    /// the right to it tokens are given out all the same.
    async fn adopt(&self, name: &str, known: &ObjectMeta, hub: Option<&String>) {
        let Some(hub) = hub.filter(|_| mark(known).is_none()) else { return };
        let params =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        // Only if it still is the one that was seen.
        let patch =
            Patch::Merge(json!({"metadata": {"uid": known.uid, "annotations": {HUB: hub}}}));
        let api = self.api::<ServiceAccount>();
        let marked = api.patch_metadata(name, &params, &patch);
        if let Err(error) = self.slots.ask(marked).await {
            let error = explain("cannot annotate it", &error);
            tracing::warn!(name, error, "a ServiceAccount on a spoke stays after its account");
        }
    }

    /// A new token of the ServiceAccount `name`, which has `uid`.
    pub(super) async fn request_token(
        &self,
        name: &str,
        uid: &str,
        wanted: &Wanted,
    ) -> Result<Granted, Problem> {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: wanted.audiences.clone(),
                bound_object_ref: None,
                expiration_seconds: Some(wanted.seconds),
            },
            ..TokenRequest::default()
        };
        let api = self.api::<ServiceAccount>();
        let params = PostParams::default();
        let answer = self.slots.ask(api.create_token_request(name, &params, &request)).await;
        let answer = answer.map_err(|error| match is_code(&error, 422) {
            true => Problem { reason: INVALID, message: explain("no token", &error) },
            false => failed("no token", &error),
        })?;
        let unusable = || Problem::report("no token: the spoke's answer is not of this account");
        let status = answer.status.ok_or_else(unusable)?;
        let token = Zeroizing::new(status.token);
        if token.len() > MAX_TOKEN {
            return Err(Problem::report("no token: the one that the spoke gave is too long"));
        }
        let claims = Claims::of(&token).ok_or_else(unusable)?;
        if claims.subject != self.subject(name) || claims.account != uid {
            return Err(unusable());
        }
        let expires = claims.expires.min(status.expiration_timestamp.0);
        Ok(Granted { token, expires })
    }

    /// Whether the spoke's API server accepts `token`.
    pub(super) async fn accepts(&self, token: &str, wanted: &Wanted) -> Result<bool, Problem> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: (!wanted.audiences.is_empty()).then(|| wanted.audiences.clone()),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let api = Api::<TokenReview>::all(self.client.clone());
        let answer = self.slots.ask(api.create(&PostParams::default(), &review)).await;
        // The request had the token in it: nothing of the answer is repeated.
        let answer =
            answer.map_err(|error| Problem::report(without_message("no TokenReview", &error)))?;
        Ok(answer.status.is_some_and(|status| status.authenticated == Some(true)))
    }

    /// Deletes a ServiceAccount that nobody wants any more, if it still is the one that was seen.
    pub(super) async fn delete_account(&self, account: &Account) -> Result<(), kube::Error> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: account.uid(),
                // A label that was taken off in the meantime saves it.
                resource_version: account.resource_version(),
            }),
            ..DeleteParams::default()
        };
        let api = self.api::<ServiceAccount>();
        match self.slots.ask(api.delete(&account.name_any(), &params)).await {
            // Gone, or changed: then the watch tells, and there is another look.
            Err(error) if is_code(&error, 404) || is_code(&error, 409) => Ok(()),
            done => done.map(drop),
        }
    }

    /// The subject of tokens of `name`.
    pub(super) fn subject(&self, name: &str) -> String {
        subject(&self.namespace, name)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// The hub that something on a spoke is marked with.
pub(super) fn mark(metadata: &ObjectMeta) -> Option<&String> {
    metadata.annotations.as_ref()?.get(HUB)
}

/// Reduces what is remembered of a ServiceAccount to what is asked of it, and that to its longest form.
pub(super) fn keep_little(account: &mut Account, namespace: &str) {
    let short = |text: Option<String>| text.filter(|text| text.len() <= MAX_TEXT);
    let kept = |from: Option<BTreeMap<String, String>>, key: &str| {
        let value = short(from.and_then(|mut from| from.remove(key)))?;
        Some(BTreeMap::from([(key.to_owned(), value)]))
    };
    let all = std::mem::take(&mut account.metadata);
    account.types = None;
    account.metadata = ObjectMeta {
        name: short(all.name),
        // The one that was asked for, whatever the spoke says.
        namespace: Some(namespace.to_owned()),
        uid: short(all.uid),
        resource_version: short(all.resource_version),
        deletion_timestamp: all.deletion_timestamp,
        labels: kept(all.labels, MANAGED),
        annotations: kept(all.annotations, HUB),
        ..ObjectMeta::default()
    };
}

/// The CA bundle of a spoke's API server, as every namespace of it has it.
pub(super) async fn read_ca(
    client: &kube::Client,
    namespace: &str,
    slots: &Slots,
) -> Result<String, Problem> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let what = format!("cannot read the ConfigMap {namespace}/{CA_MAP}");
    let map = slots.ask(api.get(CA_MAP)).await.map_err(|error| failed(&what, &error))?;
    let pem = map.data.and_then(|mut data| data.remove("ca.crt")).unwrap_or_default();
    let usable = pem.len() <= MAX_CA && ca::certificates(pem.as_bytes()).is_ok();
    usable.then_some(pem).ok_or_else(|| {
        Problem::report(format!("the ConfigMap {namespace}/{CA_MAP} has no CA bundle in ca.crt"))
    })
}

fn failed(what: &str, error: &kube::Error) -> Problem {
    Problem::report(explain(what, error))
}

/// Written into every namespace by kube-controller-manager.
const CA_MAP: &str = "kube-root-ca.crt";
/// A bundle of dozens of authorities; a Secret holds 1 MiB in all.
const MAX_CA: usize = 256 << 10;

/// Bytes of a token, far above what an API server signs; a request head has room for it.
const MAX_TOKEN: usize = 16 << 10;

/// Bytes of a name, as long as Kubernetes has them; uids and versions are shorter.
const MAX_TEXT: usize = 253;

/// Requests to one spoke at once.
pub(super) const PER_SPOKE: usize = 4;

/// A CA bundle that changed is in the Secrets after this at most, and after half of it at least.
pub(super) const CA_AGAIN: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests;
