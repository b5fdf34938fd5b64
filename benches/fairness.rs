//! What callers notice while others of the same cluster, or of another, misbehave: a hundred loops of
//! GETs on each of two clusters, alone, beside a log that is followed as fast as it comes, and beside
//! readers that stopped reading.
//!
//! Hub and agents are processes of their own; load and API servers share this one. A firehose that
//! nobody bounds uses up a small machine, whoever is fair on it: its reader here takes what a busy
//! log writes.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints and fails loudly")]

mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::task::JoinSet;
use tokio::time::Instant;

use cluster_proxy::state::{FolderStore, State};

use measure::{Asker, ask_in_turn, median, milliseconds, quantile};
use support::api::{FakeApi, LIST};
use support::client::{Client, empty};
use support::process::Process;
use support::processes::{Pair, enrol};
use support::{PATIENCE, eventually};

/// Two clusters behind one hub.
struct Ground {
    pair: Pair,
    second: FakeApi,
    _agent: Process,
}

/// What goes on beside the GETs, on the first cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// One log, [`FIREHOSE`] bytes a second.
    Firehose,
    /// Readers of bodies without end that take the head and nothing else.
    Stalled,
}

/// p50 and p99 of each cluster, milliseconds.
type Round = [[f64; 2]; 2];

fn main() {
    if measure::is_asked_only() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ground = Ground::start().await;
        println!(
            "GET of {LIST} bytes, {LOOPS} loops on each of two clusters, each every {EACH:?}; {ROUNDS} rounds of {ROUND:?}"
        );
        let kinds = [Beside::Nothing, Beside::Firehose, Beside::Stalled];
        let mut rounds = kinds.map(|_| Vec::new());
        // One round of each fills caches and connection pools.
        for counted in 0..=ROUNDS {
            for (beside, rounds) in kinds.into_iter().zip(&mut rounds) {
                let round = ground.round(beside).await;
                if counted > 0 {
                    rounds.push(round);
                }
            }
        }
        for (beside, of) in kinds.into_iter().zip(&rounds) {
            report(beside, of, &rounds[0]);
        }
    });
}

// === impl Ground ===

impl Ground {
    async fn start() -> Self {
        let pair = Pair::start_quiet().await;
        let directory = pair.directory();
        let second = FakeApi::start("c2").await;
        let state = State::new(Arc::new(FolderStore::open(directory.join("hub")).unwrap()));
        enrol(&state, &pair.ca_pem, pair.agents, "c2", &directory.join("c2")).await;
        second.write_kubeconfig(&directory.join("c2/kubeconfig"));
        let hub = format!("localhost:{}", pair.agents.port());
        #[rustfmt::skip]
        let agent = Process::start("agent-c2", directory, &[
            "agent", "--dir", "c2", "--hub", &hub, "--kubeconfig", "c2/kubeconfig",
            "--admin-address", "127.0.0.1:0", "--drain-timeout", "2s",
        ]);
        let ground = Self { pair, second, _agent: agent };
        let client = ground.client("c2");
        eventually("c2 is served", PATIENCE, || async {
            let answer = client.try_get("/c2/version").await.ok()?;
            answer.status.is_success().then_some(())
        })
        .await;
        ground
    }

    fn client(&self, cluster: &str) -> Client {
        let api = if cluster == "c1" { &self.pair.api } else { &self.second };
        self.pair.client().token(&api.token("test"))
    }

    async fn round(&self, beside: Beside) -> Round {
        let mut others = JoinSet::new();
        match beside {
            Beside::Nothing => {}
            Beside::Firehose => {
                let body = self.open(FIREHOSE_PATH).await;
                others.spawn(read_steadily(body));
            }
            Beside::Stalled => {
                for _ in 0..STALLED {
                    let body = self.open(FIREHOSE_PATH).await;
                    others.spawn(async move {
                        let _held = body;
                        std::future::pending::<()>().await;
                    });
                }
            }
        }
        let [first, second] =
            ["c1", "c2"].map(|cluster| (self.client(cluster), format!("/{cluster}/api/v1/nodes")));
        let (first, second) = tokio::join!(gets(first), gets(second));
        if beside == Beside::Firehose {
            assert!(others.try_join_next().is_none(), "the firehose ran to the end of the round");
        }
        [first, second]
    }

    /// A body of `path` on the first cluster, on a connection of its own.
    async fn open(&self, path: &str) -> Incoming {
        let client = self.client("c1");
        let response = client.open(client.request("GET", path, empty())).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body()
    }
}

/// p50 and p99 of loops on one cluster.
async fn gets((client, path): (Client, String)) -> [f64; 2] {
    let askers = Asker::connect_all(&client, LOOPS).await;
    let latencies = ask_in_turn(askers, (&path, LIST), EACH, ROUND).await;
    [0.5, 0.99].map(|share| milliseconds(quantile(&latencies, share)))
}

/// Takes [`FIREHOSE`] bytes a second, as somebody who follows a busy log.
async fn read_steadily(mut body: Incoming) {
    let (start, mut taken) = (Instant::now(), 0);
    loop {
        taken += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
        let due = start + Duration::from_secs_f64(taken as f64 / FIREHOSE as f64);
        tokio::time::sleep_until(due).await;
    }
}

fn report(beside: Beside, rounds: &[Round], alone: &[Round]) {
    let name = match beside {
        Beside::Nothing => "alone".to_owned(),
        Beside::Firehose => format!("a log of {} MiB/s", FIREHOSE >> 20),
        Beside::Stalled => format!("{STALLED} stalled readers"),
    };
    print!("{name:<20}");
    for (index, cluster) in ["same cluster", "other cluster"].into_iter().enumerate() {
        let of = |rounds: &[Round], which: usize| {
            median(rounds.iter().map(|round| round[index][which]).collect())
        };
        let [p50, p99] = [0, 1].map(|which| of(rounds, which));
        let ratio = p99 / of(alone, 1);
        print!("   {cluster}: p50 {p50:>6.2} ms, p99 {p99:>6.2} ms ({ratio:>4.2} x)");
    }
    println!();
}

const FIREHOSE_PATH: &str = "/c1/api/v1/namespaces/default/services/x/proxy/firehose";
/// Bytes a second: a log of 50,000 lines a second.
const FIREHOSE: usize = 8 << 20;
const STALLED: usize = 20;
/// On each cluster.
const LOOPS: usize = 100;
/// Between two requests of one loop.
const EACH: Duration = Duration::from_millis(500);
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(5);
