//! A hub with a list of services and a policy, a cluster whose owner exposes some, and a Service there
//! with three ports, each a web server of its own; `https` has none unless a test puts it there.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use cluster_proxy::agent::Exposure;
use cluster_proxy::hub::Source;
use cluster_proxy::kubernetes;
use cluster_proxy::sandbox::provision;

use crate::support::PATIENCE;
use crate::support::client::{Answer, Client};
use crate::support::hub_api::HubApi;
use crate::support::shop::Shop;
use crate::world::{MiniSpoke, World};

/// Ends when dropped.
pub(super) struct Ground {
    pub(super) world: World,
    /// Behind port 80, which is called `http`.
    pub(super) front: Shop,
    /// Behind port 8080, which is called `admin`.
    pub(super) back: Shop,
    /// With a token of the cluster's account `own`.
    pub(super) client: Client,
    /// That token.
    pub(super) token: String,
    /// With a token of an account of the hub.
    pub(super) of_hub: Client,
    _api: HubApi,
}

// === impl Ground ===

impl Ground {
    /// `list` is the hub's, `exposed` the agent's.
    pub(super) async fn start(list: &str, exposed: &[&str]) -> Self {
        let api = HubApi::start().await;
        let hub_token = api.account("default", "deployer").await;
        let mut fleet = api.fleet(Some(POLICY)).await;
        fleet.hub.stop().await;
        let file = fleet.dir.path().join("services.yaml");
        std::fs::write(&file, list).unwrap();
        fleet.hub.services = Source::File(file);
        fleet.hub.start().await;

        let spoke = MiniSpoke::join_exposing("c1", &fleet, exposure(exposed)).await;
        let world = World { fleet, spoke };
        world.create("/api/v1/namespaces", named("v1", "Namespace", "shop")).await;
        let client = kubernetes::client(&world.spoke.server).unwrap();
        provision::services(&client, "shop").await.unwrap();
        let (front, back) = (Shop::start("front").await, Shop::start("back").await);
        let mut web = named("v1", "Service", "web");
        web["spec"] = json!({"type": "ClusterIP",
            "ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 8080},
                {"name": "https", "port": 443}]});
        world.create(SERVICES, web).await;

        world.account("own").await;
        let token = world.token("own", Value::Null).await;
        let client = world.fleet.anonymous().token(&token);
        let of_hub = world.fleet.anonymous().token(&hub_token);
        let ground = Self { world, front, back, client, token, of_hub, _api: api };
        ground.place(&[("http", ground.front.address), ("admin", ground.back.address)]).await;
        ground
    }

    /// Says where the ports of Service `web` are, which are of one host.
    pub(super) async fn place(&self, ports: &[(&str, SocketAddr)]) {
        self.write_slice(slice(ports)).await;
    }

    /// Puts this slice in the place of the one of Service `web`.
    pub(super) async fn write_slice(&self, slice: Value) {
        let admin = &self.world.spoke.admin;
        let path = format!("{SLICES}/web-1");
        if admin.get(&path).await.status == 200 {
            self.world.delete(&path).await;
        }
        self.world.create(SLICES, slice).await;
    }

    /// Ends the agent, and starts one whose owner exposes this.
    pub(super) async fn expose(&mut self, exposure: Exposure) {
        let hub = &self.world.fleet.hub;
        self.world.spoke.kill_agent();
        hub.wait_tunnels("c1", 0, PATIENCE).await;
        self.world.spoke.exposure = exposure;
        self.world.spoke.start_agent(hub.addresses.agents);
        hub.wait_tunnels("c1", 2, PATIENCE).await;
    }

    /// Changes the hub's list.
    pub(super) fn list(&self, list: &str) {
        let Source::File(file) = &self.world.fleet.hub.services else { unreachable!() };
        std::fs::write(PathBuf::from(file), list).unwrap();
    }

    /// How many requests came to the web servers.
    pub(super) fn requests(&self) -> u64 {
        self.front.requests() + self.back.requests()
    }
}

/// These services, which may be at loopback addresses: there are no others here.
pub(super) fn exposure(exposed: &[&str]) -> Exposure {
    let services = exposed.iter().map(|entry| entry.parse().unwrap()).collect();
    Exposure { services, loopback: true, additional_ca: None }
}

/// An EndpointSlice of Service `web`, whose endpoint is ready.
pub(super) fn slice(ports: &[(&str, SocketAddr)]) -> Value {
    let host = ports[0].1.ip();
    let ports = ports.iter().map(|(name, address)| json!({"name": name, "port": address.port()}));
    let mut slice = named("discovery.k8s.io/v1", "EndpointSlice", "web-1");
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "web"});
    slice["addressType"] = "IPv4".into();
    slice["ports"] = ports.collect();
    slice["endpoints"] = json!([{"addresses": [host], "conditions": {"ready": true}}]);
    slice
}

fn named(version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}})
}

/// The value of a header that came once, as a web server saw it; `None` where it did not come.
pub(super) fn header(seen: &Answer, name: &str) -> Option<String> {
    let head = seen.json();
    let lines = head["headers"].as_array().unwrap();
    let mut values = lines.iter().filter(|line| line[0] == name).map(|line| line[1].as_str());
    let value = values.next()?;
    assert_eq!(values.next(), None, "{name}: {head}");
    value.map(str::to_owned)
}

/// The path of a service of `shop`.
pub(super) fn path(segment: &str, behind: &str) -> String {
    format!("/c1/api/v1/namespaces/shop/services/{segment}/proxy-service{behind}")
}

pub(super) const SERVICES: &str = "/api/v1/namespaces/shop/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";

/// Accounts of the hub reach what is in `shop`.
const POLICY: &str = "rules:
- groups: ['cluster:hub:system:serviceaccounts']
  clusters: ['*']
  verbs: [get]
  apiGroups: ['']
  resources: [services/proxy-service]
  namespaces: [shop]
";
