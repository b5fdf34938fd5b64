//! Hub, agents and API servers as they are, in one thread, on a clock that is moved by hand and a network
//! that a seed decides about. Nobody waits for real time, so that an hour of faults takes a minute.
//!
//! `cargo test --test simulation` plays a hundred seeds, `SEEDS=5000 cargo test --test simulation` more, and
//! `SEED=17 cargo test --test simulation` one, with its story. Each machine is a runtime of its own (`host`);
//! sockets are real ones of the loopback, with a relay in between (`network`). The product draws its own
//! pauses and ids, so a seed fixes what happens and to whom, and not each byte.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod host;
mod ledger;
mod load;
mod network;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ledger::{Deed, Excuse, Failure, Kind, Ledger};
use world::{HUB_DRAIN, Template, World};

/// What came of a seed.
struct Run {
    story: Vec<String>,
    wrongs: Vec<String>,
    time: Duration,
    deeds: usize,
    failed: usize,
}

/// Plays a seed to its end. With `excused`, failures that a fault explains are none.
fn play(template: &Template, seed: u64, excused: bool) -> Run {
    let mut world = World::start(template, seed);
    world.recover();
    world.call(template);
    for _ in 0..=seed % MOST_STRIKES {
        world.strike();
    }
    let ledger = std::sync::Arc::clone(&world.ledger);
    ledger.stop();
    if !world.wait(END, |world| world.ledger.running() == 0) {
        ledger.wrong(format!("{} requests have no end", ledger.running()));
    }
    let left = world.left_over();
    if !left.is_empty() {
        ledger.wrong(format!("with nobody there, the hub counts {left:?}"));
    }
    let idle = world.now;
    world.hub.as_ref().unwrap().drain.stop();
    if !world.wait(HUB_DRAIN, |world| world.hub.as_ref().unwrap().running.is_finished()) {
        ledger.wrong(format!("an idle hub took until {:?} to stop, from {idle:?}", world.now));
    }
    let none = Vec::new();
    let wrongs = ledger.judge(if excused { &world.excuses } else { &none });
    let (deeds, failed) = ledger.counts();
    Run { story: std::mem::take(&mut world.story), wrongs, time: world.now, deeds, failed }
}

#[test]
fn nothing_is_lost_mixed_up_or_cut_without_a_reason() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds: Vec<u64> = match number("SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SEEDS").unwrap_or(SEEDS)).collect(),
    };
    assert!(!seeds.is_empty(), "no seed, no run");
    let template = Template::make();
    let (next, runs) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(seeds.len()) {
            scope.spawn(|| {
                let next = || usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
                while let Some(seed) = seeds.get(next()) {
                    let run = catch_unwind(AssertUnwindSafe(|| play(&template, *seed, true)));
                    let told = |run: &Run| !run.wrongs.is_empty() || seeds.len() == 1;
                    if let Some(run) = run.as_ref().ok().filter(|run| told(run)) {
                        println!("seed {seed}:\n{}\n{:#?}", run.story.join("\n"), run.wrongs);
                    }
                    runs.lock().unwrap().push((*seed, run));
                }
            });
        }
    });
    let runs = runs.into_inner().unwrap();
    let good: Vec<&Run> = runs
        .iter()
        .filter_map(|(_, run)| run.as_ref().ok())
        .filter(|run| run.wrongs.is_empty())
        .collect();
    println!(
        "{} seeds, {:.0?} of simulated time, {} requests, {} of them failed by a fault",
        good.len(),
        good.iter().map(|run| run.time).sum::<Duration>(),
        good.iter().map(|run| run.deeds).sum::<usize>(),
        good.iter().map(|run| run.failed).sum::<usize>(),
    );
    let is_bad = |run: &std::thread::Result<Run>| {
        run.as_ref().map_or(true, |run| !run.wrongs.is_empty() || run.deeds == 0)
    };
    let bad: Vec<u64> = runs.iter().filter(|(_, run)| is_bad(run)).map(|(seed, _)| *seed).collect();
    assert!(bad.is_empty(), "seeds {bad:?} fail; run SEED={} cargo test --test simulation", bad[0]);
}

/// The judge sees: what faults explain is found where nobody says that there were faults.
#[test]
fn without_their_reasons_failures_are_found() {
    let template = Template::make();
    let found = (0..10).any(|seed| !play(&template, seed, false).wrongs.is_empty());
    assert!(found, "no request of ten seeds has noticed any fault");
}

#[test]
fn a_failure_needs_a_reason_of_its_kind_cluster_and_time() {
    let second = Duration::from_secs;
    let judge = |failure: Failure, cluster: usize, from: u64, to: u64| {
        let ledger = Ledger::default();
        let result = Err(failure);
        ledger.begin();
        ledger.end(Deed { what: "x".into(), cluster, from: second(from), to: second(to), result });
        let excuse = Excuse {
            kinds: vec![Kind::Cut],
            cluster: Some(1),
            begun: second(10),
            from: second(20),
            to: Some(second(30)),
        };
        ledger.judge(&[excuse]).is_empty()
    };
    assert!(judge(Failure::Cut, 1, 10, 20));
    assert!(judge(Failure::Cut, 1, 30, 99));
    assert!(!judge(Failure::Ended, 1, 10, 20));
    assert!(!judge(Failure::Cut, 0, 10, 20));
    assert!(!judge(Failure::Cut, 1, 9, 20), "it began too early");
    assert!(!judge(Failure::Cut, 1, 10, 19), "it was cut too early");
    assert!(!judge(Failure::Cut, 1, 31, 40), "it began too late");
    assert!(!judge(Failure::Answered(401), 1, 15, 25), "never");
}

/// In CI.
const SEEDS: u64 = 100;
/// Things that happen in one run.
const MOST_STRIKES: u64 = 2;
/// For what still runs at the end.
const END: Duration = Duration::from_secs(130);
