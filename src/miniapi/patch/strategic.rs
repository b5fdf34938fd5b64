//! Strategic merge patch: a merge patch that merges some lists item by item.

use serde_json::{Map, Value};

use super::keys;
use crate::miniapi::response::MiniStatus;

/// Merges `patch` into `object`, following its directives.
pub(in crate::miniapi) fn patch(object: &mut Value, patch: &Value) -> Result<(), MiniStatus> {
    let Value::Object(fields) = patch else {
        return Err(MiniStatus::bad_request("a strategic merge patch is an object"));
    };
    merge_map(object, fields)
}

fn merge_map(object: &mut Value, fields: &Map<String, Value>) -> Result<(), MiniStatus> {
    match fields.get("$patch").map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("delete") => {
            *object = Value::Object(Map::new());
            return Ok(());
        }
        Some("replace") => *object = Value::Object(Map::new()),
        Some(other) => {
            let message =
                format!("unknown $patch directive {other:?}: use delete, replace or merge");
            return Err(MiniStatus::bad_request(message));
        }
    }
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let target = object.as_object_mut().expect("it was made an object just above");
    if let Some(kept) = fields.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|field, _| kept.iter().any(|one| one == field));
    }
    for (field, value) in fields {
        if let Some(field) = field.strip_prefix("$deleteFromPrimitiveList/") {
            let list = target.get_mut(field).and_then(Value::as_array_mut);
            let gone = value.as_array().cloned().unwrap_or_default();
            if let Some(list) = list {
                list.retain(|item| !gone.contains(item));
            }
        } else if field.starts_with('$') {
            // The order of elements is the order of the merge here; the others were read above.
        } else {
            merge_field(target, field, value)?;
        }
    }
    Ok(())
}

fn merge_field(
    target: &mut Map<String, Value>,
    field: &str,
    value: &Value,
) -> Result<(), MiniStatus> {
    match value {
        Value::Null => drop(target.remove(field)),
        Value::Object(fields) => {
            merge_map(target.entry(field).or_insert(Value::Null), fields)?;
        }
        Value::Array(items) => {
            let list = target.entry(field).or_insert_with(|| Value::Array(Vec::new()));
            merge_list(list, field, items)?;
        }
        other => drop(target.insert(field.to_owned(), other.clone())),
    }
    Ok(())
}

fn merge_list(list: &mut Value, field: &str, items: &[Value]) -> Result<(), MiniStatus> {
    let directive = |item: &Value| item["$patch"].as_str().map(str::to_owned);
    let replace = items.iter().any(|item| {
        directive(item).as_deref() == Some("replace")
            && item.as_object().is_some_and(|item| item.len() == 1)
    });
    let items: Vec<&Value> = items
        .iter()
        .filter(|item| !(replace && directive(item).as_deref() == Some("replace")))
        .collect();
    let keys = keys::of(field, &items);
    let current = list.as_array_mut().filter(|_| !replace);
    match (current, keys) {
        (Some(current), Some(keys)) => {
            // The first key decides, as the API's patchMergeKey is always a single field.
            let key = &keys[..1];
            for item in items {
                let found = current.iter().position(|one| keys::same(one, item, key));
                match (directive(item).as_deref(), found) {
                    (Some("delete"), Some(at)) => drop(current.remove(at)),
                    (Some("delete"), None) => {}
                    (_, Some(at)) => patch(&mut current[at], item)?,
                    (_, None) => current.push(without_directives(item)?),
                }
            }
        }
        (Some(current), None) if keys::is_set(field) => {
            for item in items {
                if !current.contains(item) {
                    current.push(item.clone());
                }
            }
        }
        _ => {
            let items = items.into_iter().map(without_directives);
            *list = Value::Array(items.collect::<Result<_, _>>()?);
        }
    }
    Ok(())
}

fn without_directives(item: &Value) -> Result<Value, MiniStatus> {
    if !item.is_object() {
        return Ok(item.clone());
    }
    let mut whole = Value::Object(Map::new());
    patch(&mut whole, item)?;
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(object: Value, by: Value) -> Value {
        let mut object = object;
        patch(&mut object, &by).unwrap();
        object
    }

    #[test]
    fn lists_merge_by_their_key() {
        let object = json!({"spec": {"containers": [
            {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]},
            {"name": "b", "image": "1"}]}});
        let by = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [
            {"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]},
            {"name": "b", "$patch": "delete"}, {"name": "c", "image": "3"}]}});
        assert_eq!(
            patched(object, by),
            json!({"spec": {"containers": [
                {"name": "a", "image": "2", "env": [
                    {"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
                {"name": "c", "image": "3"}]}})
        );
    }

    #[test]
    fn other_lists_are_replaced() {
        let object = json!({"spec": {"args": ["a", "b"]}, "metadata": {"finalizers": ["x"]}});
        let by = json!({"spec": {"args": ["c"]}, "metadata": {"finalizers": ["y"]}});
        assert_eq!(
            patched(object, by),
            json!({"spec": {"args": ["c"]}, "metadata": {"finalizers": ["x", "y"]}})
        );
    }

    #[test]
    fn directives() {
        let object = || json!({"m": {"a": 1, "b": 2}, "l": ["x", "y"], "volumes": [{"name": "v"}]});
        assert_eq!(
            patched(object(), json!({"m": {"$patch": "replace", "c": 3}}))["m"],
            json!({"c": 3})
        );
        assert_eq!(
            patched(object(), json!({"m": {"$retainKeys": ["a"], "a": 5}}))["m"],
            json!({"a": 5})
        );
        assert_eq!(
            patched(object(), json!({"$deleteFromPrimitiveList/l": ["x"]}))["l"],
            json!(["y"])
        );
        assert_eq!(
            patched(object(), json!({"volumes": [{"$patch": "replace"}, {"name": "w"}]}))["volumes"],
            json!([{"name": "w"}])
        );
        let mut object = object();
        assert_eq!(patch(&mut object, &json!({"m": {"$patch": "burn"}})).unwrap_err().code, 400);
    }
}
