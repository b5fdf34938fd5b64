//! Names of the hub that clusters know as they are, where both ends list them; and users whose tokens
//! are no JSON Web Tokens. The agent and the cluster's API server are looked at.

use std::sync::Arc;

use serde_json::{Value, json};

use cluster_proxy::agent::ImpersonationRule;
use cluster_proxy::hub::Source;
use cluster_proxy::hub::authn::UnprefixedNames;

use crate::support::agent::RunningAgent;
use crate::support::api::FakeApi;
use crate::support::client::Client;
use crate::support::fleet::Fleet;
use crate::support::{PATIENCE, eventually};

const ECHO: &str = "/c1/api/v1/namespaces/default/services/x/proxy/echo";

/// A hub that asks about opaque tokens, with `names`, and `c1`.
async fn world(opaque_tokens: bool, names: Value) -> (FakeApi, Fleet) {
    let hub_api = FakeApi::start("hub").await;
    let mut fleet = Fleet::hub_only().await;
    let file = fleet.dir.path().join("names.json");
    std::fs::write(&file, names.to_string()).unwrap();
    fleet.hub.stop().await;
    fleet.hub.own_api = Some(hub_api.server());
    fleet.hub.opaque_tokens = opaque_tokens;
    fleet.hub.names = Arc::new(UnprefixedNames::read(&file).unwrap());
    fleet.hub.policy = Source::File(fleet.dir.path().join("policy.yaml"));
    fleet.hub.set_policy("rules: [{users: ['*'], clusters: ['*']}]");
    fleet.hub.start().await;
    fleet.add("c1").await;
    fleet.hub.wait_healthy("c1").await;
    (hub_api, fleet)
}

/// For whom the agent spoke.
async fn spoken_for(client: &Client) -> Option<String> {
    let answer = client.get(ECHO).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let echo = answer.json();
    let headers = echo["headers"].as_array().unwrap().iter();
    let mut users = headers.filter(|header| header[0] == "impersonate-user");
    let user = users.next().map(|header| header[1].as_str().unwrap().to_owned());
    assert!(users.next().is_none(), "{echo}");
    user
}

#[tokio::test]
async fn a_name_crosses_as_it_is_only_where_both_ends_list_it() {
    let account = "system:serviceaccount:default:deployer";
    let names = json!({"users": {"jane": "jane", account: "deployer"}});
    let (hub_api, mut fleet) = world(true, names).await;
    for name in ["jane", "joe"] {
        hub_api.accept(&format!("opaque-{name}"), name);
    }
    let (jane, joe) =
        (fleet.anonymous().token("opaque-jane"), fleet.anonymous().token("opaque-joe"));
    let deployer = fleet.anonymous().token(&hub_api.token("deployer"));
    // The owner of the cluster has not agreed.
    eventually("the agent refuses", PATIENCE, || async {
        let answer = jane.get(ECHO).await;
        (answer.status == 403 && answer.text().contains("cluster-proxy: agent: ")).then_some(())
    })
    .await;
    assert_eq!(spoken_for(&joe).await.unwrap(), "cluster:hub:joe");

    let hub = fleet.hub.addresses.agents;
    let spoke = fleet.spoke_mut("c1");
    spoke.kill_agent();
    let directory = spoke.directory.clone();
    fleet.hub.wait_tunnels("c1", 0, PATIENCE).await;
    let users = vec!["jane".to_owned(), "joe".to_owned(), "deployer".to_owned()];
    let rule = ImpersonationRule::default().with_names(users, Vec::new()).unwrap();
    let agent = RunningAgent::start_with("c1", &directory, hub, |config| {
        config.impersonation = Some(rule);
    });
    fleet.hub.wait_tunnels("c1", 2, PATIENCE).await;
    assert_eq!(spoken_for(&jane).await.unwrap(), "jane");
    assert_eq!(spoken_for(&deployer).await.unwrap(), "deployer");
    // Listed at one end alone.
    assert_eq!(spoken_for(&joe).await.unwrap(), "cluster:hub:joe");
    agent.kill();
}

#[tokio::test]
async fn an_opaque_token_is_for_the_hubs_api_server_and_never_for_a_clusters() {
    let (mut hub_api, fleet) = world(true, json!({})).await;
    hub_api.accept("opaque-jane", "jane");
    let jane = fleet.anonymous().token("opaque-jane");
    let echo = jane.get(ECHO).await;
    assert_eq!(echo.status, 200, "{}", echo.text());
    assert!(!echo.text().contains("opaque-jane"), "{}", echo.text());
    assert_eq!(spoken_for(&jane).await.unwrap(), "cluster:hub:jane");

    // The cluster would let it in.
    fleet.spoke("c1").api.accept("opaque-joe", "joe");
    let joe = fleet.anonymous().token("opaque-joe");
    joe.get(ECHO).await.assert_status(401, "Unauthorized");
    joe.get("/nowhere/version").await.assert_status(401, "Unauthorized");
    hub_api.kill();
    let message = fleet
        .anonymous()
        .token("opaque-ann")
        .get(ECHO)
        .await
        .assert_status(503, "ServiceUnavailable");
    assert!(message.contains("hub's own API server"), "{message}");
}

#[tokio::test]
async fn an_opaque_token_is_nobodys_where_the_hub_is_not_to_ask() {
    let (hub_api, fleet) = world(false, json!({})).await;
    hub_api.accept("opaque-jane", "jane");
    fleet.spoke("c1").api.accept("opaque-jane", "jane");
    fleet.anonymous().token("opaque-jane").get(ECHO).await.assert_status(401, "Unauthorized");
    let token = fleet.anonymous().token(&hub_api.token("jane"));
    eventually("a token that the hub has signed", PATIENCE, || async {
        (token.get(ECHO).await.status == 200).then_some(())
    })
    .await;
}
