//! By what name a client may call, and requests that come back.

use http::HeaderValue;
use serde_json::Value;

use crate::support::api::access::kubeconfig;
use crate::support::client::{Client, empty};
use crate::support::fleet::Fleet;
use crate::support::{PATIENCE, eventually};

#[tokio::test]
async fn listed_hosts_alone_are_served_where_there_is_a_list() {
    let mut fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let ask = async |client: &Client, target: &str, host: &str| {
        let mut request = client.request("GET", target, empty());
        request.headers_mut().insert("host", HeaderValue::from_str(host).unwrap());
        client.send(request).await
    };
    // No list: any host.
    assert_eq!(ask(&client, "/c1/version", "elsewhere").await.status, 200);

    fleet.hub.allowed_hosts =
        ["hub.example.com", "localhost"].iter().map(|host| host.parse().unwrap()).collect();
    fleet.hub.stop().await;
    fleet.hub.start().await;
    fleet.wait_serves("c1", PATIENCE).await;
    for (target, host, code) in [
        ("/c1/version", "HUB.example.com:9092", 200),
        ("/c1/version", "elsewhere", 421),
        ("/c1/version", "hub.example.com@elsewhere", 400),
        // The target's own word wins over the line.
        ("http://hub.example.com/c1/version", "elsewhere", 200),
        ("http://elsewhere/c1/version", "hub.example.com", 421),
    ] {
        let answer = ask(&client, target, host).await;
        assert_eq!(answer.status.as_u16(), code, "{target} {host}: {}", answer.text());
        if code == 421 {
            let message = answer.assert_status(421, "MisdirectedRequest");
            assert!(message.contains("--allowed-host"), "{message}");
            assert!(!message.contains("hub.example.com"), "{message}");
        }
    }
    // The same over HTTP/2, where the client says `localhost`; before anybody is authenticated.
    let client = client.http2();
    assert_eq!(client.get("/c1/version").await.status, 200);
    let mut request = client.no_token().request("GET", "/c1/version", empty());
    *request.uri_mut() = "https://elsewhere/c1/version".parse().unwrap();
    assert_eq!(client.send(request).await.status, 421);
}

#[tokio::test]
async fn a_request_that_was_here_is_508() {
    let fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    let path = "/c1/api/v1/namespaces/default/services/x/proxy/echo";
    let ask = async |via: &str| {
        let mut request = client.request("GET", path, empty());
        request.headers_mut().append("via", HeaderValue::from_str(via).unwrap());
        client.send(request).await
    };
    // Names of others stay, and the hub's own stands behind them.
    let seen = ask("1.0 fred, 1.1 cluster-proxy-0123456789abcdef").await.json();
    let headers = seen["headers"].as_array().unwrap().iter();
    let via: Vec<&str> = headers
        .filter(|header| header[0] == "via")
        .map(|header| header[1].as_str().unwrap())
        .collect();
    let (own, others) = via.split_last().unwrap();
    assert_eq!(others, ["1.0 fred, 1.1 cluster-proxy-0123456789abcdef"]);
    assert!(own.starts_with("1.1 cluster-proxy-"), "{own}");
    assert_eq!(ask("1.1 proxy").await.status, 200);
    let message = ask(own).await.assert_status(508, "LoopDetected");
    assert!(message.contains("kubeconfig"), "{message}");
}

#[tokio::test]
async fn a_cluster_whose_api_server_is_the_hub_is_a_loop() {
    let mut fleet = Fleet::start(&["c1", "c2"]).await;
    let client = fleet.client("c1");
    assert_eq!(client.get("/c1/version").await.status, 200);
    // The hub keeps the keys that it has read; then the agent is led astray.
    let (ca, hub) = (fleet.hub.ca_pem.clone(), fleet.hub.addresses);
    let spoke = fleet.spoke_mut("c1");
    spoke.stop_agent().await;
    let token = spoke.api.token_for("cluster-proxy", "agent", 86_400);
    let server = format!("https://localhost:{}", hub.user.port());
    std::fs::write(spoke.directory.join("kubeconfig"), kubeconfig(&server, &ca, &token)).unwrap();
    spoke.start_agent(hub.agents);

    let mut rounds = (0..).map(|round| format!("round-{round}"));
    let (id, answer) = eventually("the loop is found", PATIENCE, || {
        // A name for each attempt: those before the agent is there leave lines too.
        let id = rounds.next().unwrap();
        let mut request = client.request("GET", "/c1/version", empty());
        request.headers_mut().insert("x-request-id", HeaderValue::from_str(&id).unwrap());
        let answer = client.send(request);
        async move {
            let answer = answer.await;
            (answer.status == 508).then_some((id, answer))
        }
    })
    .await;
    answer.assert_status(508, "LoopDetected");
    // Once round, and no more.
    eventually("two lines", PATIENCE, || async {
        let log = std::fs::read_to_string(&fleet.hub.access_log).ok()?;
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let codes =
            lines.filter(|line| line["request_id"] == id.as_str()).map(|line| line["code"].clone());
        (codes.collect::<Vec<_>>() == [508, 508]).then_some(())
    })
    .await;
    let probe = eventually("the probe notices", PATIENCE, || async {
        let probe = fleet.hub.cluster("c1").await["probe"].clone();
        (probe["healthy"] == false).then_some(probe)
    })
    .await;
    assert!(probe["error"].is_string(), "{probe}");
    assert_eq!(fleet.client("c2").get("/c2/version").await.status, 200);
}
