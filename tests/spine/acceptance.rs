//! A hub whose cluster is a hub of Open Cluster Management too: it serves the clusters that are
//! accepted there.

use http::Request;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

use cluster_proxy::hub::ControllersConfig;
use cluster_proxy::sandbox::definitions;

use crate::support::client::{Client, empty};
use crate::support::fleet::Fleet;
use crate::support::hub_api::HubApi;
use crate::support::{PATIENCE, eventually, within};

struct World {
    api: HubApi,
    fleet: Fleet,
}

// === impl World ===

impl World {
    /// With these clusters, and whether they are accepted.
    async fn start(clusters: &[(&str, bool)]) -> Self {
        let api = HubApi::start().await;
        api.create(DEFINITIONS, &definitions::managed_clusters()).await;
        let mut fleet = api.fleet(Some(EVERYBODY)).await;
        let world = |fleet| Self { api, fleet };
        fleet.hub.stop().await;
        let mut world = world(fleet);
        world.fleet.hub.controllers = Some(ControllersConfig {
            server: world.api.server.clone(),
            lease_namespace: "default".to_owned(),
            accounts: None,
            inventory: None,
            managed_clusters: true,
        });
        for (name, accepted) in clusters {
            world.manage(name, *accepted).await;
        }
        world.fleet.hub.start().await;
        world
    }

    async fn manage(&self, name: &str, accepted: bool) {
        let cluster = json!({"apiVersion": "cluster.open-cluster-management.io/v1",
            "kind": "ManagedCluster", "metadata": {"name": name},
            "spec": {"hubAcceptsClient": accepted}});
        self.api.create(CLUSTERS, &cluster).await;
    }

    async fn accept(&self, name: &str, accepted: bool) {
        let patch = json!({"spec": {"hubAcceptsClient": accepted}}).to_string().into_bytes();
        let request = Request::patch(format!("{CLUSTERS}/{name}"))
            .header("content-type", "application/merge-patch+json");
        self.api.client().request::<Value>(request.body(patch).unwrap()).await.unwrap();
    }

    async fn wait_code(&self, client: &Client, path: &str, code: u16) {
        eventually(&format!("{path} is {code}"), PATIENCE, || async {
            (client.try_get(path).await.ok()?.status == code).then_some(())
        })
        .await;
    }

    /// A watch of a cluster, after its first event.
    async fn watch(&self, cluster: &str) -> Incoming {
        let client = self.fleet.client(cluster);
        let path = format!("/{cluster}/api/v1/configmaps?watch=true");
        let mut watch = client.open(client.request("GET", &path, empty())).await.unwrap();
        assert!(watch.body_mut().frame().await.unwrap().is_ok());
        watch.into_body()
    }
}

#[tokio::test]
async fn a_cluster_that_is_accepted_joins_and_one_that_is_not_keeps_its_token() {
    let world = World::start(&[("c1", true), ("c2", false)]).await;
    let hub = &world.fleet.hub;
    let folder = |name: &str| world.fleet.dir.path().join(name);
    hub.enrol("c1", &folder("c1")).await;
    // One that is not accepted, and one that Open Cluster Management does not know.
    for name in ["c2", "c3"] {
        let token = hub.join_token(name).await;
        let refused = hub.join(&token, &folder(name)).await.unwrap_err().to_string();
        let why = format!("Open Cluster Management on the hub does not accept {name}");
        assert!(refused.contains(&why), "{refused}");
        match name {
            "c2" => world.accept(name, true).await,
            _ => world.manage(name, true).await,
        }
        eventually("the same token works", PATIENCE, || async {
            hub.join(&token, &folder(name)).await.ok()
        })
        .await;
    }
}

#[tokio::test]
async fn a_cluster_that_is_not_accepted_any_more_is_gone_until_it_is_again() {
    let mut world = World::start(&[("c1", true), ("c2", true)]).await;
    for name in ["c1", "c2"] {
        world.fleet.add(name).await;
        world.fleet.hub.wait_healthy(name).await;
    }
    let fleet = &world.fleet;
    let deployer = fleet.anonymous().token(&world.api.account("default", "deployer").await);
    world.wait_code(&deployer, "/c1/version", 200).await;
    let (mut ends, mut stays) = (world.watch("c1").await, world.watch("c2").await);

    world.accept("c1", false).await;
    within("its streams end", PATIENCE, async { while let Some(Ok(_)) = ends.frame().await {} })
        .await;
    // As of any cluster that is not enrolled.
    world.wait_code(&deployer, "/c1/version", 404).await;
    let unknown = deployer.get("/c9/version").await.text().replace("c9", "c1");
    let said = deployer.get("/c1/version").await.text();
    let message = |text: &str| serde_json::from_str::<Value>(text).unwrap()["message"].clone();
    assert_eq!(message(&said), message(&unknown));
    assert_eq!(fleet.client("c1").get("/c1/version").await.status, 401);
    eventually("its agent is turned away", PATIENCE, || async {
        let refused = ["reason=\"not-accepted\""];
        let refused = fleet.hub.metric("cluster_proxy_agents_refused_total", &refused).await;
        (refused >= 1.0).then_some(())
    })
    .await;
    assert_eq!(fleet.client("c2").get("/c2/version").await.status, 200);

    // A hub that starts meanwhile knows it from the first moment.
    world.fleet.hub.stop().await;
    world.fleet.hub.start().await;
    let fleet = &world.fleet;
    fleet.hub.wait_healthy("c2").await;
    assert_eq!(fleet.hub.cluster("c1").await, Value::Null);
    within("the other's watch ends", PATIENCE, async {
        while let Some(Ok(_)) = stays.frame().await {}
    })
    .await;

    world.accept("c1", true).await;
    fleet.wait_serves("c1", PATIENCE).await;
    assert_eq!(deployer.get("/c1/version").await.status, 200);
    // Deleted is as good as not accepted.
    let watch = world.watch("c1").await;
    world.api.delete(&format!("{CLUSTERS}/c1")).await;
    within("its streams end again", PATIENCE, async {
        let mut watch = watch;
        while let Some(Ok(_)) = watch.frame().await {}
    })
    .await;
    world.wait_code(&deployer, "/c1/version", 404).await;
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CLUSTERS: &str = "/apis/cluster.open-cluster-management.io/v1/managedclusters";
const EVERYBODY: &str = "rules: [{users: ['*'], clusters: ['*']}]";
