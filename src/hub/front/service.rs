//! The step of a request to a service: no API server sees it, so what an API server would decide
//! about its caller is decided here.
//!
//! | who asks | who decides, in this order |
//! |---|---|
//! | an identity of the hub or of an issuer | the policy, as for `services/proxy-service`; then the list of exposed services |
//! | a token of the cluster | the cluster itself, by TokenReview; then the list |
//!
//! The list comes last: it tells nothing to those who may not ask.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{Request, header};
use hyper::body::Incoming;

use super::Front;
use crate::hub::authn::{AuthnError, Identity, Refusal};
use crate::hub::failure::Failure;
use crate::hub::forward::ServiceOrder;
use crate::hub::services::ServicePath;
use crate::name::ClusterName;

impl Front {
    /// Whether the caller may reach the service that their path names. `cluster` is in that path too,
    /// unless they are `at_home`.
    pub(super) async fn expose(
        &self,
        request: &Request<Incoming>,
        found: ServicePath,
        cluster: &ClusterName,
        identity: &Arc<Identity>,
        at_home: bool,
    ) -> Result<(PathAndQuery, ServiceOrder), Failure> {
        let ServicePath { service, upstream, root } = found;
        let asked = asked(&service.namespace, &service.name);
        if identity.impersonation.is_some() {
            self.authorize(request, cluster, identity, &asked).await?;
        } else {
            let authorization = request.headers().get(header::AUTHORIZATION);
            let authorization = authorization.ok_or_else(|| AuthnError::from(Refusal::Missing))?;
            self.reviews.confirm(cluster, authorization).await?;
        }
        let allowed = self.services.decide(cluster, &service)?;
        let root = if at_home { root } else { format!("{cluster}/{root}") };
        Ok((upstream, ServiceOrder { service, root, allowed, asked }))
    }
}

/// The path by which the policy judges: without scheme, port, and whatever is behind, which RBAC has
/// no words for.
fn asked(namespace: &str, name: &str) -> PathAndQuery {
    let path = format!("/api/v1/namespaces/{namespace}/services/{name}/proxy-service");
    // Invariant: both are names of Kubernetes, of lower-case letters, digits and hyphens.
    PathAndQuery::try_from(path).expect("names of Kubernetes are segments of a path")
}
