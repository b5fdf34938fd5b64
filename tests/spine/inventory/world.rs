//! A publisher before an in-memory hub API, with ClusterProfiles of any definition.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;

use cluster_proxy::drain::Drain;
use cluster_proxy::fleet::{ClusterState, Fleet, Probe, TunnelState};
use cluster_proxy::inventory::{Address, Inventory, InventoryConfig, Surroundings, api};
use cluster_proxy::kubernetes::{self, ApiServer, Credentials};
use cluster_proxy::miniapi::{MiniApi, MiniApiConfig};
use cluster_proxy::pki::ca::{self, Authority};
use cluster_proxy::pki::tls::Presented;
use cluster_proxy::sandbox::definitions::cluster_profiles;

use crate::support::{PATIENCE, eventually, skipped};

/// Everything runs in the runtime of the test, so that its clock can be stopped.
pub(crate) struct World {
    pub(crate) client: Client,
    server: ApiServer,
    pub(crate) fleet: watch::Sender<Fleet>,
    pub(crate) presented: watch::Sender<Presented>,
    pub(crate) version: String,
    pub(crate) path_condition: bool,
    registry: prometheus::Registry,
    tasks: Drain,
}

/// One definition of ClusterProfiles.
#[derive(Clone)]
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// A small one of our own with keyed lists, and the published ones where they are at hand.
pub(crate) fn definitions(test: &str) -> Vec<Definition> {
    let mut all =
        vec![Definition { name: "our own".to_owned(), text: own("v1alpha1", true).to_string() }];
    for file in ["clusterprofiles.ocm.yaml", "clusterprofiles.cluster-inventory-api.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/crds").join(file);
        match std::fs::read_to_string(&path) {
            Ok(text) => all.push(Definition { name: file.to_owned(), text }),
            Err(error) => skipped(test, &format!("{file}: {error}"), "it with ../shared/crds"),
        }
    }
    all
}

/// A definition of our own, with lists that merge by key or are replaced whole.
pub(crate) fn own(version: &str, keyed: bool) -> Value {
    let mut definition = cluster_profiles(version);
    if !keyed {
        let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let status = &mut schema["properties"]["status"]["properties"];
        for list in status.as_object_mut().unwrap().values_mut() {
            let list = list.as_object_mut().unwrap();
            list.retain(|key, _| !key.starts_with("x-kubernetes-list"));
        }
    }
    definition
}

// === impl World ===

impl World {
    /// An API without ClusterProfiles, a hub with the clusters `c1` and `c2`, no publisher.
    pub(crate) async fn new() -> Self {
        let tasks = Drain::new();
        let api = MiniApi::bind(MiniApiConfig::new("hub", "127.0.0.1:0".parse().unwrap()));
        let api = api.await.unwrap();
        let server = api.server();
        let client = kubernetes::client(&server);
        tasks.spawn(api.run(tasks.clone()));
        let world = Self {
            client: client.unwrap(),
            server,
            fleet: watch::Sender::new(fleet(&[("c1", Some(true)), ("c2", Some(true))])),
            presented: watch::Sender::new(presented(&Authority::create("one", DAY).unwrap(), &[])),
            version: "v1alpha1".to_owned(),
            path_condition: false,
            registry: prometheus::Registry::new(),
            tasks,
        };
        world.client_create("/api/v1/namespaces", json!({"metadata": {"name": NAMESPACE}})).await;
        world
    }

    /// With ClusterProfiles and a publisher.
    pub(crate) async fn start(definition: &Definition) -> Self {
        let world = Self::new().await;
        world.define(&definition.text).await;
        world.publish();
        world
    }

    /// Installs a definition, or changes the one that is there.
    pub(crate) async fn define(&self, text: &str) {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        let definition = documents.into_iter().find(|one| !one.is_null()).unwrap();
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let params = PatchParams::apply("test").force();
        definitions.patch(api::DEFINITION, &params, &Patch::Apply(&definition)).await.unwrap();
    }

    /// Starts the publisher, which may do everything.
    pub(crate) fn publish(&self) {
        self.publish_by(self.client.clone());
    }

    /// Starts it as a ServiceAccount that may do what these rules say.
    pub(crate) async fn publish_with(&self, rules: &[Value]) {
        let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        self.client_create(&accounts, json!({"metadata": {"name": "hub"}})).await;
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let role = json!({"metadata": {"name": "hub"}, "rules": rules});
        self.client_create(&format!("{rbac}/clusterroles"), role).await;
        let binding = json!({"metadata": {"name": "hub"},
            "subjects": [{"kind": "ServiceAccount", "name": "hub", "namespace": NAMESPACE}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "hub"}});
        self.client_create(&format!("{rbac}/clusterrolebindings"), binding).await;
        let request =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let token = self.client_create(&format!("{accounts}/hub/token"), request).await;
        let token = token["status"]["token"].as_str().unwrap().to_owned();
        let credentials = Credentials::Token(token.into());
        let server = ApiServer { credentials, ..self.server.clone() };
        self.publish_by(kubernetes::client(&server).unwrap());
    }

