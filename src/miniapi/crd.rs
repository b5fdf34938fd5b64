//! CustomResourceDefinitions: a stored definition is served at once. Schemas are kept for clients
//! to read and not enforced.

use serde_json::{Value, json};

use super::object;
use super::patch::keys::Lists;
use super::resources::Resource;
use super::response::MiniStatus;
use super::store::Store;

/// Every served version of every definition in the store.
pub(super) fn resources(store: &Store) -> Vec<Resource> {
    let (_, definitions) = store.list(GROUP, PLURAL, None);
    definitions.iter().flat_map(|definition| versions(definition)).collect()
}

/// Checks a definition that is about to be stored.
pub(super) fn check(definition: &Value) -> Result<(), MiniStatus> {
    let plural = object::text(definition, "/spec/names/plural");
    let group = object::text(definition, "/spec/group");
    let name = object::name(definition);
    let invalid = |why: &str| Err(MiniStatus::invalid("CustomResourceDefinition", name, why));
    if plural.is_empty()
        || group.is_empty()
        || object::text(definition, "/spec/names/kind").is_empty()
    {
        return invalid("spec.group, spec.names.plural and spec.names.kind: Required value");
    }
    if name != format!("{plural}.{group}") {
        return invalid(&format!(
            "metadata.name: must be spec.names.plural+\".\"+spec.group, {plural}.{group}"
        ));
    }
    if definition["spec"]["versions"].as_array().is_none_or(Vec::is_empty) {
        return invalid("spec.versions: Required value");
    }
    Ok(())
}

/// The status that the API server's own controller would write.
pub(super) fn established(definition: &Value) -> Value {
    let mut names = definition["spec"]["names"].clone();
    if !names["singular"].is_string() {
        names["singular"] = object::text(definition, "/spec/names/kind").to_lowercase().into();
    }
    if !names["listKind"].is_string() {
        let kind = object::text(definition, "/spec/names/kind");
        names["listKind"] = format!("{kind}List").into();
    }
    let condition = |kind: &str, reason: &str| {
        json!({
            "type": kind, "status": "True", "reason": reason,
            "message": "", "lastTransitionTime": object::now(),
        })
    };
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let stored: Vec<&Value> =
        versions.filter(|one| one["storage"] == true).map(|one| &one["name"]).collect();
    json!({
        "acceptedNames": names,
        "conditions": [
            condition("NamesAccepted", "NoConflicts"),
            condition("Established", "InitialNamesAccepted"),
        ],
        "storedVersions": stored,
    })
}

fn versions(definition: &Value) -> Vec<Resource> {
    let texts = |pointer: &str| -> Vec<String> {
        let values = definition.pointer(pointer).and_then(Value::as_array);
        let texts = values.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    };
    let kind = object::text(definition, "/spec/names/kind");
    let singular = match object::text(definition, "/spec/names/singular") {
        "" => kind.to_lowercase(),
        singular => singular.to_owned(),
    };
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let served = versions.filter(|version| version["served"] != false);
    served
        .map(|version| Resource {
            group: object::text(definition, "/spec/group").to_owned(),
            version: object::text(version, "/name").to_owned(),
            plural: object::text(definition, "/spec/names/plural").to_owned(),
            singular: singular.clone(),
            kind: kind.to_owned(),
            short: texts("/spec/names/shortNames"),
            categories: texts("/spec/names/categories"),
            namespaced: object::text(definition, "/spec/scope") != "Cluster",
            subresources: match version.pointer("/subresources/status") {
                Some(_) => vec![("status".to_owned(), vec!["get", "patch", "update"])],
                None => Vec::new(),
            },
            review: false,
            custom: true,
            lists: Lists::of_schema(&version["schema"]["openAPIV3Schema"]),
            columns: version["additionalPrinterColumns"].as_array().cloned().unwrap_or_default(),
        })
        .collect()
}

/// Group of CustomResourceDefinitions.
pub(super) const GROUP: &str = "apiextensions.k8s.io";
/// Plural of CustomResourceDefinitions.
pub(super) const PLURAL: &str = "customresourcedefinitions";
