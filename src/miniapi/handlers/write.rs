//! Create, update and delete.

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{Aim, Answer, Call, body};
use crate::miniapi::admission;
use crate::miniapi::ephemeral;
use crate::miniapi::object;
use crate::miniapi::patch::owners::{self, Manager};
use crate::miniapi::resources::Resource;
use crate::miniapi::response::{MiniStatus, json_response};
use crate::miniapi::selectors::Selector;
use crate::miniapi::store::{Key, Mode};

pub(super) async fn create(call: &Call<'_>, aim: &Aim, request: Request<Incoming>) -> Answer {
    if !aim.target.name.is_empty() {
        return Err(MiniStatus::method_not_allowed());
    }
    let manager = Manager::of(&call.info.query, request.headers(), "");
    let mut object = body::object(request).await?;
    check_kind(&aim.resource, &object)?;
    let name = admission::name_of_new(&aim.resource, &object)?;
    let key = aim.resource.key(&aim.target.namespace, &name);
    check_namespace(call, aim, &object)?;
    admission::prepare(&aim.resource, &mut object)?;
    owners::updated(&aim.resource, None, &mut object, &manager);
    let mode = mode(call);
    call.cluster.identify(&key, &mut object, mode);
    let created = call.cluster.store.create(&key, object, mode)?;
    if mode == Mode::Commit {
        admission::created(call.cluster, &aim.resource, &created);
    }
    Ok(json_response(StatusCode::CREATED, &aim.view.one(&aim.resource, &created)))
}

pub(super) async fn update(call: &Call<'_>, aim: &Aim, request: Request<Incoming>) -> Answer {
    let manager = Manager::of(&call.info.query, request.headers(), &aim.target.subresource);
    let next = body::object(request).await?;
    check_kind(&aim.resource, &next)?;
    let key = aim.resource.key(&aim.target.namespace, &aim.target.name);
    if object::name(&next) != key.name {
        return Err(MiniStatus::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object::name(&next),
            key.name
        )));
    }
    let updated = call.cluster.store.modify(&key, mode(call), |current| {
        check_revision(&key, &next, current)?;
        let mut next = part(aim, next, current)?;
        admission::prepare_update(&aim.resource, &mut next, current)?;
        owners::updated(&aim.resource, Some(current), &mut next, &manager);
        Ok(next)
    })?;
    Ok(json_response(StatusCode::OK, &aim.view.one(&aim.resource, &updated)))
}

pub(super) async fn delete(call: &Call<'_>, aim: &Aim, request: Request<Incoming>) -> Answer {
    let options = body::options(request).await?;
    let key = aim.resource.key(&aim.target.namespace, &aim.target.name);
    let preconditions = &options["preconditions"];
    let check = |current: &Value| {
        for field in ["uid", "resourceVersion"] {
            let wanted = preconditions[field].as_str().unwrap_or_default();
            let actual = object::text(current, &format!("/metadata/{field}"));
            if !wanted.is_empty() && wanted != actual {
                let why = format!(
                    "Precondition failed: {field} in precondition: {wanted}, \
                     {field} in object meta: {actual}"
                );
                return Err(MiniStatus::conflict(&key.label(), &key.name, &why));
            }
        }
        Ok(())
    };
    let dry = options["dryRun"].as_array().is_some_and(|asked| !asked.is_empty());
    let mode = if dry { Mode::DryRun } else { mode(call) };
    let (last, gone) = call.cluster.store.delete(&key, mode, check)?;
    if gone && mode == Mode::Commit {
        admission::deleted(call.cluster, &aim.resource, &key.name);
    }
    if !gone || aim.resource.plural == "pods" {
        return Ok(json_response(StatusCode::OK, &aim.view.one(&aim.resource, &last)));
    }
    Ok(json_response(StatusCode::OK, &success(&key, &last)))
}

