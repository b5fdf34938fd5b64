//! Many open watches of one cluster that hear nothing: what each costs the hub and its agent.

use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::Duration;
use tokio::time::{Instant, sleep};

use crate::measure::{lateness, milliseconds, quantile};
use crate::support::PATIENCE;
use crate::support::client::{Client, empty};
use crate::support::processes::Pair;
use crate::{kib, print_exponent};

/// How clients open them.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// A TLS connection for each.
    Http1,
    /// So many connections for all.
    Http2 { connections: usize },
}

pub(crate) async fn run(counts: &[usize]) {
    for way in [Way::Http1, Way::Http2 { connections: 100 }] {
        let mut memory = Vec::new();
        for &count in counts {
            memory.push((count as f64, round(count, way).await));
        }
        print_exponent("memory of both, with the watches,", &memory);
    }
}

/// Bytes that hub and agent grew by.
async fn round(count: usize, way: Way) -> f64 {
    let mut pair = Pair::start_quiet().await;
    pair.hub.kill();
    let most = (2 * count).to_string();
    pair.start_hub_with(&[
        // Or they would share the open files in halves.
        "--max-agent-connections",
        "100",
        "--max-connections-per-source",
        &most,
        "--max-long-requests-per-caller",
        &most,
        "--max-long-requests-per-cluster",
        &most,
    ]);
    pair.wait_serves(PATIENCE).await;
    // The first answers fill caches and connection pools.
    drop(open(&pair.client(), 10, way).await);
    sleep(SETTLING).await;
    let before = [pair.hub.memory(), pair.agent.memory()];
    let cpu = [pair.hub.cpu(), pair.agent.cpu()];
    let start = Instant::now();
    let watches = open(&pair.client(), count, way).await;
    let took = start.elapsed();
    let cpu = pair.hub.cpu() - cpu[0] + (pair.agent.cpu() - cpu[1]);
    sleep(SETTLING).await;
    assert_eq!(watches.len(), count);
    let grown = |now: u64, before: u64| now.saturating_sub(before) as f64;
    let hub = grown(pair.hub.memory(), before[0]);
    let agent = grown(pair.agent.memory(), before[1]);
    let late = events(&pair.client()).await;
    let how = match way {
        Way::Http1 => "with a TLS connection each".to_owned(),
        Way::Http2 { connections } => format!("over {connections} HTTP/2 connections"),
    };
    println!(
        "{count} idle watches {how}: hub {:.1} KiB and agent {:.1} KiB each; opened in {:.1} s with {:.0} us \
         of CPU each; events beside them p50 {:.2} ms, p99 {:.2} ms late",
        kib(hub / count as f64),
        kib(agent / count as f64),
        took.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / count as f64,
        milliseconds(quantile(&late, 0.5)),
        milliseconds(quantile(&late, 0.99)),
    );
    hub + agent
}

/// How late the events of some busy streams are, sorted.
async fn events(client: &Client) -> Vec<Duration> {
    let end = Instant::now() + LISTENING;
    let mut hearing = tokio::task::JoinSet::new();
    for _ in 0..BUSY {
        let request = client.request("GET", TICKS, empty());
        let response = client.open(request).await.unwrap();
        assert_eq!(response.status(), 200);
        hearing.spawn(lateness(response.into_body(), end));
    }
    let mut late: Vec<Duration> =
        hearing.join_all().await.into_iter().flat_map(Result::unwrap).collect();
    late.sort_unstable();
    late
}

/// An open watch that has had its first event.
struct Watch {
    _body: Incoming,
}

async fn open(client: &Client, count: usize, way: Way) -> Vec<Watch> {
    match way {
        Way::Http1 => {
            stream::iter(0..count)
                .map(|_| async {
                    let request = client.request("GET", WATCH, empty());
                    first(client.open(request).await.unwrap()).await
                })
                .buffer_unordered(OPENING)
                .collect()
                .await
        }
        Way::Http2 { connections } => {
            let client = client.http2();
            let mut senders = Vec::new();
            for _ in 0..connections {
                let stream = TokioIo::new(client.connect(b"h2").await.unwrap());
                let (sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                        .await
                        .unwrap();
                tokio::spawn(connection);
                senders.push(sender);
            }
            stream::iter(senders.iter().cycle().take(count))
                .map(|sender| {
                    let (mut sender, request) =
                        (sender.clone(), client.request("GET", WATCH, empty()));
                    async move { first(sender.send_request(request).await.unwrap()).await }
                })
                .buffer_unordered(OPENING)
                .collect()
                .await
        }
    }
}

async fn first(response: http::Response<Incoming>) -> Watch {
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let event = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(event.starts_with(b"{\"type\":") || event.starts_with(b"{\"object\":"), "{event:?}");
    Watch { _body: body }
}

const WATCH: &str = "/c1/api/v1/configmaps?watch=true";
/// Ten events a second.
const TICKS: &str = "/c1/api/v1/configmaps?watch=true&ticks=100";
const BUSY: usize = 50;
const LISTENING: Duration = Duration::from_secs(10);
/// At a time: how fast connections open is another benchmark's.
const OPENING: usize = 20;
const SETTLING: Duration = Duration::from_secs(5);
