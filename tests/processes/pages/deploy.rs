//! deploy/README.md: both charts by Helm on real API servers, and what comes in the life of a fleet.

use std::os::unix::fs::symlink;

use serde_json::Value;

use super::{Page, Shell, root};
use crate::charts::helm::HUB;
use crate::charts::world::{Ground, in_pod};
use crate::support::{PATIENCE, eventually};

#[tokio::test]
async fn every_command_of_the_deployment_page_works() {
    let test = "every_command_of_the_deployment_page_works";
    let Some(ground) = Ground::start(test).await else { return };
    let page = Page::read("deploy/README.md");
    let directory = ground.directory();
    symlink(root().join("deploy"), directory.join("deploy")).unwrap();
    let shell = || {
        Shell::new(directory)
            .and_program("helm", ground.helm.program())
            // Nothing runs pods here: what would run in one is run beside it.
            .instead("kubectl -n cluster-proxy exec deploy/cluster-proxy-hub -c hub -- ", "")
            // Controllers' work, which no API server does by itself.
            .instead("delete deploy/", "delete --wait=false deploy/")
            .instead("kubectl -n cluster-proxy rollout", ": rollout")
    };
    let on =
        |kubeconfig: &std::path::Path| shell().with("KUBECONFIG", kubeconfig.display().to_string());

    // Both installs, and a request.
    let hub_cluster = on(&ground.hub_cluster.kubeconfig);
    let own = hub_cluster.instead("hub.example.com", "localhost");
    let shown = own.run(page.block("helm install hub"));
    assert!(shown.contains("443:") && shown.contains("8091:"), "{shown}");
    let mut hub = ground.run_hub().await;
    let of_pod = |shell: Shell| {
        let [state, kubeconfig] = in_pod(HUB);
        let shell = shell.with(state.0, state.1).with(kubeconfig.0, kubeconfig.1);
        shell.instead("hub.example.com:8091", &hub.agents)
    };
    let pod = of_pod(on(&ground.hub_cluster.kubeconfig));
    let token = pod.run(page.block("cluster-proxy-hub -c hub -- cluster-proxy join token"));
    let (token, ca_hash) = parsed(&token);
    let spoke = |token: &str, ca_hash: &str| {
        let shell = on(&ground.spoke.kubeconfig).instead("hub.example.com:8091", &hub.agents);
        shell.instead("TOKEN", token).instead("sha256:HEX", ca_hash)
    };
    let cluster = spoke(&token, &ca_hash);
    cluster.run(page.block("helm install agent"));
    let mut agent = ground.run_agent("edge-1", "edge-1");
    cluster.run(page.block("create clusterrole node-reader"));
    own.run(page.block("> serving-ca.crt"));
    let user = hub.user.replace("127.0.0.1", "localhost");
    let client = shell().instead("hub.example.com", user);
    let block = page.block("kubectl --kubeconfig edge-1.kubeconfig get nodes");
    client.run(page.line(block, "cluster-proxy kubeconfig"));
    let nodes = page.line(block, "kubectl");
    is_served(&client, nodes).await;

    // Upgrades.
    let block = page.block("helm upgrade hub");
    own.run(page.line(block, "helm upgrade hub"));
    own.run(page.line(block, "kubectl -n cluster-proxy rollout"));
    cluster.run(page.line(block, "helm upgrade agent"));
    own.run(page.block("> hub-state.yaml"));
    let state = std::fs::read_to_string(directory.join("hub-state.yaml")).unwrap();
    assert!(state.contains("name: cluster-proxy-serving-ca-key"), "{state}");

    // Keys. Two authorities, of which one is served cross-signed: the kubeconfig goes on working.
    let shown = pod.run(page.block("cluster-proxy pki inspect"));
    assert!(
        shown.contains("cluster-proxy-serving-ca-certificate") || shown.contains("serving-ca.crt"),
        "{shown}"
    );
    is_served(&client, nodes).await;
    let refused = pod.fails(page.block("cluster-proxy pki rotate-ca serving --finish"));
    assert!(refused.contains("give --force"), "{refused}");
    let block = page.block("cluster-proxy pki rotate-ca agent");
    pod.run(block.lines().next().unwrap());
    let refused = pod.fails(block.lines().last().unwrap());
    assert!(refused.contains("give --force"), "{refused}");

    // A key that is lost.
    let block = page.block("cluster-proxy clusters revoke edge-1");
    pod.run(page.line(block, "cluster-proxy clusters revoke"));
    eventually("nobody serves it", PATIENCE, || {
        let output = client.command(nodes).output().unwrap();
        async move { (!output.status.success()).then_some(()) }
    })
    .await;
    assert!(agent.stop(PATIENCE).await.success());
    let (token, ca_hash) = parsed(&pod.run(page.line(block, "cluster-proxy join token")));
    let cluster = spoke(&token, &ca_hash);
    for line in block.lines().filter(|line| !line.starts_with("cluster-proxy ")) {
        cluster.run(line);
    }
    let mut agent = ground.run_agent("edge-1-again", "edge-1");
    is_served(&client, nodes).await;

    // Another cluster, by plain manifests.
    cluster.run(page.block("-f deploy/manifests/hub.yaml"));
    // What needs an engine for images, or systemd.
    page.is_done_but(&["docker build", "systemctl enable"]);
    assert!(agent.stop(PATIENCE).await.success());
    assert!(hub.process.stop(PATIENCE).await.success());
    ground.stop().await;
}

async fn is_served(client: &Shell, nodes: &str) {
    eventually("the nodes of the cluster", PATIENCE, || {
        let output = client.command(nodes).output().unwrap();
        let nodes = String::from_utf8(output.stdout).unwrap();
        async move { nodes.contains("c1-control-plane").then_some(()) }
    })
    .await;
}

/// Token and hash of `join token -o json`.
fn parsed(printed: &str) -> (String, String) {
    let printed: Value = serde_json::from_str(printed).unwrap();
    let said = |name: &str| printed[name].as_str().unwrap().to_owned();
    (said("token"), said("caHash"))
}
