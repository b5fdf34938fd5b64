//! What requests may take of the hub together: places in flight, memory for answers that nobody
//! reads, bytes of a body.

use http_body_util::BodyExt as _;
use std::time::Duration;

use cluster_proxy::hub::limits::Limits;

use crate::limits::{WATCH, counted, fleet, hits};
use crate::support::bodies::source_body;
use crate::support::client::{Client, empty, full};
use crate::support::{PATIENCE, eventually, within};

const SERVICE: &str = "/c1/api/v1/namespaces/default/services/x/proxy";

/// Requests whose answers have begun and do not end: held until dropped.
async fn hold(
    client: &Client,
    path: &str,
    count: usize,
) -> Vec<http::Response<hyper::body::Incoming>> {
    let mut held = Vec::new();
    for _ in 0..count {
        let response = client.open(client.request("GET", path, empty())).await.unwrap();
        assert_eq!(response.status(), 200);
        held.push(response);
    }
    held
}

#[tokio::test]
async fn a_caller_with_too_much_in_flight_is_told_to_wait_and_others_are_not() {
    let limits = Limits {
        requests_per_caller: 2,
        requests_per_cluster: 3,
        long_requests_per_caller: 2,
        long_requests_per_cluster: 3,
        ..Limits::default()
    };
    let mut fleet = fleet(limits).await;
    fleet.add("c2").await;
    fleet.wait_serves("c2", PATIENCE).await;
    let a = fleet.client("c1");
    let b = fleet.anonymous().token(&fleet.spoke("c1").api.token("other"));
    let c = fleet.anonymous().token(&fleet.spoke("c1").api.token("third"));
    let elsewhere = fleet.client("c2");
    let other = |path: &str| path.replace("/c1/", "/c2/");

    let held = hold(&a, WATCH, 2).await;
    let refused = a.get(WATCH).await;
    let message = refused.assert_status(429, "TooManyRequests");
    assert!(message.contains("--max-long-requests-per-caller"), "{message}");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(a.get("/c1/version").await.status, 200, "a get is counted apart");
    let more = hold(&b, WATCH, 1).await;
    let message = c.get(WATCH).await.assert_status(429, "TooManyRequests");
    assert!(message.contains("--max-long-requests-per-cluster"), "{message}");
    drop(hold(&elsewhere, &other(WATCH), 1).await);
    counted(&fleet, "long-requests-per-caller", 1.0).await;

    // Short ones: answers that their clients do not read.
    let large = "/c1/proxy/firehose";
    let held_short = hold(&a, large, 2).await;
    let message = a.get("/c1/version").await.assert_status(429, "TooManyRequests");
    assert!(message.contains("--max-requests-per-caller"), "{message}");
    let more_short = hold(&b, large, 1).await;
    let message = c.get("/c1/version").await.assert_status(429, "TooManyRequests");
    assert!(message.contains("--max-requests-per-cluster"), "{message}");
    assert_eq!(elsewhere.get("/c2/version").await.status, 200);
    // The hub's own requests are none of these.
    fleet.hub.wait_healthy("c1").await;

    drop((held, more, held_short, more_short));
    for (client, path) in [(&a, "/c1/version"), (&a, WATCH)] {
        eventually("there is room again", PATIENCE, || async {
            let response = client.open(client.request("GET", path, empty())).await.ok()?;
            (response.status() == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn past_the_budget_of_unread_bytes_the_longest_stalled_stream_is_reset() {
    let fleet = fleet(Limits { unread_bytes: 2 << 20, ..Limits::default() }).await;
    let client = fleet.client("c1");
    let path = format!("{SERVICE}/firehose");
    // Each holds up to a window of 256 KiB: eight fit.
    let mut stalled = hold(&client, &path, 6).await;
    let unread = || async { fleet.hub.metric("cluster_proxy_unread_bytes", &[]).await };
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(hits(&fleet, "unread-bytes").await < 1.0, "within the budget nobody is reset");
    stalled.extend(hold(&client.http2(), &path, 6).await);
    eventually("some are reset", PATIENCE, || async {
        (hits(&fleet, "unread-bytes").await >= 3.0).then_some(())
    })
    .await;
    eventually("the rest fits", PATIENCE, || async {
        let held = unread().await;
        (held > 0.0 && held <= f64::from(2 << 20)).then_some(())
    })
    .await;
    // The first to stall ends with an error, not as if it were whole; the last one goes on.
    let last = stalled.pop().unwrap().into_body();
    let drain = async |mut body: hyper::body::Incoming, bytes: usize| {
        let mut seen = 0;
        while seen < bytes {
            match body.frame().await {
                Some(Ok(frame)) => seen += frame.into_data().map_or(0, |data| data.len()),
                Some(Err(_)) => return Err("reset"),
                None => return Err("whole"),
            }
        }
        Ok(())
    };
    let much = 64 << 20;
    assert_eq!(within("the last", PATIENCE, drain(last, 4 << 20)).await, Ok(()));
    let first = stalled.swap_remove(0).into_body();
    assert_eq!(within("the first", PATIENCE, drain(first, much)).await, Err("reset"));
    eventually("the log says why", PATIENCE, || async {
        let log = std::fs::read_to_string(&fleet.hub.access_log).ok()?;
        log.contains("the budget of unread bytes is used up").then_some(())
    })
    .await;
    assert_eq!(client.get("/c1/version").await.status, 200);
}

/// A client that reads nothing at all never asks for the rest, nor hears of its end.
#[tokio::test]
async fn the_log_says_why_a_connection_was_closed_that_held_too_much() {
    let fleet = fleet(Limits { unread_bytes: 1 << 20, ..Limits::default() }).await;
    let client = fleet.client("c1");
    let path = format!("{SERVICE}/firehose");
    let mut stalled = hold(&client, &path, 1).await;
    let id = stalled[0].headers()["x-request-id"].to_str().unwrap().to_owned();
    let end = || {
        let log = std::fs::read_to_string(&fleet.hub.access_log).ok()?;
        let line = log.lines().find(|line| line.contains(&id))?;
        Some(serde_json::from_str::<serde_json::Value>(line).unwrap())
    };
    // It is the first to stall: each that comes later takes from it what is left of it.
    let mut line = end();
    for _ in 0..40 {
        if line.is_some() {
            break;
        }
        stalled.extend(hold(&client, &path, 1).await);
        tokio::time::sleep(Duration::from_millis(300)).await;
        line = end();
    }
    let line = line.expect("the first one is over");
    assert_eq!((&line["event"], &line["hop"]), (&"end".into(), &"hub-limit".into()), "{line}");
    let reason = line["reason"].as_str().unwrap();
    assert!(reason.contains("the budget of unread bytes is used up"), "{line}");
    assert_eq!(client.get("/c1/version").await.status, 200);
}

#[tokio::test]
async fn a_body_over_the_operators_limit_is_413() {
    let fleet = fleet(Limits { max_body: Some(1_000), ..Limits::default() }).await;
    for client in [fleet.client("c1"), fleet.client("c1").http2()] {
        for (bytes, good) in [(1_000, true), (1_001, false)] {
            // Its length is told, or shows on the way.
            for body in [full(vec![0; bytes]), source_body(bytes as u64)] {
                let request = client.request("POST", &format!("{SERVICE}/sink"), body);
                let answer = client.send(request).await;
                if good {
                    assert_eq!(answer.json()["bytes"], bytes);
                } else {
                    let message = answer.assert_status(413, "RequestEntityTooLarge");
                    assert!(message.contains("--max-body"), "{message}");
                }
            }
        }
    }
    counted(&fleet, "body", 4.0).await;
}
