//! The four kinds of patch.

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{Aim, Answer, Call, body, write};
use crate::miniapi::admission;
use crate::miniapi::object;
use crate::miniapi::patch::owners::{self, Manager};
use crate::miniapi::patch::{apply, json as json_patch, merge, strategic};
use crate::miniapi::response::{MiniStatus, json_response};
use crate::miniapi::store::Mode;

/// A patch that was read and not yet applied.
pub(super) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

pub(super) async fn patch(call: &Call<'_>, aim: &Aim, request: Request<Incoming>) -> Answer {
    if aim.target.name.is_empty() {
        return Err(MiniStatus::method_not_allowed());
    }
    let subresource = &aim.target.subresource;
    let manager = Manager::of(&call.info.query, request.headers(), subresource);
    match read(aim, request).await? {
        Patch::Apply(config) => server_side_apply(call, aim, config, &manager),
        patch => {
            let key = aim.resource.key(&aim.target.namespace, &aim.target.name);
            let patched = call.cluster.store.modify(&key, write::mode(call), |current| {
                let mut next = change(&patch, current)?;
                if let Some((field, kind)) = admission::no_text(&aim.resource, &next) {
                    let why = format!("patch: Invalid value: data.{field}: a {kind} is no string");
                    return Err(MiniStatus::invalid("", "", &why));
                }
                write::check_revision(&key, &next, current)?;
                next = write::part(aim, next, current)?;
                admission::prepare_update(&aim.resource, &mut next, current)?;
                owners::updated(&aim.resource, Some(current), &mut next, &manager);
                Ok(next)
            })?;
            Ok(json_response(StatusCode::OK, &aim.view.one(&aim.resource, &patched)))
        }
    }
}

/// Reads a patch of the kind that `Content-Type` says.
pub(super) async fn read(aim: &Aim, request: Request<Incoming>) -> Result<Patch, MiniStatus> {
    let content_type = body::content_type(request.headers());
    let bytes = body::bytes(request).await?;
    match content_type.as_str() {
        JSON => Ok(Patch::Json(body::json(&bytes)?)),
        MERGE => Ok(Patch::Merge(body::json(&bytes)?)),
        STRATEGIC if !aim.resource.custom => Ok(Patch::Strategic(body::json(&bytes)?)),
        APPLY => {
            let config: Value = serde_saphyr::from_slice(&bytes).map_err(|error| {
                MiniStatus::bad_request(format!("error decoding YAML: {error}"))
            })?;
            if config.is_object() {
                Ok(Patch::Apply(config))
            } else {
                Err(MiniStatus::bad_request("the applied configuration is not an object"))
            }
        }
        other if aim.resource.custom => Err(body::unsupported(other, &[JSON, MERGE, APPLY])),
        other => Err(body::unsupported(other, &[JSON, MERGE, APPLY, STRATEGIC])),
    }
}

/// The object after the patch.
pub(super) fn change(patch: &Patch, current: &Value) -> Result<Value, MiniStatus> {
    let mut next = current.clone();
    match patch {
        Patch::Json(patch) => json_patch::patch(&mut next, patch)?,
        Patch::Merge(patch) => merge::patch(&mut next, patch),
        Patch::Strategic(patch) | Patch::Apply(patch) => strategic::patch(&mut next, patch)?,
    }
    if next.is_object() {
        Ok(next)
    } else {
        Err(MiniStatus::bad_request("the patched object is no object any more"))
    }
}

fn server_side_apply(call: &Call<'_>, aim: &Aim, config: Value, manager: &Manager) -> Answer {
    if call.info.query.get("fieldManager").is_none() {
        let why = "fieldManager: Required value: is required for apply patch";
        return Err(MiniStatus::invalid("PatchOptions", "", why));
    }
    // A real one has no better code for it, and no reason.
    if let Some((field, kind)) = admission::no_text(&aim.resource, &config) {
        let what = format!("{}/{}", aim.target.namespace, aim.target.name);
        let why =
            format!("({what}; /v1, Kind=ConfigMap): .data.{field}: expected string, got {kind}");
        return Err(MiniStatus::new(500, "", format!("failed to create typed patch object {why}")));
    }
    let force = call.info.query.is_true("force");
    let key = aim.resource.key(&aim.target.namespace, &aim.target.name);
    let mode = write::mode(call);
    let store = &call.cluster.store;
    if store.get(&key).is_none() && aim.target.subresource.is_empty() {
        admission::check_name(&aim.resource, &aim.target.name)?;
        write::check_namespace(call, aim, &config)?;
        let empty = json!({
            "apiVersion": aim.resource.api_version(), "kind": aim.resource.kind, "metadata": {},
        });
        let mut object = apply::apply(&aim.resource, &empty, &config, manager, force)?;
        admission::prepare(&aim.resource, &mut object)?;
        call.cluster.identify(&key, &mut object, mode);
        let created = store.create(&key, object, mode)?;
        if mode == Mode::Commit {
            admission::created(call.cluster, &aim.resource, &created);
        }
        return Ok(json_response(StatusCode::CREATED, &aim.view.one(&aim.resource, &created)));
    }
    let applied = store.modify(&key, mode, |current| {
        write::check_revision(&key, &config, current)?;
        let applied = apply::apply(&aim.resource, current, &config, manager, force)?;
        let owned = applied["metadata"].get("managedFields").cloned();
        let mut next = write::part(aim, applied, current)?;
        // Whoever applies a status owns it, although the rest of the metadata stays.
        if let Some(owned) = owned {
            object::metadata(&mut next).insert("managedFields".to_owned(), owned);
        }
        admission::prepare_update(&aim.resource, &mut next, current)?;
        Ok(next)
    })?;
    Ok(json_response(StatusCode::OK, &aim.view.one(&aim.resource, &applied)))
}

const APPLY: &str = "application/apply-patch+yaml";
const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
