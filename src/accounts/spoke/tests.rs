use std::convert::Infallible;

use http::{Request, Response};
use kube::client::Body;
use kube::runtime::reflector;
use serde_json::Value;

use super::super::testing::token;
use super::*;

const SUBJECT: &str = "system:serviceaccount:managed:app";

/// A spoke that answers everything with `answer`.
fn spoke(answer: Value) -> Spoke {
    let service = tower::service_fn(move |_: Request<Body>| {
        let answer = answer.to_string().into_bytes();
        async move { Ok::<_, Infallible>(Response::new(Body::from(answer))) }
    });
    Spoke {
        client: kube::Client::new(service, "default"),
        namespace: "managed".to_owned(),
        accounts: reflector::store().0,
        ca: ArcSwap::default(),
        slots: Slots::new(PER_SPOKE),
    }
}

/// What a TokenRequest comes to that is answered with `status`.
async fn ask(status: Value) -> Result<Timestamp, String> {
    let answer = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "metadata": {}, "spec": {"audiences": []}, "status": status});
    let wanted = Wanted { seconds: 1000, audiences: Vec::new() };
    let granted = spoke(answer).request_token("app", "u", &wanted).await;
    granted.map(|granted| granted.expires).map_err(|problem| problem.message)
}

fn granted(token: &str, end: &str) -> Value {
    json!({"token": token, "expirationTimestamp": end})
}

#[tokio::test]
async fn an_answer_that_is_not_of_the_account_is_no_token() {
    let (end, good) = ("1970-01-01T00:16:40Z", token(SUBJECT, "u", 0, 1000));
    let of = async |token: &str| ask(granted(token, end)).await;
    assert_eq!(of(&good).await.unwrap().as_second(), 1000);
    let early = ask(granted(&good, "1970-01-01T00:00:10Z")).await;
    assert_eq!(early.unwrap().as_second(), 10, "the earlier end counts");

    let another = token("system:serviceaccount:managed:admin", "u", 0, 1000);
    let before = token(SUBJECT, "before", 0, 1000);
    let endless = token(SUBJECT, "u", 0, 253_402_300_800);
    for bad in ["", "opaque", &another, &before, &endless] {
        let said = of(bad).await.unwrap_err();
        assert_eq!(said, "no token: the spoke's answer is not of this account", "{bad}");
    }
    ask(Value::Null).await.unwrap_err();
    let said = ask(granted(&good, "+292277026596-12-04T15:30:07Z")).await.unwrap_err();
    assert!(!said.contains(&good), "{said}");
    // As long as may be, and one byte more.
    let padded = |length: usize| format!("{good}{}", "x".repeat(length - good.len()));
    of(&padded(MAX_TOKEN)).await.unwrap();
    let said = of(&padded(MAX_TOKEN + 1)).await.unwrap_err();
    assert_eq!(said, "no token: the one that the spoke gave is too long");
}

#[test]
fn little_is_remembered_of_a_service_account() {
    let long = "x".repeat(MAX_TEXT + 1);
    let remembered = |more: Value| {
        let mut metadata = json!({"name": "a", "namespace": "theirs", "uid": "u",
            "resourceVersion": "7", "deletionTimestamp": "2026-01-02T03:04:05Z",
            "labels": {MANAGED: "true", "l": long}, "annotations": {HUB: "h", "a": long},
            "finalizers": [long], "generateName": long,
            "managedFields": [{"manager": long}], "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": long, "uid": long}]});
        let fields = metadata.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        let object = json!({"apiVersion": "meta.k8s.io/v1", "kind": long, "metadata": metadata});
        let mut account: Account = serde_json::from_value(object).unwrap();
        keep_little(&mut account, "managed");
        serde_json::to_value(&account).unwrap()["metadata"].clone()
    };
    let all = json!({"name": "a", "namespace": "managed", "uid": "u", "resourceVersion": "7",
        "deletionTimestamp": "2026-01-02T03:04:05Z",
        "labels": {MANAGED: "true"}, "annotations": {HUB: "h"}});
    assert_eq!(remembered(json!({})), all);
    for field in ["name", "uid", "resourceVersion"] {
        let mut without = all.clone();
        without.as_object_mut().unwrap().remove(field);
        assert_eq!(remembered(json!({field: long})), without, "{field}");
    }
    assert_eq!(remembered(json!({"annotations": {HUB: long}})).get("annotations"), None);
}
