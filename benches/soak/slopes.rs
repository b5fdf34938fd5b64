//! What hub and agent hold, sampled while nothing is wrong, and how fast it grows.

use tokio::time::Instant;

use crate::support::client::plain_get;
use crate::support::processes::Pair;

/// Series in the order in which they were sampled first.
#[derive(Default)]
pub(crate) struct Slopes {
    began: Option<Instant>,
    /// Name, then minutes and value.
    series: Vec<(&'static str, Vec<(f64, f64)>)>,
}

// === impl Slopes ===

impl Slopes {
    pub(crate) async fn sample(&mut self, pair: &Pair, streams: usize) {
        let began = *self.began.get_or_insert_with(Instant::now);
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        let text = plain_get(pair.admin, "/metrics").await.unwrap();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        for (name, value) in [
            ("hub: resident memory, MiB", mib(pair.hub.memory())),
            ("agent: resident memory, MiB", mib(pair.agent.memory())),
            ("hub: open files", sum(&text, FILES)),
            ("agent: open files", files(pair.agent.id()).unwrap_or_default()),
            ("hub: requests in flight (permits)", sum(&text, IN_FLIGHT)),
            ("hub: connections", sum(&text, CONNECTIONS)),
            (
                "hub: series of metrics",
                text.lines().filter(|line| !line.starts_with('#')).count() as f64,
            ),
            ("clients: open streams", streams as f64),
        ] {
            match self.series.iter_mut().find(|(known, _)| *known == name) {
                Some((_, points)) => points.push((minutes, value)),
                None => self.series.push((name, vec![(minutes, value)])),
            }
        }
    }

    pub(crate) fn print(&self) {
        println!("| what | first | last | slope per minute |\n|---|---|---|---|");
        for (name, points) in &self.series {
            let (first, last) = (points[0].1, points[points.len() - 1].1);
            println!("| {name} | {first:.1} | {last:.1} | {:+.2} |", slope(points));
        }
    }
}

/// Of the line of least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let rise: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let run: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if run > 0.0 { rise / run } else { 0.0 }
}

/// The sum of the samples of a metric.
pub(crate) fn sum(text: &str, metric: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(metric));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Root alone may count those of another process (it is not dumpable).
fn files(process: u32) -> Option<f64> {
    Some(std::fs::read_dir(format!("/proc/{process}/fd")).ok()?.count() as f64)
}

const FILES: &str = "process_open_fds";
pub(crate) const IN_FLIGHT: &str = "cluster_proxy_requests_in_flight";
pub(crate) const CONNECTIONS: &str = "cluster_proxy_connections";