    fn publish_by(&self, client: Client) {
        let config = InventoryConfig {
            manager: MANAGER.to_owned(),
            entries: vec![
                (MANAGER.to_owned(), Address::Host("hub.test".to_owned())),
                ("external".to_owned(), Address::Url("https://hub.test".to_owned())),
            ],
            serving_ca: None,
            path_condition: self.path_condition,
        };
        let around = Surroundings {
            client,
            port: 9092,
            fleet: self.fleet.subscribe(),
            presented: self.presented.subscribe(),
        };
        let inventory = Inventory::new(config, around, &self.registry).unwrap();
        let stopping = self.tasks.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = inventory.run() => panic!("the publisher ended"),
                () = stopping.stopping() => {}
            }
        });
    }

    pub(crate) fn profiles(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), NAMESPACE, &api::resource(&self.version))
    }

    /// A profile as OCM makes it, but that its name is not the cluster's.
    pub(crate) async fn profile(&self, name: &str, cluster: &str) -> DynamicObject {
        let labels = json!({api::MANAGER_LABEL: MANAGER, api::CLUSTER_LABEL: cluster});
        self.labelled(name, labels).await
    }

    pub(crate) async fn labelled(&self, name: &str, labels: Value) -> DynamicObject {
        let mut profile = DynamicObject::new(name, &api::resource(&self.version));
        profile.metadata.labels = serde_json::from_value(labels).unwrap();
        profile.data = json!({"spec": {"clusterManager": {"name": MANAGER}}});
        self.profiles().create(&PostParams::default(), &profile).await.unwrap()
    }

    /// Writes to the status as another controller does.
    pub(crate) async fn patch_status(&self, name: &str, who: &str, status: Value) {
        let params = PatchParams { field_manager: Some(who.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({ "status": status }));
        self.profiles().patch_status(name, &params, &patch).await.unwrap();
    }

    pub(crate) async fn get(&self, name: &str) -> DynamicObject {
        // Where the clock ran on, a connection that was kept may have been closed.
        eventually("the API server answers", PATIENCE, || async {
            match self.profiles().get(name).await {
                Err(kube::Error::Service(_)) => None,
                answer => Some(answer.unwrap()),
            }
        })
        .await
    }

    /// Waits until `list` of the profile's status is as `wanted` says, and returns the profile.
    pub(crate) async fn wait(
        &self,
        what: &str,
        name: &str,
        wanted: impl Fn(&DynamicObject) -> bool,
    ) -> DynamicObject {
        eventually(what, PATIENCE, || async {
            let profile = self.get(name).await;
            wanted(&profile).then_some(profile)
        })
        .await
    }

    /// Waits until the profile has our entries for `cluster` with the current authorities.
    pub(crate) async fn wait_published(&self, name: &str, cluster: &str) -> DynamicObject {
        let entries = self.entries(cluster);
        let what = format!("{name} is published");
        self.wait(&what, name, |profile| {
            let found = api::status_list(profile, api::PROVIDERS);
            entries.iter().all(|entry| found.contains(entry))
        })
        .await
    }

    /// Our entries, written out.
    pub(crate) fn entries(&self, cluster: &str) -> Vec<Value> {
        use base64::Engine as _;
        let ca: String = self.presented.borrow().authorities.iter().map(ca::pem).collect();
        let ca = base64::engine::general_purpose::STANDARD.encode(ca);
        let entry = |name: &str, url: &str| {
            json!({
                "name": name,
                "cluster": {
                    "server": format!("{url}/{cluster}"),
                    "certificate-authority-data": ca,
                    "extensions": [{
                        "name": "client.authentication.k8s.io/exec",
                        "extension": {"clusterName": cluster},
                    }],
                },
            })
        };
        vec![entry(MANAGER, "https://hub.test:9092"), entry("external", "https://hub.test")]
    }

    /// A metric of the publisher; 0 where it has not been counted.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let series = families.iter().filter(|family| family.name().ends_with(name));
        let series = series.flat_map(|family| family.get_metric());
        let wanted = series.filter(|one| {
            label.is_empty() || one.get_label().iter().any(|pair| pair.value() == label)
        });
        wanted.map(|one| one.get_counter().get_value() + one.get_gauge().get_value()).sum()
    }

    /// Writes of the publisher so far, of whatever outcome.
    pub(crate) fn writes(&self) -> f64 {
        self.metric("inventory_writes_total", "")
    }

    async fn client_create(&self, path: &str, object: Value) -> Value {
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(object.to_string().into_bytes())
            .unwrap();
        self.client.request(request).await.unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// Lets simulated time go by. What crosses a socket meanwhile may be late, and then meets deadlines:
/// nothing but waiting belongs in between.
pub(crate) async fn skip(time: Duration) {
    tokio::time::pause();
    tokio::time::sleep(time).await;
    tokio::time::resume();
}

/// What a hub presents after a rotation from `old` to `authority`.
pub(crate) fn presented(authority: &Authority, old: &[&Authority]) -> Presented {
    let names = ["hub.test".to_owned()];
    let issued = authority.issue_server(&names, DAY).unwrap();
    let bundle: String = [authority].iter().chain(old).map(|one| one.certificate_pem()).collect();
    Presented {
        chain: ca::certificates(issued.chain_pem.as_bytes()).unwrap(),
        authorities: ca::certificates(bundle.as_bytes()).unwrap(),
    }
}

/// A fleet of these clusters, with what their probes say.
pub(crate) fn fleet(clusters: &[(&str, Option<bool>)]) -> Fleet {
    let state = |healthy: Option<bool>| ClusterState {
        tunnels: vec![TunnelState {
            id: 1,
            agent: "a".to_owned(),
            since: SystemTime::now(),
            certificate_expires: SystemTime::now(),
        }],
        probe: healthy.map(|healthy| Probe {
            at: SystemTime::now(),
            healthy,
            latency_ms: 1,
            error: None,
        }),
        ..ClusterState::default()
    };
    let clusters = clusters.iter();
    Fleet {
        clusters: clusters
            .map(|(name, healthy)| (name.parse().unwrap(), Arc::new(state(*healthy))))
            .collect(),
    }
}

pub(crate) const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const MANAGER: &str = "open-cluster-management";
pub(crate) const NAMESPACE: &str = "fleet";
