use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use prometheus::Registry;
use serde_json::{Value, json};

use super::*;
use crate::hub::authn::{Identity, Impersonated, Voucher};
use crate::hub::followed::Source;
use crate::hub::policy::{Denied, Policies};
use crate::hub::testing::Answering;

/// Lets jane have `get` on c1, unless it is told what to answer.
#[derive(Default)]
struct Api {
    instead: Mutex<Option<(u16, Value)>>,
    asked: AtomicUsize,
    last: Mutex<Value>,
}

impl Answering for Api {
    async fn answer(&self, _: Method, path: &str, body: Bytes) -> Option<(u16, Bytes)> {
        // The policy's ConfigMap is not there.
        (path == PATH).then_some(())?;
        let question: Value = serde_json::from_slice(&body).unwrap();
        self.asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let spec = &question["spec"];
        let wanted = &spec["resourceAttributes"];
        let allowed = spec["user"] == "jane" && wanted["verb"] == "get" && wanted["name"] == "c1";
        let said = json!({"kind": KIND, "spec": spec, "status": {"allowed": allowed}});
        *self.last.lock().unwrap() = question;
        let instead = self.instead.lock().unwrap().clone();
        let (status, body) = instead.unwrap_or((201, said));
        (status > 0).then(|| (status, body.to_string().into()))
    }
}

impl Api {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn say(&self, instead: Option<(u16, Value)>) {
        *self.instead.lock().unwrap() = instead;
    }

    /// From now on, to everything.
    fn decide(&self, allowed: bool) {
        self.say(Some((201, json!({"kind": KIND, "status": {"allowed": allowed}}))));
    }
}

fn jane() -> UserInfo {
    UserInfo {
        username: "jane".to_owned(),
        uid: "7".to_owned(),
        groups: vec!["dev".to_owned()],
        extra: [("scopes".to_owned(), vec!["a".to_owned()])].into(),
    }
}

fn asked(own: Option<UserInfo>, method: Method, target: &'static str, cluster: &str) -> Asked {
    let impersonation = Impersonated {
        groups: vec!["cluster:hub:dev".to_owned()],
        headers: HeaderMap::new(),
        by: Voucher::Hub,
        own: own.map(Arc::new),
    };
    Asked {
        identity: Arc::new(Identity {
            user: "cluster:hub:jane".to_owned(),
            impersonation: Some(impersonation),
            account_uid: None,
            bound: true,
            expires: None,
        }),
        cluster: ClusterName::parse(cluster).unwrap(),
        method,
        target: PathAndQuery::from_static(target),
    }
}

const POD: &str = "/api/v1/namespaces/shop/pods/p";

fn get(cluster: &str) -> Asked {
    asked(Some(jane()), Method::GET, POD, cluster)
}

/// Policies that delegate, of `text` or of no policy.
fn policies(text: Option<&str>) -> (Policies, Arc<Api>, Registry, tempfile::TempDir) {
    let (folder, registry) = (tempfile::tempdir().unwrap(), Registry::new());
    let api = Arc::new(Api::default());
    let source = text.map_or(Source::None, |text| {
        let file = folder.path().join("policy.yaml");
        std::fs::write(&file, text).unwrap();
        Source::File(file)
    });
    let policies = Policies::load(source, true, Some(api.clone()), &registry).unwrap();
    (policies, api, registry, folder)
}

