//! What the server adds to objects that are written, and what follows from some of them.

use rand::Rng;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::crd;
use super::ephemeral;
use super::object;
use super::rbac;
use super::resources::Resource;
use super::response::MiniStatus;
use super::store::{Key, Mode};

/// The name that a new object gets: its own, or one made from `generateName`.
pub(super) fn name_of_new(resource: &Resource, object: &Value) -> Result<String, MiniStatus> {
    let name = object::name(object);
    if !name.is_empty() {
        check_name(resource, name)?;
        return Ok(name.to_owned());
    }
    let prefix = object::text(object, "/metadata/generateName");
    if prefix.is_empty() {
        let why = "metadata.name: Required value: name or generateName is required";
        return Err(MiniStatus::invalid(&resource.kind, "", why));
    }
    let mut random = rand::rng();
    let suffix = (0..5).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]));
    Ok(format!("{prefix}{}", suffix.collect::<String>()))
}

/// A name of the Domain Name System, as most kinds want it; those of RBAC only have to fit a path.
///
/// # Errors
/// 422 for any other.
pub(super) fn check_name(resource: &Resource, name: &str) -> Result<(), MiniStatus> {
    let fits_a_path = !name.contains(['/', '%']) && name != "." && name != "..";
    let of_dns = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let ends = [label.as_bytes().first(), label.as_bytes().last()];
        ends.iter().all(|end| end.is_some_and(|byte| inner(*byte)))
            && label.bytes().all(|byte| inner(byte) || byte == b'-')
    };
    let why = if resource.group == rbac::GROUP {
        (!fits_a_path).then_some("may not be a path")
    } else {
        let is_subdomain = name.len() <= LONGEST_NAME && name.split('.').all(of_dns);
        (!is_subdomain).then_some("a lowercase RFC 1123 subdomain is required")
    };
    match why {
        None => Ok(()),
        Some(why) => {
            let why = format!("metadata.name: Invalid value: {name:?}: {why}");
            Err(MiniStatus::invalid(&resource.kind, name, &why))
        }
    }
}

/// Fills in and checks an object that is about to be created.
pub(super) fn prepare(resource: &Resource, object: &mut Value) -> Result<(), MiniStatus> {
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.clone().into();
    if resource.has("status")
        && let Some(object) = object.as_object_mut()
    {
        object.remove("status");
    }
    if resource.custom {
        return Ok(());
    }
    check_shape(object)?;
    match resource.plural.as_str() {
        "customresourcedefinitions" => {
            crd::check(object)?;
            object["status"] = crd::established(object);
        }
        "namespaces" => {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
        }
        "pods" => {
            ephemeral::unchanged(object, None)?;
            pod_defaults(object)?;
            object["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"});
        }
        "deployments" | "replicasets" | "statefulsets" => {
            default(&mut object["spec"], "replicas", json!(1));
        }
        "services" => {
            default(&mut object["spec"], "type", json!("ClusterIP"));
            default(&mut object["spec"], "sessionAffinity", json!("None"));
        }
        "secrets" => {
            default(object, "type", json!("Opaque"));
            secret_data(object)?;
        }
        "configmaps" => texts(resource, object)?,
        _ => {}
    }
    Ok(())
}

/// Fills in and checks an object that is about to replace `current`.
pub(super) fn prepare_update(
    resource: &Resource,
    object: &mut Value,
    current: &Value,
) -> Result<(), MiniStatus> {
    if resource.custom {
        return Ok(());
    }
    check_shape(object)?;
    match resource.plural.as_str() {
        "customresourcedefinitions" if object["spec"] != current["spec"] => {
            crd::check(object)?;
            object["status"] = crd::established(object);
        }
        "secrets" => {
            default(object, "type", json!("Opaque"));
            secret_data(object)?;
            if object["type"] != current["type"] {
                let why = format!("type: Invalid value: {}: field is immutable", object["type"]);
                return Err(MiniStatus::invalid("Secret", object::name(current), &why));
            }
        }
        "namespaces" => object["spec"] = current["spec"].clone(),
        "configmaps" => texts(resource, object)?,
        _ => {}
    }
    Ok(())
}

/// Refuses an object with a text or a list where every built-in kind has fields.
pub(super) fn check_shape(object: &Value) -> Result<(), MiniStatus> {
    for part in ["spec", "status", "data", "stringData"] {
        if !object[part].is_object() && !object[part].is_null() {
            return Err(MiniStatus::bad_request(format!("{part}: must be an object")));
        }
    }
    Ok(())
}

/// What the controllers of a real cluster do after a creation.
pub(super) fn created(cluster: &Cluster, resource: &Resource, object: &Value) {
    if resource.group.is_empty() && resource.plural == "namespaces" {
        namespace_contents(cluster, object::name(object));
    }
}

/// What every namespace has from the start.
pub(super) fn namespace_contents(cluster: &Cluster, namespace: &str) {
    cluster.ensure(
        &Key::new("", "serviceaccounts", namespace, "default"),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {}}),
    );
    cluster.ensure(
        &Key::new("", "configmaps", namespace, "kube-root-ca.crt"),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {},
            "data": {"ca.crt": cluster.ca_pem},
        }),
    );
}

/// What the controllers of a real cluster do after a deletion.
pub(super) fn deleted(cluster: &Cluster, resource: &Resource, name: &str) {
    let remove = |key: &Key| {
        // Finalizers cannot hold what has lost its namespace or definition here.
        let unhold = |current: &Value| {
            let mut next = current.clone();
            object::metadata(&mut next).remove("finalizers");
            Ok(next)
        };
        let _ = cluster.store.modify(key, Mode::Commit, unhold);
        let _ = cluster.store.delete(key, Mode::Commit, |_| Ok(()));
    };
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => cluster.store.keys_in(name).iter().for_each(remove),
        (crd::GROUP, crd::PLURAL) => {
            let (plural, group) = name.split_once('.').unwrap_or((name, ""));
            let (_, objects) = cluster.store.list(group, plural, None);
            for object in objects {
                let (namespace, name) = (object::namespace(&object), object::name(&object));
                remove(&Key::new(group, plural, namespace, name));
            }
        }
        _ => {}
    }
}

