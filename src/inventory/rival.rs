//! Who took back what we wrote, in words for an operator. Pure.

use kube::core::DynamicObject;
use serde_json::Value;

use super::api::{PROVIDERS, status_list};
use super::desired::{Claims, counterpart};
use crate::kubernetes::FIELD_MANAGER;

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
    let said = match writers.as_slice() {
        [] => what,
        writers => format!("{what}; others that write to its status: {}", writers.join(", ")),
    };
    cut(said, MAX_BYTES)
}

/// Anybody may have written it, and of any length.
fn short(value: &Value) -> String {
    cut(value.to_string(), MAX_TEXT)
}

/// `text` with `max` bytes at most, before dots where it had more.
fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push_str("...");
    }
    text
}

/// Bytes of a foreign text.
const MAX_TEXT: usize = 200;

/// Bytes of all. The note of an Event may have 1024.
const MAX_BYTES: usize = 900;

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

    #[test]
    fn an_event_can_hold_it() {
        let mut profile = DynamicObject::new("p", &api::resource("v1alpha1"));
        let writers = (0..200).map(|number| {
            json!({"manager": format!("{number}-{}", "\u{e9}".repeat(100)), "subresource": "status"})
        });
        let writers: Vec<_> = writers.collect();
        profile.metadata.managed_fields = serde_json::from_value(json!(writers)).unwrap();
        let said = describe(&profile, &Claims::default());
        assert!((800..1000).contains(&said.len()) && said.ends_with("..."), "{said}");
    }
}