#[tokio::test(start_paused = true)]
async fn the_question_is_the_documented_one() {
    let (policies, api, ..) = policies(None);
    assert_eq!(policies.decide(&get("c1")).await, Ok(()));
    let question = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": "jane", "uid": "7", "groups": ["dev"], "extra": {"scopes": ["a"]},
            "resourceAttributes": {"group": "cluster-proxy", "resource": "clusters",
                "subresource": "", "name": "c1", "verb": "get"},
        },
    });
    assert_eq!(*api.last.lock().unwrap(), question);
    let service = "/api/v1/namespaces/shop/services/web/proxy-service";
    for (method, target, verb, subresource) in [
        (Method::GET, "/api/v1/pods", "list", ""),
        (Method::GET, "/api/v1/pods?watch=true", "watch", ""),
        (Method::POST, "/api/v1/namespaces/shop/pods/p/exec", "create", ""),
        (Method::DELETE, "/apis/apps/v1/namespaces/shop/deployments", "deletecollection", ""),
        (Method::PATCH, POD, "patch", ""),
        (Method::GET, "/version", "get", ""),
        (Method::POST, "/healthz", "post", ""),
        (Method::PUT, service, "update", "services"),
    ] {
        let asked = asked(Some(jane()), method, target, "edge-1");
        let denied = policies.decide(&asked).await.unwrap_err().to_string();
        let words = if subresource.is_empty() { "clusters" } else { "clusters/services" };
        let rule = format!("{verb} {words} of edge-1 in API group cluster-proxy");
        assert!(denied.contains(&rule), "{target}: {denied}");
        let question = api.last.lock().unwrap()["spec"]["resourceAttributes"].clone();
        assert_eq!(
            (&question["verb"], &question["subresource"]),
            (&json!(verb), &json!(subresource))
        );
        assert_eq!((&question["name"], question.get("namespace")), (&json!("edge-1"), None));
    }
    // What no API server takes, and whose names are not theirs alone, is not asked about.
    let before = api.asked();
    for asked in [
        asked(Some(jane()), Method::GET, "/api/v1/watch", "c1"),
        asked(None, Method::GET, POD, "c1"),
    ] {
        assert!(matches!(policies.decide(&asked).await, Err(Denied::NoRule { .. })));
    }
    assert_eq!(api.asked(), before);
}

#[tokio::test(start_paused = true)]
async fn rules_come_first_and_both_can_let_in() {
    let rules = "rules: [{users: ['cluster:hub:jane'], clusters: [c2]}]";
    let (policies, api, registry, _folder) = policies(Some(rules));
    assert_eq!(policies.decide(&get("c2")).await, Ok(()));
    assert_eq!(api.asked(), 0, "a rule lets in: nobody is asked");
    assert_eq!(policies.decide(&get("c1")).await, Ok(()));
    assert!(matches!(policies.decide(&get("c3")).await, Err(Denied::NotDelegated { .. })));
    api.say(Some((0, Value::Null)));
    assert!(matches!(policies.decide(&get("c4")).await, Err(Denied::Unasked(_))));
    let families = registry.gather();
    let decisions = families.iter().find(|of| of.name() == "cluster_proxy_authorizations_total");
    let mut counted: Vec<String> = Vec::new();
    for one in decisions.unwrap().get_metric() {
        assert_eq!(one.get_counter().get_value(), 1.0);
        let labels: Vec<&str> = one.get_label().iter().map(|label| label.value()).collect();
        counted.push(labels.join(" "));
    }
    counted.sort_unstable();
    let all = [
        "rule allowed",
        "subject-access-review allowed",
        "subject-access-review denied",
        "unasked denied",
    ];
    assert_eq!(counted, all);
}

#[tokio::test(start_paused = true)]
async fn an_unread_policy_is_no_refusal() {
    let source = Source::ConfigMap { namespace: "hub".to_owned(), name: "policy".to_owned() };
    let api = Arc::new(Api::default());
    let policies = Policies::load(source, true, Some(api), &Registry::new()).unwrap();
    assert_eq!(policies.decide(&get("c1")).await, Ok(()), "whom the hub lets in needs no rule");
    assert_eq!(policies.decide(&get("c2")).await, Err(Denied::Unread));
}

