use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::json;

use super::*;
use crate::fleet::ClusterState;
use crate::miniapi::testing::{Fault, InMemory};
use crate::pki::ca::{self, Authority};

const SECOND: Duration = Duration::from_secs(1);

fn presented() -> Presented {
    let authority = Authority::create("serving", 86_400 * SECOND).unwrap();
    let issued = authority.issue_server(&["hub.test".to_owned()], 86_400 * SECOND).unwrap();
    Presented {
        chain: ca::certificates(issued.chain_pem.as_bytes()).unwrap(),
        authorities: ca::certificates(authority.certificate_pem().as_bytes()).unwrap(),
    }
}

fn fleet() -> Fleet {
    let clusters = [("c1".parse().unwrap(), Arc::new(ClusterState::default()))];
    Fleet { clusters: clusters.into() }
}

async fn define(client: &Client) {
    let version = json!({
        "name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema":
            {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
    });
    let definition: CustomResourceDefinition = serde_json::from_value(json!({
        "metadata": {"name": api::DEFINITION},
        "spec": {"group": api::GROUP, "scope": "Namespaced", "versions": [version],
            "names": {"kind": api::KIND, "plural": api::PLURAL, "singular": "clusterprofile"}},
    }))
    .unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &definition).await.unwrap();
}

/// An API server that takes a request and never answers holds up nothing for longer than a deadline.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_never_answered_is_made_again() {
    let world = InMemory::start().await;
    let client = world.client();
    define(&client).await;
    let profiles: Api<DynamicObject> =
        Api::namespaced_with(client, "default", &api::resource("v1alpha1"));
    let mut profile = DynamicObject::new("p", &api::resource("v1alpha1"));
    let labels = [(api::MANAGER_LABEL, "m"), (api::CLUSTER_LABEL, "c1")];
    profile.metadata.labels =
        Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    profiles.create(&PostParams::default(), &profile).await.unwrap();

    let wire = world.wire();
    let (_fleet, fleet) = watch::channel(fleet());
    let (certificates, presented_now) = watch::channel(presented());
    let config = InventoryConfig {
        manager: "m".to_owned(),
        entries: vec![("e".to_owned(), Address::Host("hub.test".to_owned()))],
        serving_ca: None,
        path_condition: false,
    };
    let around = Surroundings { client: wire.client(), port: 1, fleet, presented: presented_now };
    let inventory = Inventory::new(config, around, &prometheus::Registry::new()).unwrap();

    // The first look for the definition is not answered, and then a read of the profile.
    wire.set(Fault::Silent);
    let running = tokio::spawn(async move { inventory.run().await });
    let _running = tokio_util::task::AbortOnDropHandle::new(running);
    let entry = || async {
        let profile = profiles.get("p").await.unwrap();
        profile.data["status"]["accessProviders"][0].clone()
    };
    let mut sent = 0;
    let mut before = json!(null);
    for _ in 0..2 {
        while wire.requests() == sent {
            sleep(SECOND / 10).await;
        }
        wire.set(Fault::None);
        let start = Instant::now();
        while entry().await == before {
            assert!(start.elapsed() < 120 * SECOND, "never published");
            sleep(SECOND / 10).await;
        }
        // What follows a write has been asked by then.
        sleep(SECOND).await;
        before = entry().await;
        sent = wire.requests();
        wire.set(Fault::Silent);
        certificates.send_replace(presented());
    }
}
