//! Every limit is reached once, and counted under its own name.
//!
//! [`reach`] names each limit, so one that nobody can reach does not compile.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderName, Response};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use cluster_proxy::hub::limits::{Limit, Limits};

use crate::agent::{HostileAgent, Script, reply};
use crate::frames::{PING, PREFACE, frame, settings};
use crate::support::bodies::source_body;
use crate::support::client::{Client, empty};
use crate::support::fleet::{Fleet, RunningHub};
use crate::support::{PATIENCE, eventually};
use crate::tunnel::Field;

#[tokio::test]
async fn every_limit_is_reached_and_counted() {
    let names: Vec<_> = Limit::ALL.iter().map(|limit| limit.label()).collect();
    let hub = Fleet::hub_only().await;
    let text = hub.hub.admin("/metrics").await;
    let series = text.lines().filter(|line| line.starts_with(METRIC));
    let mut series: Vec<_> = series.map(|line| line.split('"').nth(1).unwrap()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    series.sort_unstable();
    assert_eq!(series, sorted, "each has a series from the start, and nothing else has one");
    stream::iter(Limit::ALL).for_each_concurrent(AT_ONCE, |limit| reach(*limit)).await;
}

/// Reaches `limit` of a hub of its own, and waits until that is counted.
async fn reach(limit: Limit) {
    use Limit::*;
    let least = Limits::default;
    match limit {
        Connections => crowd(limit, Limits { connections: 1, ..least() }).await,
        ConnectionsPerSource => crowd(limit, Limits { connections_per_source: 1, ..least() }).await,
        Handshakes | AgentHandshakes => crowd(limit, Limits { handshakes: 1, ..least() }).await,
        HandshakesPerSource | AgentHandshakesPerSource => {
            crowd(limit, Limits { handshakes_per_source: 1, ..least() }).await;
        }
        HandshakeTimeout | AgentHandshakeTimeout => {
            crowd(limit, Limits { handshake_timeout: SOON, ..least() }).await;
        }
        AgentConnections => crowd(limit, Limits { agent_connections: 1, ..least() }).await,
        AgentConnectionsPerSource => {
            crowd(limit, Limits { agent_connections_per_source: 1, ..least() }).await;
        }
        ProxyHeaderTimeout => {
            let proxies = vec!["127.0.0.0/8".parse().unwrap()];
            crowd(limit, Limits { proxies, handshake_timeout: SOON, ..least() }).await;
        }
        HeadTimeout => {
            let limits = Limits { head_timeout: SOON, ..least() };
            say(limit, limits, b"http/1.1", b"GET / HT".to_vec()).await;
        }
        HeaderBytes | Headers => large_heads(limit).await,
        Http2Flood => {
            let pings = frame(PING, 0, 0, &[0; 8]).repeat(200_000);
            let bytes = [PREFACE, &settings(&[]), &pings].concat();
            say(limit, least(), b"h2", bytes).await;
        }
        TunnelFlood => {
            let field = Field::start().await;
            let agent = field.agent(holding(&field)).await;
            agent.send(frame(PING, 0, 0, &[0; 8]).repeat(200_000)).await;
            counted(&field.fleet.hub, limit).await;
        }
        Body => {
            let field = Field::limited(Limits { max_body: Some(10), ..least() }).await;
            let _agent = field.agent(holding(&field)).await;
            assert_eq!(field.caller().post("/c1/mine", vec![0; 11]).await.status, 413);
            counted(&field.fleet.hub, limit).await;
        }
        Requests => {
            let limits = Limits { requests: 1, ..least() };
            in_flight(limit, limits, |field| [field.caller(), field.account("other")]).await;
        }
        WaitingRequests => {
            let field = Field::limited(Limits { requests: 8, ..least() }).await;
            let mut script = holding(&field);
            script.silent_keys = true;
            let directory = field.fleet.dir.path().join("c1");
            let _agent =
                HostileAgent::start(field.fleet.hub.addresses.agents, &directory, script).await;
            field.fleet.hub.wait_tunnels("c1", 1, PATIENCE).await;
            eventually("two are judged at once", PATIENCE, || async {
                let caller = field.caller();
                let (one, other) = tokio::join!(caller.get("/c1/mine"), caller.get("/c1/mine"));
                [one, other].iter().any(|answer| answer.status == 429).then_some(())
            })
            .await;
            counted(&field.fleet.hub, limit).await;
        }
        Uploads => {
            let field = Field::limited(Limits { uploads: 1, ..least() }).await;
            let _agent = field.agent(holding(&field)).await;
            let caller = field.caller();
            let endless = source_body(u64::MAX);
            let request = caller.request("POST", "/c1/begun", endless);
            let _held = caller.open(request).await.unwrap();
            assert_eq!(caller.post("/c1/mine", "x").await.status, 429);
            assert_eq!(caller.get("/c1/mine").await.status, 200);
            counted(&field.fleet.hub, limit).await;
        }
        RequestsPerCaller | LongRequestsPerCaller => {
            let limits = Limits { requests_per_caller: 1, long_requests_per_caller: 1, ..least() };
            in_flight(limit, limits, |field| [field.caller(), field.caller()]).await;
        }
        RequestsPerCluster | LongRequestsPerCluster => {
            let limits =
                Limits { requests_per_cluster: 1, long_requests_per_cluster: 1, ..least() };
            in_flight(limit, limits, |field| [field.caller(), field.account("other")]).await;
        }
        LiveTokens => {
            let limits = Limits { live_tokens_per_cluster: 1, ..least() };
            in_flight(limit, limits, |field| [field.caller(), field.account("other")]).await;
        }
        TunnelStreams => {
            let field = Field::start().await;
            // Two of them for requests that end soon, which the hub's own are as well.
            let mut script = holding(&field);
            script.streams = 18;
            let _agent = field.agent(script).await;
            let caller = field.caller();
            let opened = |_| {
                let request = caller.request("GET", "/c1/held", empty());
                let caller = caller.clone();
                tokio::spawn(async move { caller.open(request).await })
            };
            let _held: Vec<_> = (0..3).map(opened).collect();
            counted(&field.fleet.hub, limit).await;
        }
        UnreadBytes => {
            // Room for the answers to `/mine`, whenever the hub looks.
            let field = Field::limited(Limits { unread_bytes: 1 << 16, ..least() }).await;
            let _agent = field.agent(holding(&field)).await;
            let caller = field.caller();
            let _unread = caller.open(caller.request("GET", "/c1/large", empty())).await.unwrap();
            counted(&field.fleet.hub, limit).await;
        }
    }
}

/// Connections that say nothing.
async fn crowd(limit: Limit, limits: Limits) {
    let fleet = Fleet::limited(limits).await;
    let agents = limit.label().starts_with("agent");
    let addresses = fleet.hub.addresses;
    let address: SocketAddr = if agents { addresses.agents } else { addresses.user };
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    counted(&fleet.hub, limit).await;
}

/// A client that says `bytes` and no more.
async fn say(limit: Limit, limits: Limits, alpn: &[u8], bytes: Vec<u8>) {
    let fleet = Fleet::limited(limits).await;
    let mut stream = fleet.anonymous().connect(alpn).await.unwrap();
    // It may be cut before all is said.
    let _ = stream.write_all(&bytes).await;
    let _ = stream.flush().await;
    counted(&fleet.hub, limit).await;
}

/// Nobody has to be let in for that.
async fn large_heads(limit: Limit) {
    let limits = Limits { header_bytes: 8 << 10, header_count: 16, ..Limits::default() };
    let fleet = Fleet::limited(limits).await;
    let client = fleet.anonymous();
    let mut request = client.request("GET", "/c1/version", empty());
    let (count, length) = if limit == Limit::Headers { (20, 1) } else { (1, 9 << 10) };
    for number in 0..count {
        let name = HeaderName::try_from(format!("x-{number}")).unwrap();
        request.headers_mut().insert(name, "v".repeat(length).parse().unwrap());
    }
    assert_eq!(client.send(request).await.status, 431);
    let before = fleet.hub.metric(METRIC, &[&label(limit)]).await;
    assert!((before - 1.0).abs() < 0.5, "{}: {before}", limit.label());
    if limit == Limit::HeaderBytes {
        // Far over it, the HTTP library says so alone.
        let mut stream = client.connect(b"http/1.1").await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(32 << 10));
        let _ = stream.write_all(head.as_bytes()).await;
        eventually("a head far over the limit is counted", PATIENCE, || async {
            (fleet.hub.metric(METRIC, &[&label(limit)]).await > before).then_some(())
        })
        .await;
    }
}

