//! `/_...`: what the hub itself says, to identities of the hub and of issuers alone. `/_fleet` is the
//! clusters that the caller may see, and how they are.
//!
//! | who asks | what they get |
//! |---|---|
//! | nobody, a bad token, a token of a cluster, whichever | the common 401: a cluster's owner learns nothing of others, nor here of their own |
//! | an identity of the hub or of an issuer, without any policy | 403, as everywhere |
//! | the same | clusters that at least one rule of the policy names them on, or that the RBAC of the hub's own cluster lets them `get` (`hub/policy/seen.rs`) |
//!
//! The answer is made of what the hub knows already: nobody waits for a cluster, and no credential goes
//! to one.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;

use super::Front;
use crate::fleet::{ClusterPage, ClusterState, Fleet, FleetPage, Health};
use crate::hub::authn::Identity;
use crate::hub::failure::Failure;
use crate::hub::forward::body::ResponseBody;
use crate::hub::headers::X_REQUEST_ID;
use crate::hub::policy::Seen;
use crate::hub::record::Record;
use crate::hub::route::RouteError;
use crate::hub::verb::RequestKind;
use crate::name::ClusterName;
use crate::tunnel::impersonation;

impl Front {
    /// Answers a request to a page of the hub's own.
    pub(super) async fn own_page(
        &self,
        mut request: Request<Incoming>,
        request_id: &HeaderValue,
        record: &mut Option<Box<Record>>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let identity = self.authenticator.authenticate_for_hub(request.headers_mut()).await?;
        let root = PathAndQuery::from_static("/");
        let kind =
            RequestKind::of(request.method(), request.uri().path_and_query().unwrap_or(&root));
        if let Some(record) = record.as_mut() {
            record.identified_for_hub(&identity, kind);
        }
        if request.uri().path() != FLEET {
            return Err(RouteError::OwnPage.into());
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(RouteError::Method(request.method().clone()).into());
        }
        if impersonation::is_asked(request.headers()) {
            return Err(self.policies.impersonates(&identity).into());
        }
        let admitted = self.admission.admit(&ClusterName::of_hub(), &identity, false)?;
        let body = Box::pin(self.fleet_page(&identity)).await?;
        let response = respond(body, request.method() == Method::HEAD, request_id);
        if let Some(record) = record.as_mut() {
            record.counted(admitted);
            record.answered(response.status(), kind, None);
        }
        Ok(response)
    }

    async fn fleet_page(&self, identity: &Arc<Identity>) -> Result<Bytes, Failure> {
        // Cheap to copy, and the registry's writer waits for nobody.
        let fleet = self.forwarder.registry.subscribe().borrow().clone();
        let seen = self.policies.seen(identity, fleet.clusters.keys()).await?;
        let page = page(&fleet, seen);
        // Invariant: text and numbers have a form in JSON.
        let mut json = serde_json::to_vec(&page).expect("a page can always be written");
        json.push(b'\n');
        Ok(json.into())
    }
}

/// What `fleet` shows to somebody who may see some of its clusters. Pure.
fn page(fleet: &Fleet, seen: Seen) -> FleetPage {
    let shown = fleet.clusters.iter().filter(|(name, _)| seen.clusters.contains(*name));
    let clusters = shown.map(|(name, state)| cluster(name, state)).collect();
    FleetPage { clusters, incomplete: seen.incomplete }
}

fn cluster(name: &ClusterName, state: &ClusterState) -> ClusterPage {
    let mut agents: Vec<&str> = state.tunnels.iter().map(|tunnel| &*tunnel.agent).collect();
    agents.sort_unstable();
    agents.dedup();
    let (health, reason) = match &state.probe {
        _ if state.tunnels.is_empty() => {
            (Health::Disconnected, Some("no agent of it is connected to this hub".to_owned()))
        }
        None => (Health::Unknown, Some("it has just connected".to_owned())),
        Some(probe) if probe.healthy => (Health::Healthy, None),
        Some(probe) => (Health::Unhealthy, probe.error.as_deref().map(shortened)),
    };
    let about = state.about.as_ref();
    ClusterPage {
        name: name.clone(),
        health,
        reason,
        agents: agents.len(),
        tunnels: state.tunnels.len(),
        last_probe: state.probe.as_ref().map(|probe| probe.at),
        latency_ms: state
            .probe
            .as_ref()
            .filter(|probe| probe.healthy)
            .map(|probe| probe.latency_ms),
        certificate_expires: state.tunnels.iter().map(|tunnel| tunnel.certificate_expires).max(),
        api_server_version: about
            .and_then(|about| about.api_server_version.as_deref())
            .map(shortened),
        agent_version: about.map(|about| shortened(&about.agent_version)),
    }
}