fn pod_defaults(pod: &mut Value) -> Result<(), MiniStatus> {
    let name = object::name(pod).to_owned();
    let containers = pod["spec"]["containers"].as_array();
    if containers
        .is_none_or(|containers| containers.is_empty() || !containers.iter().all(Value::is_object))
    {
        return Err(MiniStatus::invalid("Pod", &name, "spec.containers: Required value"));
    }
    spec_defaults(&mut pod["spec"]);
    Ok(())
}

/// Fills in what every Pod has in its `spec`.
pub(super) fn spec_defaults(spec: &mut Value) {
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("serviceAccountName", json!("default")),
        ("schedulerName", json!("default-scheduler")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("securityContext", json!({})),
    ] {
        default(spec, field, value);
    }
    spec["containers"].as_array_mut().into_iter().flatten().for_each(container_defaults);
}

/// Fills in what every container of a Pod has.
pub(super) fn container_defaults(container: &mut Value) {
    default(container, "imagePullPolicy", json!("IfNotPresent"));
    default(container, "resources", json!({}));
    default(container, "terminationMessagePath", json!("/dev/termination-log"));
    default(container, "terminationMessagePolicy", json!("File"));
}

/// The first entry of a ConfigMap that is no text, and what it is.
pub(super) fn no_text<'a>(
    resource: &Resource,
    object: &'a Value,
) -> Option<(&'a str, &'static str)> {
    if resource.custom || resource.plural != "configmaps" {
        return None;
    }
    object["data"].as_object()?.iter().find_map(|(key, value)| {
        let kind = match value {
            Value::String(_) | Value::Null => return None,
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        Some((key.as_str(), kind))
    })
}

fn texts(resource: &Resource, map: &mut Value) -> Result<(), MiniStatus> {
    if let Some((_, kind)) = no_text(resource, map) {
        return Err(MiniStatus::bad_request(format!(
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: \
             json: cannot unmarshal {kind} into Go struct field ConfigMap.data of type string"
        )));
    }
    let entries = map["data"].as_object_mut().into_iter().flatten();
    entries.filter(|(_, value)| value.is_null()).for_each(|(_, value)| *value = json!(""));
    Ok(())
}

fn secret_data(secret: &mut Value) -> Result<(), MiniStatus> {
    use base64::Engine;
    let base64 = base64::engine::general_purpose::STANDARD;
    let plain = secret.as_object_mut().and_then(|object| object.remove("stringData"));
    for (key, value) in plain.as_ref().and_then(Value::as_object).into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        secret["data"][key] = base64.encode(text).into();
    }
    let is_bytes = |value: &Value| match value {
        Value::Null => true,
        value => value.as_str().is_some_and(|text| base64.decode(text).is_ok()),
    };
    if secret["data"].as_object().into_iter().flatten().all(|(_, value)| is_bytes(value)) {
        return Ok(());
    }
    let why = "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data";
    Err(MiniStatus::bad_request(why))
}

fn default(object: &mut Value, field: &str, value: Value) {
    if object.get(field).is_none_or(Value::is_null) {
        object[field] = value;
    }
}

/// Characters of a name.
const LONGEST_NAME: usize = 253;

/// Without vowels and look-alikes, as Kubernetes makes its suffixes.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::miniapi::patch::{merge, owners, strategic};
    use crate::miniapi::query::Query;
    use crate::miniapi::resources;
    use crate::miniapi::store::Store;
    use crate::miniapi::view::View;

    /// Documents that have the words of the API in the wrong places.
    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u8>().prop_map(Value::from),
            prop::sample::select(WORDS.to_vec()).prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            let fields =
                prop::collection::vec((prop::sample::select(WORDS.to_vec()), inner.clone()), 0..5);
            prop_oneof![
                prop::collection::vec(inner, 0..3).prop_map(Value::from),
                fields.prop_map(|fields| {
                    Value::Object(
                        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
                    )
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_object_stops_the_server(first in document(), second in document()) {
            let manager = owners::Manager::of(&Query::parse("fieldManager=test"), &http::HeaderMap::new(), "");
            let mut first = first;
            object::metadata(&mut first).insert("name".to_owned(), "one".into());
            for resource in resources::all(&Store::new(1)) {
                let mut created = first.clone();
                if prepare(&resource, &mut created).is_err() {
                    continue;
                }
                owners::updated(&resource, None, &mut created, &manager);
                let (mut merged, mut patched) = (created.clone(), created.clone());
                merge::patch(&mut merged, &second);
                let _ = strategic::patch(&mut patched, &second);
                for mut next in [merged, patched] {
                    if next.is_object() && prepare_update(&resource, &mut next, &created).is_ok() {
                        owners::updated(&resource, Some(&created), &mut next, &manager);
                        View::Table(crate::miniapi::table::Include::Object).one(&resource, &next);
                    }
                }
            }
        }
    }

    const WORDS: [&str; 22] = [
        "$patch",
        "containers",
        "data",
        "env",
        "finalizers",
        "group",
        "kind",
        "labels",
        "managedFields",
        "metadata",
        "name",
        "names",
        "plural",
        "ports",
        "replace",
        "replicas",
        "spec",
        "status",
        "stringData",
        "template",
        "type",
        "versions",
    ];
}
