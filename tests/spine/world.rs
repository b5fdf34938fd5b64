//! A hub and a spoke whose API server is the in-memory Kubernetes API.

use serde_json::{Value, json};
use tokio::sync::oneshot;

use cluster_proxy::drain::Drain;
use cluster_proxy::miniapi::{MiniApi, MiniApiConfig, provision};

use crate::support::client::{Client, empty, full};
use crate::support::fleet::{Fleet, RunningAgent};
use crate::support::part::Part;

/// A hub and one spoke, `c1`.
pub(crate) struct World {
    pub(crate) fleet: Fleet,
    /// Of the spoke's API server itself.
    admin: Client,
    _agent: RunningAgent,
    _api: Part,
}

// === impl World ===

impl World {
    pub(crate) async fn start() -> Self {
        let fleet = Fleet::hub_only().await;
        let (bound, started) = oneshot::channel();
        let api = Part::start("miniapi", move || async move {
            let mut config = MiniApiConfig::new("c1", "127.0.0.1:0".parse().unwrap());
            config.names.push("localhost".to_owned());
            let api = MiniApi::bind(config).await.unwrap();
            let admin = Client::new(api.address(), api.ca_pem()).token(&api.admin_token());
            assert!(bound.send((admin, provision::provision_agent(&api))).is_ok());
            api.run(Drain::new()).await;
        });
        let (admin, kubeconfig) = started.await.unwrap();
        let directory = fleet.dir.path().join("c1");
        fleet.hub.enrol("c1", &directory).await;
        std::fs::write(directory.join("kubeconfig"), kubeconfig).unwrap();
        let agent = RunningAgent::start("c1", &directory, fleet.hub.addresses.agents);
        fleet.hub.wait_healthy("c1").await;
        Self { fleet, admin, _agent: agent, _api: api }
    }

    pub(crate) async fn create(&self, path: &str, object: Value) -> Value {
        let mut request = self.admin.request("POST", path, full(object.to_string()));
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
        let answer = self.admin.send(request).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text());
        answer.json()
    }

    pub(crate) async fn delete(&self, path: &str) {
        let answer = self.admin.send(self.admin.request("DELETE", path, empty())).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text());
    }

    /// A ServiceAccount with all rights.
    pub(crate) async fn account(&self, name: &str) {
        self.create(
            ACCOUNTS,
            json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": name}}),
        )
        .await;
    }

    pub(crate) async fn bind(&self, name: &str) {
        self.create(
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": {"name": name},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                    "name": "cluster-admin"},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}]}),
        )
        .await;
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

pub(crate) const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
