//! kubectl with the kubeconfigs that `cluster-proxy kubeconfig` writes: each request of a new kubectl
//! asks `cluster-proxy credential` for a token.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::sandbox::World;
use crate::support::process::{Kubectl, fails, run, text};

// === impl World ===

impl World {
    /// Writes a kubeconfig for both clusters, and returns the kubectl that has it.
    fn kubeconfig(&self, name: &str, more: &[&str]) -> Kubectl {
        #[rustfmt::skip]
        let args = [
            "kubeconfig", "--server", &self.server, "--ca", "box/ca.crt",
            "--cluster", "cluster1,cluster2", "--output", name,
        ];
        run(self.path(), &[&args, more].concat());
        let text = std::fs::read_to_string(self.path().join(name)).unwrap();
        assert!(!text.contains("token:"), "no token is in it: {text}");
        Kubectl::new("", &self.path().join(name)).unwrap()
    }

    fn token(&self, cluster: &str) -> String {
        let path = self.path().join("box/tokens").join(cluster);
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    }

    /// Puts the token of `cluster` into a Secret of the hub's API, as the controller of accounts does.
    fn secret(&self, cluster: &str, namespace: &str, name: &str) {
        let token = self.token(cluster);
        let manifest = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n---\n\
             apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             stringData: {{token: {token}}}\n"
        );
        self.hub.run_with(&["apply", "-f", "-"], &manifest);
    }
}

fn works(kubectl: &Kubectl, cluster: &str) {
    let nodes = kubectl.context(cluster).run(&["get", "nodes"]);
    assert!(nodes.contains(&format!("{cluster}-control-plane")), "{nodes}");
}

#[tokio::test]
async fn tokens_of_a_sandboxs_folder() {
    let Some(mut world) = World::start("tokens_of_a_sandboxs_folder").await else { return };
    let kubectl = world.kubeconfig("folder.kubeconfig", &["--dir", "box"]);
    works(&kubectl, "cluster1");
    works(&kubectl, "cluster2");
    let pods = kubectl.context("cluster1").run(&["exec", "hello", "--", "echo", "to and fro"]);
    assert_eq!(pods, "to and fro\n");
    // The file is read when kubectl starts: a token that is gone is missed, and one that is back used.
    let file = world.path().join("box/tokens/cluster1");
    let token = world.token("cluster1");
    std::fs::remove_file(&file).unwrap();
    let output = kubectl.context("cluster1").output(&["get", "nodes"]);
    assert!(!output.status.success() && text(&output).contains("tokens/cluster1"), "{output:?}");
    std::fs::write(&file, token).unwrap();
    works(&kubectl, "cluster1");
    assert!(world.sandbox.stop(Duration::from_secs(10)).await.success());
}

