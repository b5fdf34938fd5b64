//! Ours beside its peers: the same client, API server, certificates, cipher and bodies.
//!
//! Rounds of all are interleaved, and what counts is the median of the ratios of each round:
//! client and API server share the machine with what is measured.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints and fails loudly")]

mod chart;
mod failure;
#[path = "../measure/mod.rs"]
mod measure;
mod peers;
mod ratios;
mod report;
#[path = "../../tests/support/mod.rs"]
mod support;
mod task;
mod work;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;

use report::Measured;
use support::process::Process;
use support::processes::Pair;
use work::Proxy;

/// Compares hub and agent with the proxies that this machine has.
#[derive(Parser)]
struct Options {
    /// Only work whose name contains this
    #[arg(long, default_value = "")]
    work: String,
    /// Rounds of each work and proxy that count, after one that does not
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each round
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    if measure::is_asked_only() {
        return;
    }
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(compare(&options));
}

async fn compare(options: &Options) {
    let mut pair = Pair::start_quiet().await;
    let refused = pair.client().token("garbage").get("/c1/api/v1/nodes").await;
    refused.assert_status(401, "Unauthorized");
    let peers = peers::start(&pair).await;
    let works = work::all();
    let works: Vec<_> = works.iter().filter(|work| work.name.contains(&options.work)).collect();
    let callers = works.iter().map(|work| work.tokens).max().unwrap_or(0);
    let tokens = (0..callers).map(|caller| pair.api.token(&format!("caller-{caller}")));
    let tokens: Arc<[String]> = tokens.collect();
    let ours = Proxy {
        name: report::OURS,
        tokens: Arc::clone(&tokens),
        hub: std::slice::from_ref(&pair.hub),
        agent: std::slice::from_ref(&pair.agent),
        client: pair.client(),
        prefix: "/c1",
    };
    let others = peers.iter().map(|peer| Proxy {
        name: peer.name,
        tokens: Arc::clone(&tokens),
        hub: &peer.hub,
        agent: &peer.agent,
        client: peer.client.clone(),
        prefix: peer.prefix,
    });
    let proxies: Vec<Proxy<'_>> = std::iter::once(ours).chain(others).collect();
    let round = Duration::from_secs_f64(options.seconds);
    println!("{} rounds of {round:?}; ratios are ours / peer", options.rounds);
    let mut rows = Vec::new();
    for work in works {
        let mut measured: Vec<Measured> =
            proxies.iter().map(|proxy| Measured::new(proxy.name)).collect();
        // One round of each fills caches and connection pools.
        for counted in 0..=options.rounds {
            for (proxy, measured) in proxies.iter().zip(&mut measured) {
                if measured.failed.is_some() {
                    continue;
                }
                match work.round(proxy, round).await {
                    Ok(round) if counted > 0 => measured.rounds.push(round),
                    Ok(_) => {}
                    Err(failure) => measured.failed = Some(failure),
                }
            }
        }
        rows.extend(report::tell(work, &measured));
    }
    for proxy in &proxies {
        let mebibytes = |side: &[Process]| side.iter().map(Process::peak_memory).sum::<u64>() >> 20;
        let (hub, agent) = (mebibytes(proxy.hub), mebibytes(proxy.agent));
        println!("{}: peak memory: hub {hub} MiB, agent {agent} MiB", proxy.name);
    }
    tell_that_everything_was_on(&pair).await;
    // In good order: a build with `-C profile-generate` writes its counts at its end.
    drop(proxies);
    pair.agent.stop(support::PATIENCE).await;
    pair.hub.stop(support::PATIENCE).await;
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    report::write(&rows, &target.join("compare.json"));
    std::fs::write(target.join("compare.svg"), chart::svg(&rows)).unwrap();
}

/// A fast proxy that lets everybody in, or keeps no log, has won nothing.
async fn tell_that_everything_was_on(pair: &Pair) {
    let authenticated = pair.metric("cluster_proxy_authentications_total", "").await;
    let hits = pair.metric("cluster_proxy_authentication_cache_hits_total", "").await;
    let logged = pair.access_log().lines().count();
    assert!(logged > 0, "the access log is on");
    println!(
        "{}: {authenticated} authentications, {hits} of cached tokens, {logged} lines of access log",
        report::OURS
    );
}
