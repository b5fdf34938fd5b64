//! What an operator would make in the hub's API: a managed service account per cluster, whose tokens
//! are what people and scripts get.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::Patch;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::provision::{namespace, params};
use super::{SandboxError, definitions, eventually};
use crate::accounts::api::{MANAGED_NAMESPACE, ManagedServiceAccount, TOKEN};
use crate::hub::AccountsOptions;
use crate::name::ClusterName;

/// How the hub serves them: as by default.
pub(super) fn options() -> AccountsOptions {
    AccountsOptions { namespace: MANAGED_NAMESPACE.to_owned(), take_over: false, serving_ca: None }
}

/// Makes the definition, and for every cluster its namespace and its account.
pub(super) async fn seed(client: &Client, clusters: &[ClusterName]) -> Result<(), SandboxError> {
    let kinds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition: CustomResourceDefinition =
        serde_json::from_value(definitions::managed_service_accounts())
            .map_err(kube::Error::SerdeError)?;
    kinds.patch(&definition.name_any(), &params(), &Patch::Apply(&definition)).await?;
    for cluster in clusters {
        namespace(client, cluster.as_str()).await?;
        let accounts = Api::<ManagedServiceAccount>::namespaced(client.clone(), cluster.as_str());
        // Another API server needs a moment before it serves what was defined just now.
        eventually("managed service accounts are served", || async {
            accounts.patch(NAME, &params(), &Patch::Apply(account())).await.ok()
        })
        .await?;
    }
    Ok(())
}

/// Waits for the tokens that the hub makes, in the order of `clusters`.
pub(super) async fn tokens(
    client: &Client,
    clusters: &[ClusterName],
) -> Result<Vec<Zeroizing<String>>, SandboxError> {
    let mut tokens = Vec::with_capacity(clusters.len());
    for cluster in clusters {
        let secrets = Api::<Secret>::namespaced(client.clone(), cluster.as_str());
        let what = format!("the managed service account {cluster}/{NAME} has a token");
        let token = eventually(&what, || async {
            let token = secrets.get(NAME).await.ok()?.data?.remove(TOKEN)?;
            String::from_utf8(token.0).ok().map(Zeroizing::new)
        });
        tokens.push(token.await?);
    }
    Ok(tokens)
}

fn account() -> Value {
    json!({
        "apiVersion": "authentication.open-cluster-management.io/v1beta1",
        "kind": "ManagedServiceAccount",
        "metadata": {"name": NAME},
        "spec": {"rotation": {"enabled": true, "validity": "24h0m0s"}},
    })
}

/// Name of the account of every cluster.
pub(super) const NAME: &str = "test";
