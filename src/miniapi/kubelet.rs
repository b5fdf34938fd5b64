//! What makes Pods run: the scheduler and the kubelet of the one Node, as far as clients see them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::ephemeral;
use super::object;
use super::store::{Change, Key, Mode};
use crate::drain::Drain;

/// Follows the Pods of the cluster until the end is asked for.
pub(super) async fn run(cluster: Arc<Cluster>, drain: Drain) {
    let mut changed = cluster.store.subscribe();
    let mut cursor = start_over(&cluster);
    loop {
        changed.borrow_and_update();
        match cluster.store.changes(cursor, "", "pods") {
            Ok((revision, changes)) => {
                cursor = revision;
                changes.iter().for_each(|change| follow(&cluster, change));
            }
            Err(_) => cursor = start_over(&cluster),
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = drain.stopping() => break,
        }
    }
    cluster.pods.finish().await;
}

fn start_over(cluster: &Cluster) -> u64 {
    let (revision, pods) = cluster.store.list("", "pods", None);
    pods.iter().for_each(|pod| start(cluster, pod));
    revision
}

fn follow(cluster: &Cluster, change: &Change) {
    if change.deleted {
        cluster.pods.stop(&change.key.namespace, &change.key.name);
    } else if change.previous.is_none() {
        start(cluster, &change.object);
    } else {
        debug(cluster, &change.object);
    }
}

fn start(cluster: &Cluster, pod: &Value) {
    let (namespace, name) = (object::namespace(pod), object::name(pod));
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let containers: Vec<String> =
        containers.map(|one| object::text(one, "/name").to_owned()).collect();
    cluster.pods.start(namespace, name, &containers);
    let node = format!("{}-control-plane", cluster.name);
    let key = Key::new("", "pods", namespace, name);
    // It may be gone already; then there is nothing to report.
    let _ = cluster.store.modify(&key, Mode::Commit, |current| Ok(running(current, &node)));
    debug(cluster, pod);
}

/// Starts the ephemeral containers that do not run yet.
fn debug(cluster: &Cluster, pod: &Value) {
    let (namespace, name) = (object::namespace(pod), object::name(pod));
    let started =
        |pod: &Value| pod["status"]["ephemeralContainerStatuses"].as_array().map_or(0, Vec::len);
    if ephemeral::of(pod).len() == started(pod) {
        return;
    }
    for container in ephemeral::of(pod) {
        cluster.pods.debug(namespace, name, object::text(container, "/name"));
    }
    let key = Key::new("", "pods", namespace, name);
    let _ = cluster.store.modify(&key, Mode::Commit, |current| {
        let mut pod = current.clone();
        let statuses = current["status"]["ephemeralContainerStatuses"].as_array();
        let mut statuses = statuses.cloned().unwrap_or_default();
        let new = ephemeral::of(current).iter().skip(statuses.len());
        statuses.extend(new.map(|container| status(current, container)));
        pod["status"]["ephemeralContainerStatuses"] = statuses.into();
        Ok(pod)
    });
}

fn running(current: &Value, node: &str) -> Value {
    let mut pod = current.clone();
    if object::text(&pod, "/status/phase") == "Running" {
        return pod;
    }
    let now = object::now();
    let ready = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(ready);
    let containers = current["spec"]["containers"].as_array().into_iter().flatten();
    let containers: Vec<Value> = containers.map(|container| status(current, container)).collect();
    pod["spec"]["nodeName"] = node.into();
    pod["status"] = json!({
        "phase": "Running",
        "startTime": now,
        "hostIP": "10.0.0.2",
        "podIP": "10.244.0.2",
        "podIPs": [{"ip": "10.244.0.2"}],
        "qosClass": "BestEffort",
        "conditions": conditions,
        "containerStatuses": containers,
    });
    pod
}

/// A container that runs from now on.
fn status(pod: &Value, container: &Value) -> Value {
    json!({
        "name": container["name"], "image": container["image"], "imageID": "",
        "containerID": format!("miniapi://{}", object::uid(pod)),
        "ready": true, "started": true, "restartCount": 0,
        "state": {"running": {"startedAt": object::now()}}, "lastState": {},
    })
}
