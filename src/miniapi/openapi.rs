//! OpenAPI v3, as little as kubectl needs: which kinds take `fieldValidation` and which patches.
//!
//! No schema says how lists merge, and no strategic merge patch is announced: kubectl then uses
//! what it knows of the built-in kinds itself.

use serde_json::{Map, Value, json};

use super::discovery;
use super::resources::{self, Resource};
use super::store::Store;

/// `/openapi/v3`.
pub(super) fn index(store: &Store) -> Value {
    let mut paths = Map::new();
    let mut add = |path: String| {
        let url = format!("/openapi/v3/{path}");
        paths.insert(path, json!({ "serverRelativeURL": url }));
    };
    add("api/v1".to_owned());
    for (group, versions) in discovery::versions_by_group(store) {
        versions.iter().for_each(|version| add(format!("apis/{group}/{version}")));
    }
    json!({ "paths": paths })
}

/// `/openapi/v3/api/v1` and `/openapi/v3/apis/GROUP/VERSION`: `path` is what follows `v3/`.
pub(super) fn document(store: &Store, path: &str) -> Option<Value> {
    let (group, version) = match path {
        "api/v1" => ("", "v1"),
        path => path.strip_prefix("apis/")?.split_once('/')?,
    };
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in resources::all(store) {
        if resource.group == group && resource.version == version {
            describe(&resource, &mut paths, &mut schemas);
        }
    }
    if paths.is_empty() {
        return None;
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": discovery::VERSION},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

fn describe(resource: &Resource, paths: &mut Map<String, Value>, schemas: &mut Map<String, Value>) {
    let kind = json!({
        "group": resource.group, "version": resource.version, "kind": resource.kind,
    });
    let root = if resource.group.is_empty() { "api" } else { "apis" };
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("/{root}/{}{scope}/{}", resource.api_version(), resource.plural);
    let schema =
        format!("{}.{}.{}", schema_group(&resource.group), resource.version, resource.kind);
    let reference = json!({"schema": {"$ref": format!("#/components/schemas/{schema}")}});
    let operation = |action: &str, content: Value| {
        json!({
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind,
            "parameters": QUERY_PARAMETERS.map(|name| json!({
                "name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true},
            })),
            "requestBody": {"content": content},
            "responses": {"200": {"description": "OK"}},
        })
    };
    let post = operation("post", json!({ "application/json": reference }));
    paths.insert(collection.clone(), json!({ "post": post }));
    if !resource.review {
        let patches: Map<String, Value> =
            PATCHES.iter().map(|name| ((*name).to_owned(), reference.clone())).collect();
        let item = json!({
            "put": operation("put", json!({ "application/json": reference })),
            "patch": operation("patch", Value::Object(patches)),
        });
        paths.insert(format!("{collection}/{{name}}"), item);
    }
    schemas.insert(
        schema,
        json!({"type": "object", "x-kubernetes-group-version-kind": [kind],
            "description": "The in-memory API knows no fields of its kinds: \
                ask a real cluster to explain them.",
            "x-kubernetes-preserve-unknown-fields": true}),
    );
}

fn schema_group(group: &str) -> String {
    if group.is_empty() {
        return "io.k8s.api.core".to_owned();
    }
    group.rsplit('.').collect::<Vec<_>>().join(".")
}

const QUERY_PARAMETERS: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];

const PATCHES: [&str; 3] =
    ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];
