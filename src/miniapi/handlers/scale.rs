//! The subresource `scale`: the number of replicas, the same for every kind that has one.

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{Aim, Answer, Call, body, patching, write};
use crate::miniapi::patch::owners::{self, Manager};
use crate::miniapi::response::{MiniStatus, json_response};

pub(super) async fn answer(call: &Call<'_>, aim: &Aim, request: Request<Incoming>) -> Answer {
    let key = aim.resource.key(&aim.target.namespace, &aim.target.name);
    let store = &call.cluster.store;
    let current = store.get(&key);
    let current = current.ok_or_else(|| MiniStatus::not_found(&key.label(), &key.name))?;
    let manager = Manager::of(&call.info.query, request.headers(), "scale");
    let wanted = match call.info.verb {
        "get" => return Ok(json_response(StatusCode::OK, &scale(&current))),
        "update" => body::object(request).await?,
        "patch" => {
            let patch = patching::read(aim, request).await?;
            patching::change(&patch, &scale(&current))?
        }
        _ => return Err(MiniStatus::method_not_allowed()),
    };
    let replicas = wanted["spec"]["replicas"].as_u64().unwrap_or(0);
    let scaled = store.modify(&key, write::mode(call), |current| {
        write::check_revision(&key, &wanted, current)?;
        let mut next = current.clone();
        next["spec"]["replicas"] = replicas.into();
        owners::updated(&aim.resource, Some(current), &mut next, &manager);
        Ok(next)
    })?;
    Ok(json_response(StatusCode::OK, &scale(&scaled)))
}

/// `Scale` of `autoscaling/v1`.
fn scale(object: &Value) -> Value {
    let labels = object["spec"]["selector"]["matchLabels"].as_object();
    let labels = labels.into_iter().flatten();
    let labels: Vec<String> = labels
        .map(|(label, value)| format!("{label}={}", value.as_str().unwrap_or_default()))
        .collect();
    let metadata = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"]
        .map(|field| (field.to_owned(), object["metadata"][field].clone()));
    json!({
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": Value::Object(metadata.into_iter().collect()),
        "spec": {"replicas": object["spec"]["replicas"].as_u64().unwrap_or(0)},
        "status": {
            "replicas": object["status"]["replicas"].as_u64().unwrap_or(0),
            "selector": labels.join(","),
        },
    })
}
