//! Sets of fields as `managedFields` writes them (`fieldsV1`).
//!
//! A path is the list of steps down to a leaf: `f:NAME` for a field, `k:{...}` for the item of a
//! list with those keys, `v:"..."` for a member of a set, `.` for an item itself.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::keys::{self, Lists};

/// Leaf paths.
pub(super) type Paths = BTreeSet<Vec<String>>;

/// All fields of an object, apart from those that only the server writes.
pub(super) fn of(object: &Value, lists: &Lists) -> Paths {
    let mut paths = Paths::new();
    collect(object, "", lists, &mut Vec::new(), &mut paths);
    paths.retain(|path| !is_server_owned(path));
    paths
}

/// Reads `fieldsV1`.
pub(super) fn parse(tree: &Value) -> Paths {
    let mut paths = Paths::new();
    let mut pending = vec![(Vec::new(), tree)];
    while let Some((path, tree)) = pending.pop() {
        match tree.as_object().filter(|children| !children.is_empty()) {
            Some(children) => pending.extend(children.iter().map(|(step, child)| {
                let mut path = path.clone();
                path.push(step.clone());
                (path, child)
            })),
            None if path.is_empty() => {}
            None => drop(paths.insert(path)),
        }
    }
    paths
}

/// Writes `fieldsV1`.
pub(super) fn tree(paths: &Paths) -> Value {
    let mut root = Value::Object(Map::new());
    for path in paths {
        let mut node = &mut root;
        for step in path {
            if !node[step.as_str()].is_object() {
                node[step.as_str()] = Value::Object(Map::new());
            }
            node = &mut node[step.as_str()];
        }
    }
    root
}

/// What is at a path.
pub(super) fn get<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, step| child(value, step))
}

/// Removes what is at a path, and the maps and lists that are empty after that.
pub(super) fn remove(object: &mut Value, path: &[String]) {
    let Some((step, rest)) = path.split_first() else { return };
    let whole_item = rest.len() == 1 && rest[0] == ".";
    if rest.is_empty() || whole_item {
        match (object, position(step)) {
            (Value::Object(fields), Step::Field(name)) => drop(fields.remove(name)),
            (Value::Array(items), _) => items.retain(|item| !is_item(item, step)),
            _ => {}
        }
        return;
    }
    let inner = match (&mut *object, position(step)) {
        (Value::Object(fields), Step::Field(name)) => fields.get_mut(name),
        (Value::Array(items), _) => items.iter_mut().find(|item| is_item(item, step)),
        _ => None,
    };
    let Some(inner) = inner else { return };
    remove(inner, rest);
    let empty = match inner {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    if empty && let (Value::Object(fields), Step::Field(name)) = (object, position(step)) {
        fields.remove(name);
    }
}

/// A path as messages write it: `.spec.containers[name="a"].image`.
pub(super) fn text(path: &[String]) -> String {
    path.iter()
        .map(|step| match position(step) {
            Step::Field(name) => format!(".{name}"),
            Step::Keys(keys) => {
                let keys = keys.iter().map(|(key, value)| format!("{key}={value}"));
                format!("[{}]", keys.collect::<Vec<_>>().join(","))
            }
            Step::Member(value) => format!("[={value}]"),
            Step::Itself => String::new(),
        })
        .collect()
}

enum Step<'a> {
    Field(&'a str),
    Keys(Map<String, Value>),
    Member(Value),
    Itself,
}

fn position(step: &str) -> Step<'_> {
    if let Some(name) = step.strip_prefix("f:") {
        return Step::Field(name);
    }
    let parsed = step.get(2..).and_then(|text| serde_json::from_str(text).ok());
    match (step.get(..2), parsed) {
        (Some("k:"), Some(Value::Object(keys))) => Step::Keys(keys),
        (Some("v:"), Some(value)) => Step::Member(value),
        _ => Step::Itself,
    }
}

fn child<'a>(value: &'a Value, step: &str) -> Option<&'a Value> {
    match position(step) {
        Step::Field(name) => value.get(name),
        Step::Itself => Some(value),
        _ => value.as_array()?.iter().find(|item| is_item(item, step)),
    }
}

fn is_item(item: &Value, step: &str) -> bool {
    match position(step) {
        Step::Keys(keys) => keys.iter().all(|(key, value)| keys::value(item, key) == *value),
        Step::Member(value) => *item == value,
        _ => false,
    }
}

/// `place` is the path by field names alone.
fn collect(value: &Value, place: &str, lists: &Lists, path: &mut Vec<String>, paths: &mut Paths) {
    let mut below = |step: String, value: &Value, place: &str| {
        path.push(step);
        collect(value, place, lists, path, paths);
        path.pop();
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                below(format!("f:{name}"), value, &keys::below(place, name));
            }
            return;
        }
        Value::Array(items) if keys::is_set(place) => {
            for item in items {
                below(format!("v:{item}"), &Value::Null, "");
            }
            if !items.is_empty() {
                return;
            }
        }
        Value::Array(items) => {
            let all: Vec<&Value> = items.iter().collect();
            if let Some(names) = lists.keys(place, &all) {
                for item in items {
                    let keys: Map<String, Value> = names
                        .iter()
                        .map(|name| ((*name).to_owned(), keys::value(item, name)))
                        .collect();
                    let step = format!("k:{}", Value::Object(keys));
                    path.push(step);
                    path.push(".".to_owned());
                    paths.insert(path.clone());
                    path.pop();
                    collect(item, place, lists, path, paths);
                    path.pop();
                }
                return;
            }
        }
        _ => {}
    }
    if !path.is_empty() {
        paths.insert(path.clone());
    }
}

fn is_server_owned(path: &[String]) -> bool {
    match path {
        [first] => SERVER_OWNED_ROOT.contains(&first.as_str()),
        [first, second, ..] if first == "f:metadata" => {
            SERVER_OWNED_METADATA.contains(&second.as_str())
        }
        _ => false,
    }
}

const SERVER_OWNED_ROOT: [&str; 3] = ["f:apiVersion", "f:kind", "f:metadata"];

const SERVER_OWNED_METADATA: [&str; 11] = [
    "f:creationTimestamp",
    "f:deletionGracePeriodSeconds",
    "f:deletionTimestamp",
    "f:generateName",
    "f:generation",
    "f:managedFields",
    "f:name",
    "f:namespace",
    "f:resourceVersion",
    "f:selfLink",
    "f:uid",
];