#[tokio::test(start_paused = true)]
async fn one_question_for_all_who_wait_and_none_for_eight_seconds() {
    let (policies, api, ..) = policies(None);
    let (one, other) = (get("c1"), get("c2"));
    let all = join_all((0..100).map(|_| policies.decide(&one))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(api.asked(), 1);
    let all = join_all((0..100).map(|_| policies.decide(&other))).await;
    assert!(all.iter().all(Result::is_err));
    assert_eq!(api.asked(), 2);
    tokio::time::advance(Duration::from_secs(7)).await;
    assert!(policies.decide(&one).await.is_ok() && policies.decide(&other).await.is_err());
    assert_eq!(api.asked(), 2, "both answers are remembered");
    api.say(Some((201, json!({"kind": KIND, "status": {"allowed": false}}))));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(policies.decide(&one).await.is_err());
    api.decide(true);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(policies.decide(&other).await.is_ok());
}

/// A stream whose reader has stopped is not polled: what it asked must not wait for that.
#[tokio::test(start_paused = true)]
async fn who_asks_and_waits_no_more_keeps_nobody_waiting() {
    let (policies, api, ..) = policies(None);
    let jane = get("c1");
    let all = (0..AT_ONCE).map(|cluster| get(&format!("d{cluster}")));
    let mut stalled: Vec<_> = std::iter::once(jane.clone())
        .chain(all)
        .map(|asked| {
            let policies = policies.clone();
            Box::pin(async move { policies.decide(&asked).await })
        })
        .collect();
    assert!(stalled.iter_mut().all(|asking| asking.now_or_never().is_none()));
    for asked in [&jane, &get("c2")] {
        let answer = tokio::time::timeout(Duration::from_secs(60), policies.decide(asked)).await;
        assert!(!matches!(answer, Err(_) | Ok(Err(Denied::Unasked(_)))), "{answer:?}");
    }
    assert_eq!(api.asked(), AT_ONCE + 2, "the stalled ones too");
}

/// Whoever may not know where the API server is gets no address of it.
#[tokio::test(start_paused = true)]
async fn an_outage_is_told_in_words_of_ours() {
    let (policies, api, ..) = policies(None);
    api.say(Some((0, Value::Null)));
    let decided = policies.decide(&get("c1")).await;
    assert_eq!(decided, Err(Denied::Unasked("it does not answer; try again".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_lets_nobody_in_and_is_not_remembered() {
    let (policies, api, ..) = policies(None);
    let review = |status: Value| json!({"kind": KIND, "status": status});
    for instead in [
        (0, Value::Null),
        (500, review(json!({"allowed": true}))),
        (401, json!({})),
        (403, json!({})),
        (201, json!({"kind": "Status", "status": {"allowed": true}})),
        (201, json!({"kind": KIND})),
        (201, review(json!({"allowed": "yes"}))),
        (302, review(json!({"allowed": true}))),
    ] {
        api.say(Some(instead.clone()));
        let decided = policies.decide(&get("c1")).await;
        let Err(Denied::Unasked(why)) = decided else { panic!("{instead:?}: {decided:?}") };
        assert_eq!(why.contains("lacks the right"), instead.0 == 403, "{why}");
    }
    api.say(None);
    assert_eq!(policies.decide(&get("c1")).await, Ok(()));
}

/// Security case 73: within ten seconds of a change, and not by an outage or by one no alone.
#[tokio::test(start_paused = true)]
async fn streams_end_when_the_hub_does_not_let_them_any_more() {
    let (policies, api, ..) = policies(None);
    let jane = get("c1");
    assert!(policies.decide(&jane).await.is_ok());
    let mut withdrawn = Box::pin(policies.withdrawn(&jane));
    assert!((&mut withdrawn).now_or_never().is_none());
    api.say(Some((0, Value::Null)));
    let outage = tokio::time::timeout(Duration::from_secs(60), &mut withdrawn).await;
    assert!(outage.is_err(), "what cannot be asked ends nothing");
    api.say(None);
    let quiet = tokio::time::timeout(Duration::from_secs(60), &mut withdrawn).await;
    assert!(quiet.is_err(), "it is still allowed");

    // One no, and then again a yes.
    let before = api.asked();
    api.decide(false);
    while api.asked() == before {
        let _ = tokio::time::timeout(Duration::from_millis(30), &mut withdrawn).await;
    }
    let _ = tokio::time::timeout(Duration::from_millis(30), &mut withdrawn).await;
    api.say(None);
    let weak = tokio::time::timeout(Duration::from_secs(60), &mut withdrawn).await;
    assert!(weak.is_err(), "it was a moment's weakness");

    api.decide(false);
    let bound = Duration::from_secs(10);
    assert!(tokio::time::timeout(bound, &mut withdrawn).await.is_ok(), "it ends in time");
}
