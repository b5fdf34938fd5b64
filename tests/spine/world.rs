//! Spokes whose API servers are in-memory Kubernetes APIs.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::sync::oneshot;

use cluster_proxy::agent::Exposure;
use cluster_proxy::drain::Drain;
use cluster_proxy::kubernetes::{self, ApiServer};
use cluster_proxy::miniapi::{MiniApi, MiniApiConfig};
use cluster_proxy::sandbox::provision;

use crate::support::agent::RunningAgent;
use crate::support::client::{Client, empty, full};
use crate::support::fleet::Fleet;
use crate::support::part::Part;

/// A hub and one spoke, `c1`.
pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) spoke: MiniSpoke,
}

/// An in-memory Kubernetes API, and the agent beside it.
pub(crate) struct MiniSpoke {
    pub(crate) name: String,
    /// Of the API server itself, with all rights.
    pub(crate) admin: Client,
    pub(crate) directory: PathBuf,
    /// Where the API server is, with all rights.
    pub(crate) server: ApiServer,
    /// Of the next start of the agent: what it exposes.
    pub(crate) exposure: Exposure,
    agent: Option<RunningAgent>,
    _api: Part,
}

// === impl World ===

impl World {
    pub(crate) async fn start() -> Self {
        let fleet = Fleet::hub_only().await;
        let spoke = MiniSpoke::join("c1", &fleet).await;
        Self { fleet, spoke }
    }

    pub(crate) async fn create(&self, path: &str, object: Value) -> Value {
        self.spoke.create(path, object).await
    }

    pub(crate) async fn delete(&self, path: &str) {
        self.spoke.delete(path).await;
    }

    /// A ServiceAccount without rights.
    pub(crate) async fn account(&self, name: &str) {
        self.create(
            ACCOUNTS,
            json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": name}}),
        )
        .await;
    }

    /// Gives it all rights.
    pub(crate) async fn bind(&self, name: &str) {
        self.spoke.bind("default", name).await;
    }

    /// A client of the hub with a token of `name`, bound to `object` where that is one.
    pub(crate) async fn client(&self, name: &str, object: Value) -> Client {
        self.fleet.anonymous().token(&self.token(name, object).await)
    }

    /// A token of `name`, bound to `object` where that is one.
    pub(crate) async fn token(&self, name: &str, object: Value) -> String {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"boundObjectRef": object}});
        let answer = self.create(&format!("{ACCOUNTS}/{name}/token"), request).await;
        answer["status"]["token"].as_str().unwrap().to_owned()
    }
}

// === impl MiniSpoke ===

impl MiniSpoke {
    /// Starts it and its agent, and waits until the hub's probe of it came back.
    pub(crate) async fn join(name: &str, fleet: &Fleet) -> Self {
        Self::join_exposing(name, fleet, Exposure::default()).await
    }

    /// As [`MiniSpoke::join`], with services that its owner exposes.
    pub(crate) async fn join_exposing(name: &str, fleet: &Fleet, exposure: Exposure) -> Self {
        let (bound, started) = oneshot::channel();
        let cluster = name.to_owned();
        let api = Part::start("miniapi", move || async move {
            let mut config = MiniApiConfig::new(&cluster, "127.0.0.1:0".parse().unwrap());
            config.names.push("localhost".to_owned());
            let api = MiniApi::bind(config).await.unwrap();
            let admin = Client::new(api.address(), api.ca_pem()).token(&api.admin_token());
            assert!(bound.send((admin, api.server())).is_ok());
            api.run(Drain::new()).await;
        });
        let (admin, server) = started.await.unwrap();
        let client = kubernetes::client(&server).unwrap();
        let kubeconfig = provision::agent(&client, &server).await.unwrap();
        let directory = fleet.dir.path().join(name);
        fleet.hub.enrol(name, &directory).await;
        std::fs::write(directory.join("kubeconfig"), kubeconfig.as_bytes()).unwrap();
        let name = name.to_owned();
        let mut spoke = Self { name, admin, directory, server, exposure, agent: None, _api: api };
        spoke.start_agent(fleet.hub.addresses.agents);
        fleet.hub.wait_healthy(&spoke.name).await;
        spoke
    }

    /// Starts its agent.
    pub(crate) fn start_agent(&mut self, hub: SocketAddr) {
        self.agent = Some(self.agent_beside(hub));
    }

    /// Another agent of it.
    pub(crate) fn agent_beside(&self, hub: SocketAddr) -> RunningAgent {
        let exposure = self.exposure.clone();
        RunningAgent::start_with(&self.name, &self.directory, hub, |config| {
            config.services = exposure;
        })
    }

    /// Ends its agent as SIGKILL does.
    pub(crate) fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// Makes the agent read everything again, as SIGHUP does.
    pub(crate) fn reload_agent(&self) {
        self.agent.as_ref().unwrap().reload();
    }

    pub(crate) async fn create(&self, path: &str, object: Value) -> Value {
        self.write("POST", "application/json", path, object).await
    }

    pub(crate) async fn merge(&self, path: &str, patch: Value) -> Value {
        self.write("PATCH", "application/merge-patch+json", path, patch).await
    }

    pub(crate) async fn delete(&self, path: &str) {
        let answer = self.admin.send(self.admin.request("DELETE", path, empty())).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text());
    }

    /// Gives a ServiceAccount all rights.
    pub(crate) async fn bind(&self, namespace: &str, name: &str) {
        self.create(
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": {"name": name},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                    "name": "cluster-admin"},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]}),
        )
        .await;
    }

    async fn write(&self, method: &str, content: &str, path: &str, object: Value) -> Value {
        let mut request = self.admin.request(method, path, full(object.to_string()));
        request.headers_mut().insert("content-type", content.parse().unwrap());
        let answer = self.admin.send(request).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text());
        answer.json()
    }
}

pub(crate) const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
