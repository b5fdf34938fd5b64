//! The link between hub and agents: gone, gone one way, slow, and lossy (F5 to F8).

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::network::{drop_packets, heal, inside, shell};
use crate::scene::{Control, Scene, milliseconds, p99};
use crate::support::bodies::{digest, source_body};
use crate::support::client::empty;
use crate::support::eventually;
use crate::world::{LONG, Wishes, World};

#[test]
fn f5_nothing_passes() {
    inside("links::f5_nothing_passes", || gone("F5 black hole", true));
}

#[test]
fn f6_nothing_passes_from_the_agent() {
    inside("links::f6_nothing_passes_from_the_agent", || gone("F6 one way", false));
}

async fn gone(fault: &str, both: bool) {
    let mut scene = Scene::start(World::start(Wishes::default()).await).await;
    let start = scene.fault();
    drop_packets("c1", "", both);
    eventually("the hub has noticed", LONG, || async {
        (scene.world.tunnels("c1").await? == 0).then_some(())
    })
    .await;
    let detected = start.elapsed();
    let noticed = Instant::now();
    assert!(detected < DETECTED, "detected after {detected:?}");
    sleep(Duration::from_secs(3)).await;
    let answer = timeout(Duration::from_secs(5), scene.world.client(0).get("/c1/version")).await;
    answer.unwrap().assert_status(503, "ServiceUnavailable");
    let samples = scene.since(0, start);
    let late = samples.iter().filter(|one| one.began > noticed).map(|one| one.took).max();
    assert!(late.is_some_and(|late| late < AFTERWARDS), "answered after {late:?}");
    let hung = samples.iter().filter(|one| one.began + one.took > noticed + AFTERWARDS).count();
    assert_eq!(hung, 0, "nothing waits longer");
    let longest = samples.iter().map(|one| one.took).max().unwrap();
    scene.assert_cut(0);
    assert_eq!(scene.streams[0].live(), 0, "streams of an agent that is gone");
    heal();
    let healed = Instant::now();
    scene.wait_streams(0).await;
    let back = scene.first_success(0, healed).unwrap();
    let measure = format!(
        "detected after {:.1} s; the longest GET took {:.1} s, later ones {:.0} ms at most; back {:.1} s after the link",
        detected.as_secs_f64(),
        longest.as_secs_f64(),
        milliseconds(late.unwrap()),
        back.as_secs_f64()
    );
    scene.end(fault, &measure, Control::Untouched);
}

#[test]
fn f7_a_megabit_a_second() {
    inside("links::f7_a_megabit_a_second", || async {
        let mut scene = Scene::start_at(World::start(Wishes::default()).await, 20).await;
        let start = scene.fault();
        let slow = "root tbf rate 1mbit burst 16kb latency 400ms";
        shell(&format!(
            "tc qdisc add dev to-hub-c1 {slow}; ip netns exec c1 tc qdisc add dev of-hub {slow}"
        ));
        let client = scene.world.client(0);
        let large =
            client.request("GET", &format!("{SERVICE}/source?bytes={}", 100 << 20), empty());
        let body = timeout(LONG, client.open(large)).await.unwrap().unwrap().into_body();
        let reading = tokio::spawn(digest(body));
        sleep(Duration::from_secs(15)).await;
        assert!(!reading.is_finished(), "100 MiB take a quarter of an hour");
        reading.abort();
        let samples = scene.since(0, start);
        let failed: Vec<_> = samples.iter().filter_map(|one| one.failed.as_ref()).collect();
        assert!(failed.is_empty(), "{failed:?}");
        let longest = samples.iter().map(|one| one.took).max().unwrap();
        assert!(longest < SLOW, "the longest GET took {longest:?}");
        let measure = format!(
            "beside a body of 100 MiB: {} GETs, p99 {:.0} ms, the longest {:.0} ms, 0 failed",
            samples.len(),
            milliseconds(p99(&samples)),
            milliseconds(longest)
        );
        scene.end("F7 1 Mbit/s", &measure, Control::Untouched);
    });
}

#[test]
fn f8_loss_and_a_long_way() {
    inside("links::f8_loss_and_a_long_way", || async {
        let world = World::start(Wishes { delay: Some(HALF_WAY), ..Wishes::default() }).await;
        let mut scene = Scene::start(world).await;
        let start = scene.fault();
        drop_packets("c1", "numgen random mod 100 < 2", true);
        let sent = digest(source_body(BODY)).await.unwrap();
        let began = Instant::now();
        let bodies = (0..BODIES).map(|number| {
            let client = scene.world.client(0);
            let sent = sent.clone();
            async move {
                if number % 2 == 0 {
                    let path = format!("{SERVICE}/source?bytes={BODY}");
                    let answer = client.open(client.request("GET", &path, empty())).await.unwrap();
                    assert_eq!(digest(answer.into_body()).await.unwrap(), sent);
                } else {
                    let path = format!("{SERVICE}/sink");
                    let request = client.request("POST", &path, source_body(BODY));
                    let body = client.open(request).await.unwrap().into_body();
                    let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
                    let got: Value = serde_json::from_slice(&body).unwrap();
                    assert_eq!(got["sha256"], sent.1);
                }
            }
        });
        let all = futures_util::future::join_all(bodies);
        timeout(Duration::from_secs(90), all).await.expect("bodies pass in time");
        let goodput = (BODY * BODIES) as f64 / began.elapsed().as_secs_f64() / f64::from(1 << 20);
        let samples = scene.since(0, start);
        let failed: Vec<_> = samples.iter().filter_map(|one| one.failed.as_ref()).collect();
        assert!(failed.is_empty(), "{failed:?}");
        assert!(scene.endings(0).is_empty(), "{:?}", scene.endings(0));
        let measure = format!(
            "{BODIES} bodies of {} MiB whole by SHA-256, {goodput:.1} MiB/s in all; GETs p99 {:.0} ms, 0 failed",
            BODY >> 20,
            milliseconds(p99(&samples)),
        );
        scene.end("F8 2 % loss, 100 ms", &measure, Control::Untouched);
    });
}

const SERVICE: &str = "/c1/api/v1/namespaces/default/services/x/proxy";
const DETECTED: Duration = Duration::from_secs(15);
/// How long callers wait at most once an agent is known to be gone.
const AFTERWARDS: Duration = Duration::from_secs(5);
const SLOW: Duration = Duration::from_secs(5);
const HALF_WAY: Duration = Duration::from_millis(50);
const BODY: u64 = 4 << 20;
const BODIES: u64 = 4;
