//! Both homes of the hub's state: a folder, and Secrets.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::PostParams;

use cluster_proxy::state::{FolderStore, SecretStore, State};

use crate::replicas::wait_told;
use crate::support::fleet::Fleet;
use crate::support::homes;
use crate::support::hub_api::HubApi;
use crate::support::{PATIENCE, eventually};

#[tokio::test]
async fn a_folder_does_what_a_home_must() {
    let folder = tempfile::tempdir().unwrap();
    homes::suite(|| Arc::new(FolderStore::open(folder.path()).unwrap())).await;
}

#[tokio::test]
async fn secrets_do_what_a_home_must() {
    let api = HubApi::start().await;
    let namespace = serde_json::from_value(serde_json::json!({"metadata": {"name": "state"}}));
    let namespaces: Api<Namespace> = Api::all(api.client());
    namespaces.create(&PostParams::default(), &namespace.unwrap()).await.unwrap();
    homes::suite_of_secrets(api.client(), "state").await;
}

#[tokio::test]
async fn hubs_share_state_in_secrets() {
    let api = HubApi::start().await;
    let state = || State::new(Arc::new(SecretStore::new(api.client(), "default")));
    let mut fleet = Fleet::on(state()).await;
    fleet.add("c1").await;
    fleet.hub.wait_healthy("c1").await;
    let client = fleet.client("c1");
    assert_eq!(client.get("/c1/version").await.status, 200);

    // A restart finds everything.
    fleet.hub.stop().await;
    fleet.hub.state = state();
    fleet.hub.start().await;
    fleet.wait_serves("c1", PATIENCE).await;
    wait_told(&fleet, "c1").await;

    // A second hub knows the cluster, is known to the first, and serves as soon as an agent came.
    let other = fleet.hub.beside_on(state()).await;
    assert_eq!(other.admin("/readyz").await, "waiting for agents\n");
    let _agent = fleet.spoke("c1").agent_beside(other.addresses.agents);
    eventually("the second hub is ready", PATIENCE, || async {
        (other.admin("/readyz").await == "ok\n").then_some(())
    })
    .await;
    let mut through = client.clone();
    through.address = other.addresses.user;
    assert_eq!(through.get("/c1/version").await.status, 200);
    eventually("both are listed with their cluster", PATIENCE, || async {
        let living = state().replicas().await.unwrap();
        (living.len() == 2 && living.iter().all(|hub| hub.connected.len() == 1)).then_some(())
    })
    .await;

    // Both hear of a revocation.
    assert!(state().revoke(&"c1".parse().unwrap()).await.unwrap());
    for client in [&client, &through] {
        eventually("c1 is gone", PATIENCE, || async {
            (client.get("/c1/version").await.status == 503).then_some(())
        })
        .await;
    }
}
