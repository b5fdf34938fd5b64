//! A hub with an API of its own, and spokes with theirs.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use cluster_proxy::accounts::api::{
    Condition, MANAGED_NAMESPACE, ManagedServiceAccount, PROXY_CA, TOKEN, TOKEN_REPORTED,
};
use cluster_proxy::hub::{AccountsOptions, ControllersConfig};
use cluster_proxy::inventory::{Address, InventoryConfig, api as inventory};
use cluster_proxy::sandbox::definitions;

use crate::support::client::Client;
use crate::support::fleet::Fleet;
use crate::support::hub_api::HubApi;
use crate::support::{PATIENCE, eventually};
use crate::world::MiniSpoke;

pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) spokes: Vec<MiniSpoke>,
    pub(crate) api: HubApi,
}

// === impl World ===

impl World {
    /// Serves accounts of these clusters.
    pub(crate) async fn start(clusters: &[&str]) -> Self {
        Self::with(clusters, &[definitions::managed_service_accounts()]).await
    }

    /// With these definitions in the hub's API.
    pub(crate) async fn with(clusters: &[&str], definitions: &[Value]) -> Self {
        let api = HubApi::start().await;
        for definition in definitions {
            api.create(DEFINITIONS, definition).await;
        }
        let fleet = Fleet::controlling(ControllersConfig {
            server: api.server.clone(),
            lease_namespace: "default".to_owned(),
            accounts: Some(AccountsOptions {
                namespace: MANAGED_NAMESPACE.to_owned(),
                take_over: false,
                serving_ca: None,
            }),
            inventory: Some(InventoryConfig {
                manager: inventory::OCM.to_owned(),
                entries: vec![(inventory::OCM.to_owned(), Address::Host("localhost".to_owned()))],
                serving_ca: None,
                path_condition: false,
            }),
            managed_clusters: true,
        })
        .await;
        let mut world = Self { fleet, spokes: Vec::new(), api };
        for cluster in clusters {
            world.namespace(cluster).await;
            world.join(cluster).await;
        }
        world
    }

    pub(crate) async fn join(&mut self, cluster: &str) {
        self.spokes.push(MiniSpoke::join(cluster, &self.fleet).await);
    }

    pub(crate) async fn namespace(&self, name: &str) {
        self.api.create("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
    }

    /// Makes the profile of a cluster.
    pub(crate) async fn profile(&self, cluster: &str) {
        let labels = json!({
            inventory::MANAGER_LABEL: inventory::OCM, inventory::CLUSTER_LABEL: cluster,
        });
        let profile = json!({
            "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile",
            "metadata": {"name": cluster, "labels": labels},
        });
        self.api.create(PROFILES, &profile).await;
    }

    /// What consumers find in the profile of a cluster.
    pub(crate) async fn published(&self, cluster: &str) -> Value {
        let profile = self.api.get(&format!("{PROFILES}/{cluster}")).await;
        profile["status"]["accessProviders"][0]["cluster"].clone()
    }

    pub(crate) fn spoke(&self, cluster: &str) -> &MiniSpoke {
        self.spokes.iter().find(|spoke| spoke.name == cluster).unwrap()
    }

    pub(crate) fn spoke_mut(&mut self, cluster: &str) -> &mut MiniSpoke {
        self.spokes.iter_mut().find(|spoke| spoke.name == cluster).unwrap()
    }

    /// Asks for an account.
    pub(crate) async fn account(&self, cluster: &str, name: &str) {
        let account = json!({
            "apiVersion": "authentication.open-cluster-management.io/v1beta1",
            "kind": "ManagedServiceAccount",
            "metadata": {"name": name}, "spec": {"rotation": {}},
        });
        let account: ManagedServiceAccount = serde_json::from_value(account).unwrap();
        self.of::<ManagedServiceAccount>(cluster)
            .create(&PostParams::default(), &account)
            .await
            .unwrap();
    }

    pub(crate) async fn get<K: Object>(&self, cluster: &str, name: &str) -> Option<K> {
        self.of::<K>(cluster).get_opt(name).await.unwrap()
    }

    pub(crate) async fn delete<K: Object>(&self, cluster: &str, name: &str) {
        self.of::<K>(cluster).delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Waits until an account says that it has a token, and returns its Secret.
    pub(crate) async fn ready(&self, cluster: &str, name: &str) -> Secret {
        self.wait_secret(cluster, name, |_| true).await
    }

    /// As [`World::ready`], with a Secret that `is_meant`.
    pub(crate) async fn wait_secret(
        &self,
        cluster: &str,
        name: &str,
        is_meant: impl Fn(&Secret) -> bool,
    ) -> Secret {
        eventually(&format!("{cluster}/{name} has a token"), PATIENCE, || async {
            (self.reported(cluster, name).await?.status == "True").then_some(())?;
            self.get::<Secret>(cluster, name).await.filter(&is_meant)
        })
        .await
    }

    /// The condition of an account's token.
    pub(crate) async fn reported(&self, cluster: &str, name: &str) -> Option<Condition> {
        let account = self.get::<ManagedServiceAccount>(cluster, name).await?;
        let mut conditions = account.status?.conditions.into_iter();
        conditions.find(|condition| condition.kind == TOKEN_REPORTED)
    }

    /// Waits until the hub leaves so many accounts to others.
    pub(crate) async fn wait_ignored(&self, count: u32) {
        eventually("accounts are left to others", PATIENCE, || async {
            let labels = ["state=\"ignored\""];
            let ignored = self.fleet.hub.metric("cluster_proxy_accounts", &labels).await;
            (ignored == f64::from(count)).then_some(())
        })
        .await;
    }

    /// A client of the hub with nothing but what is in a Secret.
    pub(crate) fn client(&self, secret: &Secret) -> Client {
        let data = secret.data.as_ref().unwrap();
        let token = String::from_utf8(data[TOKEN].0.clone()).unwrap();
        Client::new(self.fleet.hub.addresses.user, data[PROXY_CA].0.clone()).token(&token)
    }

    /// Waits until `client` gets `code` for `path`: until then the hub may not have read the keys of
    /// a spoke that has just come.
    pub(crate) async fn wait_code(&self, client: &Client, path: &str, code: u16) {
        eventually(&format!("{path} is {code}"), PATIENCE, || async {
            (client.try_get(path).await.ok()?.status == code).then_some(())
        })
        .await;
    }

    /// Whether the spoke has the ServiceAccount of an account.
    pub(crate) async fn is_on_spoke(&self, cluster: &str, name: &str) -> bool {
        let answer = self.spoke(cluster).admin.get(&format!("{MANAGED_ACCOUNTS}/{name}")).await;
        assert!(answer.status == 200 || answer.status == 404, "{}", answer.text());
        answer.status == 200
    }

    fn of<K: Object>(&self, cluster: &str) -> Api<K> {
        Api::namespaced(self.api.client(), cluster)
    }
}

/// Kinds of the hub's API.
pub(crate) trait Object:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
{
}

impl Object for Secret {}
impl Object for ManagedServiceAccount {}

/// A token that was minted anew differs.
pub(crate) fn token(secret: &Secret) -> Vec<u8> {
    secret.data.as_ref().unwrap()[TOKEN].0.clone()
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const PROFILES: &str = "/apis/multicluster.x-k8s.io/v1alpha1/namespaces/default/clusterprofiles";
pub(crate) const MANAGED_ACCOUNTS: &str =
    "/api/v1/namespaces/open-cluster-management-managed-serviceaccount/serviceaccounts";
