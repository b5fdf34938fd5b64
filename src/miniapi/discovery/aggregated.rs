//! Aggregated discovery: every group, version and resource in one document, for clients that ask
//! for it (`apidiscovery.k8s.io/v2`).

use http::{HeaderMap, header};
use serde_json::{Value, json};

use super::{resource_list, versions_by_group};
use crate::miniapi::store::Store;

/// The media type of the document.
pub(in crate::miniapi) const MEDIA_TYPE: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Whether the first media type of `Accept` that we can serve is [`MEDIA_TYPE`].
pub(in crate::miniapi) fn is_wanted(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    for media_type in accept.unwrap_or_default().split(',') {
        let mut parts = media_type.split(';').map(str::trim);
        if parts.next() != Some("application/json") {
            continue;
        }
        let parameters: Vec<&str> = parts.collect();
        let group = parameters.iter().find_map(|one| one.strip_prefix("g="));
        match group {
            None => return false,
            Some("apidiscovery.k8s.io")
                if parameters.contains(&"v=v2")
                    && parameters.contains(&"as=APIGroupDiscoveryList") =>
            {
                return true;
            }
            // Another version of it: the client goes on to what it likes less.
            Some(_) => {}
        }
    }
    false
}

/// `/api`, aggregated.
pub(in crate::miniapi) fn core(store: &Store) -> Value {
    list(vec![group(store, "", &["v1".to_owned()])])
}

/// `/apis`, aggregated.
pub(in crate::miniapi) fn groups(store: &Store) -> Value {
    let groups = versions_by_group(store);
    list(groups.iter().map(|(name, versions)| group(store, name, versions)).collect())
}

fn list(items: Vec<Value>) -> Value {
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {}, "items": items,
    })
}

fn group(store: &Store, name: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            let listed = resource_list(store, name, version).unwrap_or_default();
            json!({
                "version": version,
                "freshness": "Current",
                "resources": nested(name, version, &listed["resources"]),
            })
        })
        .collect();
    let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
    json!({"metadata": metadata, "versions": versions})
}

/// The flat list of resources and `resource/subresource` entries as a tree.
fn nested(group: &str, version: &str, flat: &Value) -> Vec<Value> {
    let mut tree: Vec<Value> = Vec::new();
    for entry in flat.as_array().into_iter().flatten() {
        let own = |field: &str, usual: &str| match &entry[field] {
            Value::Null => usual.into(),
            said => said.clone(),
        };
        let kind = json!({
            "group": own("group", group), "version": own("version", version),
            "kind": entry["kind"],
        });
        let name = entry["name"].as_str().unwrap_or_default();
        match (name.split_once('/'), tree.last_mut()) {
            // A subresource follows its resource in the flat list.
            (Some((_, below)), Some(parent)) => {
                let below =
                    json!({"subresource": below, "responseKind": kind, "verbs": entry["verbs"]});
                match parent["subresources"].as_array_mut() {
                    Some(others) => others.push(below),
                    None => parent["subresources"] = json!([below]),
                }
            }
            _ => {
                let namespaced = entry["namespaced"] == true;
                let mut resource = json!({
                    "resource": name, "responseKind": kind,
                    "scope": if namespaced { "Namespaced" } else { "Cluster" },
                    "singularResource": entry["singularName"], "verbs": entry["verbs"],
                });
                for field in ["shortNames", "categories"] {
                    if !entry[field].is_null() {
                        resource[field] = entry[field].clone();
                    }
                }
                tree.push(resource);
            }
        }
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::miniapi::resources;

    fn wanted(accept: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        is_wanted(&headers)
    }

    #[test]
    fn only_who_asks_gets_it() {
        assert!(wanted(MEDIA_TYPE));
        assert!(wanted(&format!("{MEDIA_TYPE},application/json")));
        let older = MEDIA_TYPE.replace("v=v2", "v=v2beta1");
        assert!(!wanted(&format!("{older},application/json")));
        assert!(wanted(&format!("{older}, {MEDIA_TYPE}")));
        assert!(!wanted(&format!("application/json,{MEDIA_TYPE}")));
        assert!(!wanted("application/json") && !is_wanted(&HeaderMap::new()));
    }

    /// The flat list that a client makes of one version of the tree.
    fn flat(group: &str, version: &Value) -> Vec<Value> {
        let mut flat = Vec::new();
        for resource in version["resources"].as_array().unwrap() {
            let namespaced = resource["scope"] == "Namespaced";
            let mut main = json!({
                "name": resource["resource"], "singularName": resource["singularResource"],
                "namespaced": namespaced, "kind": resource["responseKind"]["kind"],
                "verbs": resource["verbs"],
            });
            for field in ["shortNames", "categories"] {
                if !resource[field].is_null() {
                    main[field] = resource[field].clone();
                }
            }
            assert_eq!(resource["responseKind"]["group"], group);
            flat.push(main);
            for below in resource["subresources"].as_array().into_iter().flatten() {
                let name = resource["resource"].as_str().unwrap();
                let kind = &below["responseKind"];
                let mut entry = json!({
                    "name": format!("{name}/{}", below["subresource"].as_str().unwrap()),
                    "singularName": "", "namespaced": namespaced,
                    "kind": kind["kind"], "verbs": below["verbs"],
                });
                if kind["group"] != group {
                    entry["group"] = kind["group"].clone();
                    entry["version"] = kind["version"].clone();
                }
                flat.push(entry);
            }
        }
        flat
    }

    #[test]
    fn it_says_what_the_single_lists_say() {
        let store = Store::new(16);
        let mut seen = Vec::new();
        for document in [core(&store), groups(&store)] {
            for group in document["items"].as_array().unwrap() {
                let name = group["metadata"]["name"].as_str().unwrap_or_default();
                for version in group["versions"].as_array().unwrap() {
                    let number = version["version"].as_str().unwrap();
                    let listed = resource_list(&store, name, number).unwrap();
                    assert_eq!(json!(flat(name, version)), listed["resources"], "{name}/{number}");
                    seen.push(resources::group_version(name, number));
                }
            }
        }
        let mut all: Vec<String> =
            resources::all(&store).iter().map(|one| one.api_version()).collect();
        seen.sort();
        all.sort();
        all.dedup();
        assert_eq!(seen, all);
    }
}
