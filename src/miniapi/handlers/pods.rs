//! Logs and processes of Pods.

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{Aim, Answer, Call};
use crate::miniapi::pods::{LogOptions, Subresource};
use crate::miniapi::request::Target;
use crate::miniapi::response::{Body, MiniStatus, with_type};

pub(super) fn log(call: &Call<'_>, aim: &Aim) -> Answer {
    exists(call, aim)?;
    let query = &call.info.query;
    let options = LogOptions {
        follow: query.is_true("follow"),
        tail_lines: query.number("tailLines").and_then(|lines| usize::try_from(lines).ok()),
        since_seconds: query.number("sinceSeconds"),
        timestamps: query.is_true("timestamps"),
        previous: query.is_true("previous"),
        limit_bytes: query.number("limitBytes"),
    };
    let target = &aim.target;
    let container = query.get("container");
    let body: Body =
        call.cluster.pods.logs(&target.namespace, &target.name, container, &options)?;
    let mut response: Response<Body> = with_type(StatusCode::OK, "text/plain", "");
    *response.body_mut() = body;
    Ok(response)
}

pub(super) fn connect(
    call: &Call<'_>,
    aim: &Aim,
    request: Request<Incoming>,
    subresource: Subresource,
) -> Answer {
    exists(call, aim)?;
    let Target { namespace, name, .. } = &aim.target;
    Ok(call.cluster.pods.connect(request, subresource, namespace, name))
}

fn exists(call: &Call<'_>, aim: &Aim) -> Result<(), MiniStatus> {
    let key = aim.resource.key(&aim.target.namespace, &aim.target.name);
    let pod = call.cluster.store.get(&key);
    pod.map(drop).ok_or_else(|| MiniStatus::not_found(&key.label(), &key.name))
}
