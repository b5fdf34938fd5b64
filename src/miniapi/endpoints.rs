//! The controller of EndpointSlices: where the Pods behind a Service listen.
//!
//! Pods have no network of their own here. Each that a Service selects gets loopback addresses of
//! this machine instead, and a slice of its own, because every one has other ports. What a person
//! makes of slices (for a Service without a selector, say) is left alone.
//!
//! Source: Kubernetes' EndpointSlice controller (`k8s.io/endpointslice`), as far as readers see it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::object;
use super::pods::Listener;
use super::store::{Key, Mode};
use crate::drain::Drain;
use crate::pki::ca::Authority;
use crate::pki::tls;

/// Follows Services and Pods until the end is asked for; `authority` signs what is served over TLS.
pub(super) async fn run(cluster: Arc<Cluster>, authority: Authority, drain: Drain) {
    let mut changed = cluster.store.subscribe();
    let mut controller = Controller { cluster, authority, slices: BTreeMap::new() };
    let mut seen = None;
    loop {
        changed.borrow_and_update();
        if seen.is_none_or(|seen| controller.is_stale(seen)) {
            seen = Some(controller.reconcile());
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = drain.stopping() => return,
        }
    }
}

struct Controller {
    cluster: Arc<Cluster>,
    authority: Authority,
    slices: BTreeMap<Key, Slice>,
}

/// A slice that was written, and what listens for it.
struct Slice {
    of: Backend,
    _listeners: Vec<Listener>,
}

/// A Pod behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Backend {
    service: String,
    pod: String,
    uid: String,
    /// The Service's names of its ports, and the Pod's ports for them.
    ports: Vec<(String, u16)>,
}

// === impl Controller ===

impl Controller {
    fn is_stale(&self, seen: u64) -> bool {
        let unchanged = |resource| {
            let changes = self.cluster.store.changes(seen, "", resource);
            changes.is_ok_and(|(_, changes)| changes.is_empty())
        };
        !(unchanged("services") && unchanged("pods"))
    }

    /// Makes slices as they should be, and returns the revision that they are of.
    fn reconcile(&mut self) -> u64 {
        let store = &self.cluster.store;
        let (revision, services) = store.list("", "services", None);
        let (_, pods) = store.list("", "pods", None);
        let wanted = wanted(&services, &pods);
        self.slices.retain(|key, slice| {
            let stays = wanted.get(key) == Some(&slice.of);
            if !stays {
                // Somebody may have deleted it.
                let _ = store.delete(key, Mode::Commit, |_| Ok(()));
            }
            stays
        });
        for (key, backend) in wanted {
            if self.slices.contains_key(&key) {
                continue;
            }
            match self.make(&key, backend) {
                Ok(slice) => drop(self.slices.insert(key, slice)),
                Err(error) => {
                    tracing::warn!(error, slice = key.name, "a Pod cannot listen for a Service");
                }
            }
        }
        revision
    }

    fn make(&self, key: &Key, of: Backend) -> Result<Slice, String> {
        let mut listeners = Vec::new();
        let mut ports = Vec::new();
        for (name, port) in &of.ports {
            if let Some(listener) = self.listen(&key.namespace, &of, *port)? {
                let port = listener.address.port();
                ports.push(json!({"name": name, "port": port, "protocol": "TCP"}));
                listeners.push(listener);
            }
        }
        let pod = json!({"kind": "Pod", "namespace": key.namespace, "name": of.pod, "uid": of.uid});
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"labels": {
                "kubernetes.io/service-name": of.service,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            }},
            "addressType": "IPv4",
            "endpoints": [{
                "addresses": ["127.0.0.1"],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": pod,
            }],
            "ports": ports,
        });
        let made = self.cluster.store.create(key, slice, Mode::Commit);
        made.map_err(|status| status.message)?;
        Ok(Slice { of, _listeners: listeners })
    }

    fn listen(&self, namespace: &str, of: &Backend, port: u16) -> Result<Option<Listener>, String> {
        let secure = SECURE.iter().find(|(secure, _)| *secure == port);
        let tls = match secure {
            None => None,
            Some(_) => {
                let name = format!("{}.{namespace}.svc", of.service);
                let issued = self.authority.issue_server(&[name], LIFE);
                let issued = issued.map_err(|error| error.to_string())?;
                let (chain, key) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
                Some(tls::server(chain, key, &[b"http/1.1"]).map_err(|error| error.to_string())?)
            }
        };
        let plain = secure.map_or(port, |(_, plain)| *plain);
        let listening = self.cluster.pods.listen(namespace, &of.pod, plain, tls);
        listening.map_err(|error: io::Error| error.to_string())
    }
}

