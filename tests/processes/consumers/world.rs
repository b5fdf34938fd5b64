//! A fleet whose hub publishes itself, and an account `consumer` with all rights on both clusters.

use crate::fleet::{CLUSTERS, Fleet};
use crate::support::process::{Kubectl, run};

use super::program::Program;

pub(crate) struct World {
    pub(crate) fleet: Fleet,
    /// With all rights in the hub's own API.
    pub(crate) hub: Kubectl,
}

// === impl World ===

impl World {
    /// Says that `test` is skipped where the programs or kubectl are missing.
    pub(crate) async fn start(test: &str) -> Option<Self> {
        Program::find(test, "informer")?;
        let fleet = Fleet::with_hub_api(test).await?;
        let hub = fleet.admin("hub");
        for namespace in CLUSTERS.into_iter().chain([PROFILES]) {
            hub.run(&["create", "namespace", namespace]);
        }
        let world = Self { fleet, hub };
        for cluster in CLUSTERS {
            world.account(cluster);
            world.mint(cluster);
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

    /// Gives a ConfigMap in namespace `default` of a cluster the value `v`.
    pub(crate) fn write(&self, cluster: &str, name: &str, value: &str) {
        let manifest = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\n\
             data: {{v: \"{value}\"}}\n"
        );
        self.fleet.admin(cluster).run_with(&["apply", "-f", "-"], &manifest);
    }

    fn account(&self, cluster: &str) {
        let spoke = self.fleet.admin(cluster);
        spoke.run(&["create", "serviceaccount", ACCOUNT, "--namespace", MANAGED]);
        let subject = format!("--serviceaccount={MANAGED}:{ACCOUNT}");
        let role = "--clusterrole=cluster-admin";
        spoke.run(&["create", "clusterrolebinding", ACCOUNT, role, &subject]);
    }

    fn mint(&self, cluster: &str) {
        let spoke = self.fleet.admin(cluster);
        let token = spoke.run(&["create", "token", ACCOUNT, "--namespace", MANAGED]);
        for (namespace, name) in
            [(cluster, ACCOUNT.to_owned()), (PROFILES, format!("{cluster}-{ACCOUNT}"))]
        {
            let manifest = format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
                 stringData: {{token: {token}}}\n"
            );
            self.hub.run_with(&["apply", "-f", "-"], &manifest);
        }
    }
}

/// The managed service account of all tests.
pub(crate) const ACCOUNT: &str = "consumer";
/// Where the ClusterProfiles are.
pub(crate) const PROFILES: &str = "cluster-inventory";
/// Where managed service accounts are on a spoke.
const MANAGED: &str = "open-cluster-management-managed-serviceaccount";
