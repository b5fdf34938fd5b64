use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::*;
use crate::hub::authn::{Impersonated, Voucher};
use crate::hub::followed::Source;
use crate::hub::testing::Answering;

/// An API server that lets jane see some clusters.
struct Api {
    /// Names; an empty one is all of them.
    lets: Mutex<Vec<&'static str>>,
    /// Answers that come; later ones do not. Nobody says so.
    answers: AtomicUsize,
    is_up: Mutex<bool>,
    asked: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Api {
    fn new(lets: &[&'static str]) -> Arc<Self> {
        Arc::new(Self {
            lets: Mutex::new(lets.to_vec()),
            answers: AtomicUsize::new(usize::MAX),
            is_up: Mutex::new(true),
            asked: AtomicUsize::default(),
            at_once: AtomicUsize::default(),
            most_at_once: AtomicUsize::default(),
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn policies(self: &Arc<Self>, source: Source) -> Policies {
        let registry = prometheus::Registry::new();
        Policies::load(source, true, Some(Arc::clone(self) as _), &registry).unwrap()
    }
}

impl Answering for Api {
    async fn answer(&self, _: Method, _: &str, body: Bytes) -> Option<(u16, Bytes)> {
        let question: Value = serde_json::from_slice(&body).unwrap();
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let now = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(now, Ordering::Relaxed);
        sleep(Duration::from_millis(5)).await;
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        if number >= self.answers.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        (*self.is_up.lock().unwrap()).then_some(())?;
        let (spec, wanted) = (&question["spec"], &question["spec"]["resourceAttributes"]);
        assert_eq!((&spec["user"], &wanted["verb"]), (&json!("jane"), &json!("get")));
        let allowed = self.lets.lock().unwrap().iter().any(|name| wanted["name"] == **name);
        let said = json!({"kind": "SubjectAccessReview", "status": {"allowed": allowed}});
        Some((201, said.to_string().into()))
    }
}

fn jane() -> Identity {
    let own = UserInfo { username: "jane".to_owned(), ..UserInfo::default() };
    Identity {
        user: "cluster:hub:jane".to_owned(),
        impersonation: Some(Impersonated {
            groups: Vec::new(),
            headers: HeaderMap::new(),
            by: Voucher::Hub,
            own: Some(Arc::new(own)),
        }),
        account_uid: None,
        bound: true,
        expires: None,
    }
}

fn names(names: &[&str]) -> BTreeSet<ClusterName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn many(count: usize) -> BTreeSet<ClusterName> {
    (0..count).map(|number| format!("edge-{number}").parse().unwrap()).collect()
}

async fn seen(policies: &Policies, of: &BTreeSet<ClusterName>) -> Seen {
    policies.seen(&jane(), of.iter()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn rules_and_rights_of_the_hub_show_clusters_together() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.yaml");
    std::fs::write(&file, "rules: [{users: ['cluster:hub:jane'], clusters: [c1]}]").unwrap();
    let api = Api::new(&["c2", "c9"]);
    let policies = api.policies(Source::File(file));
    let all = names(&["c1", "c2", "c3"]);
    let whole = Seen { clusters: names(&["c1", "c2"]), incomplete: None };
    assert_eq!(seen(&policies, &all).await, whole);
    // One about all of them, and no more than one about each that no rule names.
    assert_eq!(api.asked(), 3);
    assert_eq!(seen(&policies, &all).await, whole);
    assert_eq!(api.asked(), 3, "remembered");
    tokio::time::advance(FRESH).await;
    api.lets.lock().unwrap().clear();
    assert_eq!(seen(&policies, &all).await.clusters, names(&["c1"]));
    // Nobody is asked about what rules show.
    let before = api.asked();
    assert_eq!(seen(&policies, &names(&["c1"])).await.clusters, names(&["c1"]));
    assert_eq!(api.asked(), before);
}

#[tokio::test(start_paused = true)]
async fn a_right_to_all_clusters_is_one_question() {
    let api = Api::new(&[""]);
    let policies = api.policies(Source::None);
    let all = many(2_000);
    assert_eq!(seen(&policies, &all).await, Seen { clusters: all, incomplete: None });
    assert_eq!(api.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_asked_is_left_out_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.yaml");
    std::fs::write(&file, "rules: [{users: ['cluster:hub:jane'], clusters: [c1]}]").unwrap();
    let api = Api::new(&["c2", "c3"]);
    let policies = api.policies(Source::File(file));
    let all = names(&["c1", "c2", "c3"]);
    *api.is_up.lock().unwrap() = false;
    let some = seen(&policies, &all).await;
    assert_eq!(some.clusters, names(&["c1"]));
    assert!(some.incomplete.unwrap().contains("cannot be asked who may: it does not answer"));
    assert_eq!(api.asked(), 1, "it would be no better about the others");
    *api.is_up.lock().unwrap() = true;
    assert_eq!(seen(&policies, &all).await, Seen { clusters: all.clone(), incomplete: None });

    // One that falls silent is not waited for, and what it said counts.
    tokio::time::advance(FRESH).await;
    api.answers.store(api.asked() + 2, Ordering::Relaxed);
    let before = Instant::now();
    let some = seen(&policies, &all).await;
    assert_eq!(some.clusters.len(), 2, "{some:?}");
    assert!(some.incomplete.unwrap().contains("takes too long"));
    assert!(before.elapsed() <= TIME + Duration::from_millis(5));
}

#[tokio::test(start_paused = true)]
async fn a_page_asks_a_bounded_number_of_questions_and_leaves_room_for_requests() {
    let api = Api::new(&["edge-7"]);
    let policies = api.policies(Source::None);
    let all = many(QUESTIONS + 40);
    let some = seen(&policies, &all).await;
    assert!(some.incomplete.is_some());
    assert_eq!(api.asked(), QUESTIONS + 1);
    // The next page goes on where this one stopped.
    let whole = Seen { clusters: names(&["edge-7"]), incomplete: None };
    assert_eq!(seen(&policies, &all).await, whole);
    assert_eq!(api.asked(), QUESTIONS + 41);
    tokio::time::advance(FRESH).await;
    let (one, other) = (jane(), jane());
    let _ = tokio::join!(policies.seen(&one, all.iter()), policies.seen(&other, all.iter()));
    assert_eq!(api.most_at_once.load(Ordering::Relaxed), LOOKING);
}

#[tokio::test(start_paused = true)]
async fn without_a_policy_the_hubs_own_rights_decide_alone() {
    let api = Api::new(&["c2"]);
    let all = names(&["c1", "c2"]);
    let whole = Seen { clusters: names(&["c2"]), incomplete: None };
    assert_eq!(seen(&api.policies(Source::None), &all).await, whole);
    let unread = Source::ConfigMap { namespace: "hub".to_owned(), name: "policy".to_owned() };
    let some = seen(&api.policies(unread), &all).await;
    assert_eq!(some.clusters, names(&["c2"]));
    assert_eq!(some.incomplete, Some(Denied::Unread.to_string()));

    let registry = prometheus::Registry::new();
    let alone = Policies::load(Source::None, false, None, &registry).unwrap();
    assert_eq!(alone.seen(&jane(), all.iter()).await, Err(Denied::NoPolicy));
    // Whose names are not theirs alone on the hub is not asked about.
    let before = api.asked();
    let mut nobody = jane();
    nobody.impersonation.as_mut().unwrap().own = None;
    let none = api.policies(Source::None).seen(&nobody, all.iter()).await;
    assert_eq!((none, api.asked()), (Ok(Seen::default()), before));
}
