//! A whole agent against a stub of a hub, with real enrolment and real TLS on loopback.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use http::StatusCode;
use tokio::time::Instant;

use self::world::{ANY_PORT, LOOK, PATIENCE, World, closed, open, post, works};
use super::*;
use crate::agent::testing::Stub;
use crate::pki::authorities::{self, Role};
use crate::tunnel::hello::LEAVE_PATH;

mod world;

#[tokio::test]
async fn ready_with_its_tunnels_and_gone_after_a_drain() {
    let world = World::enrolled(Duration::ZERO).await;
    let mut hub = world.hub(ANY_PORT).await;
    hub.welcome.store(false, Ordering::Relaxed);
    let running = world.agent(&hub).await;
    running.until("/metrics", r#"reconnects_total{reason="refused"}"#).await;
    assert!(running.admin("/livez").await.starts_with("HTTP/1.1 200"));
    assert!(running.admin("/readyz").await.starts_with("HTTP/1.1 503"));
    hub.welcome.store(true, Ordering::Relaxed);
    let (one, two) = (hub.tunnel().await, hub.tunnel().await);
    assert!(works(&one).await && works(&two).await);
    assert_eq!(world.api.last().headers["authorization"], "Bearer own");
    running.until("/readyz", "200 OK").await;
    running.until("/metrics", "cluster_proxy_agent_tunnels 2").await;

    let mut watch = open(&one, "/watch").await;
    let mut body = watch.response.receive().await.unwrap().into_body();
    assert!(http_body_util::BodyExt::frame(&mut body).await.unwrap().is_ok());
    running.drain.stop();
    running.task.await.unwrap().unwrap();
    closed(&two).await;
    drop((watch, body));
    assert!(running.drain.finish(PATIENCE).await, "the watch was all that was left");
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_dial_leaves_no_tunnel() {
    let world = World::enrolled(Duration::ZERO).await;
    let hub = world.hub(ANY_PORT).await;
    hub.greets.send_replace(false);
    let running = world.agent(&hub).await;
    hub.waiting.acquire_many(2).await.unwrap().forget();
    running.drain.stop();
    running.task.await.unwrap().unwrap();
    hub.greets.send_replace(true);
    assert!(running.drain.finish(PATIENCE).await, "a tunnel outlives the agent that dialled it");
}

#[tokio::test]
async fn a_restarted_hub_has_its_agent_back_soon() {
    let world = World::enrolled(Duration::ZERO).await;
    let mut hub = world.hub(ANY_PORT).await;
    let running = world.agent(&hub).await;
    let _old = (hub.tunnel().await, hub.tunnel().await);
    let address = hub.address;
    drop(hub);
    running.until("/metrics", r#"reconnects_total{reason="broken"} 2"#).await;
    let back = Instant::now();
    let mut hub = world.hub(address).await;
    assert!(works(&hub.tunnel().await).await);
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    running.drain.finish(PATIENCE).await;
}

#[tokio::test]
async fn a_renewal_replaces_tunnels_and_cuts_no_stream() {
    let world = World::enrolled(Duration::from_secs(20 * 3600)).await;
    let mut hub = world.hub(ANY_PORT).await;
    let running = world.agent(&hub).await;
    let (one, two) = (hub.tunnel().await, hub.tunnel().await);
    let mut watch = open(&one, "/watch").await;
    let mut body = watch.response.receive().await.unwrap().into_body();
    hub.renewals.add_permits(1);
    let (three, four) = (hub.tunnel().await, hub.tunnel().await);
    assert!(works(&three).await && works(&four).await);
    closed(&two).await;
    assert!(http_body_util::BodyExt::frame(&mut body).await.unwrap().is_ok());
    let next = http_body_util::BodyExt::frame(&mut body);
    let quiet = tokio::time::timeout(Duration::from_millis(200), next).await;
    assert!(quiet.is_err(), "the stream on the old tunnel goes on");
    running.until("/metrics", "cluster_proxy_agent_tunnels 2").await;
    drop((watch, body));
    running.drain.finish(PATIENCE).await;
}

/// The certificate of a dial is the one that its handshake used.
#[tokio::test]
async fn a_renewal_during_a_dial_is_news_to_its_tunnel() {
    let world = World::enrolled(Duration::from_secs(20 * 3600)).await;
    let mut hub = world.hub(ANY_PORT).await;
    hub.greets.send_replace(false);
    let running = world.agent(&hub).await;
    hub.waiting.acquire_many(2).await.unwrap().forget();
    let expiry = async || {
        let metrics = running.admin("/metrics").await;
        let mut lines = metrics.lines();
        let found = lines.find(|line| line.starts_with("cluster_proxy_agent_certificate_expiry"));
        found.unwrap().to_owned()
    };
    let before = expiry().await;
    hub.renewals.add_permits(1);
    let renewed = async {
        while expiry().await == before {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.unwrap();
    assert!(hub.arrivals.try_recv().is_err(), "the hellos are held back");
    hub.greets.send_replace(true);
    let _old = (hub.tunnel().await, hub.tunnel().await);
    let (three, four) = (hub.tunnel().await, hub.tunnel().await);
    assert!(works(&three).await && works(&four).await);
    running.drain.finish(PATIENCE).await;
}

#[tokio::test]
async fn an_expired_certificate_is_renewed_before_dialling() {
    let world = World::enrolled(Duration::from_secs(5 * 24 * 3600)).await;
    let mut hub = world.hub(ANY_PORT).await;
    let running = world.agent(&hub).await;
    running.until("/readyz", "503").await;
    assert!(hub.arrivals.try_recv().is_err());
    hub.renewals.add_permits(1);
    assert!(works(&hub.tunnel().await).await);
    assert!(!running.admin("/metrics").await.contains("refused"), "it did not knock in vain");
    running.drain.finish(PATIENCE).await;
}

/// With a certificate that is valid, and with one that has to be renewed before it dials.
#[tokio::test]
async fn a_hub_of_an_unknown_authority_is_named_and_left_until_the_agent_is_enrolled_again() {
    for age in [Duration::ZERO, Duration::from_secs(5 * 24 * 3600)] {
        let world = World::enrolled(age).await;
        authorities::rotate(&world.state, Role::Serving).await.unwrap();
        authorities::finish(&world.state, Role::Serving).await.unwrap();
        let mut hub = world.hub(ANY_PORT).await;
        let running = world.agent(&hub).await;
        if age.is_zero() {
            let unknown = r#"reconnects_total{reason="unknown-authority"}"#;
            running.until("/metrics", unknown).await;
        }
        running.until("/readyz", "503").await;
        assert!(hub.arrivals.try_recv().is_err());
        world.enrol(&hub, SystemTime::now()).await;
        assert!(works(&hub.tunnel().await).await);
        running.drain.finish(PATIENCE).await;
    }
}

#[tokio::test]
async fn told_to_leave_it_dials_again_and_serves_on() {
    let world = World::enrolled(Duration::ZERO).await;
    let mut hub = world.hub(ANY_PORT).await;
    let running = world.agent(&hub).await;
    let (one, two) = (hub.tunnel().await, hub.tunnel().await);
    assert_eq!(post(&one, LEAVE_PATH, "").await, StatusCode::NO_CONTENT);
    // The hub decides when it needs the old one no more: it may have to serve for a while yet.
    let three = hub.tunnel().await;
    assert!(works(&one).await && works(&two).await && works(&three).await);
    running.until("/metrics", "cluster_proxy_agent_tunnels 2").await;
    one.close("hub-stopped");
    two.close("hub-stopped");
    running.until("/metrics", r#"reconnects_total{reason="closed"} 1"#).await;
    assert!(!running.admin("/metrics").await.contains("broken"));
    running.drain.finish(PATIENCE).await;
}

#[tokio::test]
async fn a_changed_kubeconfig_is_used_and_cuts_nothing() {
    let world = World::enrolled(Duration::ZERO).await;
    let mut hub = world.hub(ANY_PORT).await;
    let running = world.agent(&hub).await;
    let (one, two) = (hub.tunnel().await, hub.tunnel().await);
    let mut watch = open(&one, "/watch").await;
    let mut body = watch.response.receive().await.unwrap().into_body();
    assert!(http_body_util::BodyExt::frame(&mut body).await.unwrap().is_ok());
    let token = async |expected: &str| {
        let used = async {
            while !works(&two).await || world.api.last().headers["authorization"] != expected {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, used).await.unwrap();
    };
    token("Bearer own").await;

    // Another token, then another API server altogether.
    let path = world.kubeconfig.path();
    std::fs::copy(world.api.kubeconfig("new").path(), path).unwrap();
    running.agent.reload();
    token("Bearer new").await;
    let good = std::fs::read(path).unwrap();
    let other = Stub::start(&["h2", "http/1.1"]).await;
    std::fs::copy(other.kubeconfig("other").path(), path).unwrap();
    running.agent.reload();
    let moved = async {
        while other.seen.lock().unwrap().is_empty() {
            assert!(works(&two).await);
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, moved).await.unwrap();
    assert_eq!(other.last().headers["authorization"], "Bearer other");
    std::fs::write(path, good).unwrap();
    running.agent.reload();
    token("Bearer new").await;

    let next = http_body_util::BodyExt::frame(&mut body);
    let quiet = tokio::time::timeout(Duration::from_millis(200), next).await;
    assert!(quiet.is_err(), "the stream of the first access goes on");
    drop((watch, body));
    running.drain.finish(PATIENCE).await;
}
