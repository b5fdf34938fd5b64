//! Lists, and watches that go on from them.

use futures_util::{AsyncBufReadExt as _, StreamExt as _};
use http::Request;
use serde_json::{Value, json};

use super::client::{Api, fields};
use crate::support::{PATIENCE, within};

pub(super) async fn all(api: &Api) {
    a_watch_goes_on_from_a_list(api).await;
    a_selection_is_left_and_entered(api).await;
    a_watch_may_begin_with_what_is_there(api).await;
    lists_come_in_pages(api).await;
}

async fn a_watch_goes_on_from_a_list(api: &Api) {
    make(api, "before", "x").await;
    let list = api.get(&format!("{MAPS}?labelSelector=watched")).await.is(200);
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let from = list["metadata"]["resourceVersion"].as_str().unwrap();
    let query = format!("labelSelector=watched&resourceVersion={from}&timeoutSeconds=3");
    let mut events = watch(api, &query).await;

    make(api, "after", "x").await;
    api.patch("merge", &format!("{MAPS}/after"), json!({"data": {"a": "2"}})).await.is(200);
    api.delete(&format!("{MAPS}/after")).await.is(200);
    api.post(MAPS, json!({"metadata": {"name": "unwatched"}})).await.is(201);
    for (kind, value) in [("ADDED", json!(null)), ("MODIFIED", json!("2")), ("DELETED", json!("2"))]
    {
        let event = next(&mut events).await.unwrap();
        let seen = fields(&event, &["/type", "/object/metadata/name", "/object/data/a"]);
        assert_eq!(seen, json!([kind, "after", value]));
        assert_eq!(event["object"]["kind"], "ConfigMap");
    }
    // The time is over, and that is no error.
    assert!(next(&mut events).await.is_none());
    api.delete(&format!("{MAPS}/unwatched")).await.is(200);
}

/// For who selects, an object that changes its labels comes and goes.
async fn a_selection_is_left_and_entered(api: &Api) {
    let from = revision(api).await;
    let query = format!("labelSelector=watched%3Dx&resourceVersion={from}");
    let mut events = watch(api, &query).await;
    for (value, kind) in [("y", "DELETED"), ("x", "ADDED")] {
        let patch = json!({"metadata": {"labels": {"watched": value}}});
        api.patch("merge", &format!("{MAPS}/before"), patch).await.is(200);
        let event = next(&mut events).await.unwrap();
        assert_eq!(fields(&event, &["/type", "/object/metadata/name"]), json!([kind, "before"]));
    }
    let from = revision(api).await;
    let query = format!("fieldSelector=metadata.name%3Dbefore&resourceVersion={from}");
    let mut events = watch(api, &query).await;
    make(api, "other", "x").await;
    api.delete(&format!("{MAPS}/other")).await.is(200);
    api.patch("merge", &format!("{MAPS}/before"), json!({"data": {"b": "1"}})).await.is(200);
    let event = next(&mut events).await.unwrap();
    assert_eq!(fields(&event, &["/type", "/object/metadata/name"]), json!(["MODIFIED", "before"]));
}

/// As client-go's and kube's reflectors ask now.
async fn a_watch_may_begin_with_what_is_there(api: &Api) {
    let query = "labelSelector=watched&sendInitialEvents=true&allowWatchBookmarks=true\
                 &resourceVersionMatch=NotOlderThan&resourceVersion=0";
    let mut events = watch(api, query).await;
    let event = next(&mut events).await.unwrap();
    assert_eq!(fields(&event, &["/type", "/object/metadata/name"]), json!(["ADDED", "before"]));
    let event = next(&mut events).await.unwrap();
    let end = "/object/metadata/annotations/k8s.io~1initial-events-end";
    assert_eq!(fields(&event, &["/type", end]), json!(["BOOKMARK", "true"]));
    let from = event["object"]["metadata"]["resourceVersion"].as_str().unwrap();
    make(api, "later", "x").await;
    for events in [
        &mut events,
        &mut watch(api, &format!("labelSelector=watched&resourceVersion={from}")).await,
    ] {
        let event = next(events).await.unwrap();
        assert_eq!(fields(&event, &["/type", "/object/metadata/name"]), json!(["ADDED", "later"]));
    }
    api.delete(&format!("{MAPS}/later")).await.is(200);
    let wrong = format!("{MAPS}?watch=true&sendInitialEvents=true");
    api.get(&wrong).await.refused(422, "Invalid");

    // What a client gets that did not ask for initial events and named no revision.
    let mut events = watch(api, "labelSelector=watched").await;
    let event = next(&mut events).await.unwrap();
    assert_eq!(fields(&event, &["/type", "/object/metadata/name"]), json!(["ADDED", "before"]));
}

async fn lists_come_in_pages(api: &Api) {
    for name in ["page-a", "page-b", "page-c"] {
        make(api, name, "page").await;
    }
    let mut names = Vec::new();
    let mut next = String::new();
    let mut pages = 0;
    loop {
        let path = format!("{MAPS}?labelSelector=watched%3Dpage&limit=2&continue={next}");
        let page = api.get(&path).await.is(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        names.extend(items.iter().map(|item| item["metadata"]["name"].clone()));
        pages += 1;
        match page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
            Some(token) => token.clone_into(&mut next),
            None => break,
        }
    }
    api.get(&format!("{MAPS}?limit=2&continue=unknown")).await.refused(400, "BadRequest");
    assert_eq!((pages, json!(names)), (2, json!(["page-a", "page-b", "page-c"])));
}

async fn revision(api: &Api) -> String {
    let list = api.get(&format!("{MAPS}?limit=1")).await.is(200);
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

async fn make(api: &Api, name: &str, label: &str) {
    let map = json!({"metadata": {"name": name, "labels": {"watched": label}}});
    api.post(MAPS, map).await.is(201);
}

type Events = futures_util::stream::BoxStream<'static, Value>;

async fn watch(api: &Api, query: &str) -> Events {
    let request = Request::get(format!("{MAPS}?watch=true&{query}")).body(Vec::new()).unwrap();
    let lines = api.client.request_stream(request).await.unwrap().lines();
    lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).boxed()
}

async fn next(events: &mut Events) -> Option<Value> {
    within("an event", PATIENCE, events.next()).await
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
