//! Which lists are maps, and by which keys.

use std::collections::BTreeMap;

use serde_json::Value;

/// The lists of one resource that merge by keys, all others being replaced whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::miniapi) enum Lists {
    /// Those of [`TABLE`].
    #[default]
    BuiltIn,
    /// Keys by the names of the fields on the way, with dots between, as the schema has them.
    Custom(BTreeMap<String, Vec<String>>),
}

// === impl Lists ===

impl Lists {
    /// Those that the schema of a custom resource says are maps (`x-kubernetes-list-type`).
    pub(in crate::miniapi) fn of_schema(schema: &Value) -> Self {
        let owners = ("metadata.ownerReferences".to_owned(), vec!["uid".to_owned()]);
        let mut maps = BTreeMap::from([owners]);
        let mut pending = vec![(String::new(), schema)];
        while let Some((path, schema)) = pending.pop() {
            if schema["x-kubernetes-list-type"] == "map" {
                let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
                let keys = keys.filter_map(Value::as_str).map(str::to_owned).collect();
                maps.insert(path.clone(), keys);
            }
            if let Some(items) = schema.get("items") {
                pending.push((path.clone(), items));
            }
            let fields = schema["properties"].as_object().into_iter().flatten();
            pending.extend(fields.map(|(name, field)| (below(&path, name), field)));
        }
        Self::Custom(maps)
    }

    /// The keys by which the items of the list at `path` are told apart; `None` for a list that is
    /// replaced whole.
    pub(super) fn keys(&self, path: &str, items: &[&Value]) -> Option<Vec<&str>> {
        match self {
            Self::BuiltIn => {
                let field = path.rsplit('.').next().unwrap_or_default();
                of(field, items).map(<[&str]>::to_vec)
            }
            Self::Custom(maps) => {
                let keys = maps.get(path)?;
                let has_keys = |item: &&Value| keys.iter().all(|key| item.get(key).is_some());
                let known = !items.is_empty() && items.iter().all(has_keys);
                known.then(|| keys.iter().map(String::as_str).collect())
            }
        }
    }
}

/// The path of a field of what is at `path`.
pub(super) fn below(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

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
pub(super) fn is_set(path: &str) -> bool {
    path.rsplit('.').next() == Some("finalizers")
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