#[tokio::test]
async fn tokens_of_secrets_in_the_hubs_api() {
    let Some(mut world) = World::start("tokens_of_secrets_in_the_hubs_api").await else { return };
    let hub = ["--hub-kubeconfig", "box/kubeconfig", "--hub-context", "hub"];
    let account = ["--managed-serviceaccount", "by-hand"];
    // The account's own Secret, and the copy beside ClusterProfiles.
    let own = world.kubeconfig("own.kubeconfig", &[&account[..], &hub].concat());
    let namespace = ["--namespace", "cluster-inventory"];
    let copy = world.kubeconfig("copy.kubeconfig", &[&account[..], &namespace, &hub].concat());
    for (kubectl, missing) in
        [(&own, "cluster1/by-hand"), (&copy, "cluster-inventory/cluster1-by-hand")]
    {
        let output = kubectl.context("cluster1").output(&["get", "nodes"]);
        let said = text(&output);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("failed to get synced credential secret"), "{said}");
        assert!(said.contains(missing), "{said}");
    }
    for cluster in ["cluster1", "cluster2"] {
        world.secret(cluster, cluster, "by-hand");
        world.secret(cluster, "cluster-inventory", &format!("{cluster}-by-hand"));
        works(&own, cluster);
        works(&copy, cluster);
    }

    // Its own kubeconfig is no way to the hub, whichever of both means leads there.
    let own_file = world.path().join("own.kubeconfig");
    #[rustfmt::skip]
    let refused = fails(world.path(), &[
        "kubeconfig", "--server", &world.server, "--ca", "box/ca.crt", "--cluster", "cluster1",
        "--managed-serviceaccount", "by-hand", "--hub-kubeconfig", "own.kubeconfig",
    ]);
    assert!(refused.contains("from this very plugin"), "{refused}");
    let asked = question("cluster1");
    let ourselves = plugin(
        &world,
        &asked,
        &["--managed-serviceaccount=by-hand"],
        &[("KUBECONFIG", own_file.to_str().unwrap())],
    );
    assert_one_line(&ourselves, "from this very plugin");
    let guarded =
        plugin(&world, &asked, &["--dir", "box"], &[("CLUSTER_PROXY_CREDENTIAL_RUNS", "1")]);
    assert_one_line(&guarded, "--hub-kubeconfig");
    assert!(world.sandbox.stop(Duration::from_secs(10)).await.success());
}

#[tokio::test]
async fn one_line_of_json_or_one_line_of_reason() {
    let Some(mut world) = World::start("one_line_of_json_or_one_line_of_reason").await else {
        return;
    };
    let output = plugin(&world, &question("cluster1"), &["--dir", "box"], &[]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let line = String::from_utf8(output.stdout).unwrap();
    assert_eq!(line.matches('\n').count(), 1);
    let token = world.token("cluster1");
    let answer: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(answer["status"]["token"], token.as_str());
    let expires = answer["status"]["expirationTimestamp"].as_str().unwrap().to_owned();
    assert_eq!(
        line,
        format!(
            "{{\"kind\":\"ExecCredential\",\"apiVersion\":\"client.authentication.k8s.io/v1\",\
             \"spec\":{{\"interactive\":false}},\"status\":{{\
             \"expirationTimestamp\":\"{expires}\",\"token\":\"{token}\"}}}}\n"
        )
    );

    let dir = ["--dir", "box"];
    let hub = ["--hub-kubeconfig=box/kubeconfig", "--hub-context=hub"];
    for (info, args, reason) in [
        (question("cluster9"), &dir[..], "tokens/cluster9"),
        (question("../hub"), &dir, "no cluster's name"),
        (question("cluster1").replace("io/v1", "io/v1beta1"), &dir, "v1beta1"),
        (String::new(), &dir, "KUBERNETES_EXEC_INFO is not set"),
        (question("cluster1"), &hub, "--managed-serviceaccount flag is required"),
    ] {
        assert_one_line(&plugin(&world, &info, args, &[]), reason);
    }
    // A log level in the environment adds nothing to standard output.
    let logged = plugin(&world, &question("cluster1"), &dir, &[("RUST_LOG", "trace")]);
    assert_eq!(logged.stdout, line.as_bytes());
    assert!(!text_of(&logged.stderr).contains(&token));
    assert!(world.sandbox.stop(Duration::from_secs(10)).await.success());
}

fn assert_one_line(output: &Output, reason: &str) {
    let said = text_of(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty());
    assert!(said.contains(reason) && said.matches('\n').count() == 1, "{said}");
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn question(cluster: &str) -> String {
    format!(
        r#"{{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{{"cluster":{{"server":"https://HOST:9092/c","config":{{"clusterName":"{cluster}"}}}},"interactive":false}}}}"#
    )
}

/// Starts the plugin as client-go does.
fn plugin(world: &World, info: &str, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cluster-proxy"));
    command.arg("credential").args(args).current_dir(world.path()).env_clear();
    command.env("KUBERNETES_EXEC_INFO", info).envs(variables.iter().copied());
    command.output().unwrap()
}
