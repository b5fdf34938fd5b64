//! What honest clients notice while others attack: a steady load of GETs alone, beside 5,000
//! connections whose heads never end, and beside 100 clients that open streams and reset them.
//!
//! Hub and agent are processes of their own; load, attackers and API server share this one, each on
//! a thread of its own, and all of them share the machine: what the attackers themselves cost is in
//! the figures. Rounds alternate and medians are printed.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints and fails loudly")]

#[path = "../tests/attacks/frames.rs"]
#[allow(dead_code, reason = "the attacks use the rest")]
mod frames;
mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::Instant;

use cluster_proxy::listen::descriptors;
use cluster_proxy::pki::tls::{self, ClientStream};

use frames::{END_STREAM, Peer, headers, reset};
use measure::{Asker, ask_in_turn, median, milliseconds, quantile};
use support::api::LIST;
use support::client::{Client, plain_get};
use support::part::Part;
use support::processes::Pair;
use support::{PATIENCE, eventually};

/// What honest clients saw in one round.
struct Round {
    /// Milliseconds.
    p50: f64,
    p99: f64,
    /// What the hub used, in parts of one core.
    hub: f64,
}

fn main() {
    if measure::is_asked_only() {
        return;
    }
    let files = descriptors::raise().unwrap();
    assert!(
        files.is_none_or(|files| files > 2 * SLOW as u64),
        "{SLOW} connections need more open files: ulimit -Hn"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pair = Pair::start_quiet().await;
        println!(
            "GET of {LIST} bytes, {HONEST} connections, {} requests/s, {ROUNDS} rounds of {ROUND:?}",
            HONEST as u128 * Duration::from_secs(1).as_millis() / EACH.as_millis()
        );
        let [mut quiet, mut slow, mut resets] = [const { Vec::new() }; 3];
        let sent = Arc::<Sent>::default();
        // One round of each to fill caches and connection pools.
        for counted in 0..=ROUNDS {
            let rounds = [
                round(&pair).await,
                under_slow_heads(&pair).await,
                under_resets(&pair, &sent).await,
            ];
            if counted > 0 {
                for (kept, round) in [&mut quiet, &mut slow, &mut resets].into_iter().zip(rounds) {
                    kept.push(round);
                }
            }
        }
        report("quiet", &quiet, &quiet);
        report(&format!("{SLOW} slow heads"), &slow, &quiet);
        report(&format!("{RESETTING} rapid-reset clients"), &resets, &quiet);
        let each = |count: &AtomicUsize| count.load(Ordering::Relaxed) / (ROUNDS + 1);
        println!(
            "rapid reset, each round: {} connections, {} streams opened and reset",
            each(&sent.connections),
            each(&sent.streams)
        );
    });
}

async fn round(pair: &Pair) -> Round {
    let askers = Asker::connect_all(&pair.client(), HONEST).await;
    let (start, before) = (Instant::now(), pair.hub.cpu());
    let latencies = ask_in_turn(askers, ("/c1/api/v1/nodes", LIST), EACH, ROUND).await;
    let hub = (pair.hub.cpu() - before).div_duration_f64(start.elapsed());
    let time = |share| milliseconds(quantile(&latencies, share));
    Round { p50: time(0.5), p99: time(0.99), hub }
}

/// A round beside connections that add to their heads now and then.
async fn under_slow_heads(pair: &Pair) -> Round {
    let client = pair.client();
    let (ready, open) = oneshot::channel();
    let attack = Part::start("slow-heads", move || async move {
        let all = connect_slowly(&client).await;
        ready.send(()).unwrap();
        drip(all).await;
    });
    open.await.unwrap();
    let measured = round(pair).await;
    let open = connections(pair).await;
    assert!(open >= SLOW, "only {open} connections were open to the end");
    attack.kill();
    quiet_again(pair).await;
    measured
}

async fn connect_slowly(client: &Client) -> Vec<ClientStream<TcpStream>> {
    let config = tls::upstream(&client.ca_pem, None, &[b"http/1.1"]).unwrap();
    let connect = |number: usize| {
        let (config, address) = (&config, client.address);
        async move {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(source(number)).unwrap();
            let stream = socket.connect(address).await.unwrap();
            tls::connect(config, "localhost", stream).await.unwrap()
        }
    };
    stream::iter((0..SLOW).map(connect)).buffer_unordered(AT_ONCE).collect().await
}

/// Nobody may hold more than 2,000 connections by default: several addresses of the loopback.
fn source(number: usize) -> SocketAddr {
    let host = u8::try_from(number % SOURCES).unwrap() + 1;
    SocketAddr::from(([127, 0, 1, host], 0))
}

