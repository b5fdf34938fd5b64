//! `/_fleet`: who may see which clusters, and that they are told what the hub knows already.

use serde_json::{Value, json};

use cluster_proxy::state::{Document, Expected};

use crate::policy::let_in;
use crate::support::client::{Client, empty};
use crate::support::fleet::Fleet;
use crate::support::hub_api::HubApi;
use crate::support::{PATIENCE, eventually};

/// A hub with an API of its own, and two accounts there: `ops/deployer` and `ops/nobody`.
struct World {
    fleet: Fleet,
    deployer: Client,
    nobody: Client,
    api: HubApi,
}

// === impl World ===

impl World {
    async fn start(policy: Option<&str>) -> Self {
        let api = HubApi::start().await;
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ops"}});
        api.create("/api/v1/namespaces", &namespace).await;
        let tokens = [api.account("ops", "deployer").await, api.account("ops", "nobody").await];
        let fleet = api.fleet(policy).await;
        let [deployer, nobody] = tokens.map(|token| fleet.anonymous().token(&token));
        Self { fleet, deployer, nobody, api }
    }

    /// The clusters that the deployer sees.
    async fn seen(&self) -> Vec<Value> {
        let answer = self.deployer.get("/_fleet").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["clusters"].as_array().unwrap().clone()
    }

    /// Waits until a cluster is seen as `health`, and returns what is said of it.
    async fn wait_seen(&self, name: &str, health: &str) -> Value {
        eventually(&format!("{name} is {health}"), PATIENCE, || async {
            let seen = self.seen().await;
            seen.into_iter().find(|one| one["name"] == name && one["health"] == health)
        })
        .await
    }
}

#[tokio::test]
async fn an_identity_sees_the_clusters_of_its_rules_and_how_they_are() {
    let mut world = World::start(Some(SOME)).await;
    for name in ["edge-1", "other", "edge-2"] {
        world.fleet.add(name).await;
    }
    let healthy = world.wait_seen("edge-1", "healthy").await;
    world.wait_seen("edge-2", "healthy").await;
    assert_eq!((&healthy["agents"], healthy["reason"].as_str()), (&json!(1), None), "{healthy}");
    assert!(healthy["tunnels"].as_u64().unwrap() >= 1 && healthy["latencyMs"].is_u64());
    for text in ["lastProbe", "certificateExpires", "apiServerVersion", "agentVersion"] {
        assert!(healthy[text].is_string(), "{text}: {healthy}");
    }
    let names: Vec<Value> = world.seen().await.iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["edge-1", "edge-2"], "`other` is on no rule of theirs");

    world.fleet.spoke_mut("edge-1").api.kill();
    let sick = world.wait_seen("edge-1", "unhealthy").await;
    assert!(sick["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{sick}");
    world.fleet.spoke_mut("edge-2").kill_agent();
    let gone = world.wait_seen("edge-2", "disconnected").await;
    assert_eq!((&gone["tunnels"], &gone["agents"]), (&json!(0), &json!(0)), "{gone}");

    // Whom no rule names there are no clusters for; a rule that is added shows one.
    let empty = world.nobody.get("/_fleet").await;
    assert_eq!((empty.status.as_u16(), empty.json()), (200, json!({"clusters": []})));
    let more = SOME.replace("deployer", "nobody").replace("edge-*", "other");
    world.fleet.hub.set_policy(&more);
    eventually("the new rule counts", PATIENCE, || async {
        let seen = world.nobody.get("/_fleet").await.json();
        (seen["clusters"][0]["name"] == "other").then_some(())
    })
    .await;
}

