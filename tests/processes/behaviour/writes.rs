//! Objects: creation, revisions, patches, applied fields.

use serde_json::{Value, json};

use super::client::{Api, fields};

pub(super) async fn all(api: &Api) {
    creations(api).await;
    revisions(api).await;
    patches(api).await;
    a_field_belongs_to_whoever_applied_it(api).await;
    leases_are_taken_by_one(api).await;
    secrets_are_bytes(api).await;
    maps_are_texts(api).await;
}

async fn creations(api: &Api) {
    let made = api.post(MAPS, map("made", json!({"a": "1"}))).await.is(201);
    let named = fields(&made, &["/kind", "/metadata/name", "/metadata/namespace"]);
    assert_eq!(named, json!(["ConfigMap", "made", "default"]));
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["resourceVersion"].is_string());
    let refused = api.post(MAPS, map("made", json!({}))).await.refused(409, "AlreadyExists");
    assert_eq!(refused, r#"configmaps "made" already exists"#);
    let refused = api.get(&format!("{MAPS}/absent")).await.refused(404, "NotFound");
    assert_eq!(refused, r#"configmaps "absent" not found"#);
    let elsewhere = "/api/v1/namespaces/absent/configmaps";
    let refused = api.post(elsewhere, map("made", json!({}))).await.refused(404, "NotFound");
    assert_eq!(refused, r#"namespaces "absent" not found"#);
    api.post(MAPS, map("Not_A_Name", json!({}))).await.refused(422, "Invalid");

    // Nobody chooses a uid, and a name may be the server's.
    let mut wishes = map("", json!({}));
    wishes["metadata"] = json!({"generateName": "made-", "uid": "mine"});
    let generated = api.post(MAPS, wishes).await.is(201);
    let name = generated["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("made-") && name.len() > 5, "{name}");
    assert_ne!(generated["metadata"]["uid"], "mine");

    // Nothing comes of a dry run.
    let dry = format!("{MAPS}?dryRun=All");
    api.post(&dry, map("dry", json!({}))).await.is(201);
    api.get(&format!("{MAPS}/dry")).await.refused(404, "NotFound");

    let gone = api.delete(&format!("{MAPS}/made")).await.is(200);
    assert_eq!(fields(&gone, &["/kind", "/status"]), json!(["Status", "Success"]));
    api.delete(&format!("{MAPS}/made")).await.refused(404, "NotFound");
    let again = api.post(MAPS, map("made", json!({}))).await.is(201);
    assert_ne!(again["metadata"]["uid"], made["metadata"]["uid"]);
}

async fn revisions(api: &Api) {
    let path = format!("{MAPS}/revised");
    let first = api.post(MAPS, map("revised", json!({"a": "1"}))).await.is(201);
    let mut next = first.clone();
    next["data"]["a"] = "2".into();
    let second = api.put(&path, next.clone()).await.is(200);
    assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    // What says the same is no new revision.
    let same = api.put(&path, second.clone()).await.is(200);
    assert_eq!(same["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);

    let stale = api.put(&path, next).await.refused(409, "Conflict");
    assert!(stale.contains("the object has been modified"), "{stale}");
    let patch = json!({"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}});
    api.patch("merge", &path, patch).await.refused(409, "Conflict");
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1",
        "preconditions": {"resourceVersion": first["metadata"]["resourceVersion"]}});
    api.send("DELETE", &path, "application/json", &options).await.refused(409, "Conflict");
    // Who names no revision takes what is there.
    api.put(&path, map("revised", json!({"a": "3"}))).await.is(200);
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1",
        "preconditions": {"uid": first["metadata"]["uid"]}});
    api.send("DELETE", &path, "application/json", &options).await.is(200);
}

async fn patches(api: &Api) {
    let path = format!("{MAPS}/patched");
    api.post(MAPS, map("patched", json!({"a": "1", "b": "1"}))).await.is(201);
    let merged = api.patch("merge", &path, json!({"data": {"a": null, "c": "1"}})).await.is(200);
    assert_eq!(merged["data"], json!({"b": "1", "c": "1"}));
    let operations = json!([{"op": "test", "path": "/data/b", "value": "1"},
        {"op": "replace", "path": "/data/b", "value": "2"}]);
    let changed = api.patch("json", &path, operations.clone()).await.is(200);
    assert_eq!(changed["data"]["b"], "2");
    // The test does not hold any more.
    api.patch("json", &path, operations).await.refused(422, "Invalid");
    let lists = json!({"metadata": {"finalizers": ["example.com/one"]}});
    api.patch("strategic-merge", &path, lists).await.is(200);
    let more = json!({"metadata": {"finalizers": ["example.com/two"]}});
    let both = api.patch("strategic-merge", &path, more).await.is(200);
    let found = both["metadata"]["finalizers"].as_array().unwrap();
    assert_eq!(found.len(), 2, "{found:?}");

    // With finalizers it stays, marked, until the last one is taken away.
    api.delete(&path).await.is(200);
    let marked = api.get(&path).await.is(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    api.patch("merge", &path, json!({"metadata": {"finalizers": null}})).await.is(200);
    api.get(&path).await.refused(404, "NotFound");
    api.patch("merge", &path, json!({})).await.refused(404, "NotFound");
    let content = "application/unknown-patch+json";
    api.send("PATCH", MAPS, content, &json!({})).await.is(405);
    let path = format!("{MAPS}/made");
    api.send("PATCH", &path, content, &json!({})).await.refused(415, "UnsupportedMediaType");
}

async fn a_field_belongs_to_whoever_applied_it(api: &Api) {
    let path = |manager: &str| format!("{MAPS}/applied?fieldManager={manager}");
    let (one, two) = (path("one"), path("two"));
    let first = api.patch("apply", &one, map("applied", json!({"a": "1", "b": "1"})));
    assert_eq!(first.await.is(201)["data"], json!({"a": "1", "b": "1"}));
    let conflict = api.patch("apply", &two, map("applied", json!({"a": "2"}))).await;
    let conflict = conflict.refused(409, "Conflict");
    assert!(
        conflict.contains(r#"conflict with "one""#) && conflict.contains(".data.a"),
        "{conflict}"
    );
    let shared = api.patch("apply", &two, map("applied", json!({"a": "1", "c": "1"})));
    assert_eq!(shared.await.is(200)["data"], json!({"a": "1", "b": "1", "c": "1"}));
    // What one gives up stays where another has it too.
    let less = api.patch("apply", &one, map("applied", json!({}))).await.is(200);
    assert_eq!(less["data"], json!({"a": "1", "c": "1"}));
    let forced = format!("{one}&force=true");
    let forced = api.patch("apply", &forced, map("applied", json!({"a": "3"}))).await.is(200);
    assert_eq!(forced["data"], json!({"a": "3", "c": "1"}));
    let managers = forced["metadata"]["managedFields"].as_array().unwrap().iter();
    let managers: Vec<_> = managers.map(|one| fields(one, &["/manager", "/operation"])).collect();
    assert!(managers.contains(&json!(["one", "Apply"])), "{managers:?}");
    assert!(managers.contains(&json!(["two", "Apply"])), "{managers:?}");
    // The same once more is no new revision.
    let again = format!("{one}&force=true");
    let again = api.patch("apply", &again, map("applied", json!({"a": "3"}))).await.is(200);
    assert_eq!(again["metadata"]["resourceVersion"], forced["metadata"]["resourceVersion"]);
    let nameless = api.patch("apply", &format!("{MAPS}/applied"), map("applied", json!({}))).await;
    nameless.refused(422, "Invalid");
}

async fn leases_are_taken_by_one(api: &Api) {
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = |holder: &str, time: &str| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "one"},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": time}})
    };
    let made = api.post(path, lease("a", "2026-01-01T00:00:00.000000Z")).await.is(201);
    assert_eq!(made["spec"]["renewTime"], "2026-01-01T00:00:00.000000Z");
    api.post(path, lease("b", "2026-01-01T00:00:00.000000Z")).await.refused(409, "AlreadyExists");
    let take = |holder: &str| {
        let mut next = lease(holder, "2026-01-01T00:00:20.000000Z");
        next["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
        next
    };
    let one = format!("{path}/one");
    assert_eq!(api.put(&one, take("b")).await.is(200)["spec"]["holderIdentity"], "b");
    api.put(&one, take("c")).await.refused(409, "Conflict");
}

async fn secrets_are_bytes(api: &Api) {
    let path = "/api/v1/namespaces/default/secrets";
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bytes"},
        "data": {"a": "AP8="}, "stringData": {"b": "text"}});
    let made = api.post(path, secret).await.is(201);
    assert_eq!(made["data"], json!({"a": "AP8=", "b": "dGV4dA=="}));
    assert_eq!(fields(&made, &["/type", "/stringData"]), json!(["Opaque", null]));
    let broken = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "broken"},
        "data": {"a": "not base64!"}});
    api.post(path, broken).await.refused(400, "BadRequest");
    // Its type is for ever.
    let patch = json!({"type": "example.com/other"});
    api.patch("merge", &format!("{path}/bytes"), patch).await.refused(422, "Invalid");
}

