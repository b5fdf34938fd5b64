//! An API server in memory, and a clock that is not waited for.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Full};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tower::Service as _;

use super::*;
use crate::miniapi::testing::{Fault, InMemory, Wire};
use crate::sandbox::definitions;

struct World {
    api: InMemory,
    wire: Wire,
    /// We may not list or watch them.
    forbidden: Arc<AtomicBool>,
    /// Their definition is being deleted.
    terminating: Arc<AtomicBool>,
    /// Lists of them take [`LONG`].
    slow: Arc<AtomicBool>,
    /// How many were asked for.
    lists: Arc<AtomicUsize>,
}

// === impl World ===

impl World {
    async fn start() -> Self {
        let api = InMemory::start().await;
        Self {
            wire: api.wire(),
            api,
            forbidden: Arc::default(),
            terminating: Arc::default(),
            slow: Arc::default(),
            lists: Arc::default(),
        }
    }

    /// Looks for the first time, and follows.
    async fn follow(&self) -> (Acceptance, AbortOnDropHandle<()>) {
        let acceptance = Acceptance::of(self.watched()).await;
        let following = tokio::spawn(acceptance.clone().follow());
        (acceptance, AbortOnDropHandle::new(following))
    }

    fn watched(&self) -> Client {
        let (wire, forbidden) = (self.wire.clone(), self.forbidden.clone());
        let terminating = self.terminating.clone();
        let (slow, lists) = (self.slow.clone(), self.lists.clone());
        let answer = move |request: Request<Body>| {
            let (mut wire, is) = (wire.clone(), |flag: &AtomicBool| flag.load(Ordering::Relaxed));
            let (forbidden, terminating) = (is(&forbidden), is(&terminating));
            let (slow, lists) = (is(&slow), lists.clone());
            async move {
                let path = request.uri().path();
                let is_watch = request.uri().query().is_some_and(|query| query.contains("watch="));
                if path == CLUSTERS && !is_watch {
                    lists.fetch_add(1, Ordering::Relaxed);
                    sleep(if slow { LONG } else { Duration::ZERO }).await;
                }
                let (code, said) = if forbidden && path == CLUSTERS {
                    let said = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                        "reason": "Forbidden", "message": "not you", "code": 403});
                    (403, said)
                } else if terminating && path == DISCOVERY {
                    // As a real API server says it.
                    let verbs = ["delete", "deletecollection", "get", "list", "watch"];
                    let kind = json!({"name": "managedclusters", "singularName": "managedcluster",
                        "namespaced": false, "kind": "ManagedCluster", "verbs": verbs});
                    let said = json!({"kind": "APIResourceList", "apiVersion": "v1",
                        "groupVersion": format!("{GROUP}/v1"), "resources": [kind]});
                    (200, said)
                } else {
                    return wire.call(request).await.map(|answer| answer.map(Either::Left));
                };
                let body = Either::Right(Full::new(Bytes::from(said.to_string())));
                Ok(Response::builder().status(code).body(body).unwrap())
            }
        };
        Client::new(tower::service_fn(answer), "default")
    }

    async fn define(&self) {
        self.post(DEFINITIONS, &definitions::managed_clusters()).await;
    }

    async fn cluster(&self, name: &str, accepted: bool) {
        let cluster = json!({"apiVersion": "cluster.open-cluster-management.io/v1",
            "kind": "ManagedCluster", "metadata": {"name": name, "finalizers": ["a/b"]},
            "spec": {"hubAcceptsClient": accepted}});
        self.post(CLUSTERS, &cluster).await;
    }

    /// Whoever watches gets a 410, and lists again.
    fn forget(&self) {
        // Nothing is awaited: no watch sees the first of them before the last is made.
        for number in 0..MANY {
            self.api.namespace(&format!("n{number}"));
        }
    }

    async fn post(&self, path: &str, object: &Value) {
        self.send(Request::post(path), "application/json", object).await;
    }

    async fn merge(&self, name: &str, patch: Value) {
        let request = Request::patch(format!("{CLUSTERS}/{name}"));
        self.send(request, "application/merge-patch+json", &patch).await;
    }

    async fn delete(&self, path: &str) {
        self.send(Request::delete(path), "application/json", &json!({})).await;
    }

    async fn send(&self, request: http::request::Builder, content: &str, body: &Value) {
        let body = body.to_string().into_bytes();
        let request = request.header("content-type", content).body(body).unwrap();
        self.api.client().request::<Value>(request).await.unwrap();
    }
}

/// Of `c1`, `c2` and one that nobody knows.
fn accepted(acceptance: &Acceptance) -> Vec<&'static str> {
    let all = ["c1", "c2", "c9"];
    all.into_iter().filter(|name| acceptance.accepts(&name.parse().unwrap())).collect()
}

