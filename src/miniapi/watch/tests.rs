use serde_json::json;

use super::*;
use crate::miniapi::resources;
use crate::miniapi::store::{Key, Mode};

fn key(name: &str) -> Key {
    Key::new("", "pods", "default", name)
}

fn pod(label: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"app": label}}})
}

fn relabel(store: &Store, name: &str, label: &str) {
    let change = |current: &Value| {
        let mut next = current.clone();
        next["metadata"]["labels"]["app"] = label.into();
        Ok(next)
    };
    store.modify(&key(name), Mode::Commit, change).unwrap();
}

fn start(store: &Store, query: &str) -> Body {
    let query = Query::parse(query);
    let watch = Watch {
        store: store.clone(),
        resource: resources::find(store, "", "v1", "pods").unwrap(),
        namespace: Some("default".to_owned()),
        selector: Selector::from_query(&query).unwrap(),
        view: View::Plain,
        drain: Drain::new(),
    };
    watch.start(&query).unwrap().into_body()
}

/// `TYPE name` of the next event, `end` at the end, `quiet` when none comes for a second.
async fn next(body: &mut Body) -> String {
    let frame = tokio::time::timeout(Duration::from_secs(1), body.frame()).await;
    let Ok(frame) = frame else { return "quiet".to_owned() };
    let Some(frame) = frame else { return "end".to_owned() };
    let bytes = frame.unwrap().into_data().unwrap();
    let event: Value = serde_json::from_slice(&bytes).unwrap();
    let about = match event["object"]["code"].as_u64() {
        Some(code) => code.to_string(),
        None => event["object"]["metadata"]["name"].as_str().unwrap_or("-").to_owned(),
    };
    format!("{} {about}", event["type"].as_str().unwrap())
}

#[tokio::test(start_paused = true)]
async fn selected_changes_come_as_they_look_from_outside() {
    let store = Store::new(100);
    store.create(&key("old"), pod("web"), Mode::Commit).unwrap();
    let mut all = start(&store, "");
    let mut web = start(&store, "labelSelector=app%3Dweb&resourceVersion=1");
    assert_eq!(next(&mut all).await, "ADDED old");
    assert_eq!(next(&mut all).await, "quiet");
    store.create(&key("new"), pod("db"), Mode::Commit).unwrap();
    relabel(&store, "new", "web");
    relabel(&store, "old", "db");
    store.delete(&key("old"), Mode::Commit, |_| Ok(())).unwrap();
    for wanted in ["ADDED new", "MODIFIED new", "MODIFIED old", "DELETED old", "quiet"] {
        assert_eq!(next(&mut all).await, wanted);
    }
    for wanted in ["ADDED old", "ADDED new", "DELETED old", "quiet"] {
        assert_eq!(next(&mut web).await, wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_left_behind_gets_410() {
    let store = Store::new(2);
    let mut slow = start(&store, "resourceVersion=1");
    let mut fast = start(&store, "resourceVersion=1");
    for name in ["a", "b", "c"] {
        store.create(&key(name), pod("x"), Mode::Commit).unwrap();
        assert_eq!(next(&mut fast).await, format!("ADDED {name}"));
    }
    assert_eq!(next(&mut slow).await, "ERROR 410");
    assert_eq!(next(&mut slow).await, "end");
}

#[tokio::test(start_paused = true)]
async fn initial_events_bookmarks_and_the_end() {
    let store = Store::new(10);
    store.create(&key("a"), pod("x"), Mode::Commit).unwrap();
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut body = start(&store, &format!("{query}&timeoutSeconds=90"));
    assert_eq!(next(&mut body).await, "ADDED a");
    assert_eq!(next(&mut body).await, "BOOKMARK -");
    assert_eq!(next(&mut body).await, "quiet");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(next(&mut body).await, "BOOKMARK -");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(next(&mut body).await, "end");
}
