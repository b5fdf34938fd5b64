//! Several hubs on one state, and several agents of one cluster.

use std::time::Duration;

use cluster_proxy::name::ClusterName;

use crate::support::balancer::Balancer;
use crate::support::fleet::{Fleet, RunningHub};
use crate::support::{PATIENCE, eventually, within};

async fn wait_ready(hub: &RunningHub, patience: Duration) {
    eventually("the hub is ready", patience, || async {
        (hub.admin("/readyz").await == "ok\n").then_some(())
    })
    .await;
}

/// Waits until each living hub has told the others that it serves `cluster`.
pub(crate) async fn wait_told(fleet: &Fleet, cluster: &str) {
    let cluster = ClusterName::parse(cluster).unwrap();
    eventually("each hub says whom it serves", PATIENCE, || async {
        let living = fleet.hub.state.replicas().await.unwrap();
        living.iter().all(|hub| hub.settled && hub.connected.contains(&cluster)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agent_reaches_every_hub_behind_a_balancer() {
    let mut fleet = Fleet::start(&[]).await;
    let balancer = Balancer::start().await;
    let mut others = vec![fleet.hub.beside().await, fleet.hub.beside().await];
    balancer.add(fleet.hub.addresses.agents);
    others.iter().for_each(|hub| balancer.add(hub.addresses.agents));
    fleet.add_at("c1", balancer.address).await;
    for hub in others.iter().chain([&fleet.hub]) {
        hub.wait_tunnels("c1", 2, PATIENCE).await;
    }
    let client = fleet.client("c1");
    let through = |hub: &RunningHub| {
        let mut client = client.clone();
        client.address = hub.addresses.user;
        client
    };
    for hub in others.iter().chain([&fleet.hub]) {
        assert_eq!(through(hub).get("/c1/version").await.status, 200);
    }

    // A new hub waits for what its peers say that they serve; each says so at its next look.
    wait_told(&fleet, "c1").await;
    // One dies: the others serve. A new one is found, waits until it can serve, and then is ready.
    let mut dead = others.remove(0);
    balancer.remove(dead.addresses.agents);
    dead.kill();
    for hub in others.iter().chain([&fleet.hub]) {
        assert_eq!(through(hub).get("/c1/version").await.status, 200);
    }
    let new = fleet.hub.beside().await;
    assert_eq!(new.admin("/readyz").await, "waiting for agents\n");
    balancer.add(new.addresses.agents);
    // Before the time after which it would be ready with nobody.
    wait_ready(&new, Duration::from_secs(25)).await;
    assert_eq!(through(&new).get("/c1/version").await.status, 200);
    new.wait_tunnels("c1", 2, PATIENCE).await;

    // Nobody has more than its number once the draws are over.
    for hub in others.iter().chain([&fleet.hub, &new]) {
        hub.wait_tunnels("c1", 2, PATIENCE).await;
    }
    let living = fleet.hub.state.replicas().await.unwrap();
    assert_eq!(living.len(), 3, "{living:?}");
    wait_told(&fleet, "c1").await;
}

#[tokio::test]
async fn a_new_hub_does_not_wait_for_a_cluster_that_nobody_serves() {
    let fleet = Fleet::start(&["c1"]).await;
    // Enrolled, and its agent never came.
    fleet.hub.enrol("absent", &fleet.dir.path().join("absent")).await;
    eventually("the first hub is settled", Duration::from_secs(40), || async {
        let living = fleet.hub.state.replicas().await.unwrap();
        living.iter().any(|hub| hub.settled && !hub.connected.is_empty()).then_some(())
    })
    .await;
    let new = fleet.hub.beside().await;
    assert_eq!(new.admin("/readyz").await, "waiting for agents\n");
    let _agent = fleet.spoke("c1").agent_beside(new.addresses.agents);
    // Well before the 30 s that it would wait for the absent one.
    wait_ready(&new, Duration::from_secs(15)).await;
}

#[tokio::test]
async fn two_agents_with_the_same_credentials_serve_side_by_side() {
    let mut fleet = Fleet::start(&["c1"]).await;
    let hub = fleet.hub.addresses.agents;
    let second = fleet.spoke("c1").agent_beside(hub);
    fleet.hub.wait_tunnels("c1", 4, PATIENCE).await;
    let client = fleet.client("c1");
    // The old one is killed, the new one serves; then the other way round.
    fleet.spoke_mut("c1").kill_agent();
    fleet.hub.wait_tunnels("c1", 2, PATIENCE).await;
    assert_eq!(client.get("/c1/version").await.status, 200);
    fleet.spoke_mut("c1").start_agent(hub);
    fleet.hub.wait_tunnels("c1", 4, PATIENCE).await;
    second.kill();
    fleet.hub.wait_tunnels("c1", 2, PATIENCE).await;
    assert_eq!(client.get("/c1/version").await.status, 200);
}

#[tokio::test]
async fn a_cluster_without_an_agent_is_an_error_at_once() {
    let mut fleet = Fleet::start(&["c1"]).await;
    let client = fleet.client("c1");
    assert_eq!(client.get("/c1/version").await.status, 200);
    fleet.spoke_mut("c1").kill_agent();
    fleet.hub.wait_tunnels("c1", 0, PATIENCE).await;
    let answer = within("the answer", Duration::from_secs(2), client.get("/c1/version")).await;
    answer.assert_status(503, "ServiceUnavailable");
}
