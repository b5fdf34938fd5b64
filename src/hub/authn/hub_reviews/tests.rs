use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::hub::testing::Answering;

/// Accepts every token for the user of the same name, unless it is told to do something else.
#[derive(Default)]
struct Api {
    instead: Mutex<Option<(u16, Value)>>,
    asked: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Answering for Api {
    async fn answer(&self, _: Method, path: &str, body: Bytes) -> Option<(u16, Bytes)> {
        assert_eq!(path, PATH);
        let question: Value = serde_json::from_slice(&body).unwrap();
        let user = json!({"username": question["spec"]["token"]});
        let yes = json!({"kind": "TokenReview", "status": {"authenticated": true, "user": user}});
        self.asked.fetch_add(1, Ordering::Relaxed);
        let now = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(now, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        let instead = self.instead.lock().unwrap().clone();
        let (status, body) = instead.unwrap_or((201, yes));
        (status > 0).then(|| (status, body.to_string().into()))
    }
}

fn reviews() -> (HubReviews, Arc<Api>) {
    let api = Arc::new(Api::default());
    (HubReviews::new(Arc::clone(&api) as Arc<dyn HubApi>), api)
}

fn asked(api: &Api) -> usize {
    api.asked.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_first_uses_are_one_question() {
    let (reviews, api) = reviews();
    let answers = join_all((0..1_000).map(|_| reviews.review("jane", FRESH))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().user.username == "jane"));
    assert_eq!(asked(&api), 1);
    assert_eq!(reviews.review("joe", FRESH).await.unwrap().user.username, "joe");
    assert_eq!(asked(&api), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_as_old_as_its_question() {
    let (reviews, api) = reviews();
    reviews.review("jane", FRESH).await.unwrap();
    tokio::time::advance(FRESH - Duration::from_millis(30)).await;
    reviews.review("jane", FRESH).await.unwrap();
    assert_eq!(asked(&api), 1);
    // Whoever wants a younger one gets it, and the others with them.
    let younger = reviews.review("jane", Duration::from_secs(2)).await.unwrap();
    assert_eq!((asked(&api), younger.asked.elapsed()), (2, Duration::from_millis(20)));
    tokio::time::advance(FRESH - Duration::from_millis(20)).await;
    reviews.review("jane", FRESH).await.unwrap();
    assert_eq!(asked(&api), 3);
}

#[tokio::test(start_paused = true)]
async fn a_no_is_told_to_all_who_wait_and_an_outage_is_none() {
    let (reviews, api) = reviews();
    let no = json!({"kind": "TokenReview", "status": {}});
    let failed = |why: &str| NotAccepted::Failed(why.to_owned());
    for (instead, error) in [
        ((201, no), NotAccepted::Refused),
        ((403, json!({})), NotAccepted::Forbidden),
        ((500, json!({})), failed("it answered 500 Internal Server Error")),
        ((0, json!({})), failed("connection refused")),
    ] {
        let before = asked(&api);
        *api.instead.lock().unwrap() = Some(instead);
        let answers = join_all((0..10).map(|_| reviews.review("jane", FRESH))).await;
        assert!(answers.into_iter().all(|answer| answer.unwrap_err() == error), "{error:?}");
        assert_eq!(asked(&api), before + 1, "{error:?}");
    }
    *api.instead.lock().unwrap() = None;
    assert!(reviews.review("jane", FRESH).await.is_ok(), "nothing of it is remembered");
    assert_eq!(reviews.review("a\"b", FRESH).await.unwrap_err(), failed("it is no token"));
}

#[tokio::test(start_paused = true)]
async fn many_tokens_wait_for_their_turn() {
    let (reviews, api) = reviews();
    let names: Vec<String> = (0..200).map(|number| format!("user{number}")).collect();
    let answers = join_all(names.iter().map(|name| reviews.review(name, FRESH))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(api.most_at_once.load(Ordering::Relaxed), AT_ONCE);
}
