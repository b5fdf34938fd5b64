//! Which columns a resource has, and how each reads its object.

use serde_json::{Value, json};

use super::text::{age, at_path};
use crate::miniapi::object;
use crate::miniapi::resources::Resource;

/// One column.
pub(super) struct Column {
    name: String,
    kind: String,
    format: String,
    priority: i64,
    read: Read,
}

enum Read {
    With(fn(&Value) -> Value),
    Path(String),
}

// === impl Column ===

impl Column {
    /// Its definition in the Table.
    pub(super) fn definition(&self) -> Value {
        json!({
            "name": self.name, "type": self.kind, "format": self.format,
            "description": "", "priority": self.priority,
        })
    }

    /// The cell of one object.
    pub(super) fn cell(&self, object: &Value) -> Value {
        match &self.read {
            Read::With(read) => read(object),
            Read::Path(path) => {
                let value = at_path(object, path).cloned().unwrap_or(Value::Null);
                if self.kind == "date" && !value.is_null() { age(&value).into() } else { value }
            }
        }
    }

    fn from_printer_column(column: &Value) -> Self {
        let text = |pointer| object::text(column, pointer).to_owned();
        Self {
            name: text("/name"),
            kind: text("/type"),
            format: text("/format"),
            priority: column["priority"].as_i64().unwrap_or(0),
            read: Read::Path(text("/jsonPath")),
        }
    }
}

/// The columns of a resource: always a name, then its own, an age when nothing else is known.
pub(super) fn of(resource: &Resource) -> Vec<Column> {
    let mut name = with("Name", 0, |object| object::name(object).into());
    name.format = "name".to_owned();
    let mut columns = vec![name];
    if resource.columns.is_empty() {
        columns.extend(built_in(resource));
        columns.push(with("Age", 0, |object| age(&object["metadata"]["creationTimestamp"]).into()));
        columns.extend(wide(resource));
    } else {
        columns.extend(resource.columns.iter().map(Column::from_printer_column));
    }
    columns
}

fn with(name: &str, priority: i64, read: fn(&Value) -> Value) -> Column {
    Column {
        name: name.to_owned(),
        kind: "string".to_owned(),
        format: String::new(),
        priority,
        read: Read::With(read),
    }
}

fn path(name: &str, priority: i64, path: &str) -> Column {
    Column { read: Read::Path(path.to_owned()), ..with(name, priority, |_| Value::Null) }
}

fn built_in(resource: &Resource) -> Vec<Column> {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "nodes") => vec![with("Status", 0, node_status), with("Roles", 0, node_roles)],
        ("", "pods") => vec![
            with("Ready", 0, pod_ready),
            with("Status", 0, pod_status),
            with("Restarts", 0, |pod| containers(pod, |one| one["restartCount"].as_u64()).into()),
        ],
        ("", "namespaces") => vec![path("Status", 0, ".status.phase")],
        ("", "configmaps") => vec![with("Data", 0, |map| {
            (size(&map["data"]) + size(&map["binaryData"])).to_string().into()
        })],
        ("", "secrets") => vec![
            path("Type", 0, ".type"),
            with("Data", 0, |secret| size(&secret["data"]).to_string().into()),
        ],
        ("", "serviceaccounts") => {
            vec![with("Secrets", 0, |account| size(&account["secrets"]).to_string().into())]
        }
        ("", "services") => vec![
            with("Type", 0, |service| or(&service["spec"]["type"], "ClusterIP")),
            with("Cluster-IP", 0, |service| or(&service["spec"]["clusterIP"], "<none>")),
            with("External-IP", 0, |_| "<none>".into()),
            with("Port(s)", 0, service_ports),
        ],
        ("apps", "deployments") => vec![
            with("Ready", 0, |one| ready(one, "readyReplicas")),
            with("Up-to-date", 0, |one| number(&one["status"]["updatedReplicas"])),
            with("Available", 0, |one| number(&one["status"]["availableReplicas"])),
        ],
        ("apps", "statefulsets") => vec![with("Ready", 0, |one| ready(one, "readyReplicas"))],
        ("", "events") => vec![
            path("Type", 0, ".type"),
            path("Reason", 0, ".reason"),
            path("Message", 0, ".message"),
        ],
        ("coordination.k8s.io", "leases") => vec![path("Holder", 0, ".spec.holderIdentity")],
        ("rbac.authorization.k8s.io", "clusterrolebindings" | "rolebindings") => {
            vec![with("Role", 0, |binding| {
                let text = |pointer| object::text(binding, pointer);
                format!("{}/{}", text("/roleRef/kind"), text("/roleRef/name")).into()
            })]
        }
        _ => Vec::new(),
    }
}

/// Columns that come after the age, most of them only with `-o wide`.
fn wide(resource: &Resource) -> Vec<Column> {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "nodes") => vec![
            path("Version", 0, ".status.nodeInfo.kubeletVersion"),
            path("Internal-IP", 1, ".status.addresses[?(@.type==\"InternalIP\")].address"),
            path("OS-Image", 1, ".status.nodeInfo.osImage"),
            path("Kernel-Version", 1, ".status.nodeInfo.kernelVersion"),
            path("Container-Runtime", 1, ".status.nodeInfo.containerRuntimeVersion"),
        ],
        ("", "pods") => vec![path("IP", 1, ".status.podIP"), path("Node", 1, ".spec.nodeName")],
        _ => Vec::new(),
    }
}

fn node_status(node: &Value) -> Value {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.filter(|one| one["type"] == "Ready").any(|one| one["status"] == "True");
    let mut status = String::from(if ready { "Ready" } else { "NotReady" });
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status.into()
}

fn node_roles(node: &Value) -> Value {
    let labels = node["metadata"]["labels"].as_object();
    let roles = labels.into_iter().flat_map(|labels| labels.keys());
    let roles: Vec<&str> =
        roles.filter_map(|label| label.strip_prefix("node-role.kubernetes.io/")).collect();
    if roles.is_empty() { "<none>".into() } else { roles.join(",").into() }
}

fn pod_ready(pod: &Value) -> Value {
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let ready = statuses.filter(|one| one["ready"] == true).count();
    format!("{ready}/{}", size(&pod["spec"]["containers"])).into()
}

fn pod_status(pod: &Value) -> Value {
    if object::is_deleting(pod) {
        return "Terminating".into();
    }
    or(&pod["status"]["phase"], "Pending")
}

fn containers(pod: &Value, read: fn(&Value) -> Option<u64>) -> String {
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    statuses.filter_map(read).sum::<u64>().to_string()
}

fn service_ports(service: &Value) -> Value {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let ports = ports.map(|port| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        format!("{}/{protocol}", port["port"])
    });
    let ports: Vec<String> = ports.collect();
    if ports.is_empty() { "<none>".into() } else { ports.join(",").into() }
}

fn ready(object: &Value, field: &str) -> Value {
    let ready = object["status"][field].as_u64().unwrap_or(0);
    let wanted = object["spec"]["replicas"].as_u64().unwrap_or(1);
    format!("{ready}/{wanted}").into()
}

fn number(value: &Value) -> Value {
    value.as_u64().unwrap_or(0).into()
}

fn or(value: &Value, otherwise: &str) -> Value {
    value.as_str().unwrap_or(otherwise).into()
}

fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    }
}
