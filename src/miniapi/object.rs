//! The metadata rules that hold for every object.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::store::Key;

/// A text at a JSON pointer, empty when it is missing.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The object's name.
pub(super) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// The object's namespace, empty when it has none.
pub(super) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// The object's uid.
pub(super) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// Now, as Kubernetes writes times (whole seconds, UTC).
pub(super) fn now() -> String {
    let now = OffsetDateTime::now_utc();
    // Replacing nanoseconds by zero is always in range, and a current year always formats.
    now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}

/// `metadata`, made when it is missing or no object.
pub(super) fn metadata(object: &mut Value) -> &mut serde_json::Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"].as_object_mut().expect("it was made an object just above")
}

/// Fills in what a server fills in at creation.
pub(super) fn stamp_new(object: &mut Value, key: &Key) {
    let has_spec = object.get("spec").is_some();
    let metadata = metadata(object);
    metadata.insert("name".to_owned(), key.name.clone().into());
    if key.namespace.is_empty() {
        metadata.remove("namespace");
    } else {
        metadata.insert("namespace".to_owned(), key.namespace.clone().into());
    }
    for dropped in ["resourceVersion", "deletionTimestamp", "selfLink", "generation"] {
        metadata.remove(dropped);
    }
    if has_spec {
        metadata.insert("generation".to_owned(), 1.into());
    }
    metadata.insert("creationTimestamp".to_owned(), now().into());
    let uid = metadata.entry("uid").or_insert(Value::Null);
    if !uid.is_string() {
        *uid = Uuid::new_v4().to_string().into();
    }
}

/// What no update may change comes from the current object.
pub(super) fn keep_identity(next: &mut Value, current: &Value) {
    for field in ["apiVersion", "kind"] {
        if next.get(field).is_none() {
            next[field] = current[field].clone();
        }
    }
    let metadata = metadata(next);
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
    ] {
        match current["metadata"].get(field) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
}

/// Whether anything holds the object.
pub(super) fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|held| !held.is_empty())
}

/// Whether somebody deleted the object already.
pub(super) fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Whether the object was only waiting for finalizers that are gone.
pub(super) fn is_released(object: &Value) -> bool {
    is_deleting(object) && !has_finalizers(object)
}

/// Marks the object as deleted while finalizers hold it.
pub(super) fn mark_deleted(object: &mut Value) {
    let metadata = metadata(object);
    metadata.insert("deletionTimestamp".to_owned(), now().into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), 0.into());
}

/// Equal, apart from the times in `managedFields`.
pub(super) fn same_but_times(a: &Value, b: &Value) -> bool {
    let untimed = |object: &Value| {
        let mut object = object.clone();
        let entries = object.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten() {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
        object
    };
    a == b || untimed(a) == untimed(b)
}

/// Counts `generation` up when anything but metadata and status changed.
pub(super) fn count_generation(next: &mut Value, current: &Value) {
    let desired = |object: &Value| {
        let mut object = object.clone();
        if let Some(object) = object.as_object_mut() {
            object.remove("metadata");
            object.remove("status");
        }
        object
    };
    if let Some(generation) = current["metadata"]["generation"].as_u64()
        && desired(next) != desired(current)
    {
        metadata(next).insert("generation".to_owned(), (generation + 1).into());
    }
}

/// Writes `metadata.resourceVersion`.
pub(super) fn set_revision(object: &mut Value, revision: u64) {
    metadata(object).insert("resourceVersion".to_owned(), revision.to_string().into());
}
