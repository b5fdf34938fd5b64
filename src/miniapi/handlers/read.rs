//! Get, list and watch.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Aim, Answer, Call};
use crate::miniapi::object;
use crate::miniapi::query::Query;
use crate::miniapi::response::{MiniStatus, json_response};
use crate::miniapi::selectors::Selector;
use crate::miniapi::watch::Watch;

pub(super) fn get(call: &Call<'_>, aim: &Aim) -> Answer {
    let key = aim.resource.key(&aim.target.namespace, &aim.target.name);
    let object = call.cluster.store.get(&key);
    let object = object.ok_or_else(|| MiniStatus::not_found(&key.label(), &key.name))?;
    Ok(json_response(StatusCode::OK, &aim.view.one(&aim.resource, &object)))
}

pub(super) fn list(call: &Call<'_>, aim: &Aim) -> Answer {
    let selector = Selector::from_query(&call.info.query)?;
    let (revision, mut objects) =
        call.cluster.store.list(&aim.resource.group, &aim.resource.plural, namespace(aim));
    objects.retain(|object| selector.matches(object));
    let metadata = page(&call.info.query, revision, &mut objects)?;
    Ok(json_response(StatusCode::OK, &aim.view.list(&aim.resource, &objects, metadata)))
}

/// Leaves the part of the list that is asked for, and returns the list's metadata. Later pages show
/// what is there now under the revision of the first one: a watch from it tells the difference.
fn page(query: &Query, revision: u64, objects: &mut Vec<Arc<Value>>) -> Result<Value, MiniStatus> {
    let place = |object: &Value| format!("{}/{}", object::namespace(object), object::name(object));
    let (revision, after) = match query.get("continue").filter(|token| !token.is_empty()) {
        None => (revision, String::new()),
        Some(token) => read_continue(token)
            .ok_or_else(|| MiniStatus::bad_request("continue key is not valid"))?,
    };
    objects.retain(|object| after.is_empty() || place(object) > after);
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    let limit = query.number("limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
    if limit > 0 && objects.len() > limit {
        metadata["remainingItemCount"] = (objects.len() - limit).into();
        objects.truncate(limit);
        let last = objects.last().map(|object| place(object)).unwrap_or_default();
        metadata["continue"] = BASE64_URL_SAFE_NO_PAD.encode(format!("{revision} {last}")).into();
    }
    Ok(metadata)
}

/// The revision of the first page, and the last object of the one before.
fn read_continue(token: &str) -> Option<(u64, String)> {
    let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (revision, last) = text.split_once(' ')?;
    Some((revision.parse().ok()?, last.to_owned()))
}

pub(super) fn watch(call: &Call<'_>, aim: &Aim) -> Answer {
    let selector = Selector::from_query(&call.info.query)?.only(&aim.target.name);
    let watch = Watch {
        store: call.cluster.store.clone(),
        resource: aim.resource.clone(),
        namespace: namespace(aim).map(str::to_owned),
        selector,
        view: aim.view,
        drain: call.drain.clone(),
    };
    watch.start(&call.info.query)
}

fn namespace(aim: &Aim) -> Option<&str> {
    let namespace = aim.target.namespace.as_str();
    (aim.resource.namespaced && !namespace.is_empty()).then_some(namespace)
}
