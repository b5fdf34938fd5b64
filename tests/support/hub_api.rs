//! The API server of the hub's own cluster: an in-memory one, over TLS.

use std::path::Path;

use http::Request;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use cluster_proxy::drain::Drain;
use cluster_proxy::hub::Source;
use cluster_proxy::kubernetes::{self, ApiServer};
use cluster_proxy::miniapi::{MiniApi, MiniApiConfig};
use cluster_proxy::sandbox::provision;

use super::fleet::Fleet;
use super::part::Part;

/// It ends when this is dropped.
pub(crate) struct HubApi {
    pub(crate) server: ApiServer,
    kubeconfig: String,
    _part: Part,
}

// === impl HubApi ===

impl HubApi {
    pub(crate) async fn start() -> Self {
        let (bound, started) = oneshot::channel();
        let part = Part::start("hub-api", move || async move {
            let config = MiniApiConfig::new("hub", "127.0.0.1:0".parse().unwrap());
            let api = MiniApi::bind(config).await.unwrap();
            assert!(bound.send((api.server(), api.admin_token())).is_ok());
            api.run(Drain::new()).await;
        });
        let (server, token) = started.await.unwrap();
        let kubeconfig = provision::kubeconfig(&server, "admin", token.into()).to_string();
        Self { server, kubeconfig, _part: part }
    }

    /// A hub of which this is the own API, with a policy where that is one; nobody has joined it.
    pub(crate) async fn fleet(&self, policy: Option<&str>) -> Fleet {
        let mut fleet = Fleet::hub_only().await;
        fleet.hub.stop().await;
        fleet.hub.own_api = Some(self.server.clone());
        if let Some(policy) = policy {
            fleet.hub.policy = Source::File(fleet.dir.path().join("policy.yaml"));
            fleet.hub.set_policy(policy);
        }
        fleet.hub.start().await;
        fleet
    }

    /// A client with all rights.
    pub(crate) fn client(&self) -> kube::Client {
        kubernetes::client(&self.server).unwrap()
    }

    /// Makes an object in the collection `path`.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Value {
        let body = object.to_string().into_bytes();
        let request = Request::post(path).header("content-type", "application/json").body(body);
        self.client().request(request.unwrap()).await.unwrap()
    }

    /// Makes a ServiceAccount, and returns a token of it.
    pub(crate) async fn account(&self, namespace: &str, name: &str) -> String {
        let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let object =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        self.create(&accounts, &object).await;
        self.token(namespace, name, json!({})).await
    }

    /// A token of a ServiceAccount.
    pub(crate) async fn token(&self, namespace: &str, name: &str, spec: Value) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let kind = "TokenRequest";
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": kind, "spec": spec});
        let made = self.create(&path, &request).await;
        made["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Deletes the object at `path`.
    pub(crate) async fn delete(&self, path: &str) {
        let request = Request::delete(path).body(Vec::new()).unwrap();
        self.client().request::<Value>(request).await.unwrap();
    }

    /// The object at `path`.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let request = Request::get(path).body(Vec::new()).unwrap();
        self.client().request(request).await.unwrap()
    }

    /// One key of a Secret, a text.
    pub(crate) async fn secret(&self, namespace: &str, name: &str, key: &str) -> String {
        let secrets: Api<Secret> = Api::namespaced(self.client(), namespace);
        let mut data = secrets.get(name).await.unwrap().data.unwrap();
        String::from_utf8(data.remove(key).unwrap().0).unwrap()
    }

    /// Writes a kubeconfig with all rights.
    pub(crate) fn write_kubeconfig(&self, file: &Path) {
        std::fs::write(file, &self.kubeconfig).unwrap();
    }
}
