//! A fleet whose hub publishes itself, and an account `consumer` with all rights on both clusters.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use cluster_proxy::inventory::api;
use cluster_proxy::sandbox::definitions;

use crate::apis::Apis;
use crate::fleet::{CLUSTERS, Fleet};
use crate::support::eventually;
use crate::support::process::{Kubectl, run};

use super::program::{PATIENCE, Program};

pub(crate) struct World {
    pub(crate) fleet: Fleet,
    /// With all rights in the hub's own API.
    pub(crate) hub: Kubectl,
}

// === impl World ===

impl World {
    /// Says that `test` is skipped where the programs or kubectl are missing.
    pub(crate) async fn start(test: &str) -> Option<Self> {
        Self::on(test, Apis::Embedded).await
    }

    /// The same on other API servers.
    pub(crate) async fn on(test: &str, apis: Apis) -> Option<Self> {
        for name in Program::ALL {
            Program::find(test, name)?;
        }
        let mut fleet = Fleet::on(test, apis).await?;
        let hub = fleet.admin("hub");
        for namespace in CLUSTERS.into_iter().chain([PROFILES]) {
            hub.run(&["create", "namespace", namespace]);
        }
        let kinds =
            [definitions::cluster_profiles("v1alpha1"), definitions::managed_service_accounts()];
        for kind in kinds {
            let made = hub.run_with(&["apply", "-f", "-", "-o", "name"], &kind.to_string());
            hub.run(&["wait", "--for=condition=Established", "--timeout=90s", made.trim()]);
        }
        // A hub that is up looks for definitions every 30 seconds only.
        fleet.hub.stop(PATIENCE).await;
        fleet.start_hub().await;
        let world = Self { fleet, hub };
        for cluster in CLUSTERS {
            world.account(cluster);
            world.profile(cluster);
            world.published(cluster, true).await;
            world.minted(cluster).await;
        }
        Some(world)
    }

    /// Starts a program where the fleet runs.
    pub(crate) fn program(&self, name: &str, args: &[&str]) -> Program {
        Program::start(name, self.fleet.directory(), args)
    }

    /// Writes a kubeconfig with the hub's authorities of now, and tokens from our exec plugin.
    pub(crate) fn kubeconfig(&self, file: &str) {
        #[rustfmt::skip]
        run(self.fleet.directory(), &[
            "kubeconfig", "--server", &self.fleet.url(), "--ca", "hub/serving-ca.crt",
            "--cluster", &CLUSTERS.join(","), "--managed-serviceaccount", ACCOUNT,
            "--hub-kubeconfig", "hub.api/kubeconfig", "--output", file,
        ]);
    }

    /// Runs `pki` on the hub's state, as an operator does beside a hub that runs.
    pub(crate) fn pki(&self, command: &[&str]) {
        run(self.fleet.directory(), &[&["pki"], command, &["--dir", "hub"]].concat());
    }

