//! Everything at once for a long time, with faults in between: what grows, and what fails that no
//! fault explains.
//!
//! Hub and agent are processes; load and API server share this one. Three parts:
//!
//! | part | share | what happens |
//! |---|---|---|
//! | reloads | a quarter | policy, services, certificate, both authorities, the agent's access: every 2 s, a third of it broken. Nothing may fail |
//! | deaths | a quarter | hub restarted with a drain, agent killed, by chance |
//! | slopes | a half | agent frozen for a moment or for long, by chance, and reloads; the hub and the agent live, so what they hold may not grow |
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints and fails loudly")]

mod faults;
#[path = "../measure/mod.rs"]
mod measure;
mod slopes;
#[path = "../../tests/faults/streams.rs"]
#[allow(dead_code, reason = "the faults use the rest")]
mod streams;
#[path = "../../tests/support/mod.rs"]
mod support;
mod work;

use std::time::Duration;

use clap::Parser;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

use faults::{Fault, Faults};
use slopes::Slopes;
use support::client::plain_get;
use support::processes::Pair;
use support::{PATIENCE, eventually};
use work::Work;

/// For how long, and with which faults.
#[derive(Debug, Parser)]
struct Args {
    /// Minutes in all
    #[arg(long, default_value = "10")]
    minutes: f64,
    /// GETs in a second
    #[arg(long, default_value = "100")]
    rate: u32,
    /// Of the faults; another one is drawn, and printed, where there is none
    #[arg(long)]
    seed: Option<u64>,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    if measure::is_asked_only() {
        return;
    }
    let args = Args::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(run(&args));
}

async fn run(args: &Args) {
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("{} minutes, {} GETs/s, seed {seed}", args.minutes, args.rate);
    let mut pair = Pair::start_quiet().await;
    std::fs::write(pair.directory().join("policy.yaml"), "rules: []").unwrap();
    std::fs::write(pair.directory().join("services.yaml"), "[]").unwrap();
    pair.hub.stop(PATIENCE).await;
    pair.start_hub_with(&faults::FLAGS);
    pair.wait_serves(PATIENCE).await;

    let mut faults = Faults::new(StdRng::seed_from_u64(seed));
    let work = Work::start(&pair, args.rate);
    let began = Instant::now();
    let part = Duration::from_secs_f64(args.minutes * 60.0 / 4.0);

    while began.elapsed() < part {
        faults.cause(Fault::Reload, &mut pair).await;
    }
    let failed = work.failures();
    println!("{} reloads, {} answers: {} failures", faults.count(), work.answered(), failed.len());
    let first: Vec<_> = failed.iter().take(5).collect();
    assert!(failed.is_empty(), "a reload fails nothing: {first:?}");

    while began.elapsed() < 2 * part {
        let fault = faults.choose(&[Fault::HubRestart, Fault::AgentKill, Fault::Reload]);
        faults.cause(fault, &mut pair).await;
    }
    pair.wait_serves(PATIENCE).await;
    // What a process needs once is not what it loses.
    tokio::time::sleep(WARM).await;
    let mut slopes = Slopes::default();
    while began.elapsed() < 4 * part {
        slopes.sample(&pair, work.open_streams()).await;
        let fault = faults.choose(&[Fault::Hiccup, Fault::Freeze, Fault::Reload, Fault::Reload]);
        faults.cause(fault, &mut pair).await;
    }
    slopes.sample(&pair, work.open_streams()).await;

    let unexplained = faults.unexplained(&work.failures());
    println!("{} faults, {} answers, {}", faults.count(), work.answered(), work.summary());
    println!(
        "{} failures, {} of them while nothing was wrong",
        work.failures().len(),
        unexplained.len()
    );
    slopes.print();
    drop(work);
    eventually("every permit and every connection is given back", PATIENCE, || async {
        let text = plain_get(pair.admin, "/metrics").await.ok()?;
        let of = |name: &str| slopes::sum(&text, name);
        (of(slopes::IN_FLIGHT) == 0.0 && of(slopes::CONNECTIONS) == 0.0).then_some(())
    })
    .await;
    let first: Vec<_> = unexplained.iter().take(5).collect();
    assert!(unexplained.is_empty(), "no fault explains {first:?}");
    assert!(pair.agent.stop(PATIENCE).await.success() && pair.hub.stop(PATIENCE).await.success());
}

const WARM: Duration = Duration::from_secs(5);
