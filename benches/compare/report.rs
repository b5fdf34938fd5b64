//! The table, and `target/compare.json`.

use std::path::Path;

use serde::Serialize;

use crate::failure::Failure;
use crate::measure::milliseconds;
use crate::ratios::{median, ratio};
use crate::work::{Round, Work};

/// The rounds of one proxy with one work.
pub(crate) struct Measured {
    name: &'static str,
    pub(crate) rounds: Vec<Round>,
    /// What it did instead: then nothing of it counts.
    pub(crate) failed: Option<Failure>,
}

/// One ratio.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) work: String,
    pub(crate) peer: &'static str,
    pub(crate) metric: &'static str,
    /// Ours / peer; null when rounds disagree.
    pub(crate) ratio: Option<f64>,
    rounds: usize,
}

/// What is taken of a round.
type Value = fn(&Round) -> Option<f64>;

#[derive(Serialize)]
struct Document<'a> {
    rows: &'a [Row],
}

// === impl Measured ===

impl Measured {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, rounds: Vec::new(), failed: None }
    }

    /// Of all rounds, or of none.
    fn all(&self, value: impl Fn(&Round) -> Option<f64>) -> Vec<f64> {
        if self.failed.is_some() {
            return Vec::new();
        }
        self.rounds.iter().map(value).collect::<Option<_>>().unwrap_or_default()
    }
}

/// Prints the lines of one work and returns its ratios to each peer.
pub(crate) fn tell(work: &Work, measured: &[Measured]) -> Vec<Row> {
    println!("\n{}", work.name);
    let unit = if work.task.is_stream() { "s/GiB" } else { "us" };
    for one in measured {
        if let Some(failure) = &one.failed {
            println!("  {:<14} {failure}", one.name);
            continue;
        }
        let middle = |value: &dyn Fn(&Round) -> Option<f64>, digits: usize| {
            let middle = median(&one.all(value));
            middle.map_or_else(|| "-".to_owned(), |middle| format!("{middle:.digits$}"))
        };
        let digits = usize::from(work.task.is_stream()) * 2;
        println!(
            "  {:<14} CPU: hub {:>6} {unit}, agent {:>6} {unit}   {:>8}/s   p50 {:>8} ms   p99 {:>8} ms",
            one.name,
            middle(&|round| Some(round.hub), digits),
            middle(&|round| Some(round.agent), digits),
            middle(&|round| Some(round.per_second), digits),
            middle(&|round| Some(milliseconds(round.p50)), 2),
            middle(&|round| round.p99.map(milliseconds), 2),
        );
    }
    let Some((ours, peers)) = measured.split_first() else { return Vec::new() };
    let rows: Vec<Row> = peers.iter().flat_map(|peer| compared(work, ours, peer)).collect();
    for row in &rows {
        let told = row.ratio.map_or_else(
            || "rounds disagree, or are too few".to_owned(),
            |ratio| format!("{ratio:.2}"),
        );
        println!("  ratio to {:<8} {:<4} {told}", row.peer, row.metric);
    }
    rows
}

fn compared(work: &Work, ours: &Measured, peer: &Measured) -> Vec<Row> {
    let metrics: [(&str, Value); 3] = [
        ("cpu", |round| Some(round.hub + round.agent)),
        ("rps", |round| Some(round.per_second)),
        ("p99", |round| round.p99.map(milliseconds)),
    ];
    let row = |(metric, value): (&'static str, Value)| Row {
        work: work.name.clone(),
        peer: peer.name,
        metric,
        ratio: ratio(&ours.all(value), &peer.all(value)),
        rounds: ours.rounds.len(),
    };
    metrics.into_iter().map(row).collect()
}

/// Writes `{"rows": [...]}`.
pub(crate) fn write(rows: &[Row], path: &Path) {
    std::fs::write(path, serde_json::to_string_pretty(&Document { rows }).unwrap()).unwrap();
    println!("\nwrote {}", path.display());
}

/// How the table calls hub and agent.
pub(crate) const OURS: &str = "cluster-proxy";
