//! `tests/acceptance`, the way from an account on the hub to the clusters, on sandboxes and on fleets
//! of processes, with both kinds of API servers.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use cluster_proxy::sandbox::definitions;

use crate::apis::Apis;
use crate::consumers::program::Program;
use crate::fleet::{CLUSTERS, Fleet};
use crate::sandbox;
use crate::support::process::{Kubectl, free_port, text};
use crate::support::{assets, skipped};
use crate::verbs;

#[tokio::test]
async fn a_sandbox_is_accepted() {
    let test = "a_sandbox_is_accepted";
    let directory = tempfile::tempdir().unwrap();
    let Some(_) = Kubectl::new(test, directory.path()) else { return };
    let mut process = sandbox::start(directory.path(), free_port()).await;
    accept(test, directory.path(), "box/kubeconfig", "box/data/hub", ["cluster1", "cluster2"]);
    assert!(process.stop(sandbox::END).await.success());
}

#[tokio::test]
async fn a_sandbox_on_real_api_servers_is_accepted() {
    let test = "a_sandbox_on_real_api_servers_is_accepted";
    let directory = tempfile::tempdir().unwrap();
    let Some(_) = Kubectl::new(test, directory.path()) else { return };
    let Some(assets) = assets::folder(test) else { return };
    let mut process = sandbox::start_on(directory.path(), free_port(), Some(&assets)).await;
    accept(test, directory.path(), "box/kubeconfig", "box/data/hub", ["cluster1", "cluster2"]);
    assert!(process.stop(sandbox::END).await.success());
}

#[tokio::test]
async fn a_hub_and_agents_as_processes_are_accepted() {
    fleet_is_accepted("a_hub_and_agents_as_processes_are_accepted", Apis::Embedded).await;
}

#[tokio::test]
async fn a_hub_and_agents_before_real_api_servers_are_accepted() {
    let test = "a_hub_and_agents_before_real_api_servers_are_accepted";
    let Some(apis) = Apis::real(test) else { return };
    fleet_is_accepted(test, apis).await;
}

async fn fleet_is_accepted(test: &str, apis: Apis) {
    let Some(mut fleet) = Fleet::on(test, apis).await else { return };
    for cluster in CLUSTERS {
        verbs::all(fleet.kubectl(cluster));
    }
    let hub = fleet.admin("hub");
    for namespace in CLUSTERS.into_iter().chain([PROFILES]) {
        hub.run(&["create", "namespace", namespace]);
    }
    let accounts = published(test, "managedserviceaccounts.yaml");
    define(&hub, &accounts.unwrap_or_else(|| definitions::managed_service_accounts().to_string()));
    let kubeconfig = "hub.api/kubeconfig:c1.api/kubeconfig:c2.api/kubeconfig";
    // Lists that are replaced as a whole, and lists that merge by key.
    let files = ["clusterprofiles.ocm.yaml", "clusterprofiles.cluster-inventory-api.yaml"];
    let mut profiles: Vec<_> = files.iter().filter_map(|file| published(test, file)).collect();
    if profiles.is_empty() {
        profiles.push(definitions::cluster_profiles("v1alpha1").to_string());
    }
    for definition in profiles {
        define(&hub, &definition);
        for cluster in CLUSTERS {
            hub.run_with(&["apply", "--server-side", "-f", "-"], &profile(cluster).to_string());
            let status = ["apply", "--server-side", "--subresource=status", "-f", "-"];
            hub.run_with(&status, &status_of(cluster).to_string());
        }
        accept(test, fleet.directory(), kubeconfig, "hub", CLUSTERS);
        hub.run(&["delete", "crd", DEFINITION]);
    }
    fleet.stop().await;
}

/// Runs the script in `directory`.
fn accept(test: &str, directory: &Path, kubeconfig: &str, state: &str, clusters: [&str; 2]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut script = Command::new(root.join("tests/acceptance"));
    script.args([kubeconfig, state]).args(clusters).current_dir(directory);
    script.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", directory);
    script.env("KUBECTL", Kubectl::find().unwrap()).env("IDLE", IDLE);
    script.env("CLUSTER_PROXY", env!("CARGO_BIN_EXE_cluster-proxy"));
    // The script does without, and says so.
    if let Some(example) = Program::find(test, "controller-example") {
        script.env("CONSUMERS", example.parent().unwrap());
    }
    let output = script.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// A definition as its owners publish it.
fn published(test: &str, file: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/crds").join(file);
    std::fs::read_to_string(path)
        .map_err(|error| skipped(test, &format!("{file}: {error}"), "it with ../shared/crds"))
        .ok()
}

fn define(hub: &Kubectl, definition: &str) {
    let printed = hub.run_with(&["apply", "--server-side", "-f", "-", "-o", "name"], definition);
    hub.run(&["wait", "--for=condition=Established", "--timeout=30s", printed.trim()]);
}

/// As OCM's controller makes it.
fn profile(cluster: &str) -> Value {
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile",
        "metadata": {"name": cluster, "namespace": PROFILES, "labels": {
            "x-k8s.io/cluster-manager": "open-cluster-management",
            "open-cluster-management.io/cluster-name": cluster,
            "multicluster.x-k8s.io/clusterset": "sandbox-fleet",
        }},
        "spec": {"displayName": cluster, "clusterManager": {"name": "open-cluster-management"}},
    })
}

fn status_of(cluster: &str) -> Value {
    let condition = |kind: &str, reason: &str| {
        json!({"type": kind, "status": "True", "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile",
        "metadata": {"name": cluster, "namespace": PROFILES},
        "status": {
            "version": {"kubernetes": "v1.35.0"},
            "properties": [{"name": "aws.region.example.com", "value": "us-west-2"}],
            "conditions": [
                condition("ControlPlaneHealthy", "ManagedClusterAvailable"),
                condition("Joined", "ManagedClusterJoined"),
            ],
        },
    })
}

const PROFILES: &str = "cluster-inventory";
const DEFINITION: &str = "clusterprofiles.multicluster.x-k8s.io";

/// Seconds without a write. The script by itself waits for ten minutes.
const IDLE: &str = "3";
