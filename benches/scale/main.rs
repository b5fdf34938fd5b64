//! How hub and agent grow: a hub with 100, 300 and 1,000 agents, and one cluster with up to 10,000
//! open watches.
//!
//! Hub (and for the watches the agent) are processes of their own; a thousand agents and API servers
//! share this one, and all of them share the machine, so that what they cost is in the times.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints and fails loudly")]

mod agents;
#[path = "../measure/mod.rs"]
mod measure;
#[path = "../../tests/support/mod.rs"]
mod support;
mod watches;

use clap::Parser;

use cluster_proxy::listen::descriptors;

/// How many of what.
#[derive(Debug, Parser)]
struct Args {
    /// Agents on one hub; none leaves this part out
    #[arg(long, value_delimiter = ',', default_value = "100,300,1000")]
    agents: Vec<usize>,
    /// Open watches of one cluster; none leaves this part out
    #[arg(long, value_delimiter = ',', default_value = "1000,3000,10000")]
    watches: Vec<usize>,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    if measure::is_asked_only() {
        return;
    }
    let args = Args::parse();
    let files = descriptors::raise().unwrap();
    assert!(
        files.is_none_or(|files| files >= FILES),
        "this needs {FILES} open files: ulimit -Hn {FILES}"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        if !args.agents.is_empty() {
            agents::run(&args.agents).await;
        }
        if !args.watches.is_empty() {
            watches::run(&args.watches).await;
        }
    });
}

/// The exponent by which `y` grows with `x`: the slope of the line of least squares through the
/// logarithms. 1 is proportional, less is better. `None` of fewer than two points, or of what is not
/// above nothing.
fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    if points.len() < 2 || points.iter().any(|(x, y)| *x <= 0.0 || *y <= 0.0) {
        return None;
    }
    let count = points.len() as f64;
    let logs = points.iter().map(|(x, y)| (x.ln(), y.ln()));
    let (sum_x, sum_y) = logs.clone().fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
    let (mean_x, mean_y) = (sum_x / count, sum_y / count);
    let (rise, run) = logs.fold((0.0, 0.0), |(rise, run), (x, y)| {
        (rise + (x - mean_x) * (y - mean_y), run + (x - mean_x).powi(2))
    });
    (run > 0.0).then_some(rise / run)
}

fn print_exponent(what: &str, points: &[(f64, f64)]) {
    if let Some(exponent) = exponent(points) {
        println!("{what} grows with the power {exponent:.2}");
    }
}

fn kib(bytes: f64) -> f64 {
    bytes / 1024.0
}

/// Two sockets for each of ten thousand watches or a thousand agents, and what belongs to them.
const FILES: u64 = 16_000;
/// The hub and its agents share a small machine with this process.
const WORKERS: usize = 2;
