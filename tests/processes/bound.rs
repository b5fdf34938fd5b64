//! The bound of memory that a hub prints at its start, under those who want to break it.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use cluster_proxy::hub::limits::Limits;
use cluster_proxy::hub::memory::MemoryBound;

use crate::support::client::{Client, empty};
use crate::support::processes::Pair;
use crate::support::{PATIENCE, eventually, within};

/// What one attack found.
struct Found {
    /// As printed.
    bound: u64,
    /// Clients that were let in and are not yet done with their heads.
    admitted: usize,
    /// Bytes that nobody reads.
    unread: f64,
    /// Bytes of memory that it cost.
    grown: u64,
}

#[tokio::test]
async fn memory_stays_under_the_printed_bound() {
    let mut pair = Pair::start().await;
    let low = attack(&mut pair, 100, 4).await;
    let high = attack(&mut pair, 150, 64).await;
    assert!(high.bound > low.bound, "{} {}", high.bound, low.bound);
    assert!(low.admitted <= 100 && high.admitted > 100, "{} {}", low.admitted, high.admitted);
    assert!(low.grown < WINDOWS, "{} MiB", low.grown >> 20);
    assert!(high.unread > 2.0 * low.unread, "{} {}", high.unread, low.unread);
}

/// Everything at once, at a hub with these limits: clients that take nothing of much, heads that do
/// not end, and more connections than there may be.
async fn attack(pair: &mut Pair, connections: usize, unread_mib: u64) -> Found {
    let limits = Limits {
        connections,
        connections_per_source: connections,
        agent_connections: 4,
        requests: 200,
        uploads: 10,
        streams_per_connection: 20,
        header_bytes: 16 << 10,
        unread_bytes: unread_mib << 20,
        ..Limits::default()
    };
    pair.hub.kill();
    pair.start_hub_with(&[
        "--max-connections",
        &connections.to_string(),
        "--max-agent-connections=4",
        "--max-requests=200",
        "--max-uploads=10",
        "--max-streams-per-connection=20",
        "--max-header-bytes=16KiB",
        "--max-unread-bytes",
        &format!("{unread_mib}MiB"),
    ]);
    let line = pair.hub.wait_for("the bound of memory", PATIENCE).await;
    let printed = line.split_once("bytes=").unwrap().1;
    let bound: u64 = printed.split(' ').next().unwrap().parse().unwrap();
    let expected = MemoryBound::of(&limits);
    assert_eq!(bound, expected.total(), "{line}");
    pair.wait_serves(PATIENCE).await;
    let before = pair.hub.peak_memory();

    // 160 streams that all have window, on eight sockets that nobody reads.
    let client = pair.client().http2();
    let mut stalled = Vec::new();
    for _ in 0..8 {
        stalled.push(within("heads", PATIENCE, stall(&client, 20)).await);
    }
    let most = (unread_mib << 20) as f64;
    let unread = || pair.metric("cluster_proxy_unread_bytes", "");
    let full = eventually("much is unread", PATIENCE, || async {
        let (now, cut) = (unread().await, pair.metric(HITS, "unread-bytes").await > 0.0);
        (now > 12e6 || cut).then_some(now)
    })
    .await;
    // Half heads until nobody is let in any more.
    let mut crowd = Vec::new();
    while let Ok(mut stream) = client.connect(b"http/1.1").await {
        let head = format!("GET /c1/version HTTP/1.1\r\nx-half: {}", "x".repeat(15 << 10));
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        crowd.push(stream);
        assert!(crowd.len() < 10 * connections);
    }
    let admitted = crowd.len();
    eventually("the rest is within the budget", PATIENCE, || async {
        (unread().await <= most).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = pair.hub.peak_memory();
    assert!(after <= bound, "{} MiB, bound {} MiB", after >> 20, bound >> 20);
    // What is fixed is mostly room for what nobody uses here.
    let moved = bound - expected.fixed * 5 / 4;
    let grown = after - before;
    assert!(grown <= moved, "grown by {} MiB, bound {} MiB", grown >> 20, moved >> 20);
    drop((stalled, crowd));
    pair.wait_serves(PATIENCE).await;
    Found { bound, admitted, unread: full, grown }
}

/// A connection with `streams` answers that have begun. It gives them all the window there is, and
/// then does not read.
async fn stall(client: &Client, streams: usize) -> impl Sized + use<> {
    let stream = client.connect(b"h2").await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 30).initial_connection_window_size(1 << 30);
    let (mut sender, mut connection) = builder.handshake::<_, bytes::Bytes>(stream).await.unwrap();
    let mut heads = Vec::new();
    for _ in 0..streams {
        let (parts, _) = client.request("GET", FIREHOSE, empty()).into_parts();
        let (head, _) = sender.send_request(http::Request::from_parts(parts, ()), true).unwrap();
        heads.push(head);
    }
    let all = futures_util::future::try_join_all(heads);
    let answers = tokio::select! {
        answers = all => answers.unwrap(),
        ended = &mut connection => panic!("{ended:?}"),
    };
    assert!(answers.iter().all(|answer| answer.status() == 200));
    (sender, connection, answers)
}

/// What the stalled streams would hold in tunnels alone without a budget.
const WINDOWS: u64 = 160 * 256 * 1024;
const FIREHOSE: &str = "/c1/api/v1/namespaces/default/services/x/proxy/firehose";
const HITS: &str = "cluster_proxy_limit_hits_total";
