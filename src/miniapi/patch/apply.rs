//! Server-side apply (KEP-555), with field ownership by leaf.

use serde_json::{Map, Value, json};

use super::fields::{self, Paths};
use super::keys::{self, Lists};
use super::owners::{self, Entry, Manager};
use crate::miniapi::object;
use crate::miniapi::resources::Resource;
use crate::miniapi::response::MiniStatus;

/// Merges what `manager` wants into `live`. What it wanted before, does not want any more and
/// nobody else owns is removed. A field that somebody else owns with another value is a conflict
/// (409), or taken over with `force`.
pub(in crate::miniapi) fn apply(
    resource: &Resource,
    live: &Value,
    config: &Value,
    manager: &Manager,
    force: bool,
) -> Result<Value, MiniStatus> {
    if config["metadata"].get("managedFields").is_some_and(|given| !given.is_null()) {
        return Err(MiniStatus::bad_request("metadata.managedFields must be nil"));
    }
    let mut entries = owners::read(live);
    let own =
        entries.iter().position(|entry| entry.manager == *manager && entry.operation == "Apply");
    let wanted = fields::of(config, &resource.lists);
    let mut next = live.clone();
    merge(&mut next, config, "", &resource.lists);
    let conflicts = conflicts(&entries, own, &wanted, live, &next);
    if !conflicts.is_empty() && !force {
        return Err(refusal(&conflicts));
    }
    let disputed: Paths = conflicts.into_iter().map(|(_, path)| path).collect();
    owners::take(&mut entries, &disputed, own);

    let before = own.map(|own| entries[own].paths.clone()).unwrap_or_default();
    let others: Paths = entries
        .iter()
        .enumerate()
        .filter(|(at, _)| Some(*at) != own)
        .flat_map(|(_, entry)| entry.paths.iter().cloned())
        .collect();
    // A list that was empty and is somebody's now has fields below the path that it was owned by.
    let is_owned = |path: &Vec<String>| {
        others.contains(path) || wanted.iter().chain(&others).any(|other| other.starts_with(path))
    };
    for path in before.difference(&wanted).filter(|path| !is_owned(path)) {
        let parent = &path[..path.len() - 1];
        let shared = |paths: &Paths| paths.iter().any(|other| other.starts_with(parent));
        if !owners::is_item(path) || !(shared(&wanted) || shared(&others)) {
            fields::remove(&mut next, path);
        }
    }

    let time = match own {
        Some(own) if entries[own].paths == wanted => entries[own].time.clone(),
        _ => object::now().into(),
    };
    let entry = Entry {
        manager: manager.clone(),
        operation: "Apply".to_owned(),
        version: resource.api_version(),
        time,
        paths: wanted,
    };
    match own {
        Some(own) => entries[own] = entry,
        None => entries.push(entry),
    }
    owners::write(&mut next, &entries);
    Ok(next)
}

fn conflicts(
    entries: &[Entry],
    own: Option<usize>,
    wanted: &Paths,
    live: &Value,
    next: &Value,
) -> Vec<(String, Vec<String>)> {
    let others = entries.iter().enumerate().filter(|(at, _)| Some(*at) != own);
    others
        .flat_map(|(_, entry)| {
            let disputed = entry.paths.intersection(wanted).filter(|path| {
                !owners::is_item(path) && fields::get(live, path) != fields::get(next, path)
            });
            let who = format!("\"{}\" using {}", entry.manager.name, entry.version);
            disputed.map(move |path| (who.clone(), path.clone()))
        })
        .collect()
}

fn refusal(conflicts: &[(String, Vec<String>)]) -> MiniStatus {
    let one = |(who, path): &(String, Vec<String>)| {
        format!("conflict with {who}: {}", fields::text(path))
    };
    let message = match conflicts {
        [only] => format!("Apply failed with 1 conflict: {}", one(only)),
        many => {
            let lines: Vec<String> = many
                .iter()
                .map(|(who, path)| format!("- conflict with {who}: {}", fields::text(path)))
                .collect();
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|(who, path)| {
            json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {who}"),
                "field": fields::text(path),
            })
        })
        .collect();
    let mut status = MiniStatus::new(409, "Conflict", message);
    status.details = json!({ "causes": causes });
    status
}

/// `place` is where both are, by field names.
fn merge(live: &mut Value, config: &Value, place: &str, lists: &Lists) {
    match config {
        Value::Object(fields) => {
            if !live.is_object() {
                *live = Value::Object(Map::new());
            }
            for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                merge(&mut live[name.as_str()], value, &keys::below(place, name), lists);
            }
        }
        Value::Array(items) => {
            let present = live.as_array().into_iter().flatten().cloned().collect::<Vec<_>>();
            let all: Vec<&Value> = present.iter().chain(items).collect();
            let keys = lists.keys(place, &all);
            let set = keys::is_set(place);
            match live.as_array_mut() {
                Some(current) if keys.is_some() || set => {
                    for item in items {
                        let same = |one: &&mut Value| match &keys {
                            Some(keys) => keys::same(one, item, keys),
                            None => **one == *item,
                        };
                        match current.iter_mut().find(same) {
                            Some(one) => merge(one, item, place, lists),
                            None => current.push(item.clone()),
                        }
                    }
                }
                _ => *live = config.clone(),
            }
        }
        other => *live = other.clone(),
    }
}

#[cfg(test)]
mod tests;
