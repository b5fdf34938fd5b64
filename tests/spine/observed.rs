//! What an operator can see of a request: traces, the access log, metrics.

use serde_json::Value;

use cluster_proxy::hub::Source;

use crate::support::api::FakeApi;
use crate::support::client::empty;
use crate::support::fleet::Fleet;
use crate::support::{PATIENCE, eventually};

const ECHO: &str = "/c1/api/v1/namespaces/default/services/x/proxy/echo";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// The access line of the request with this id.
async fn line(fleet: &Fleet, id: &str) -> Value {
    eventually("the line is written", PATIENCE, || async {
        let log = std::fs::read_to_string(&fleet.hub.access_log).ok()?;
        let line = log.lines().find(|line| line.contains(id))?;
        Some(serde_json::from_str(line).unwrap())
    })
    .await
}

#[tokio::test]
async fn a_trace_is_joined_and_a_bad_one_replaced() {
    let fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let valid = format!("00-{TRACE}-{SPAN}-01");
    let send = async |id: &'static str, values: &[&str]| {
        let mut request = client.request("GET", ECHO, empty());
        request.headers_mut().insert("x-request-id", id.parse().unwrap());
        request.headers_mut().insert("tracestate", "vendor=opaque".parse().unwrap());
        for value in values {
            request.headers_mut().append("traceparent", value.parse().unwrap());
        }
        let seen = client.send(request).await.json();
        let all = |name: &str| -> Vec<String> {
            let headers = seen["headers"].as_array().unwrap().iter();
            let named = headers.filter(|header| header[0] == name);
            named.map(|header| header[1].as_str().unwrap().to_owned()).collect()
        };
        let [parent] = all("traceparent").try_into().expect("exactly one traceparent");
        let logged = line(&fleet, id).await["trace_id"].as_str().unwrap().to_owned();
        assert!(parent.starts_with(&format!("00-{logged}-")), "{parent} and {logged}");
        (parent, logged, all("tracestate").len())
    };
    let (parent, trace, states) = send("joined", &[&valid]).await;
    assert_eq!((trace.as_str(), states), (TRACE, 1));
    assert!(parent.ends_with("-01") && !parent.contains(SPAN), "{parent}");
    let upper = valid.to_uppercase();
    for (id, values) in [
        ("missing", vec![]),
        ("bad", vec![upper.as_str()]),
        ("two", vec![valid.as_str(), valid.as_str()]),
    ] {
        let (_, trace, states) = send(id, &values).await;
        assert_ne!(trace, TRACE, "{id}");
        assert_eq!(states, 0, "{id}: a state without its trace");
    }
    // A caller that is not let in can be followed as well.
    let anonymous = fleet.anonymous();
    let mut request = anonymous.request("GET", "/c1/version", empty());
    request.headers_mut().insert("x-request-id", "refused".parse().unwrap());
    request.headers_mut().insert("traceparent", valid.parse().unwrap());
    assert_eq!(anonymous.send(request).await.status, 401);
    assert_eq!(line(&fleet, "refused").await["trace_id"], TRACE);
}

#[tokio::test]
async fn strangers_make_no_series() {
    let fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let series = async || {
        let text = fleet.hub.admin("/metrics").await;
        let ours = text.lines().filter(|line| line.starts_with("cluster_proxy_requests_total"));
        ours.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect::<Vec<_>>()
    };
    let round = async |index: u32| {
        let unknown = client.get(&format!("/stranger-{index}/api/v1/pods")).await;
        assert_eq!(unknown.status, 401);
        let known = client.get(&format!("/c1/api/v1/namespaces/n{index}/things/x")).await;
        assert_eq!(known.status, 404);
    };
    round(0).await;
    let before = eventually("the first round is counted", PATIENCE, || async {
        let now = series().await;
        let codes = ["401", "404"].map(|code| format!("code=\"{code}\""));
        codes.iter().all(|code| now.iter().any(|one| one.contains(code))).then_some(now)
    })
    .await;
    // All at once: strangers wait a second for their answer.
    futures_util::future::join_all((1..200).map(round)).await;
    assert_eq!(series().await, before);
    // The agent says how long its API server took; nothing of that reaches the client.
    let answer = client.get("/c1/version").await;
    assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("cluster-proxy-")));
    let leg = fleet.hub.metric("cluster_proxy_latency_seconds_count", &[r#"leg="api-server""#]);
    assert!(leg.await >= 200.0);
}

#[tokio::test]
async fn s116_pages_for_everybody_name_no_user() {
    let hub_api = FakeApi::start("hub").await;
    let mut fleet = Fleet::hub_only().await;
    fleet.hub.stop().await;
    fleet.hub.own_api = Some(hub_api.server());
    fleet.hub.policy = Source::File(fleet.dir.path().join("policy.yaml"));
    fleet.hub.set_policy("rules: [{users: ['*'], clusters: ['*']}]");
    fleet.hub.start().await;
    fleet.add("c1").await;
    fleet.hub.wait_healthy("c1").await;
    let spoke = fleet.anonymous().token(&fleet.spoke("c1").api.token_for("named", "sailor", 3600));
    let hub = fleet.anonymous().token(&hub_api.token_for("named", "captain", 3600));
    for (client, user) in [(spoke, "sailor"), (hub, "captain")] {
        let request = |id: &str| {
            let mut request = client.request("GET", "/c1/version", empty());
            request.headers_mut().insert("x-request-id", id.parse().unwrap());
            request
        };
        eventually("they are let in", PATIENCE, || async {
            (client.send(request(user)).await.status == 200).then_some(())
        })
        .await;
        // The log is for who runs the hub, and tells.
        assert!(line(&fleet, user).await.to_string().contains(&format!("named:{user}")));
    }
    let series = "cluster_proxy_requests_total";
    eventually("both are counted", PATIENCE, || async {
        (fleet.hub.metric(series, &["c1", "200"]).await >= 2.0).then_some(())
    })
    .await;
    for page in ["/metrics", "/readyz", "/livez"] {
        let text = fleet.hub.admin(page).await;
        for word in ["sailor", "captain", "named", "serviceaccount"] {
            assert!(!text.contains(word), "{page} says {word}");
        }
    }
}
