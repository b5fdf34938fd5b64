//! `kubectl proxy` in front of the hub, with the server URL's path and without it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;

use serde_json::Value;

use crate::fleet::{CLUSTERS, Fleet};
use crate::streams::Running;
use crate::support::client::plain_get;
use crate::support::process::Kubectl;
use crate::support::{PATIENCE, within};

/// Starts `kubectl proxy` on a port of its choice.
fn proxy(kubectl: &Kubectl, flags: &[&str]) -> (Running, SocketAddr) {
    let mut command = kubectl.command(&[&["proxy", "--port=0"], flags].concat());
    let mut running = Running::start(&mut command);
    let mut said = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
    // Starting to serve on 127.0.0.1:PORT
    let address = said.split_whitespace().last().and_then(|address| address.parse().ok());
    (running, address.unwrap_or_else(|| panic!("{said:?}")))
}

async fn get(address: SocketAddr, path: &str) -> Value {
    let answer = within("an answer", PATIENCE, plain_get(address, path)).await.unwrap();
    serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{path}: {answer}"))
}

#[tokio::test]
async fn kubectl_proxy_serves_its_own_cluster_with_and_without_the_servers_path() {
    let test = "kubectl_proxy_serves_its_own_cluster_with_and_without_the_servers_path";
    let Some(fleet) = Fleet::start(test).await else { return };
    for cluster in CLUSTERS {
        let literal = format!("--from-literal=cluster={cluster}");
        fleet.kubectl(cluster).run(&["create", "configmap", "where", &literal]);
    }
    let map = "/api/v1/namespaces/default/configmaps/where";
    for (cluster, other) in [("c1", "c2"), ("c2", "c1")] {
        // What the kubeconfig says: its own cluster, and nothing else can be named.
        let (_proxy, address) = proxy(fleet.kubectl(cluster), &["--append-server-path"]);
        assert_eq!(get(address, map).await["data"]["cluster"], cluster);
        assert_eq!(get(address, &format!("/{other}{map}")).await["code"], 404);
        let log = "/api/v1/namespaces/default/pods/hello/log?tailLines=1";
        let log = within("a log", PATIENCE, plain_get(address, log)).await.unwrap();
        assert_eq!(log.lines().count(), 1, "{log}");

        // The path alone: the token says which cluster it is. A cluster can be named as well, and
        // the token is good for one.
        let (_proxy, address) = proxy(fleet.kubectl(cluster), &[]);
        assert_eq!(get(address, map).await["data"]["cluster"], cluster);
        assert_eq!(get(address, &format!("/{cluster}{map}")).await["data"]["cluster"], cluster);
        assert_eq!(get(address, &format!("/{other}{map}")).await["code"], 401);
    }
}

#[tokio::test]
async fn a_watch_through_kubectl_proxy_delivers_at_once() {
    let test = "a_watch_through_kubectl_proxy_delivers_at_once";
    let Some(fleet) = Fleet::start(test).await else { return };
    let kubectl = fleet.kubectl("c1");
    let (_proxy, address) = proxy(kubectl, &["--append-server-path"]);
    let server = format!("--server=http://{address}");
    // No credentials of its own: those are the proxy's.
    let mut watch = Running::start(
        kubectl
            .command(&["get", "configmaps", "-w", "-o", "name", &server])
            .env("KUBECONFIG", "/dev/null"),
    );
    let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines();
    for name in ["first", "second"] {
        kubectl.run(&["create", "configmap", name]);
        let wanted = format!("configmap/{name}");
        assert!(lines.any(|line| line.unwrap() == wanted), "the watch ended");
    }
}
