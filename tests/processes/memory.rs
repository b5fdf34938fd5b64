//! Bodies that are larger than the memory that carries them.

use std::time::Duration;

use serde_json::json;

use crate::support::bodies::{digest, source_body};
use crate::support::client::empty;
use crate::support::processes::Pair;
use crate::support::within;

const SERVICE: &str = "/c1/api/v1/namespaces/default/services/x/proxy";
const GIB: u64 = 1 << 30;

#[tokio::test]
async fn a_gibibyte_each_way_in_64_mib() {
    let pair = Pair::start().await;
    let client = pair.client();
    // What a process needs once (code, TLS, allocator) is not what the bodies cost.
    for _ in 0..2 {
        let request = client.request("POST", &format!("{SERVICE}/sink"), source_body(1 << 20));
        assert_eq!(client.send(request).await.status, 200);
    }
    let before = [pair.hub.peak_memory(), pair.agent.peak_memory()];
    let sent = digest(source_body(GIB)).await.unwrap();

    let path = format!("{SERVICE}/source?bytes={GIB}");
    let response = client.open(client.request("GET", &path, empty())).await.unwrap();
    let down = within("1 GiB down", LONG, digest(response.into_body())).await.unwrap();
    assert_eq!(down, sent);

    let up = async {
        let request = client.request("POST", &format!("{SERVICE}/sink"), source_body(GIB));
        let body = client.open(request).await.unwrap().into_body();
        http_body_util::BodyExt::collect(body).await.unwrap().to_bytes()
    };
    let up: serde_json::Value =
        serde_json::from_slice(&within("1 GiB up", LONG, up).await).unwrap();
    assert_eq!(up, json!({"bytes": sent.0, "sha256": sent.1}));

    let after = [pair.hub.peak_memory(), pair.agent.peak_memory()];
    for (name, (before, after)) in ["hub", "agent"].iter().zip(before.iter().zip(after)) {
        let grown = (after - before) >> 20;
        assert!(grown <= 64, "{name} grew by {grown} MiB, from {} MiB", before >> 20);
    }
}

#[tokio::test]
async fn stalled_readers_cost_a_bounded_amount() {
    use http_body_util::BodyExt as _;
    let pair = Pair::start().await;
    let client = pair.client();
    let before = [pair.hub.peak_memory(), pair.agent.peak_memory()];
    let mut stalled = Vec::new();
    for _ in 0..50 {
        let request = client.request("GET", &format!("{SERVICE}/firehose"), empty());
        let mut body = client.open(request).await.unwrap().into_body();
        assert!(body.frame().await.unwrap().is_ok());
        stalled.push(body);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let answer = within("a request", Duration::from_secs(2), client.get("/c1/version")).await;
    assert_eq!(answer.status, 200);
    let after = [pair.hub.peak_memory(), pair.agent.peak_memory()];
    for (name, (before, after)) in ["hub", "agent"].iter().zip(before.iter().zip(after)) {
        let each = (after - before) / 50 / 1024;
        assert!(each <= 1024, "{name}: {each} KiB per stalled reader");
    }
}

/// On a loaded machine with two cores, in a build without optimisation of our own code.
const LONG: Duration = Duration::from_secs(240);