/// Which slices there should be.
fn wanted(services: &[Arc<Value>], pods: &[Arc<Value>]) -> BTreeMap<Key, Backend> {
    let mut wanted = BTreeMap::new();
    for service in services {
        let (namespace, name) = (object::namespace(service), object::name(service));
        let selected = pods.iter().filter(|pod| {
            object::namespace(pod) == namespace
                && object::text(pod, "/status/phase") == "Running"
                && selects(&service["spec"], pod)
        });
        for pod in selected {
            let slice = format!("{name}-{}", object::name(pod));
            let backend = Backend {
                service: name.to_owned(),
                pod: object::name(pod).to_owned(),
                uid: object::uid(pod).to_owned(),
                ports: ports(&service["spec"], pod),
            };
            wanted.insert(Key::new(GROUP, "endpointslices", namespace, &slice), backend);
        }
    }
    wanted
}

/// Whether a Service has a selector, and the Pod its labels.
fn selects(spec: &Value, pod: &Value) -> bool {
    let selector = spec["selector"].as_object().filter(|selector| !selector.is_empty());
    let labels = &pod["metadata"]["labels"];
    object::text(spec, "/type") != "ExternalName"
        && selector.is_some_and(|wanted| wanted.iter().all(|(key, value)| labels[key] == *value))
}

/// The TCP ports of a Service, by name, as those of a Pod.
fn ports(spec: &Value, pod: &Value) -> Vec<(String, u16)> {
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    let containers = pod["spec"]["containers"].as_array();
    let named = |name: &str| {
        let ports = containers.into_iter().flatten().flat_map(|one| one["ports"].as_array());
        let mut ports = ports.flatten();
        ports.find(|port| port["name"] == name).and_then(|port| number(&port["containerPort"]))
    };
    let known = spec["ports"].as_array().into_iter().flatten();
    let tcp = known.filter(|port| matches!(object::text(port, "/protocol"), "" | "TCP"));
    let target = |port: &Value| match &port["targetPort"] {
        Value::Null => number(&port["port"]),
        Value::String(name) => named(name),
        target => number(target),
    };
    tcp.filter_map(|port| Some((object::text(port, "/name").to_owned(), target(port)?))).collect()
}

const GROUP: &str = "discovery.k8s.io";

/// Ports of Pods that speak TLS, under the name of the Service, and what they are without.
const SECURE: [(u16, u16); 2] = [(443, 80), (8443, 8080)];

/// Issued anew at every start.
const LIFE: Duration = Duration::from_secs(365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Arc<Value> {
        let metadata = json!({"name": "web", "namespace": "shop"});
        Arc::new(json!({"metadata": metadata, "spec": spec}))
    }

    fn pod(name: &str, labels: Value, phase: &str) -> Arc<Value> {
        let ports = json!([{"name": "http", "containerPort": 8080}]);
        Arc::new(json!({
            "metadata": {"name": name, "namespace": "shop", "labels": labels, "uid": "u"},
            "spec": {"containers": [{}, {"ports": ports}]}, "status": {"phase": phase},
        }))
    }

    fn ports_of(ports: Value) -> Vec<(String, u16)> {
        let service = service(json!({"selector": {"app": "web"}, "ports": ports}));
        let wanted = wanted(&[service], &[pod("a", json!({"app": "web"}), "Running")]);
        wanted.into_values().next().unwrap().ports
    }

    #[test]
    fn ports_by_number_and_name() {
        let named = |name: &str, port| (name.to_owned(), port);
        let ports = ports_of(json!([
            {"port": 80},
            {"name": "by-number", "port": 81, "targetPort": 8443},
            {"name": "by-name", "port": 82, "targetPort": "http", "protocol": "TCP"},
            {"name": "unknown", "port": 83, "targetPort": "other"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ]));
        assert_eq!(ports, [named("", 80), named("by-number", 8443), named("by-name", 8080)]);
    }

    #[test]
    fn a_slice_for_each_running_pod_of_a_selector() {
        let web = json!({"app": "web"});
        let pods = [
            pod("a", json!({"app": "web", "tier": "x"}), "Running"),
            pod("b", web.clone(), "Running"),
            pod("pending", web.clone(), "Pending"),
            pod("other", json!({"app": "other"}), "Running"),
        ];
        let of = |spec: Value| {
            let names = wanted(&[service(spec)], &pods).into_keys().map(|key| key.name);
            names.collect::<Vec<_>>()
        };
        assert_eq!(of(json!({"selector": web})), ["web-a", "web-b"]);
        assert!(of(json!({"selector": {}})).is_empty() && of(json!({})).is_empty());
        assert!(of(json!({"selector": web, "type": "ExternalName"})).is_empty());
    }
}