    /// Writes the file by which consumers know a credential plugin: upstream's, or ours.
    pub(crate) fn providers(&self, plugin: Plugin) -> &'static str {
        let account = format!("--managed-serviceaccount={ACCOUNT}");
        let (file, command, args) = match plugin {
            Plugin::Upstream => {
                ("upstream.json", Program::find("", "cp-creds").unwrap(), vec![account.as_str()])
            }
            Plugin::Ours => {
                let command = env!("CARGO_BIN_EXE_cluster-proxy").into();
                ("ours.json", command, vec!["credential", &account])
            }
        };
        let providers = json!({"providers": [{
            "name": api::OCM,
            "execConfig": {
                "apiVersion": "client.authentication.k8s.io/v1", "command": command, "args": args,
                "env": [{"name": "NAMESPACE", "value": PROFILES}],
                "provideClusterInfo": true, "interactiveMode": "Never",
            },
        }]});
        std::fs::write(self.fleet.directory().join(file), providers.to_string()).unwrap();
        file
    }

    /// Gives a ConfigMap in namespace `default` of a cluster the value `v`.
    pub(crate) fn write(&self, cluster: &str, name: &str, value: &str) {
        let manifest = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\n\
             data: {{v: \"{value}\"}}\n"
        );
        self.fleet.admin(cluster).run_with(&["apply", "-f", "-"], &manifest);
    }

    /// Writes to the profile of `cluster` what is of no meaning.
    pub(crate) fn touch(&self, cluster: &str, times: usize) {
        let touched = format!("touched={times}");
        let label = ["label", "--overwrite", "clusterprofiles.multicluster.x-k8s.io", cluster];
        self.hub.run(&[&label[..], &["--namespace", PROFILES, &touched]].concat());
    }

    /// Waits until the profile of `cluster` has an entry of ours, or none.
    pub(crate) async fn published(&self, cluster: &str, there: bool) {
        self.wait_profile(cluster, |entries| entries.contains(&self.fleet.url()) == there).await;
    }

    /// Waits until the profile of `cluster` has the hub's authorities of now.
    pub(crate) async fn authority_published(&self, cluster: &str) {
        let bundle = std::fs::read(self.fleet.directory().join("hub/serving-ca.crt")).unwrap();
        let wanted = STANDARD.encode(bundle);
        self.wait_profile(cluster, |providers| providers.contains(&wanted)).await;
    }

    /// The token in a Secret of the hub's API.
    pub(crate) fn token(&self, namespace: &str, secret: &str) -> String {
        let args = ["get", "secret", secret, "--namespace", namespace, "-o"];
        let data = self.hub.run(&[&args[..], &["jsonpath={.data.token}"]].concat());
        String::from_utf8(STANDARD.decode(data).unwrap()).unwrap()
    }

    async fn wait_profile(&self, cluster: &str, wanted: impl Fn(&str) -> bool) {
        let args = ["get", "clusterprofiles.multicluster.x-k8s.io", cluster, "--namespace"];
        let args = [&args[..], &[PROFILES, "-o", "jsonpath={.status.accessProviders}"]].concat();
        eventually("the hub has published", PATIENCE, || {
            let there = wanted(&self.hub.run(&args));
            async move { there.then_some(()) }
        })
        .await;
    }

    /// As OCM makes it.
    fn profile(&self, cluster: &str) {
        let mut profile = json!({
            "apiVersion": format!("{}/v1alpha1", api::GROUP), "kind": api::KIND,
            "metadata": {"name": cluster, "namespace": PROFILES,
                "labels": {api::MANAGER_LABEL: api::OCM, api::CLUSTER_LABEL: cluster}},
            "spec": {"displayName": cluster, "clusterManager": {"name": api::OCM}},
        });
        self.hub.run_with(&["create", "-f", "-"], &profile.to_string());
        profile["status"] = json!({"conditions": [{
            "type": "ControlPlaneHealthy", "status": "True", "reason": "ManagedClusterAvailable",
            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]});
        let apply = ["apply", "--server-side", "--subresource=status", "-f", "-"];
        self.hub.run_with(&apply, &profile.to_string());
    }

    /// The hub makes its ServiceAccount and its Secrets.
    fn account(&self, cluster: &str) {
        let account = json!({
            "apiVersion": "authentication.open-cluster-management.io/v1beta1",
            "kind": "ManagedServiceAccount",
            "metadata": {"name": ACCOUNT, "namespace": cluster,
                "labels": {"authentication.open-cluster-management.io/sync-to-clusterprofile": "true"}},
            "spec": {"rotation": {}},
        });
        self.hub.run_with(&["create", "-f", "-"], &account.to_string());
        let subject = format!("--serviceaccount={MANAGED}:{ACCOUNT}");
        let role = "--clusterrole=cluster-admin";
        let spoke = self.fleet.admin(cluster);
        spoke.run(&["create", "clusterrolebinding", ACCOUNT, role, &subject]);
    }

    /// Waits until there is a token beside the profile.
    async fn minted(&self, cluster: &str) {
        let secret = format!("{cluster}-{ACCOUNT}");
        let args = ["get", "secret", &secret, "--namespace", PROFILES];
        eventually("the token is beside the profile", PATIENCE, || {
            let there = self.hub.output(&args).status.success();
            async move { there.then_some(()) }
        })
        .await;
    }
}

/// What gets a token for client-go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plugin {
    /// cp-creds.
    Upstream,
    /// `cluster-proxy credential`.
    Ours,
}

/// The managed service account of all tests.
pub(crate) const ACCOUNT: &str = "consumer";
/// Where the ClusterProfiles are.
pub(crate) const PROFILES: &str = "cluster-inventory";
/// Where managed service accounts are on a spoke.
pub(crate) const MANAGED: &str = "open-cluster-management-managed-serviceaccount";
