//! A spoke that is scripted, and a clock that is not waited for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;

use super::*;
use crate::hub::acceptance::Acceptance;
use crate::hub::authn::{Identity, SpokeApi, SpokeApiError};
use crate::hub::live::Spoke;
use crate::hub::live::{Chunks, LiveStream};
use crate::hub::registry::Registry;
use crate::state::Enrolment;

#[derive(Default)]
struct Fake {
    /// Tokens that are refused; everything else is accepted.
    refused: Mutex<Vec<String>>,
    /// What TokenReview answers instead, where it is set.
    reviews: Mutex<Option<StatusCode>>,
    /// What lists and watches answer instead, where it is set.
    watches: Mutex<Option<StatusCode>>,
    asked: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    lists: AtomicUsize,
    /// Events of the watch that is open.
    events: Mutex<Option<Sender<Bytes>>>,
    /// The next watch starts with this.
    gone: AtomicBool,
    paths: Mutex<Vec<String>>,
}

impl SpokeApi for Fake {
    fn request<'a>(
        &'a self,
        _cluster: &'a ClusterName,
        method: Method,
        path: &'a str,
        body: Option<Bytes>,
        _limit: usize,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>> {
        Box::pin(async move {
            if method == Method::GET {
                assert_eq!(path, "/api/v1/serviceaccounts?limit=1");
                self.lists.fetch_add(1, Ordering::Relaxed);
                let list = json!({"metadata": {"resourceVersion": "7"}, "items": []});
                let status = self.watches.lock().unwrap().unwrap_or(StatusCode::OK);
                return Ok((status, list.to_string().into()));
            }
            self.asked.fetch_add(1, Ordering::Relaxed);
            let now = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
            self.most_at_once.fetch_max(now, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.at_once.fetch_sub(1, Ordering::Relaxed);
            let mut review: Value = serde_json::from_slice(&body.unwrap()).unwrap();
            let token = review["spec"]["token"].as_str().unwrap().to_owned();
            let refused = self.refused.lock().unwrap().contains(&token);
            review["status"] = json!({"authenticated": !refused, "user": {}});
            let status = self.reviews.lock().unwrap().unwrap_or(StatusCode::CREATED);
            Ok((status, review.to_string().into()))
        })
    }
}

impl Spoke for Fake {
    fn watch<'a>(
        &'a self,
        _cluster: &'a ClusterName,
        path: &'a str,
        _accept: &'static str,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Chunks), SpokeApiError>> {
        Box::pin(async move {
            self.paths.lock().unwrap().push(path.to_owned());
            if let Some(status) = *self.watches.lock().unwrap() {
                return Ok((status, futures_util::stream::empty().boxed()));
            }
            let (sender, receiver) = mpsc::channel(8);
            if self.gone.swap(false, Ordering::Relaxed) {
                let gone = json!({"type": "ERROR", "object": {"code": 410}});
                sender.try_send(Bytes::from(format!("{gone}\n"))).unwrap();
            }
            *self.events.lock().unwrap() = Some(sender);
            let chunks = futures_util::stream::unfold(receiver, |mut receiver| async move {
                Some((Ok(receiver.recv().await?), receiver))
            });
            Ok((StatusCode::OK, chunks.boxed()))
        })
    }
}

// === impl Fake ===

impl Fake {
    fn refuse(&self, token: &str) {
        self.refused.lock().unwrap().push(token.to_owned());
    }

    fn event(&self, kind: &str, name: &str, uid: &str) {
        let event = json!({"type": kind, "object": {"metadata": {
            "namespace": "apps", "name": name, "uid": uid, "resourceVersion": "9"}}});
        let events = self.events.lock().unwrap();
        events.as_ref().unwrap().try_send(Bytes::from(format!("{event}\n"))).unwrap();
    }

    fn close_watch(&self) {
        self.events.lock().unwrap().take();
    }

    fn is_watched(&self) -> bool {
        self.events.lock().unwrap().as_ref().is_some_and(|sender| !sender.is_closed())
    }
}

struct World {
    live: LiveStreams,
    spoke: Arc<Fake>,
    registry: prometheus::Registry,
    task: tokio::task::JoinHandle<()>,
}

// === impl World ===

impl World {
    fn new() -> Self {
        let registry = prometheus::Registry::new();
        let live = LiveStreams::new(&registry, 4_096).unwrap();
        let spoke = Arc::new(Fake::default());
        let task = tokio::spawn(live.clone().run(Arc::clone(&spoke) as Arc<dyn Spoke>, None));
        Self { live, spoke, registry, task }
    }

