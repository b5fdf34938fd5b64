//! Who took back what we wrote, in words for an operator. Pure.

use kube::core::DynamicObject;
use serde_json::Value;

use super::api::{FIELD_MANAGER, PROVIDERS, status_list};
use super::desired::{Claims, counterpart};

/// What stands where our entry should, and who has written to the status.
pub(super) fn describe(profile: &DynamicObject, claims: &Claims) -> String {
    let providers = status_list(profile, PROVIDERS);
    let disputed = claims.entries.iter().find_map(|claim| {
        let found = counterpart(providers, claim, "name");
        (found != Some(claim)).then_some((&claim["name"], found))
    });
    let what = match disputed {
        Some((name, Some(found))) => {
            format!("entry {name} leads to {}", short(&found["cluster"]["server"]))
        }
        Some((name, None)) => format!("entry {name} is removed again and again"),
        None => "our condition is changed again and again".to_owned(),
    };
    let mut writers: Vec<&str> = profile
        .metadata
        .managed_fields
        .iter()
        .flatten()
        .filter(|entry| entry.subresource.as_deref() == Some("status"))
        .filter_map(|entry| entry.manager.as_deref())
        .filter(|manager| *manager != FIELD_MANAGER)
        .collect();
    writers.sort_unstable();
    writers.dedup();
    match writers.as_slice() {
        [] => what,
        writers => format!("{what}; others that write to its status: {}", writers.join(", ")),
    }
}

/// Anybody may have written it, and of any length.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Characters of a foreign text.
const MAX_TEXT: usize = 200;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::inventory::api;

    #[test]
    fn what_and_who() {
        let mut profile = DynamicObject::new("p", &api::resource("v1alpha1"));
        let ours = json!({"name": "ours", "cluster": {"server": "https://us/c1"}});
        let claims = Claims { entries: vec![ours], condition: None };
        assert!(describe(&profile, &claims).contains("entry \"ours\" is removed"));
        let server = format!("https://them/{}", "x".repeat(1000));
        profile.data = json!({"status": {"accessProviders": [
            {"name": "ours", "cluster": {"server": server}}]}});
        let written = json!([
            {"manager": "them", "operation": "Update", "subresource": "status"},
            {"manager": "cluster-proxy", "operation": "Update", "subresource": "status"},
            {"manager": "kubectl", "operation": "Update"},
        ]);
        profile.metadata.managed_fields = serde_json::from_value(written).unwrap();
        let said = describe(&profile, &claims);
        assert!(said.starts_with("entry \"ours\" leads to \"https://them/xx"), "{said}");
        assert!(said.ends_with("...; others that write to its status: them"), "{said}");
        assert!(said.len() < 300, "{said}");
    }
}
