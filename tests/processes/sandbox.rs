//! `cluster-proxy sandbox`, and kubectl on its clusters, with both kinds of API servers.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::support::assets;
use crate::support::client::Client;
use crate::support::process::{Kubectl, Process, fails, free_port, text};
use crate::support::{PATIENCE, eventually};
use crate::verbs;

/// A sandbox in a folder of its own, `box`, for kubectl and for commands that are run beside it.
pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) sandbox: Process,
    pub(crate) server: String,
    /// Of the hub's own API.
    pub(crate) hub: Kubectl,
}

// === impl World ===

impl World {
    /// Says that `test` is skipped where there is no kubectl.
    pub(crate) async fn start(test: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let hub = Kubectl::new(test, &folder.path().join("box/kubeconfig"))?;
        let sandbox = start(folder.path(), port).await;
        let server = format!("https://127.0.0.1:{port}");
        Some(Self { folder, sandbox, server, hub: hub.context("hub") })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

pub(crate) async fn start(directory: &Path, port: u16) -> Process {
    start_on(directory, port, None).await
}

/// With real API servers where `assets` says from where.
pub(crate) async fn start_on(directory: &Path, port: u16, assets: Option<&Path>) -> Process {
    let port = port.to_string();
    let mut args = vec!["sandbox", "--dir", "box", "--port", &port];
    if let Some(assets) = assets {
        args.extend(["--apiserver", "real", "--assets", assets.to_str().unwrap()]);
    }
    let mut sandbox = Process::start("sandbox", directory, &args);
    // The contract is a line that starts so; log lines have the word further in.
    sandbox.wait_for_start("ready", START).await;
    sandbox
}

#[tokio::test]
async fn kubectl_works_on_both_clusters_over_both_protocols() {
    kubectl_works("kubectl_works_on_both_clusters_over_both_protocols", None).await;
}

#[tokio::test]
async fn kubectl_works_on_real_api_servers() {
    let test = "kubectl_works_on_real_api_servers";
    let Some(assets) = assets::folder(test) else { return };
    kubectl_works(test, Some(assets)).await;
}

async fn kubectl_works(test: &str, assets: Option<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("box/kubeconfig");
    let Some(kubectl) = Kubectl::new(test, &kubeconfig) else { return };
    let mut sandbox = start_on(directory.path(), free_port(), assets.as_deref()).await;
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

    identities_of_the_hub(&kubectl.context("cluster1"), &directory.path().join("box")).await;
    accounts_and_rights(&kubectl.context("cluster1")).await;
    assert!(sandbox.stop(END).await.success());
}

/// An account of the hub's own cluster, let in by the policy and judged by the cluster's RBAC.
async fn identities_of_the_hub(cluster: &Kubectl, files: &Path) {
    let token = std::fs::read_to_string(files.join("tokens/hub")).unwrap();
    let flag = format!("--token={}", token.trim());
    let me = cluster.run(&["auth", "whoami", "-o", "json", &flag]);
    let me: Value = serde_json::from_str(&me).unwrap();
    let me = &me["status"]["userInfo"];
    assert_eq!(me["username"], "cluster:hub:system:serviceaccount:default:visitor");
    assert!(me["uid"].as_str().unwrap().starts_with("cluster:hub:"), "{me}");
    let groups: Vec<&str> =
        me["groups"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
    let (own, of_hub): (Vec<&str>, _) =
        groups.iter().partition(|one| !one.starts_with("cluster:hub:"));
    assert_eq!((own, of_hub.len()), (vec!["system:authenticated"], 3), "{groups:?}");
    let extra = me["extra"].as_object().unwrap();
    assert!(!extra.is_empty() && extra.keys().all(|key| key.starts_with("cluster-proxy/hub/")));

    cluster.run(&["get", "pods", &flag]);
    let refused = text(&cluster.output(&["get", "secrets", &flag]));
    assert!(refused.contains("cannot list resource \"secrets\""), "{refused}");
    let refused = text(&cluster.output(&["get", "pods", "--as=jane", &flag]));
    assert!(refused.contains("cannot impersonate others"), "{refused}");
    std::fs::write(files.join("policy.yaml"), "rules: []").unwrap();
    eventually("the policy lets nobody in", PATIENCE, || {
        let answer = text(&cluster.output(&["get", "pods", &flag]));
        async move { answer.contains("hub-policy").then_some(()) }
    })
    .await;
}

/// The cluster itself decides, whatever the hub has seen before.
async fn accounts_and_rights(cluster: &Kubectl) {
    cluster.run(&["create", "serviceaccount", "nobody"]);
    let token = cluster.run(&["create", "token", "nobody"]);
    let flag = format!("--token={}", token.trim());
    let nodes = ["get", "nodes", &flag];
    let refused = cluster.output(&nodes);
    assert!(text(&refused).contains("Forbidden"), "{}", text(&refused));
    let bind = ["create", "clusterrolebinding", "nobody", "--clusterrole=cluster-admin"];
    cluster.run(&[&bind[..], &["--serviceaccount=default:nobody"]].concat());
    eventually("the binding is known", PATIENCE, || {
        let answer = cluster.output(&nodes);
        async move { answer.status.success().then_some(()) }
    })
    .await;
    cluster.run(&["delete", "serviceaccount", "nobody"]);
    eventually("the token of a deleted account is refused", PATIENCE, || {
        let answer = text(&cluster.output(&nodes));
        async move { answer.contains("Unauthorized").then_some(()) }
    })
    .await;
}

#[tokio::test]
async fn a_second_run_in_the_same_folder_works() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    for _ in 0..2 {
        let mut sandbox = start(directory.path(), port).await;
        let files = directory.path().join("box");
        for name in [
            "kubeconfig",
            "ca.crt",
            "tokens/cluster1",
            "tokens/cluster2",
            "tokens/hub",
            "policy.yaml",
            "services.yaml",
            "urls.json",
        ] {
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

/// What the sandbox's own guide says of a Service, for both kinds of callers.
#[tokio::test]
async fn a_service_of_each_cluster_answers() {
    let directory = tempfile::tempdir().unwrap();
    let mut sandbox = start(directory.path(), free_port()).await;
    let read = |name: &str| std::fs::read_to_string(directory.path().join("box").join(name));
    let urls: Value = serde_json::from_str(&read("urls.json").unwrap()).unwrap();
    let user = urls["user"].as_str().unwrap().strip_prefix("https://").unwrap().parse().unwrap();
    let client = Client::new(user, read("ca.crt").unwrap());
    for cluster in ["cluster1", "cluster2"] {
        let path = format!("/{cluster}/api/v1/namespaces/default/services/web/proxy-service/");
        let plain = path.replace("/web/", "/http:web:80/");
        for token in [cluster, "hub"] {
            let client = client.token(read(&format!("tokens/{token}")).unwrap().trim());
            let answer = client.get(&path).await;
            assert_eq!(
                (answer.status.as_u16(), answer.text().as_str()),
                (200, "hello from hello\n")
            );
            assert_eq!(client.post(&path, "said").await.text(), "said");
            assert_eq!(client.get(&plain).await.text(), "hello from hello\n");
        }
        assert_eq!(client.get(&path).await.status, 401);
        let own = client.token(read(&format!("tokens/{cluster}")).unwrap().trim());
        let other = own.get(&path.replace("/web/", "/other/")).await;
        assert_eq!(other.status, 403, "{}", other.text());
    }
    assert!(sandbox.stop(END).await.success());
}

/// Twice in one folder, after a run with small ones there: what the first of these made is there in
/// the second, and no program is left behind, however the sandbox ended.
#[tokio::test]
async fn real_api_servers_remember_and_end_with_the_sandbox() {
    let test = "real_api_servers_remember_and_end_with_the_sandbox";
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("box/kubeconfig");
    let Some(kubectl) = Kubectl::new(test, &kubeconfig) else { return };
    let Some(assets) = assets::folder(test) else { return };
    let port = free_port();
    assert!(start(directory.path(), port).await.stop(END).await.success());

    let mut sandbox = start_on(directory.path(), port, Some(&assets)).await;
    kubectl.context("cluster1").run(&["create", "configmap", "kept"]);
    sandbox.kill();
    nobody_answers(directory.path()).await;

    let mut sandbox = start_on(directory.path(), port, Some(&assets)).await;
    kubectl.context("cluster1").run(&["get", "configmap", "kept"]);
    assert!(sandbox.stop(END).await.success());
    nobody_answers(directory.path()).await;
}

/// Waits until none of the sandbox's API servers listens.
async fn nobody_answers(directory: &Path) {
    let urls = std::fs::read(directory.join("box/urls.json")).unwrap();
    let urls: Value = serde_json::from_slice(&urls).unwrap();
    for name in ["hub-api", "cluster1-api", "cluster2-api"] {
        let address = urls[name].as_str().unwrap().strip_prefix("https://").unwrap();
        eventually(name, END, || async {
            tokio::net::TcpStream::connect(address).await.is_err().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn real_api_servers_need_their_programs() {
    let directory = tempfile::tempdir().unwrap();
    let said = fails(directory.path(), &["sandbox", "--apiserver", "real"]);
    assert!(
        said.contains("KUBEBUILDER_ASSETS") && said.contains("tests/apiserver/build"),
        "{said}"
    );
}

/// Three kube-apiservers at once take long on a loaded machine.
const START: Duration = Duration::from_secs(120);

/// They finish what they do before they end.
pub(crate) const END: Duration = Duration::from_secs(60);
