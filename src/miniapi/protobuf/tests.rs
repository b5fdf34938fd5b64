use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A field with bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
    field.extend_from_slice(bytes);
    field
}

/// A field with a small number.
fn number(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

fn envelope(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let kind = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
    let unknown = [field(1, &kind), field(2, raw), field(3, b""), field(4, b"")].concat();
    [MAGIC, &unknown].concat()
}

#[test]
fn an_access_review() {
    let attributes = [field(1, b""), field(2, b"create"), field(5, b"pods")].concat();
    let raw = [field(1, &field(8, b"")), field(2, &field(1, &attributes)), field(3, &number(1, 0))];
    let review =
        decode(&envelope("authorization.k8s.io/v1", "SelfSubjectAccessReview", &raw.concat()));
    let wanted = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "create", "resource": "pods"}},
    });
    assert_eq!(review.unwrap(), wanted);
}

#[test]
fn zero_is_kept_where_it_means_something() {
    let spec = |inner: Vec<u8>| {
        let body = envelope("apps/v1", "Deployment", &field(2, &inner));
        decode(&body).unwrap()["spec"].take()
    };
    assert_eq!(spec(number(1, 0)), json!({"replicas": 0}));
    assert_eq!(spec(number(5, 0)), Value::Null, "minReadySeconds that nobody set");
}

#[test]
fn maps_quantities_and_ports() {
    let entry = |value: &[u8]| field(1, &[field(1, b"pods"), field(2, value)].concat());
    let quota = envelope("v1", "ResourceQuota", &field(2, &entry(&field(1, b"10"))));
    assert_eq!(decode(&quota).unwrap()["spec"]["hard"], json!({"pods": "10"}));
    let port = |either: Vec<u8>| {
        let ports = field(1, &[number(3, 80), field(4, &either)].concat());
        decode(&envelope("v1", "Service", &field(2, &ports))).unwrap()["spec"]["ports"].take()
    };
    let numeric = [number(1, 0), number(2, 81), field(3, b"")].concat();
    assert_eq!(port(numeric), json!([{"port": 80, "targetPort": 81}]));
    let named = [number(1, 1), number(2, 0), field(3, b"http")].concat();
    assert_eq!(port(named), json!([{"port": 80, "targetPort": "http"}]));
}

#[test]
fn what_is_not_known_is_refused() {
    let code = |body: &[u8]| decode(body).map_or_else(|status| status.code, |_| 200);
    assert_eq!(code(&envelope("v1", "ConfigMap", &field(1, &field(1, b"a")))), 200);
    assert_eq!(code(&envelope("v1", "Widget", &field(1, &field(1, b"a")))), 415);
    assert_eq!(code(&envelope("v1", "ConfigMap", &field(9, b"a"))), 415);
    assert_eq!(code(&envelope("v1", "ConfigMap", &number(1, 1))), 400);
    assert_eq!(code(b"k8s"), 400);
    let whole = envelope("v1", "ConfigMap", &field(1, &field(1, b"a")));
    assert_eq!(code(&whole[..whole.len() - 1]), 400);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for kind in ["Deployment", "Ingress", "ResourceQuota"] {
            let _ = decode(&envelope("v1", kind, &bytes));
        }
        let _ = decode(&[MAGIC, &bytes].concat());
    }
}
