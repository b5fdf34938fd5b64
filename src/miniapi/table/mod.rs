//! `Table` output, what kubectl prints with `get`.

mod columns;
mod text;

use serde_json::{Value, json};

use self::columns::Column;
use super::query::Query;
use super::resources::Resource;

/// What each row carries of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

// === impl Include ===

impl Include {
    /// Reads `includeObject`.
    pub(super) fn from_query(query: &Query) -> Self {
        match query.get("includeObject") {
            Some("None") => Self::None,
            Some("Object") => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// The objects as a Table.
pub(super) fn table(
    resource: &Resource,
    objects: &[Value],
    metadata: Value,
    include: Include,
) -> Value {
    let columns = columns::of(resource);
    let rows: Vec<Value> = objects.iter().map(|object| row(&columns, object, include)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns.iter().map(Column::definition).collect::<Vec<_>>(),
        "rows": rows,
    })
}

fn row(columns: &[Column], object: &Value, include: Include) -> Value {
    // A bookmark has no name and shows no cells.
    let cells: Vec<Value> = columns.iter().map(|column| column.cell(object)).collect();
    let mut row = json!({ "cells": cells });
    match include {
        Include::None => {}
        Include::Metadata => {
            row["object"] = json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object["metadata"],
            });
        }
        Include::Object => row["object"] = object.clone(),
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::miniapi::resources;
    use crate::miniapi::store::Store;

    fn cells(plural: &str, object: Value) -> Vec<(String, Value)> {
        let resource = resources::find(&Store::new(1), "", "v1", plural).unwrap();
        let table = table(&resource, &[object], json!({}), Include::None);
        let names = table["columnDefinitions"].as_array().unwrap().iter();
        let names = names.map(|column| column["name"].as_str().unwrap().to_owned());
        names.zip(table["rows"][0]["cells"].as_array().unwrap().clone()).collect()
    }

    #[test]
    fn a_pod_row() {
        let pod = json!({
            "metadata": {"name": "p", "creationTimestamp": super::super::object::now()},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "n"},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [
                {"ready": true, "restartCount": 2}, {"ready": false, "restartCount": 1}]},
        });
        let cells = cells("pods", pod);
        let get = |name: &str| &cells.iter().find(|(column, _)| column == name).unwrap().1;
        assert_eq!(get("Name"), "p");
        assert_eq!(get("Ready"), "1/2");
        assert_eq!(get("Status"), "Running");
        assert_eq!(get("Restarts"), "3");
        assert_eq!(get("Node"), "n");
    }

    #[test]
    fn printer_columns_of_a_custom_resource() {
        let resource = Resource {
            custom: true,
            columns: vec![
                json!({"name": "Size", "type": "integer", "jsonPath": ".spec.size"}),
                json!({"name": "Ready", "type": "string",
                    "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}),
            ],
            ..Resource::default()
        };
        let object = json!({"metadata": {"name": "w"}, "spec": {"size": 3}, "status": {
            "conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]}});
        let table = table(&resource, &[object], json!({}), Include::None);
        assert_eq!(table["rows"][0]["cells"], json!(["w", 3, "True"]));
    }
}
