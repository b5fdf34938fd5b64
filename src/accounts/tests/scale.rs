//! A thousand accounts of a hundred clusters: how many requests at once, and what a restart asks.

use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use serde_json::json;
use tokio::time::sleep;

use super::world::{World, eventually};

#[tokio::test(start_paused = true)]
async fn a_thousand_accounts_are_served_a_few_at_a_time_and_a_restart_asks_nothing() {
    let clusters: Vec<String> = (0..CLUSTERS).map(|number| format!("c{number}")).collect();
    let names: Vec<&str> = clusters.iter().map(String::as_str).collect();
    let mut world = World::start(&names).await;
    for account in 0..ACCOUNTS {
        let name = format!("a{account}");
        join_all(names.iter().map(|cluster| world.account(cluster, &name, json!({})))).await;
    }
    let is_ready = |world: &World| {
        let families = world.metrics.gather();
        let accounts =
            families.iter().find(|family| family.name() == "cluster_proxy_accounts").unwrap();
        let ready = accounts.get_metric().iter().find(|one| one.get_label()[0].value() == "ready");
        ready.unwrap().get_gauge().get_value() as usize == CLUSTERS * ACCOUNTS
    };
    eventually("all have tokens", || async { is_ready(&world).then_some(()) }).await;
    assert!((2..=16).contains(&world.hub.most()), "{}", world.hub.most());
    for cluster in &names {
        assert_eq!(world.minted(cluster), ACCOUNTS);
        assert!((1..=4).contains(&world.spoke(cluster).most()), "{}", world.spoke(cluster).most());
    }

    world.restart();
    let written = world.hub.writes().len();
    let reviews = |world: &World| -> usize {
        names.iter().map(|name| world.spoke(name).count(&Method::POST, "/tokenreviews")).sum()
    };
    eventually("all are known", || async { is_ready(&world).then_some(()) }).await;
    assert!(reviews(&world) < CLUSTERS * ACCOUNTS / 20, "{}", reviews(&world));
    sleep(Duration::from_secs(2400)).await;
    assert!(reviews(&world) >= CLUSTERS * ACCOUNTS, "each has had its turn");
    assert_eq!(world.hub.writes().len(), written);
    let minted: usize = names.iter().map(|name| world.minted(name)).sum();
    assert_eq!(minted, CLUSTERS * ACCOUNTS, "no token was thrown away");
}

const CLUSTERS: usize = 100;
const ACCOUNTS: usize = 10;
