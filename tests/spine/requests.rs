//! What passes through: targets, bodies and answers, byte for byte.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::bodies::{digest, source_body};
use crate::support::client::{Client, empty};
use crate::support::fleet::{Fleet, HEAD_TIMEOUT};
use crate::support::{PATIENCE, within};

const SERVICE: &str = "/c1/api/v1/namespaces/default/services/x/proxy";

#[tokio::test]
async fn answers_pass_over_both_protocols() {
    let fleet = Fleet::start(&["c1", "c2"]).await;
    for name in ["c1", "c2"] {
        for client in [fleet.client(name), fleet.client(name).http2()] {
            let pods = client.get(&format!("/{name}/api/v1/pods")).await;
            assert_eq!(pods.status, 200);
            assert_eq!(pods.json()["kind"], "List");
            // The API server's own refusal is told as it is: client-go reads the reason.
            let secrets = client.get(&format!("/{name}/api/v1/secrets")).await;
            assert_eq!(secrets.status, 403);
            assert_eq!(secrets.json()["reason"], "Forbidden");
            let missing = client.get(&format!("/{name}/apis/none/v1/things")).await;
            assert_eq!(missing.status, 404);
        }
    }
    let one = fleet.client("c1").get("/c1/api/v1/pods").await.json()["server"].clone();
    let two = fleet.client("c2").get("/c2/api/v1/pods").await.json()["server"].clone();
    assert_ne!(one, two, "each cluster answers for itself");
}

#[tokio::test]
async fn targets_pass_byte_for_byte() {
    let fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    for target in [
        "/echo",
        "/echo?timeout=32s",
        "/a%2Fb/proxy/echo",
        "/a%20b/proxy/echo?x=%2F&x=/1/2/3/4/5/6/7/proxy-service/y;z",
        "/https:s:443/proxy/echo",
        "/%252e%252e/proxy/echo",
    ] {
        let answer = client.get(&format!("{SERVICE}{target}")).await;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        let seen = answer.json()["target"].as_str().unwrap().to_owned();
        assert_eq!(format!("/c1{seen}"), format!("{SERVICE}{target}"));
    }
    for target in [
        "//api/v1/pods",
        "/c1/../c2/api",
        "/c1/%2e%2e/c2/api",
        "/c1/api/%2E./secrets",
        "/C1/api",
        "/c1./api",
        "/c1%00/api",
        "/-a/api",
    ] {
        let code = client.get(target).await.status.as_u16();
        assert!(matches!(code, 400 | 401), "{target}: {code}");
    }
    assert_eq!(client.get("/c1/version?timeout=32s").await.status, 200);
}

#[tokio::test]
async fn methods_and_bodies_pass() {
    let fleet = Fleet::start(&["c1"]).await;
    for client in [fleet.client("c1"), fleet.client("c1").http2()] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let answer = client.send(client.request(method, &format!("{SERVICE}/echo"), empty()));
            let seen: Value = answer.await.json();
            assert_eq!(seen["method"], method);
        }
        for bytes in [0, 1, 65_536, 3_000_001] {
            let request = client.request("POST", &format!("{SERVICE}/sink"), source_body(bytes));
            let seen = client.send(request).await.json();
            let sent = digest(source_body(bytes)).await.unwrap();
            assert_eq!(seen, json!({"bytes": sent.0, "sha256": sent.1}));
        }
    }
}

#[tokio::test]
async fn a_large_answer_is_whole() {
    let fleet = Fleet::start(&["c1"]).await;
    let bytes = 40_000_003;
    let sent = digest(source_body(bytes)).await.unwrap();
    for client in [fleet.client("c1"), fleet.client("c1").http2()] {
        let path = format!("{SERVICE}/source?bytes={bytes}");
        let response = client.open(client.request("GET", &path, empty())).await.unwrap();
        let got = within("40 MB", PATIENCE, digest(response.into_body())).await.unwrap();
        assert_eq!(got, sent);
    }
}

#[tokio::test]
async fn a_body_goes_up_while_the_answer_comes_down() {
    let fleet = Fleet::start(&["c1"]).await;
    // Many at once, on two tunnels: one request is one stream.
    let client = fleet.client("c1");
    let work = (0..64).map(|index| {
        let client = if index % 2 == 0 { client.clone() } else { client.http2() };
        async move {
            let bytes = 100_000 + index;
            let path = format!("{SERVICE}/sink");
            let request = client.request("POST", &path, source_body(bytes));
            let seen = client.send(request).await.json();
            assert_eq!(seen["sha256"], digest(source_body(bytes)).await.unwrap().1);
        }
    });
    within("64 uploads", PATIENCE, futures_util::future::join_all(work)).await;
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let answer = client.get(&format!("{SERVICE}/echo")).await;
    let id = answer.headers["x-request-id"].to_str().unwrap().to_owned();
    assert!(!id.is_empty());
    assert!(answer.text().contains(&id), "the API server gets the same one");

    // A plain one of the caller's own goes all the way; one that is not plain is replaced.
    for (sent, kept) in [("mine-1.2_3", true), ("not plain", false)] {
        let mut request = client.request("GET", &format!("{SERVICE}/echo"), empty());
        request.headers_mut().insert("x-request-id", sent.parse().unwrap());
        let answer = client.send(request).await;
        assert_eq!(answer.headers["x-request-id"] == sent, kept, "{sent}");
        assert_eq!(answer.text().contains(sent), kept, "{sent}");
    }
}

