//! Get, list and watch.

use http::StatusCode;

use super::{Aim, Answer, Call};
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
    Ok(json_response(StatusCode::OK, &aim.view.list(&aim.resource, &objects, revision)))
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
