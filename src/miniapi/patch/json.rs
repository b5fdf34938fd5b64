//! JSON patch (RFC 6902).

use serde_json::Value;

use crate::miniapi::response::MiniStatus;

/// Applies all operations or none.
pub(in crate::miniapi) fn patch(object: &mut Value, patch: &Value) -> Result<(), MiniStatus> {
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| MiniStatus::bad_request(format!("error decoding patch: {error}")))?;
    if operations.len() > MOST_OPERATIONS {
        let message = format!("a JSON patch has at most {MOST_OPERATIONS} operations");
        return Err(MiniStatus::new(413, "RequestEntityTooLarge", message));
    }
    json_patch::patch(object, &operations).map_err(|error| {
        let message =
            format!("the server rejected our request due to an error in our request: {error}");
        MiniStatus::new(422, "Invalid", message)
    })
}

/// What kube-apiserver allows.
const MOST_OPERATIONS: usize = 10_000;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_or_nothing() {
        let mut object = json!({"a": [1, 2]});
        let good = json!([
            {"op": "test", "path": "/a/0", "value": 1},
            {"op": "add", "path": "/a/-", "value": 3},
            {"op": "remove", "path": "/a/0"},
        ]);
        patch(&mut object, &good).unwrap();
        assert_eq!(object, json!({"a": [2, 3]}));
        let bad = json!([
            {"op": "add", "path": "/b", "value": 1},
            {"op": "test", "path": "/a/0", "value": 1},
        ]);
        assert_eq!(patch(&mut object, &bad).unwrap_err().code, 422);
        assert_eq!(object, json!({"a": [2, 3]}));
        assert_eq!(patch(&mut object, &json!({})).unwrap_err().code, 400);
    }
}