#[tokio::test]
async fn one_access_line_per_request_and_no_secret_in_it() {
    let fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let token = client.token.clone().unwrap();
    let answer = client.get("/c1/api/v1/pods?watch=false&secret=hunter2").await;
    let id = answer.headers["x-request-id"].to_str().unwrap().to_owned();
    let line = crate::support::eventually("the line is written", PATIENCE, || async {
        let log = std::fs::read_to_string(&fleet.hub.access_log).ok()?;
        log.lines().find(|line| line.contains(&id)).map(str::to_owned)
    })
    .await;
    let parsed: Value = serde_json::from_str(&line).unwrap();
    assert!(line.contains("c1") && line.contains("200"), "{parsed}");
    assert!(!line.contains("hunter2"), "{line}");
    assert_eq!((&parsed["event"], &parsed["code"]), (&"end".into(), &200.into()));

    // A long stream has a line when it opens, and one when it ends.
    let watch = client.request("GET", "/c1/api/v1/configmaps?watch=true", empty());
    let mut watch = Some(client.open(watch).await.unwrap());
    let watched = watch.as_ref().unwrap().headers()["x-request-id"].to_str().unwrap().to_owned();
    for events in [vec!["start"], vec!["start", "end"]] {
        crate::support::eventually("its lines are written", PATIENCE, || async {
            let log = std::fs::read_to_string(&fleet.hub.access_log).ok()?;
            let lines = log.lines().filter(|line| line.contains(&watched));
            let lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
            (lines.iter().map(|line| &line["event"]).eq(events.iter())).then_some(())
        })
        .await;
        drop(watch.take());
    }
    let log = std::fs::read_to_string(&fleet.hub.access_log).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains(&id)).count(), 1, "one line per request");
    assert!(!log.contains(&token) && !log.contains("eyJ"));
}

#[tokio::test]
async fn health_and_metrics_answer() {
    let fleet = Fleet::start(&["c1"]).await;
    assert_eq!(fleet.client("c1").get("/c1/version").await.status, 200);
    for path in ["/livez", "/readyz"] {
        assert!(fleet.hub.admin(path).await.contains("ok"), "{path}");
    }
    let metrics = fleet.hub.admin("/metrics").await;
    assert!(metrics.contains("# TYPE cluster_proxy_"), "{metrics}");
    assert!(!metrics.contains("system:serviceaccount"), "no user names in metrics");
    // Not on the listener that everybody reaches.
    for path in ["/metrics", "/readyz", "/_fleet"] {
        let status = fleet.anonymous().get(path).await.status.as_u16();
        assert!(matches!(status, 400 | 401), "{path}: {status}");
    }
}

#[tokio::test]
async fn a_late_head_is_504_except_behind_a_proxy_path() {
    let fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    // An ordinary path: what ends in `/proxy/slow` is slow wherever it is.
    let ordinary = async |ms: u128| client.get(&format!("/c1/slow/proxy/slow?ms={ms}")).await;
    assert_eq!(ordinary(1).await.status, 200);
    let later = HEAD_TIMEOUT.as_millis() + 1_000;
    let path = format!("{SERVICE}/slow?ms={later}");
    let (late, patient) = tokio::join!(ordinary(2 * later), client.get(&path));
    let message = late.assert_status(504, "Timeout");
    assert!(message.contains("c1") && message.contains("api-server"), "{message}");
    assert!(!late.headers.contains_key("retry-after"));
    assert_eq!(patient.status, 200, "{}", patient.text());
}

#[tokio::test]
async fn many_early_leavers_leave_nothing() {
    let fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let leave = async |client: Client| {
        let request = client.request("GET", &format!("{SERVICE}/slow?ms=60000"), empty());
        let _ = tokio::time::timeout(Duration::from_millis(100), client.open(request)).await;
    };
    let leavers =
        (0..100).map(|index| leave(if index % 2 == 0 { client.clone() } else { client.http2() }));
    futures_util::future::join_all(leavers).await;
    // Nothing of them is left, and everybody else is served.
    crate::support::eventually("no stream is left", PATIENCE, || async {
        let left = fleet.hub.metric("cluster_proxy_requests_in_flight", &[]).await;
        (left == 0.0).then_some(())
    })
    .await;
    let answer = within("a request", Duration::from_secs(2), client.get("/c1/version")).await;
    assert_eq!(answer.status, 200);
}