pub(super) fn delete_collection(call: &Call<'_>, aim: &Aim) -> Answer {
    let selector = Selector::from_query(&call.info.query)?;
    let namespace = Some(aim.target.namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let Resource { group, plural, .. } = &*aim.resource;
    let (revision, mut objects) = call.cluster.store.list(group, plural, namespace);
    objects.retain(|object| selector.matches(object));
    for object in &objects {
        let key = aim.resource.key(object::namespace(object), object::name(object));
        // Somebody else may have deleted it in between.
        if let Ok((_, true)) = call.cluster.store.delete(&key, mode(call), |_| Ok(()))
            && mode(call) == Mode::Commit
        {
            admission::deleted(call.cluster, &aim.resource, &key.name);
        }
    }
    let metadata = json!({"resourceVersion": revision.to_string()});
    Ok(json_response(StatusCode::OK, &aim.view.list(&aim.resource, &objects, metadata)))
}

/// An eviction is a deletion here: there are no disruption budgets to ask.
pub(super) fn evict(call: &Call<'_>, aim: &Aim) -> Answer {
    let key = aim.resource.key(&aim.target.namespace, &aim.target.name);
    let (last, _) = call.cluster.store.delete(&key, mode(call), |_| Ok(()))?;
    Ok(json_response(StatusCode::CREATED, &success(&key, &last)))
}

/// Whether the request is only tried.
pub(super) fn mode(call: &Call<'_>) -> Mode {
    if call.info.query.get("dryRun").is_some() { Mode::DryRun } else { Mode::Commit }
}

/// The next object with only the part changed that the path is about: status, or all but status.
///
/// # Errors
/// 422 for a change of a part that other paths are for.
pub(super) fn part(aim: &Aim, next: Value, current: &Value) -> Result<Value, MiniStatus> {
    let is_pod = aim.resource.kind == "Pod" && !aim.resource.custom;
    let (mut result, status) = match aim.target.subresource.as_str() {
        "status" => (current.clone(), next.get("status").cloned()),
        "ephemeralcontainers" => return ephemeral::added(&next, current),
        _ if is_pod => {
            ephemeral::unchanged(&next, Some(current))?;
            (next, current.get("status").cloned())
        }
        _ if aim.resource.has("status") => (next, current.get("status").cloned()),
        _ => return Ok(next),
    };
    match status {
        Some(status) => result["status"] = status,
        None => drop(result.as_object_mut().and_then(|object| object.remove("status"))),
    }
    Ok(result)
}

/// Refuses a write that is based on another revision than the current one.
pub(super) fn check_revision(key: &Key, next: &Value, current: &Value) -> Result<(), MiniStatus> {
    let based_on = object::text(next, "/metadata/resourceVersion");
    if based_on.is_empty() || based_on == object::text(current, "/metadata/resourceVersion") {
        return Ok(());
    }
    Err(MiniStatus::conflict(
        &key.label(),
        &key.name,
        "the object has been modified; please apply your changes to the latest version and try again",
    ))
}

/// Refuses to create in a namespace that does not exist, or that is not the one on the URL.
pub(super) fn check_namespace(
    call: &Call<'_>,
    aim: &Aim,
    object: &Value,
) -> Result<(), MiniStatus> {
    if !aim.resource.namespaced {
        return Ok(());
    }
    let namespace = aim.target.namespace.as_str();
    let said = object::namespace(object);
    if !said.is_empty() && said != namespace {
        return Err(MiniStatus::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    match call.cluster.store.get(&Key::new("", "namespaces", "", namespace)) {
        Some(_) => Ok(()),
        None => Err(MiniStatus::not_found("namespaces", namespace)),
    }
}

fn check_kind(resource: &Resource, object: &Value) -> Result<(), MiniStatus> {
    let (version, kind) = (object::text(object, "/apiVersion"), object::text(object, "/kind"));
    let wanted = resource.api_version();
    if (version.is_empty() || version == wanted) && (kind.is_empty() || kind == resource.kind) {
        return Ok(());
    }
    Err(MiniStatus::bad_request(format!(
        "the object provided is {version}, Kind={kind}; this path takes {wanted}, Kind={}",
        resource.kind
    )))
}

fn success(key: &Key, last: &Value) -> Value {
    let mut details = json!({"name": key.name, "kind": key.resource, "uid": object::uid(last)});
    if !key.group.is_empty() {
        details["group"] = key.group.clone().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