/// Waits until exactly these are accepted.
async fn until(acceptance: &Acceptance, names: &[&str]) {
    for _ in 0..10_000 {
        if accepted(acceptance) == names {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?} instead of {names:?}", accepted(acceptance));
}

/// These are accepted, and nothing changes for a while, not for a moment.
async fn stays(acceptance: &Acceptance, names: &[&str]) {
    let mut view = acceptance.view.subscribe();
    assert_eq!(accepted(acceptance), names);
    let changed = timeout(2 * LONG, view.changed()).await;
    assert!(changed.is_err(), "{:?} instead of {names:?}", accepted(acceptance));
}

fn enrolments(names: &[&str]) -> Enrolments {
    let enrolment = json!({"keySha256": "", "enrolledAt": 0, "certificateExpires": 0});
    let enrolment =
        |name: &&str| (name.parse().unwrap(), serde_json::from_value(enrolment.clone()).unwrap());
    names.iter().map(enrolment).collect()
}

#[tokio::test(start_paused = true)]
async fn who_is_accepted_is_served_and_every_change_counts() {
    let world = World::start().await;
    world.define().await;
    world.cluster("c1", true).await;
    world.cluster("c2", false).await;
    // No cluster of ours can be called so.
    world.cluster("metrics", true).await;
    let (acceptance, _following) = world.follow().await;
    let enrolled = enrolments(&["c1", "c2", "c9"]);
    assert_eq!(*acceptance.served(&enrolled), enrolments(&["c1"]), "from the first moment");

    world.merge("c2", json!({"spec": {"hubAcceptsClient": true}})).await;
    until(&acceptance, &["c1", "c2"]).await;
    world.merge("c1", json!({"spec": {"hubAcceptsClient": false}})).await;
    until(&acceptance, &["c2"]).await;
    assert_eq!(*acceptance.served(&enrolled), enrolments(&["c2"]));
    // Its finalizer holds it.
    world.delete(&format!("{CLUSTERS}/c2")).await;
    until(&acceptance, &[]).await;
    world.merge("c2", json!({"metadata": {"finalizers": null}})).await;
    world.cluster("c2", true).await;
    until(&acceptance, &["c2"]).await;
}

#[tokio::test(start_paused = true)]
async fn without_managed_clusters_everybody_is_accepted() {
    let world = World::start().await;
    let (acceptance, _following) = world.follow().await;
    let enrolled = enrolments(&["c1", "c9"]);
    assert!(matches!(acceptance.served(&enrolled), Cow::Borrowed(all) if *all == enrolled));
    world.define().await;
    until(&acceptance, &[]).await;
    world.cluster("c1", true).await;
    until(&acceptance, &["c1"]).await;
    let before = Instant::now();
    world.delete(&format!("{DEFINITIONS}/managedclusters.{GROUP}")).await;
    until(&acceptance, &["c1", "c2", "c9"]).await;
    // One look that finds none could be one of an API server that has just started.
    assert!(before.elapsed() >= served::LOOK_AGAIN);
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_is_deleted_takes_no_cluster_along() {
    let world = World::start().await;
    world.define().await;
    for name in ["c1", "c2"] {
        world.cluster(name, true).await;
    }
    let (acceptance, _following) = world.follow().await;
    world.terminating.store(true, Ordering::Relaxed);
    world.delete(&format!("{CLUSTERS}/c1")).await;
    sleep(Duration::from_secs(60)).await;
    until(&acceptance, &["c1", "c2"]).await;
    world.merge("c1", json!({"metadata": {"finalizers": null}})).await;
    sleep(Duration::from_secs(60)).await;
    // What somebody says of one of them counts all the same.
    world.merge("c2", json!({"spec": {"hubAcceptsClient": false}})).await;
    until(&acceptance, &["c1"]).await;
    // It was c1 alone after all.
    world.terminating.store(false, Ordering::Relaxed);
    until(&acceptance, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_starts_over_takes_no_cluster_along() {
    let world = World::start().await;
    world.define().await;
    for name in ["c1", "c2"] {
        world.cluster(name, true).await;
    }
    let (acceptance, _following) = world.follow().await;
    let mut view = acceptance.view.subscribe();
    let lists = world.lists.load(Ordering::Relaxed);
    world.slow.store(true, Ordering::Relaxed);
    world.delete(&format!("{CLUSTERS}/c1")).await;
    // It is known, and not believed yet.
    sleep(Duration::from_millis(100)).await;
    let before = Instant::now();
    world.forget();
    view.changed().await.unwrap();
    assert!(before.elapsed() >= LONG, "in the middle of a list nobody goes");
    assert_eq!(accepted(&acceptance), ["c2"]);
    assert_eq!(world.lists.load(Ordering::Relaxed), lists + 1);
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_is_being_deleted_takes_nobody_along_over_a_410_and_a_restart() {
    let world = World::start().await;
    world.define().await;
    for name in ["c1", "c2"] {
        world.cluster(name, true).await;
    }
    let (acceptance, _following) = world.follow().await;
    world.terminating.store(true, Ordering::Relaxed);
    for name in ["c1", "c2"] {
        world.delete(&format!("{CLUSTERS}/{name}")).await;
    }
    sleep(LONG).await;
    let lists = world.lists.load(Ordering::Relaxed);
    world.slow.store(true, Ordering::Relaxed);
    world.forget();
    // The last finalizer of one goes while nobody watches.
    sleep(LONG / 2).await;
    world.merge("c1", json!({"metadata": {"finalizers": null}})).await;
    stays(&acceptance, &["c1", "c2"]).await;
    assert_eq!(world.lists.load(Ordering::Relaxed), lists + 1);

    // One that starts meanwhile goes by what is still there.
    world.slow.store(false, Ordering::Relaxed);
    let (started, _starting) = world.follow().await;
    stays(&started, &["c2"]).await;
    world.terminating.store(false, Ordering::Relaxed);
    for acceptance in [acceptance, started] {
        until(&acceptance, &[]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_deletion_leaves_the_next_its_time_to_be_told_of() {
    let world = World::start().await;
    world.define().await;
    for name in ["c1", "c2"] {
        world.cluster(name, true).await;
    }
    let (acceptance, _following) = world.follow().await;
    world.delete(&format!("{CLUSTERS}/c1")).await;
    sleep(Duration::from_millis(1900)).await;
    // The first that goes with the definition, of which discovery knows a moment later.
    world.delete(&format!("{CLUSTERS}/c2")).await;
    until(&acceptance, &["c2"]).await;
    world.terminating.store(true, Ordering::Relaxed);
    stays(&acceptance, &["c2"]).await;
    world.terminating.store(false, Ordering::Relaxed);
    until(&acceptance, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_changes_nothing() {
    let world = World::start().await;
    world.define().await;
    world.cluster("c1", true).await;
    for fault in [Fault::Refused, Fault::Silent] {
        world.wire.set(Fault::None);
        let (acceptance, following) = world.follow().await;
        world.wire.set(fault);
        drop(following);
        let following = AbortOnDropHandle::new(tokio::spawn(acceptance.clone().follow()));
        sleep(Duration::from_secs(300)).await;
        until(&acceptance, &["c1"]).await;
        drop(following);

        // One that starts meanwhile does not wait for long, and knows of nobody's acceptance.
        let before = Instant::now();
        let (acceptance, _following) = world.follow().await;
        assert!(before.elapsed() <= FIRST_LOOK);
        until(&acceptance, &["c1", "c2", "c9"]).await;
        world.wire.set(Fault::None);
        until(&acceptance, &["c1"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_changes_nothing_and_is_enough_as_soon_as_it_is_there() {
    let world = World::start().await;
    world.define().await;
    world.cluster("c1", true).await;
    world.forbidden.store(true, Ordering::Relaxed);
    let (acceptance, _following) = world.follow().await;
    sleep(Duration::from_secs(300)).await;
    until(&acceptance, &["c1", "c2", "c9"]).await;
    world.forbidden.store(false, Ordering::Relaxed);
    until(&acceptance, &["c1"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_taken_away_changes_nothing() {
    let world = World::start().await;
    world.define().await;
    world.cluster("c1", true).await;
    world.cluster("c2", false).await;
    let (acceptance, _following) = world.follow().await;
    world.forbidden.store(true, Ordering::Relaxed);
    // A watch that runs goes on to its end.
    sleep(10 * LONG).await;
    world.merge("c2", json!({"spec": {"hubAcceptsClient": true}})).await;
    stays(&acceptance, &["c1"]).await;
    // One that starts meanwhile has nothing to hold on to.
    let (started, _starting) = world.follow().await;
    stays(&started, &["c1", "c2", "c9"]).await;
    world.forbidden.store(false, Ordering::Relaxed);
    for acceptance in [acceptance, started] {
        until(&acceptance, &["c1", "c2"]).await;
    }
}

#[test]
fn a_problem_is_told_once_until_there_is_another() {
    let mut told = Told::default();
    assert!(told.is_new("a") && !told.is_new("a"));
    assert!(told.is_new("b") && told.is_new("a"));
}

const DISCOVERY: &str = "/apis/cluster.open-cluster-management.io/v1";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CLUSTERS: &str = "/apis/cluster.open-cluster-management.io/v1/managedclusters";
const LONG: Duration = Duration::from_secs(60);
/// So many namespaces are, with what comes into each, more changes than the API server remembers.
const MANY: usize = 4_000;
