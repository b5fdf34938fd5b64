//! ClusterProfile (`multicluster.x-k8s.io`), as far as we read and write it.
//!
//! Objects are [`DynamicObject`]s: their version is found by discovery, and fields of others that we
//! have never heard of must survive us.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde::Serialize;
use serde_json::Value;

use crate::name::ClusterName;

/// One way to reach a cluster: an entry of `status.accessProviders`, the same in v1alpha1 and
/// v1alpha2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccessProvider {
    /// What consumers look for.
    pub name: String,
    /// Where to connect.
    pub cluster: Cluster,
}

/// A cluster as a kubeconfig has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cluster {
    /// URL, with the path prefix of the cluster.
    pub server: String,
    /// CA bundle, PEM in base64.
    pub certificate_authority_data: String,
    /// What credential plugins get.
    pub extensions: Vec<NamedExtension>,
}

/// An extension of a kubeconfig's cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedExtension {
    /// Its name.
    pub name: &'static str,
    /// Its contents.
    pub extension: ExecConfig,
}

/// What a credential plugin finds in `spec.cluster.config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecConfig {
    /// Which cluster.
    pub cluster_name: ClusterName,
}

// === impl AccessProvider ===

impl AccessProvider {
    /// The entry `name` for `cluster` of the hub at `url`, without a slash at its end, whose
    /// certificates are verified by `ca_pem`.
    pub fn new(name: &str, url: &str, ca_pem: &str, cluster: &ClusterName) -> Self {
        Self {
            name: name.to_owned(),
            cluster: Cluster {
                server: server(url, cluster),
                certificate_authority_data: STANDARD.encode(ca_pem),
                extensions: vec![NamedExtension {
                    name: EXEC_EXTENSION,
                    extension: ExecConfig { cluster_name: cluster.clone() },
                }],
            },
        }
    }

    /// As it stands in an object.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("text and lists always have a form in JSON")
    }
}

/// URL of `cluster` at the hub `url`.
pub fn server(url: &str, cluster: &ClusterName) -> String {
    format!("{url}/{cluster}")
}

/// The items of a list of a profile's status; none where it is missing or no list.
pub fn status_list<'a>(profile: &'a DynamicObject, name: &str) -> &'a [Value] {
    let list = profile.data.get("status").and_then(|status| status.get(name));
    list.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The resource `clusterprofiles` in `version`.
pub fn resource(version: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, version, KIND), PLURAL)
}

/// Group of ClusterProfiles.
pub const GROUP: &str = "multicluster.x-k8s.io";
/// Kind.
pub const KIND: &str = "ClusterProfile";
/// Plural.
pub const PLURAL: &str = "clusterprofiles";
/// Name of the CustomResourceDefinition.
pub const DEFINITION: &str = "clusterprofiles.multicluster.x-k8s.io";
/// Versions whose parts of the status that we write are known to us.
pub const VERSIONS: [&str; 2] = ["v1alpha1", "v1alpha2"];

/// Name of Open Cluster Management as a cluster manager, and of the entry that every published
/// consumer is configured with.
pub const OCM: &str = "open-cluster-management";

/// Label with the name of the cluster manager whose profile it is.
pub const MANAGER_LABEL: &str = "x-k8s.io/cluster-manager";
/// Label with the name of the cluster.
pub const CLUSTER_LABEL: &str = "open-cluster-management.io/cluster-name";

/// The list that we publish in.
pub const PROVIDERS: &str = "accessProviders";
/// The list of conditions.
pub const CONDITIONS: &str = "conditions";

/// The field of an entry's cluster with the CA bundle.
pub const AUTHORITY: &str = "certificate-authority-data";

/// The extension that client-go hands to credential plugins.
pub const EXEC_EXTENSION: &str = "client.authentication.k8s.io/exec";
