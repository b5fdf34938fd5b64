//! The load of every fault, and the line that says what it did.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::streams::{ALL, Ending, Kind, Streams};
use crate::support::eventually;
use crate::support::load::{Load, Sample};
use crate::world::{CLUSTERS, LONG, World};

/// Load on both clusters, in the order of [`CLUSTERS`].
pub(crate) struct Scene {
    pub(crate) world: World,
    loads: Vec<Load>,
    pub(crate) streams: Vec<Streams>,
    began: Instant,
    fault: Instant,
}

/// Whether the other cluster has nothing to do with the fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Untouched,
    /// It has the same hub, which is what fails.
    Concerned,
}

// === impl Scene ===

impl Scene {
    /// Starts the load, and lets it run for a while without a fault.
    pub(crate) async fn start(world: World) -> Self {
        Self::start_at(world, GETS).await
    }

    /// The same with `per_second` GETs to the cluster where things fail.
    pub(crate) async fn start_at(world: World, per_second: u32) -> Self {
        let streams: Vec<_> = CLUSTERS
            .into_iter()
            .enumerate()
            .map(|(index, name)| Streams::start(&world.client(index), name))
            .collect();
        eventually("all streams are open", LONG, || async {
            streams.iter().all(|streams| streams.live() == ALL).then_some(())
        })
        .await;
        let loads = [("/c1/version", per_second), ("/c2/version", GETS)].into_iter().enumerate();
        let loads =
            loads.map(|(index, (path, rate))| Load::start(&world.client(index), path, rate));
        let loads = loads.collect();
        let began = Instant::now();
        sleep(BEFORE).await;
        let scene = Self { world, loads, streams, began, fault: Instant::now() };
        let failed: Vec<_> =
            scene.since(0, began).into_iter().filter_map(|one| one.failed).collect();
        assert!(failed.is_empty(), "before there was a fault: {failed:?}");
        scene
    }

    /// The fault begins.
    pub(crate) fn fault(&mut self) -> Instant {
        self.fault = Instant::now();
        self.fault
    }

    /// GETs to a cluster that began at `start` or later.
    pub(crate) fn since(&self, cluster: usize, start: Instant) -> Vec<Sample> {
        let all = self.loads[cluster].samples();
        all.into_iter().filter(|sample| sample.began >= start).collect()
    }

    /// GETs that failed, with what they were told.
    pub(crate) fn failed(&self, cluster: usize, start: Instant) -> Vec<Sample> {
        self.since(cluster, start).into_iter().filter(|sample| sample.failed.is_some()).collect()
    }

    /// From `start` until the first GET that began after it was answered.
    pub(crate) fn first_success(&self, cluster: usize, start: Instant) -> Option<Duration> {
        let good = self.since(cluster, start).into_iter().filter(|sample| sample.failed.is_none());
        good.map(|sample| sample.began + sample.took - start).min()
    }

    /// Streams of a cluster that ended since the fault.
    pub(crate) fn endings(&self, cluster: usize) -> Vec<Ending> {
        let all = self.streams[cluster].endings();
        all.into_iter().filter(|ending| ending.at >= self.fault).collect()
    }

    /// Nothing that was cut looks whole: a log or an exec has no end of its own here.
    pub(crate) fn assert_cut(&self, cluster: usize) {
        let endings = self.endings(cluster);
        let whole: Vec<_> =
            endings.iter().filter(|one| one.kind != Kind::Watch && one.is_clean).collect();
        assert!(whole.is_empty(), "as if they were whole: {whole:?}");
    }

    /// Waits until every stream of a cluster is open.
    pub(crate) async fn wait_streams(&self, cluster: usize) {
        eventually("all streams are open again", LONG, || async {
            (self.streams[cluster].live() == ALL).then_some(())
        })
        .await;
    }

    /// Prints the line of the table, and holds the control cluster to its rule.
    pub(crate) fn end(self, fault: &str, measure: &str, control: Control) {
        let before: Vec<_> = self.since(1, self.began);
        let (before, during): (Vec<_>, Vec<_>) =
            before.into_iter().partition(|sample| sample.began < self.fault);
        let errors: Vec<_> = during.iter().filter_map(|one| one.failed.clone()).collect();
        let cut = self.endings(1).len();
        let (p99_before, p99) = (p99(&before), p99(&during));
        let ratio = p99.as_secs_f64() / p99_before.as_secs_f64();
        println!(
            "| {fault} | {measure} | {} errors, {cut} streams cut | {:.0} ms, {:.0} ms ({ratio:.2}) |",
            errors.len(),
            milliseconds(p99_before),
            milliseconds(p99),
        );
        if control == Control::Untouched {
            assert!(errors.is_empty(), "the control cluster: {errors:?}");
            assert_eq!(cut, 0, "streams of the control cluster: {:?}", self.endings(1));
        }
    }
}

pub(crate) fn p99(samples: &[Sample]) -> Duration {
    let mut times: Vec<_> = samples.iter().map(|sample| sample.took).collect();
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// To each cluster in a second.
const GETS: u32 = 100;
const BEFORE: Duration = Duration::from_secs(4);