/// A request that is held, and one too many.
async fn in_flight(limit: Limit, limits: Limits, callers: fn(&Field) -> [Client; 2]) {
    let field = Field::limited(limits).await;
    let _agent = field.agent(holding(&field)).await;
    let path = match limit {
        Limit::LiveTokens | Limit::LongRequestsPerCaller | Limit::LongRequestsPerCluster => {
            "/c1/api/v1/configmaps?watch=true"
        }
        _ => "/c1/begun",
    };
    let [first, second] = callers(&field);
    // One before may count for another moment.
    let _held = eventually("a request is held", PATIENCE, || async {
        let response = first.open(first.request("GET", path, empty())).await.unwrap();
        (response.status() == 200).then_some(response)
    })
    .await;
    let before = field.fleet.hub.metric(METRIC, &[&label(limit)]).await;
    assert_eq!(second.get(path).await.status, 429, "{}", limit.label());
    let after = field.fleet.hub.metric(METRIC, &[&label(limit)]).await;
    assert!((after - before - 1.0).abs() < 0.5, "{}: {before}, {after}", limit.label());
}

/// An agent whose answers do not end, but for those to `/mine`.
fn holding(field: &Field) -> Script {
    let held = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    Script::new(&field.signer, move |request, mut respond| {
        let path = request.uri().path();
        if path == "/held" {
            return held.lock().unwrap().0.push(respond);
        }
        if path != "/begun" && path != "/large" && path != "/api/v1/configmaps" {
            return reply(respond, "/mine");
        }
        let Ok(mut send) = respond.send_response(Response::new(()), false) else { return };
        if path == "/large" {
            let _ = send.send_data(Bytes::from(vec![0; 16 << 20]), false);
        }
        held.lock().unwrap().1.push(send);
    })
}

/// Waits until `limit` was counted.
async fn counted(hub: &RunningHub, limit: Limit) {
    eventually(limit.label(), PATIENCE, || async {
        (hub.metric(METRIC, &[&label(limit)]).await >= 1.0).then_some(())
    })
    .await;
}

fn label(limit: Limit) -> String {
    format!("limit=\"{}\"", limit.label())
}

const METRIC: &str = "cluster_proxy_limit_hits_total";
/// A deadline that a test can wait for.
const SOON: Duration = Duration::from_millis(300);
/// Hubs at once.
const AT_ONCE: usize = 4;
