//! `cluster-proxy sandbox`, and kubectl on its clusters.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::process::{Kubectl, Process, free_port, text};
use crate::support::{PATIENCE, eventually};
use crate::verbs;

pub(crate) async fn start(directory: &Path, port: u16) -> Process {
    let port = port.to_string();
    let mut sandbox =
        Process::start("sandbox", directory, &["sandbox", "--dir", "box", "--port", &port]);
    // The contract is a line that starts so; log lines have the word further in.
    sandbox.wait_for_start("ready", PATIENCE).await;
    sandbox
}

#[tokio::test]
async fn kubectl_works_on_both_clusters_over_both_protocols() {
    let directory = tempfile::tempdir().unwrap();
    let mut sandbox = start(directory.path(), free_port()).await;
    let kubeconfig = directory.path().join("box/kubeconfig");
    let Some(kubectl) =
        Kubectl::new("kubectl_works_on_both_clusters_over_both_protocols", &kubeconfig)
    else {
        return;
    };
    for context in ["cluster1", "cluster2"] {
        for http1 in [false, true] {
            verbs::all(&kubectl.context(context).http1(http1));
        }
    }
    assert!(kubectl.context("hub").run(&["get", "--raw", "/version"]).contains("gitVersion"));
    // What is written to one cluster is on that one only.
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: only-here}\n";
    kubectl.context("cluster1").run_with(&["apply", "-f", "-"], manifest);
    let other = kubectl.context("cluster2").output(&["get", "configmap", "only-here"]);
    assert!(!other.status.success() && text(&other).contains("NotFound"), "{}", text(&other));

    // One cluster's token is refused by name of nothing on the other.
    let token = std::fs::read_to_string(directory.path().join("box/tokens/cluster1")).unwrap();
    // It is that of a managed service account, which lives in the hub's API.
    let hub = kubectl.context("hub");
    let template = "go-template={{.data.token | base64decode}}";
    let minted = hub.run(&["get", "secret", "test", "--namespace=cluster1", "-o", template]);
    assert_eq!(minted.trim(), token.trim());
    let validity = "jsonpath={.spec.rotation.validity} {.status.tokenSecretRef.name}";
    let accounts =
        ["get", "managedserviceaccounts", "test", "--namespace=cluster1", "-o", validity];
    assert_eq!(hub.run(&accounts), "24h0m0s test");
    let flag = format!("--token={}", token.trim());
    let own = kubectl.context("cluster1").output(&["get", "nodes", &flag]);
    assert!(own.status.success(), "{}", text(&own));
    let other = kubectl.context("cluster2").output(&["get", "nodes", &flag]);
    assert!(!other.status.success() && text(&other).contains("Unauthorized"), "{}", text(&other));
    assert!(sandbox.stop(Duration::from_secs(10)).await.success());
}

#[tokio::test]
async fn a_second_run_in_the_same_folder_works() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    for _ in 0..2 {
        let mut sandbox = start(directory.path(), port).await;
        let files = directory.path().join("box");
        for name in ["kubeconfig", "ca.crt", "tokens/cluster1", "tokens/cluster2", "urls.json"] {
            assert!(files.join(name).is_file(), "{name}");
        }
        let mode = std::fs::metadata(&files).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700);
        let urls: Value =
            serde_json::from_slice(&std::fs::read(files.join("urls.json")).unwrap()).unwrap();
        for name in ["user", "agents", "admin", "hub-api", "cluster1-api", "cluster2-api"] {
            assert!(urls[name].is_string(), "{name}: {urls}");
        }
        assert!(urls["user"].as_str().unwrap().ends_with(&port.to_string()));
        // Its own port, even though the hub's listeners share ports among their threads.
        let port = port.to_string();
        let mut second = Process::start(
            "second",
            directory.path(),
            &["sandbox", "--dir", "elsewhere", "--port", &port],
        );
        second.wait_for("--port", PATIENCE).await;
        eventually("the second one ends", PATIENCE, || {
            let ended = second.has_ended();
            async move { ended.then_some(()) }
        })
        .await;
        assert!(sandbox.stop(Duration::from_secs(10)).await.success());
    }
}
