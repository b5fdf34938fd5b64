//! The whole path beside the API server itself: throughput, CPU per request and latency.
//!
//! Hub and agent are processes of their own; the API server (a small one, `tests/support/api.rs`)
//! and the load generator share this one, and all of them share the machine. Rounds alternate
//! between the two paths and medians are printed: a ratio of one run counts, an absolute figure
//! does not.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints and fails loudly")]

mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Duration;

use tokio::time::Instant;

use measure::{Asker, median, milliseconds, quantile};
use support::api::LIST;
use support::bodies::{digest, source_body};
use support::client::{Client, empty};
use support::processes::Pair;

/// What one round measured.
struct Round {
    per_second: f64,
    p50: Duration,
    p99: Duration,
    /// Microseconds per request.
    hub: f64,
    agent: f64,
}

fn main() {
    if measure::is_asked_only() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pair = Pair::start_quiet().await;
        honest(&pair).await;
        println!("GET of {LIST} bytes, {CONNECTIONS} connections, {ROUNDS} rounds of {ROUND:?}");
        let (mut direct, mut whole) = (Vec::new(), Vec::new());
        // One round of each to fill caches and connection pools.
        for counted in 0..=ROUNDS {
            let one = round(&pair, &pair.direct(), "/api/v1/nodes").await;
            let other = round(&pair, &pair.client(), "/c1/api/v1/nodes").await;
            if counted > 0 {
                direct.push(one);
                whole.push(other);
            }
        }
        report("direct", &direct);
        report("through hub and agent", &whole);
        stream(&pair).await;
    });
}

/// A fast proxy that lets everybody in, or loses bytes, has won nothing.
async fn honest(pair: &Pair) {
    let client = pair.client();
    let bad = client.token("garbage").get("/c1/api/v1/nodes").await;
    bad.assert_status(401, "Unauthorized");
    let good = client.get("/c1/api/v1/nodes").await;
    assert_eq!((good.status.as_u16(), good.body.len()), (200, LIST));
    assert_eq!(good.body, pair.direct().get("/api/v1/nodes").await.body);
}

async fn round(pair: &Pair, client: &Client, path: &str) -> Round {
    let before = [pair.hub.cpu(), pair.agent.cpu()];
    let start = Instant::now();
    let end = start + ROUND;
    let connections =
        (0..CONNECTIONS).map(|_| tokio::spawn(load(client.clone(), path.to_owned(), end)));
    let mut latencies = Vec::new();
    for connection in connections.collect::<Vec<_>>() {
        latencies.extend(connection.await.unwrap());
    }
    let took = start.elapsed();
    let after = [pair.hub.cpu(), pair.agent.cpu()];
    latencies.sort_unstable();
    let requests = latencies.len() as f64;
    let each = |index: usize| (after[index] - before[index]).as_secs_f64() * 1e6 / requests;
    Round {
        per_second: requests / took.as_secs_f64(),
        p50: quantile(&latencies, 0.5),
        p99: quantile(&latencies, 0.99),
        hub: each(0),
        agent: each(1),
    }
}

/// One keep-alive connection that asks again as soon as it has the whole answer.
async fn load(client: Client, path: String, end: Instant) -> Vec<Duration> {
    let mut asker = Asker::connect(&client).await;
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        asker.ask(&path, LIST).await;
        latencies.push(start.elapsed());
    }
    latencies
}

/// One long answer: what a byte costs.
async fn stream(pair: &Pair) {
    let sent = digest(source_body(STREAM)).await.unwrap();
    let mut costs = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..3 {
        let before = [pair.hub.cpu(), pair.agent.cpu()];
        let start = Instant::now();
        let client = pair.client();
        let path = format!("/c1/api/v1/namespaces/default/services/x/proxy/source?bytes={STREAM}");
        let response = client.open(client.request("GET", &path, empty())).await.unwrap();
        assert_eq!(digest(response.into_body()).await.unwrap(), sent, "a whole body");
        let cpu = pair.hub.cpu() - before[0] + (pair.agent.cpu() - before[1]);
        let gibibytes = STREAM as f64 / f64::from(1 << 30);
        costs.push(cpu.as_secs_f64() / gibibytes);
        rates.push(STREAM as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64());
    }
    println!(
        "one stream of {} MiB: hub and agent {:.1} s of CPU per GiB, {:.0} MiB/s",
        STREAM >> 20,
        median(costs),
        median(rates)
    );
}

fn report(name: &str, rounds: &[Round]) {
    let of = |value: &dyn Fn(&Round) -> f64| median(rounds.iter().map(value).collect());
    println!(
        "{name:<24} {:>7.0} requests/s   p50 {:>6.2} ms   p99 {:>6.2} ms   CPU per request: hub {:>4.0} us, agent {:>4.0} us",
        of(&|round| round.per_second),
        of(&|round| milliseconds(round.p50)),
        of(&|round| milliseconds(round.p99)),
        of(&|round| round.hub),
        of(&|round| round.agent),
    );
}

const CONNECTIONS: usize = 32;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const STREAM: u64 = 256 << 20;
