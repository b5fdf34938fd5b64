//! How others find the fake API server, and as whom.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use cluster_proxy::kubernetes::{ApiServer, Credentials};

use super::FakeApi;
use crate::support::certificates;

// === impl FakeApi ===

impl FakeApi {
    /// Where it is, for a hub whose own API server it is.
    pub(crate) fn server(&self) -> ApiServer {
        ApiServer {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            server_name: "127.0.0.1".to_owned(),
            ca_pem: self.ca_pem.clone().into(),
            ca_file: None,
            credentials: Credentials::Token(self.token_for("hub", "hub", 86_400).into()),
        }
    }

    /// Writes a kubeconfig with a token of the agent's own ServiceAccount.
    pub(crate) fn write_kubeconfig(&self, path: &Path) {
        let token = self.token_for("cluster-proxy", "agent", 86_400);
        let server = format!("https://{}", self.address);
        std::fs::write(path, kubeconfig(&server, &self.ca_pem, &token)).unwrap();
    }

    /// Writes a kubeconfig with a client certificate of the administrator.
    pub(crate) fn write_admin_kubeconfig(&self, path: &Path) {
        let (certificate, key) = certificates::client(&self.authority);
        let server = format!("https://{}", self.address);
        let text = kubeconfig(&server, &self.ca_pem, "");
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["users"][0]["user"] = json!({
            "client-certificate-data": STANDARD.encode(certificate),
            "client-key-data": STANDARD.encode(key),
        });
        std::fs::write(path, config.to_string()).unwrap();
    }
}

/// A kubeconfig with one cluster and one token.
pub(crate) fn kubeconfig(server: &str, ca_pem: &str, token: &str) -> String {
    let ca = STANDARD.encode(ca_pem);
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {
            "server": server, "certificate-authority-data": ca}}],
        "users": [{"name": "it", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    })
    .to_string()
}