    /// A stream of `name`'s token, which has the uid `u`.
    fn stream(&self, name: &str, bound: bool) -> LiveStream {
        let identity = Identity {
            user: format!("system:serviceaccount:apps:{name}"),
            impersonation: None,
            account_uid: Some("u".to_owned()),
            bound,
            expires: None,
        };
        let token = HeaderValue::from_str(&format!("Bearer {name}")).unwrap();
        self.live.enter(&cluster(), &identity, &token).unwrap()
    }

    fn series(&self) -> usize {
        self.registry.gather().iter().map(|family| family.get_metric().len()).sum()
    }

    fn gauge(&self, metric: &str) -> f64 {
        let families = self.registry.gather();
        let series = families.iter().filter(|family| family.name() == metric);
        series.flat_map(|family| family.get_metric()).map(|one| one.get_gauge().get_value()).sum()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn cluster() -> ClusterName {
    ClusterName::parse("c1").unwrap()
}

async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

/// Whether a stream has ended by now.
fn has_ended(stream: &LiveStream) -> bool {
    use futures_util::FutureExt as _;
    stream.ended().now_or_never().is_some()
}

#[tokio::test(start_paused = true)]
async fn a_deleted_account_ends_its_streams_and_no_others() {
    let world = World::new();
    let (one, two) = (world.stream("a", false), world.stream("b", false));
    pass(5.0).await;
    // The API server still has the token in its cache.
    world.spoke.event("DELETED", "a", "u");
    pass(9.0).await;
    assert!(!has_ended(&one), "the API server accepts it");
    world.spoke.refuse("a");
    pass(4.0).await;
    assert!(has_ended(&one));
    assert_eq!(one.ended().await, "token-refused");
    pass(900.0).await;
    assert!(!has_ended(&two));
}

#[tokio::test(start_paused = true)]
async fn a_recreated_account_is_another() {
    let world = World::new();
    let stream = world.stream("a", false);
    pass(20.0).await;
    let before = world.spoke.asked.load(Ordering::Relaxed);
    world.spoke.event("MODIFIED", "a", "u");
    pass(10.0).await;
    assert_eq!(world.spoke.asked.load(Ordering::Relaxed), before, "the same account");
    world.spoke.refuse("a");
    world.spoke.event("ADDED", "a", "v");
    pass(2.0).await;
    assert!(has_ended(&stream));
}

#[tokio::test(start_paused = true)]
async fn a_bound_token_ends_within_ten_seconds_of_the_refusal() {
    let world = World::new();
    let (pod, other) = (world.stream("pod", true), world.stream("other", true));
    pass(33.3).await;
    world.spoke.refuse("pod");
    pass(10.0).await;
    assert!(has_ended(&pod) && !has_ended(&other));
}

#[tokio::test(start_paused = true)]
async fn nothing_ends_while_the_api_server_does_not_say_so() {
    let world = World::new();
    for status in [500, 503, 429, 404, 401, 403] {
        *world.spoke.reviews.lock().unwrap() = Some(StatusCode::from_u16(status).unwrap());
        let stream = world.stream("a", true);
        world.spoke.refuse("a");
        pass(300.0).await;
        assert!(!has_ended(&stream), "{status}");
        assert_eq!(world.gauge("cluster_proxy_agent_right_missing") == 1.0, status == 403);
    }
    // The same refusal, once the API server answers.
    let stream = world.stream("a", true);
    *world.spoke.reviews.lock().unwrap() = None;
    pass(80.0).await;
    assert!(has_ended(&stream));
    assert_eq!(world.gauge("cluster_proxy_agent_right_missing"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_was_missed_is_found() {
    let world = World::new();
    let stream = world.stream("a", false);
    pass(60.0).await;
    // Deleted while the watch was down, and its history is gone.
    world.spoke.gone.store(true, Ordering::Relaxed);
    world.spoke.close_watch();
    world.spoke.refuse("a");
    pass(25.0).await;
    assert!(has_ended(&stream));
    assert_eq!(world.spoke.lists.load(Ordering::Relaxed), 2, "it began anew");

    // A watch that only broke goes on where it was.
    let _stream = world.stream("b", false);
    world.spoke.event("ADDED", "other", "w");
    pass(1.0).await;
    world.spoke.close_watch();
    pass(10.0).await;
    assert_eq!(world.spoke.lists.load(Ordering::Relaxed), 2);
    assert!(world.spoke.paths.lock().unwrap().last().unwrap().contains("resourceVersion=9"));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_is_watched_only_while_it_has_live_streams() {
    let world = World::new();
    pass(60.0).await;
    assert_eq!(world.spoke.lists.load(Ordering::Relaxed), 0);
    let stream = world.stream("a", true);
    pass(1.0).await;
    assert!(world.spoke.is_watched());
    assert_eq!(world.gauge("cluster_proxy_live_tokens"), 0.0 + 1.0);
    drop(stream);
    pass(LINGER.as_secs_f64() + 5.0).await;
    assert!(!world.spoke.is_watched());
    let asked = world.spoke.asked.load(Ordering::Relaxed);
    pass(600.0).await;
    assert_eq!(world.spoke.asked.load(Ordering::Relaxed), asked);
    let _again = world.stream("a", true);
    pass(20.0).await;
    assert!(world.spoke.is_watched() && world.spoke.asked.load(Ordering::Relaxed) > asked);
}

#[tokio::test(start_paused = true)]
async fn many_tokens_are_each_reviewed_and_few_at_once() {
    let world = World::new();
    let streams: Vec<_> = (0..2000).map(|name| world.stream(&format!("n{name}"), true)).collect();
    pass(30.0).await;
    let asked = world.spoke.asked.load(Ordering::Relaxed);
    assert!((4000..=8000).contains(&asked), "{asked} reviews of 2,000 tokens in 30 s");
    assert!(world.spoke.most_at_once.load(Ordering::Relaxed) <= AT_ONCE);
    world.spoke.refuse("n1234");
    pass(20.0).await;
    let ended: Vec<_> = streams.iter().filter(|stream| has_ended(stream)).collect();
    assert_eq!(ended.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_not_allowed_is_said_and_costs_nothing() {
    let world = World::new();
    *world.spoke.watches.lock().unwrap() = Some(StatusCode::FORBIDDEN);
    let stream = world.stream("a", false);
    pass(600.0).await;
    assert!(!has_ended(&stream));
    assert_eq!(world.gauge("cluster_proxy_agent_right_missing"), 1.0);
    assert!(world.spoke.lists.load(Ordering::Relaxed) <= 14, "about once a minute");
    // Slow reviews go on and find the refusal all the same.
    world.spoke.refuse("a");
    pass(400.0).await;
    assert!(has_ended(&stream));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_not_served_any_more_ends_its_streams() {
    let world = World::new();
    let stream = world.stream("a", false);
    pass(5.0).await;
    world.live.end_cluster(&ClusterName::parse("c2").unwrap(), "cluster-revoked");
    assert!(!has_ended(&stream), "another cluster");
    world.live.end_cluster(&cluster(), "cluster-revoked");
    assert_eq!(stream.ended().await, "cluster-revoked");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_removed_leaves_no_series_offline_or_in_the_midst_of_it() {
    for offline in [true, false] {
        let world = World::new();
        *world.spoke.reviews.lock().unwrap() = Some(StatusCode::FORBIDDEN);
        let stream = world.stream("a", true);
        pass(20.0).await;
        if offline {
            drop(stream);
            pass(LINGER.as_secs_f64() + 5.0).await;
        }
        assert!(world.series() > 0);
        let enrolment = Enrolment {
            key_sha256: String::new(),
            enrolled_at: 0,
            certificate_expires: 0,
            cluster_uid: None,
            hub_itself: false,
            revoked: false,
            replaces: None,
        };
        let registry = Registry::new(world.live.clone());
        registry.sync(&[(cluster(), enrolment)].into(), &Acceptance::default());
        // What is asked of it from now on fails.
        *world.spoke.watches.lock().unwrap() = Some(StatusCode::NOT_FOUND);
        registry.sync(&BTreeMap::new(), &Acceptance::default());
        world.spoke.close_watch();
        pass(LOOK.as_secs_f64()).await;
        assert_eq!(world.series(), 0, "offline: {offline}");
        assert!(!world.spoke.is_watched());
        // It comes back.
        let _stream = world.stream("a", true);
        pass(20.0).await;
        assert!(world.series() > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_shows_a_token() {
    let world = World::new();
    let stream = world.stream("verysecret", true);
    assert!(!format!("{stream:?} {:?}", world.live).contains("verysecret"));
}