/// Begins a head on each and adds a header every second, for longer than a round.
async fn drip(mut all: Vec<ClientStream<TcpStream>>) {
    let step = Duration::from_secs(1) / u32::try_from(all.len()).unwrap();
    let mut line = &b"GET /c1/version HTTP/1.1\r\nhost: localhost\r\n"[..];
    let mut due = Instant::now();
    loop {
        for stream in &mut all {
            tokio::time::sleep_until(due).await;
            due += step;
            // One that was cut is missed in the count at the end of the round.
            let _ = stream.write_all(line).await;
            let _ = stream.flush().await;
        }
        line = b"x-slow: 1\r\n";
    }
}

/// How often the attackers of rapid reset did what.
#[derive(Default)]
struct Sent {
    connections: AtomicUsize,
    streams: AtomicUsize,
}

/// A round beside clients that reset every stream at once, and come back when they are thrown out.
async fn under_resets(pair: &Pair, sent: &Arc<Sent>) -> Round {
    let (client, counted) = (pair.client(), Arc::clone(sent));
    let attack = Part::start("rapid-reset", move || async move {
        let config = tls::upstream(&client.ca_pem, None, &[b"h2"]).unwrap();
        let (client, config, counted) = (&client, &config, &counted);
        let attackers = (0..RESETTING).map(|number| async move {
            loop {
                if let Some(stream) = connect(client, config, number).await {
                    counted.connections.fetch_add(1, Ordering::Relaxed);
                    reset_rapidly(stream, client, counted).await;
                }
                tokio::time::sleep(COMES_BACK).await;
            }
        });
        futures_util::future::join_all(attackers).await;
    });
    let measured = round(pair).await;
    attack.kill();
    quiet_again(pair).await;
    measured
}

async fn connect(
    client: &Client,
    config: &Arc<rustls::ClientConfig>,
    number: usize,
) -> Option<ClientStream<TcpStream>> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(source(number)).unwrap();
    let stream = socket.connect(client.address).await.ok()?;
    tls::connect(config, "localhost", stream).await.ok()
}

/// Good requests, each taken back at once, until the hub has had enough or [`STREAMS`] were sent.
async fn reset_rapidly(stream: ClientStream<TcpStream>, client: &Client, sent: &Sent) {
    let authorization = format!("Bearer {}", client.token.as_ref().unwrap());
    let request = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/c1/api/v1/nodes"),
        ("authorization", &authorization),
    ];
    let mut peer = Peer::start(stream).await;
    for stream in (0..STREAMS).map(|index| 2 * index + 1) {
        let pair = [headers(END_STREAM, stream, &request), reset(stream, frames::CANCEL)].concat();
        if peer.send(&pair).await.is_err() {
            break;
        }
        sent.streams.fetch_add(1, Ordering::Relaxed);
    }
    // What it says before it closes, as a client hears it.
    peer.end().await;
}

/// Open connections of clients, as the hub counts them.
async fn connections(pair: &Pair) -> usize {
    let metrics = plain_get(pair.admin, "/metrics").await.unwrap();
    let line = metrics.lines().find(|line| line.starts_with("cluster_proxy_connections "));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

/// Nothing of an attack is left.
async fn quiet_again(pair: &Pair) {
    eventually("the attackers are gone", PATIENCE, || async {
        (connections(pair).await == 0).then_some(())
    })
    .await;
}

fn report(name: &str, rounds: &[Round], quiet: &[Round]) {
    let of =
        |rounds: &[Round], value: fn(&Round) -> f64| median(rounds.iter().map(value).collect());
    let ratio = |value| of(rounds, value) / of(quiet, value);
    println!(
        "{name:<24} p50 {:>6.2} ms ({:>4.2} x)   p99 {:>6.2} ms ({:>4.2} x)   hub {:>3.0} % of a core",
        of(rounds, |round| round.p50),
        ratio(|round| round.p50),
        of(rounds, |round| round.p99),
        ratio(|round| round.p99),
        of(rounds, |round| round.hub * 100.0)
    );
}

const HONEST: usize = 16;
/// Between two requests of one honest connection.
const EACH: Duration = Duration::from_millis(50);
const ROUNDS: usize = 5;
/// Shorter than the deadline of a head (10 s), so that slow ones stay to its end.
const ROUND: Duration = Duration::from_secs(5);
const SLOW: usize = 5_000;
/// Handshakes of the slow at once.
const AT_ONCE: usize = 64;
const SOURCES: usize = 10;
const RESETTING: usize = 100;
/// Of one connection, where the hub lets it.
const STREAMS: u32 = 10_000;
/// TCP, TLS and the first answer over a path of 80 ms: an attacker elsewhere is no faster.
const COMES_BACK: Duration = Duration::from_millis(250);
