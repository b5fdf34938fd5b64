//! What Open Cluster Management would make in the hub's API: a ClusterProfile per cluster, for our
//! publisher to fill.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::api::Patch;
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::provision::{namespace, params};
use super::{SandboxError, definitions, eventually};
use crate::inventory::{Address, InventoryConfig, api};
use crate::name::ClusterName;

/// What the hub publishes: its loopback address.
pub(super) fn config() -> InventoryConfig {
    InventoryConfig {
        manager: api::OCM.to_owned(),
        entries: vec![(api::OCM.to_owned(), Address::Host("127.0.0.1".to_owned()))],
        serving_ca: None,
        path_condition: false,
    }
}

/// Makes definition, namespace and profiles; those from an earlier run of the same API stay.
pub(super) async fn seed(client: &Client, clusters: &[ClusterName]) -> Result<(), SandboxError> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions
        .patch(api::DEFINITION, &params(), &Patch::Apply(definitions::cluster_profiles(VERSION)))
        .await?;
    namespace(client, NAMESPACE).await?;
    // All API servers of a sandbox are of one version.
    let version = client.apiserver_version().await?.git_version;
    let profiles = profiles(client);
    for cluster in clusters {
        let name = cluster.as_str();
        // Another API server needs a moment before it serves what was defined just now.
        eventually("ClusterProfiles are served", || async {
            profiles.patch(name, &params(), &Patch::Apply(profile(cluster))).await.ok()
        })
        .await?;
        profiles.patch_status(name, &params(), &Patch::Apply(status(cluster, &version))).await?;
    }
    Ok(())
}

/// Waits until the hub has published itself in every profile.
pub(super) async fn published(
    client: &Client,
    clusters: &[ClusterName],
) -> Result<(), SandboxError> {
    let profiles = profiles(client);
    for cluster in clusters {
        let what = format!("the ClusterProfile of {cluster} has an access provider");
        eventually(&what, || async {
            let profile = profiles.get(cluster.as_str()).await;
            let is_published =
                profile.is_ok_and(|profile| !api::status_list(&profile, api::PROVIDERS).is_empty());
            is_published.then_some(())
        })
        .await?;
    }
    Ok(())
}

fn profiles(client: &Client) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), NAMESPACE, &api::resource(VERSION))
}

/// As OCM's own controller makes it.
fn profile(cluster: &ClusterName) -> Value {
    let mut profile = named(cluster);
    profile["metadata"]["labels"] = json!({api::MANAGER_LABEL: api::OCM, api::CLUSTER_LABEL: cluster, SET_LABEL: "sandbox-fleet"});
    profile["spec"] = json!({"displayName": cluster, "clusterManager": {"name": api::OCM}});
    profile
}

fn status(cluster: &ClusterName, version: &str) -> Value {
    let condition = |kind: &str, reason: &str| {
        json!({"type": kind, "status": "True", "reason": reason, "message": "",
            "lastTransitionTime": Timestamp::now()})
    };
    let mut profile = named(cluster);
    profile["status"] = json!({
        "version": {"kubernetes": version},
        "conditions": [
            condition("ControlPlaneHealthy", "ManagedClusterAvailable"),
            condition("Joined", "ManagedClusterJoined"),
        ],
    });
    profile
}

fn named(cluster: &ClusterName) -> Value {
    json!({
        "apiVersion": format!("{}/{VERSION}", api::GROUP), "kind": api::KIND,
        "metadata": {"name": cluster, "namespace": NAMESPACE},
    })
}

/// The set of clusters that a profile comes from.
const SET_LABEL: &str = "multicluster.x-k8s.io/clusterset";
/// Where OCM's examples have them.
const NAMESPACE: &str = "cluster-inventory";
/// What OCM serves.
const VERSION: &str = "v1alpha1";