async fn maps_are_texts(api: &Api) {
    let path = format!("{MAPS}/texts");
    for wrong in [json!(1), json!(true), json!({}), json!([])] {
        let refused = api.post(MAPS, map("texts", json!({"a": wrong}))).await;
        let refused = refused.refused(400, "BadRequest");
        assert!(refused.contains("ConfigMap.data of type string"), "{refused}");
    }
    let made = api.post(MAPS, map("texts", json!({"a": "1", "b": null}))).await.is(201);
    assert_eq!(made["data"], json!({"a": "1", "b": ""}));
    let wrong = map("texts", json!({"a": 1}));
    api.put(&path, wrong.clone()).await.refused(400, "BadRequest");
    for kind in ["merge", "strategic-merge"] {
        api.patch(kind, &path, json!({"data": {"a": 1}})).await.refused(422, "Invalid");
    }
    let operations = json!([{"op": "replace", "path": "/data/a", "value": 1}]);
    api.patch("json", &path, operations).await.refused(422, "Invalid");
    let apply = format!("{path}?fieldManager=one&force=true");
    let refused = api.patch("apply", &apply, wrong).await.is(500);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains(".data.a: expected string"), "{message}");
    let applied = api.patch("apply", &apply, map("texts", json!({"a": "2"}))).await.is(200);
    assert_eq!(applied["data"], json!({"a": "2", "b": ""}));
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
