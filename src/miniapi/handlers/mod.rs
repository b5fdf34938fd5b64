//! From a request to its answer: who, may they, what.

mod body;
mod patching;
mod plain;
mod pods;
mod read;
mod reviews;
mod scale;
mod write;

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

use super::auth::{self, Identity};
use super::cluster::Cluster;
use super::pods::Subresource;
use super::rbac::{self, Attributes};
use super::request::{RequestInfo, Target};
use super::resources::{self, Resource};
use super::response::{Body, MiniStatus};
use super::view::View;
use crate::drain::Drain;

/// A request whose sender may make it.
pub(super) struct Call<'a> {
    cluster: &'a Cluster,
    drain: &'a Drain,
    identity: Identity,
    info: RequestInfo,
}

/// The resource part of a [`Call`].
struct Aim {
    resource: Arc<Resource>,
    target: Target,
    view: View,
}

type Answer = Result<Response<Body>, MiniStatus>;

/// Answers one request; errors become `Status` objects.
pub(super) async fn respond(
    cluster: &Cluster,
    drain: &Drain,
    request: Request<Incoming>,
) -> Response<Body> {
    let info = RequestInfo::parse(request.method(), request.uri());
    match answer(cluster, drain, info, request).await {
        Ok(response) => response,
        Err(status) => status.into_response(),
    }
}

async fn answer(
    cluster: &Cluster,
    drain: &Drain,
    info: RequestInfo,
    request: Request<Incoming>,
) -> Answer {
    let identity = auth::authenticate(&cluster.store, &cluster.tokens, request.headers())?;
    let identity = match identity {
        Some(identity) => {
            let identity = auth::impersonate(&cluster.store, identity, request.headers())?;
            rbac::check(&cluster.store, &identity, &Attributes::of(&info))?;
            identity
        }
        None if plain::is_public(&info.path) => Identity::anonymous(),
        None => return Err(MiniStatus::unauthorized()),
    };
    let call = Call { cluster, drain, identity, info };
    match call.info.target.clone() {
        Some(target) => call.on_resource(target, request).await,
        None => plain::answer(&call, request.headers()),
    }
}

// === impl Call ===

impl Call<'_> {
    async fn on_resource(&self, target: Target, request: Request<Incoming>) -> Answer {
        let store = &self.cluster.store;
        let resource = resources::find(store, &target.group, &target.version, &target.resource)
            .ok_or_else(MiniStatus::no_such_path)?;
        let view = View::of(request.headers(), &self.info.query);
        let aim = Aim { resource, target, view };
        if aim.resource.review {
            return reviews::create(self, &aim, request).await;
        }
        match aim.target.subresource.as_str() {
            "" => {}
            name if !aim.resource.has(name) => return Err(MiniStatus::no_such_path()),
            "log" => return pods::log(self, &aim),
            "exec" => return pods::connect(self, &aim, request, Subresource::Exec),
            "attach" => return pods::connect(self, &aim, request, Subresource::Attach),
            "portforward" => return pods::connect(self, &aim, request, Subresource::PortForward),
            "eviction" => return write::evict(self, &aim),
            "scale" => return scale::answer(self, &aim, request).await,
            "token" => return reviews::token(self, &aim, request).await,
            _ => {}
        }
        match self.info.verb {
            "get" => read::get(self, &aim),
            "list" => read::list(self, &aim),
            "watch" => read::watch(self, &aim),
            "create" => write::create(self, &aim, request).await,
            "update" => write::update(self, &aim, request).await,
            "patch" => patching::patch(self, &aim, request).await,
            "delete" => write::delete(self, &aim, request).await,
            "deletecollection" => write::delete_collection(self, &aim),
            _ => Err(MiniStatus::method_not_allowed()),
        }
    }
}
