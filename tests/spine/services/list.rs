//! Services of clusters, by a list in a ConfigMap of the hub, for accounts whose cluster stands by
//! them. Hub and spoke are in-memory Kubernetes APIs. `tests/attacks/services` looks at both ends.

use serde_json::{Value, json};

use cluster_proxy::hub::Source;

use crate::support::client::{Answer, Client};
use crate::support::hub_api::HubApi;
use crate::support::{PATIENCE, eventually};
use crate::world::{ACCOUNTS, MiniSpoke, World};

const WEB: &str = "/c1/api/v1/namespaces/shop/services/web/proxy-service/";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MAP: &str = "/api/v1/namespaces/default/configmaps/exposed";

/// The hub's API server, a hub that follows a ConfigMap there which is not there yet, and `c1`.
async fn start() -> (HubApi, World) {
    let api = HubApi::start().await;
    let mut fleet = api.fleet(None).await;
    fleet.hub.stop().await;
    fleet.hub.services =
        Source::ConfigMap { namespace: "default".to_owned(), name: "exposed".to_owned() };
    fleet.hub.start().await;
    let spoke = MiniSpoke::join("c1", &fleet).await;
    (api, World { fleet, spoke })
}

async fn expose(api: &HubApi, data: Value) {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "exposed"},
        "data": data});
    api.create(MAPS, &map).await;
}

/// Whether the hub lets a request go on to the cluster's agent, whose owner exposes nothing.
fn is_let_through(answer: &Answer) -> bool {
    answer.text().contains("cluster-proxy: agent: ")
}

async fn wait_let_through(client: &Client, wanted: bool) -> Answer {
    eventually("the list is in force", PATIENCE, || async {
        let answer = client.get(WEB).await;
        (is_let_through(&answer) == wanted).then_some(answer)
    })
    .await
}

/// U41, U42 and U47 over a real watch of the list.
#[tokio::test]
async fn a_config_map_exposes_services_and_its_end_hides_them() {
    let (api, world) = start().await;
    world.account("own").await;
    let client = world.client("own", Value::Null).await;
    let message = wait_let_through(&client, false).await.assert_status(403, "Forbidden");
    let expected = "service https:shop/web:443 of cluster c1 is not in the hub's list";
    assert!(message.contains(expected), "{message}");

    let other = "- {namespace: shop, service: other}";
    expose(&api, json!({"a": other, "b": "- {namespace: shop, service: web}"})).await;
    wait_let_through(&client, true).await;
    api.delete(MAP).await;
    wait_let_through(&client, false).await;
    expose(&api, json!({"b": "- {namespace: shop, service: web}"})).await;
    wait_let_through(&client, true).await;

    // One bad key spoils the change: nothing of it is taken over.
    api.delete(MAP).await;
    expose(&api, json!({"a": other, "b": "- {namespace: shop}"})).await;
    let failures = "cluster_proxy_exposed_services_reload_failures_total";
    eventually("the failure is counted", PATIENCE, || async {
        (world.fleet.hub.metric(failures, &[]).await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(client.get(&WEB.replace("/web/", "/other/")).await.status, 403);
}

/// U66 and security case 73: the answer of the cluster itself, through its tunnel.
#[tokio::test]
async fn an_account_that_is_gone_reaches_no_service_within_ten_seconds() {
    let (api, world) = start().await;
    for name in ["leaver", "stayer"] {
        world.account(name).await;
    }
    let leaver = world.client("leaver", Value::Null).await;
    let stayer = world.client("stayer", Value::Null).await;
    expose(&api, json!({"a": "- {namespace: shop, service: web}"})).await;
    for client in [&leaver, &stayer] {
        wait_let_through(client, true).await;
    }
    world.delete(&format!("{ACCOUNTS}/leaver")).await;
    eventually("the account is refused", PATIENCE, || async {
        (leaver.get(WEB).await.status == 401).then_some(())
    })
    .await;
    assert!(is_let_through(&stayer.get(WEB).await));
}
