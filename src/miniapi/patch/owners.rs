//! `managedFields`: which manager wrote which field.

use http::{HeaderMap, header};
use serde_json::{Value, json};

use super::fields::{self, Paths};
use crate::miniapi::object;
use crate::miniapi::query::Query;
use crate::miniapi::resources::Resource;

/// Who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::miniapi) struct Manager {
    /// `fieldManager`, or the program's name from `User-Agent`.
    pub(super) name: String,
    /// The subresource written through, empty for the object itself.
    pub(super) subresource: String,
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: Manager,
    pub(super) operation: String,
    pub(super) version: String,
    pub(super) time: Value,
    pub(super) paths: Paths,
}

// === impl Manager ===

impl Manager {
    /// Reads the request.
    pub(in crate::miniapi) fn of(query: &Query, headers: &HeaderMap, subresource: &str) -> Self {
        let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        let program = agent.and_then(|agent| agent.split('/').next()).unwrap_or("unknown");
        Self {
            name: query.get("fieldManager").unwrap_or(program).to_owned(),
            subresource: subresource.to_owned(),
        }
    }
}

/// Notes in `next` that `manager` wrote what differs from `current`, with anything but apply.
pub(in crate::miniapi) fn updated(
    resource: &Resource,
    current: Option<&Value>,
    next: &mut Value,
    manager: &Manager,
) {
    let cleared = match &next["metadata"]["managedFields"] {
        Value::Array(given) => given.is_empty() || given == &[json!({})],
        _ => false,
    };
    let mut entries = match current {
        Some(current) if !cleared => read(current),
        _ => Vec::new(),
    };
    let now = fields::of(next, &resource.lists);
    let mut changed: Paths = match current {
        Some(current) => {
            let differs =
                |path: &&Vec<String>| fields::get(current, path) != fields::get(next, path);
            now.iter()
                .filter(differs)
                .filter(|path| !is_item(path) || fields::get(current, path).is_none())
                .cloned()
                .collect()
        }
        None => now.clone(),
    };
    if resource.has("status") && manager.subresource != "status" {
        // The first status of an object is the server's.
        changed.retain(|path| path.first().is_none_or(|step| step != "f:status"));
    }
    if !changed.is_empty() && !cleared {
        take(&mut entries, &changed, None);
        let found = entries
            .iter_mut()
            .find(|entry| entry.manager == *manager && entry.operation == "Update");
        match found {
            Some(entry) => {
                entry.paths.extend(changed);
                entry.time = object::now().into();
                entry.version = resource.api_version();
            }
            None => entries.push(Entry {
                manager: manager.clone(),
                operation: "Update".to_owned(),
                version: resource.api_version(),
                time: object::now().into(),
                paths: changed,
            }),
        }
    }
    for entry in &mut entries {
        entry.paths.retain(|path| now.contains(path) || fields::get(next, path).is_some());
    }
    write(next, &entries);
}

/// Takes paths away from every entry but the one at `keeper`.
pub(super) fn take(entries: &mut [Entry], paths: &Paths, keeper: Option<usize>) {
    for (at, entry) in entries.iter_mut().enumerate() {
        if Some(at) != keeper {
            entry.paths.retain(|path| !paths.contains(path) || is_item(path));
        }
    }
}

/// Whether the path is an item itself: any number of managers may want it to exist.
pub(super) fn is_item(path: &[String]) -> bool {
    path.last().is_some_and(|step| step == ".")
}

/// The entries of an object.
pub(super) fn read(object: &Value) -> Vec<Entry> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries
        .map(|entry| {
            let text = |pointer| object::text(entry, pointer).to_owned();
            Entry {
                manager: Manager { name: text("/manager"), subresource: text("/subresource") },
                operation: text("/operation"),
                version: text("/apiVersion"),
                time: entry["time"].clone(),
                paths: fields::parse(&entry["fieldsV1"]),
            }
        })
        .collect()
}

/// Writes the entries that still own something.
pub(super) fn write(object: &mut Value, entries: &[Entry]) {
    let entries = entries.iter().filter(|entry| !entry.paths.is_empty());
    let entries: Vec<Value> = entries
        .map(|entry| {
            let mut value = json!({
                "manager": entry.manager.name,
                "operation": entry.operation,
                "apiVersion": entry.version,
                "time": entry.time,
                "fieldsType": "FieldsV1",
                "fieldsV1": fields::tree(&entry.paths),
            });
            if !entry.manager.subresource.is_empty() {
                value["subresource"] = entry.manager.subresource.clone().into();
            }
            value
        })
        .collect();
    let metadata = object::metadata(object);
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), entries.into());
    }
}