fn respond(body: Bytes, head: bool, request_id: &HeaderValue) -> Response<ResponseBody> {
    let length = HeaderValue::from(body.len());
    let body = if head { Bytes::new() } else { body };
    let mut response = Response::new(ResponseBody::full(Full::new(body)));
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, length);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_REQUEST_ID, request_id.clone());
    response
}

/// An agent may have said it: enough for people, and a bound of the whole answer by the number of
/// enrolled clusters.
fn shortened(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(LONGEST).collect()
}

const FLEET: &str = "/_fleet";
/// Letters of a text in the answer.
const LONGEST: usize = 256;

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::fleet::{About, Probe, TunnelState};

    fn tunnel(id: u64, agent: &str) -> TunnelState {
        let since = SystemTime::UNIX_EPOCH;
        let certificate_expires = since + Duration::from_secs(id);
        TunnelState { id, agent: agent.to_owned(), since, certificate_expires }
    }

    fn probe(healthy: bool, error: Option<&str>) -> Option<Probe> {
        let error = error.map(str::to_owned);
        Some(Probe { at: SystemTime::UNIX_EPOCH, healthy, latency_ms: 7, error })
    }

    #[test]
    fn each_state_says_what_is_wrong() {
        let live = || vec![tunnel(1, "a"), tunnel(3, "b"), tunnel(2, "a")];
        let about = Some(About { agent_version: "1\n".repeat(500), ..About::default() });
        let of = |tunnels, probe| ClusterState {
            tunnels,
            probe,
            about: about.clone(),
            hub_itself: false,
        };
        let name: ClusterName = "c1".parse().unwrap();
        for (state, health, reason) in [
            (of(live(), probe(true, None)), Health::Healthy, None),
            (of(live(), probe(false, Some("no\nanswer"))), Health::Unhealthy, Some("noanswer")),
            (of(live(), None), Health::Unknown, Some("it has just connected")),
            (
                of(vec![], probe(true, None)),
                Health::Disconnected,
                Some("no agent of it is connected to this hub"),
            ),
        ] {
            let page = cluster(&name, &state);
            assert_eq!((page.health, page.reason.as_deref()), (health, reason));
            assert_eq!(page.agent_version.unwrap(), "1".repeat(256));
            let (agents, tunnels) = if state.tunnels.is_empty() { (0, 0) } else { (2, 3) };
            assert_eq!((page.agents, page.tunnels), (agents, tunnels));
            let last = page.certificate_expires;
            assert_eq!(last, (tunnels > 0).then(|| tunnel(3, "").certificate_expires));
        }
    }

    #[test]
    fn only_clusters_that_may_be_seen_are_there_and_they_survive_the_wire() {
        let mut fleet = Fleet::default();
        for name in ["c1", "c2"] {
            let probe = probe(false, Some("x"));
            let state =
                ClusterState { tunnels: vec![tunnel(1, "a")], probe, ..ClusterState::default() };
            fleet.clusters.insert(name.parse().unwrap(), Arc::new(state));
        }
        let seen =
            Seen { clusters: ["c2".parse().unwrap()].into(), incomplete: Some("y".to_owned()) };
        let page = page(&fleet, seen);
        let names: Vec<_> = page.clusters.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["c2"]);
        let json = serde_json::to_string(&page).unwrap();
        assert_eq!(serde_json::from_str::<FleetPage>(&json).unwrap(), page);
        assert!(json.contains("\"health\":\"unhealthy\",\"reason\":\"x\""), "{json}");
        assert!(json.ends_with(",\"incomplete\":\"y\"}"), "{json}");
    }
}
