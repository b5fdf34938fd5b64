//! How an answer shows objects: whole, as a Table for kubectl, or their metadata only.

use std::sync::Arc;

use http::{HeaderMap, header};
use serde_json::{Value, json};

use super::query::Query;
use super::resources::Resource;
use super::table::{self, Include};

/// What the client asked for in `Accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// Whole objects.
    Plain,
    /// `as=Table` of `meta.k8s.io/v1`.
    Table(Include),
    /// `as=PartialObjectMetadata` and its list.
    Metadata,
}

// === impl View ===

impl View {
    /// Reads the first media type that we can serve.
    pub(super) fn of(headers: &HeaderMap, query: &Query) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        for media_type in accept.unwrap_or_default().split(',') {
            let mut parts = media_type.split(';').map(str::trim);
            if parts.next() != Some("application/json") {
                continue;
            }
            let parameters: Vec<&str> = parts.collect();
            let has = |wanted: &str| parameters.contains(&wanted);
            if has("as=Table") && has("v=v1") {
                return Self::Table(Include::from_query(query));
            }
            if has("as=PartialObjectMetadata") || has("as=PartialObjectMetadataList") {
                return Self::Metadata;
            }
            return Self::Plain;
        }
        Self::Plain
    }

    /// One object.
    pub(super) fn one(self, resource: &Resource, object: &Value) -> Value {
        let object = in_version(resource, object);
        match self {
            Self::Plain => object,
            Self::Table(include) => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                table::table(resource, std::slice::from_ref(&object), metadata, include)
            }
            Self::Metadata => metadata_only(&object),
        }
    }

    /// A list of objects, with its own metadata.
    pub(super) fn list(
        self,
        resource: &Resource,
        objects: &[Arc<Value>],
        metadata: Value,
    ) -> Value {
        let items: Vec<Value> = objects.iter().map(|object| in_version(resource, object)).collect();
        match self {
            Self::Plain => json!({
                "apiVersion": resource.api_version(),
                "kind": format!("{}List", resource.kind),
                "metadata": metadata,
                "items": items,
            }),
            Self::Table(include) => table::table(resource, &items, metadata, include),
            Self::Metadata => json!({
                "apiVersion": "meta.k8s.io/v1",
                "kind": "PartialObjectMetadataList",
                "metadata": metadata,
                "items": items.iter().map(metadata_only).collect::<Vec<_>>(),
            }),
        }
    }
}

/// Every served version shows the same fields: conversion is `None`, as most definitions have it.
fn in_version(resource: &Resource, object: &Value) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.clone().into();
    object
}

fn metadata_only(object: &Value) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1",
        "kind": "PartialObjectMetadata",
        "metadata": object["metadata"],
    })
}