#[tokio::test]
async fn rbac_of_the_hub_shows_clusters_that_no_rule_names() {
    let mut world = World::start(Some(SOME)).await;
    for name in ["edge-1", "other", "third"] {
        world.fleet.add(name).await;
    }
    let_in(&world.api, &["get"], &["other", "gone"]).await;
    let seen = world.seen().await;
    assert_eq!(seen.len(), 1, "nobody is asked unless the hub is told to: {seen:?}");
    world.fleet.hub.stop().await;
    world.fleet.hub.delegate_authorization = true;
    world.fleet.hub.start().await;
    eventually("the API server is asked", PATIENCE, || async {
        (world.seen().await.len() == 2).then_some(())
    })
    .await;
    let page = world.deployer.get("/_fleet").await.json();
    let names: Vec<_> =
        page["clusters"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!((names, page.get("incomplete")), (vec![json!("edge-1"), json!("other")], None));
    let nobody = world.nobody.get("/_fleet").await;
    assert_eq!((nobody.status.as_u16(), nobody.json()), (200, json!({"clusters": []})));
}

#[tokio::test]
async fn who_is_no_identity_of_the_hub_gets_the_common_401() {
    let mut world = World::start(Some(SOME)).await;
    world.fleet.add("edge-1").await;
    world.fleet.hub.wait_healthy("edge-1").await;
    let spoke = world.fleet.client("edge-1");
    assert_eq!(spoke.get("/edge-1/version").await.status, 200);
    let stranger = world.fleet.anonymous();
    for path in ["/_fleet", "/_fleet/", "/_fleet/edge-1", "/_other", "/_", "/_hub/version"] {
        let mut said = Vec::new();
        for client in [&stranger, &spoke, &stranger.token("a.b.c")] {
            let answer = client.get(path).await;
            said.push(answer.assert_status(401, "Unauthorized"));
        }
        said.dedup();
        assert_eq!(said.len(), 1, "{path}: {said:?}");
        // The same path, and somebody who may ask.
        let code = world.deployer.get(path).await.status.as_u16();
        assert_eq!(code, if path == "/_fleet" { 200 } else { 404 }, "{path}");
    }
}

#[tokio::test]
async fn a_page_is_read_and_nothing_else() {
    let world = World::start(Some(SOME)).await;
    let ask = async |method: &str| {
        world.deployer.send(world.deployer.request(method, "/_fleet", empty())).await
    };
    let got = ask("GET").await;
    assert_eq!(got.status, 200);
    assert_eq!(got.headers["content-type"], "application/json");
    let head = ask("HEAD").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(head.headers["content-length"], got.headers["content-length"]);
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        ask(method).await.assert_status(405, "MethodNotAllowed");
    }
    let mut request = world.deployer.request("GET", "/_fleet", empty());
    request.headers_mut().insert("impersonate-user", "admin".parse().unwrap());
    world.deployer.send(request).await.assert_status(403, "Forbidden");
    // Without a policy there is nobody who may see anything, as on the clusters.
    let open = World::start(None).await;
    let said = open.deployer.get("/_fleet").await.assert_status(403, "Forbidden");
    assert!(said.contains("--policy"), "{said}");
}

/// The hub answers from what it knows: the dead cost no wait, and the living no request.
#[tokio::test]
async fn two_hundred_clusters_are_one_answer_and_no_request_to_any() {
    let mut world = World::start(Some(SOME)).await;
    world.fleet.add("edge-live").await;
    world.wait_seen("edge-live", "healthy").await;
    let enrolled = world.fleet.hub.state.enrolments().await.unwrap();
    let like = enrolled.values().next().unwrap();
    for number in 1..200 {
        let name = format!("edge-{number}").parse().unwrap();
        let store = world.fleet.hub.state.store();
        let contents = serde_json::to_vec(like).unwrap().into();
        store.write(&Document::Enrolment(name), contents, Expected::Absent).await.unwrap();
    }
    eventually("all of them are known", PATIENCE, || async {
        (world.seen().await.len() == 200).then_some(())
    })
    .await;
    let api = &world.fleet.spoke("edge-live").api;
    // Between two probes of the hub's own, as often as somebody may ask.
    let quiet = eventually("a moment without probes", PATIENCE, || async {
        let before = api.requests();
        let seen = world.seen().await;
        (api.requests() == before).then_some(seen)
    })
    .await;
    let of = |health: &str| quiet.iter().filter(|one| one["health"] == health).count();
    assert_eq!((of("healthy"), of("disconnected")), (1, 199));
}

/// Lets the deployer read Pods on some clusters.
const SOME: &str = "rules: [{users: ['cluster:hub:system:serviceaccount:ops:deployer'], \
                    clusters: ['edge-*'], verbs: [get], resources: [pods]}]";
