//! Which lists of the built-in kinds are maps, and by which keys.

use serde_json::Value;

/// The keys by which the items of a list are told apart; `None` for lists that are replaced whole.
/// `items` are all items at hand: a list whose items lack the key is none of ours.
pub(super) fn of(field: &str, items: &[&Value]) -> Option<&'static [&'static str]> {
    if items.is_empty() || !items.iter().all(|item| item.is_object()) {
        return None;
    }
    let candidates = TABLE.iter().filter(|(name, _)| *name == field);
    let mut keys = candidates.map(|(_, keys)| *keys);
    keys.find(|keys| items.iter().all(|item| item.get(keys[0]).is_some()))
}

/// Whether a list of texts is a set, whose members come and go one by one.
pub(super) fn is_set(field: &str) -> bool {
    field == "finalizers"
}

/// The value of a key of an item, with the default that the API gives it.
pub(super) fn value(item: &Value, key: &str) -> Value {
    match item.get(key) {
        None if key == "protocol" => "TCP".into(),
        None => Value::Null,
        Some(value) => value.clone(),
    }
}

/// Whether two items are the same one.
pub(super) fn same(a: &Value, b: &Value, keys: &[&str]) -> bool {
    keys.iter().all(|key| value(a, key) == value(b, key))
}

/// A field may have several rows: the first whose key the items have counts.
const TABLE: [(&str, &[&str]); 19] = [
    ("addresses", &["type"]),
    ("conditions", &["type"]),
    ("containers", &["name"]),
    ("containerStatuses", &["name"]),
    ("env", &["name"]),
    ("ephemeralContainers", &["name"]),
    ("hostAliases", &["ip"]),
    ("imagePullSecrets", &["name"]),
    ("initContainers", &["name"]),
    ("ownerReferences", &["uid"]),
    ("podIPs", &["ip"]),
    ("ports", &["containerPort", "protocol"]),
    ("ports", &["port", "protocol"]),
    ("secrets", &["name"]),
    ("taints", &["key", "effect"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("volumeDevices", &["devicePath"]),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
];
