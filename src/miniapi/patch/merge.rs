//! JSON merge patch (RFC 7386).

use serde_json::{Map, Value};

/// Merges `patch` into `object`: null removes, lists are replaced.
pub(in crate::miniapi) fn patch(object: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    for (field, value) in fields {
        if !value.is_null() {
            self::patch(&mut object[field.as_str()], value);
        } else if let Some(object) = object.as_object_mut() {
            object.remove(field);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merges() {
        let mut object = json!({"a": {"x": 1, "y": 2}, "l": [1, 2], "s": "t"});
        patch(
            &mut object,
            &json!({"a": {"x": null, "z": {"n": null, "k": 1}}, "l": [3], "s": {"m": 1}}),
        );
        assert_eq!(object, json!({"a": {"y": 2, "z": {"k": 1}}, "l": [3], "s": {"m": 1}}));
    }
}
