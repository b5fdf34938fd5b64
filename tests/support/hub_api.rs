//! The API server of the hub's own cluster: an in-memory one, over TLS.

use std::path::Path;

use http::Request;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::Value;
use tokio::sync::oneshot;

use cluster_proxy::drain::Drain;
use cluster_proxy::kubernetes::{self, ApiServer};
use cluster_proxy::miniapi::{MiniApi, MiniApiConfig};
use cluster_proxy::sandbox::provision;

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

    /// A client with all rights.
    pub(crate) fn client(&self) -> kube::Client {
        kubernetes::client(&self.server).unwrap()
    }

    /// Makes an object in the collection `path`.
    pub(crate) async fn create(&self, path: &str, object: &Value) {
        let body = object.to_string().into_bytes();
        let request = Request::post(path).header("content-type", "application/json").body(body);
        self.client().request::<Value>(request.unwrap()).await.unwrap();
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
