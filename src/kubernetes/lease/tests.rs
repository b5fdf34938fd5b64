use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::miniapi::store::{Key, Mode};
use crate::miniapi::testing::{Fault, InMemory, Wire};
use crate::telemetry::testing::assert_metrics_written;

/// Contenders for one lease, and who of them works.
struct World {
    api: InMemory,
    /// Workers at this moment, and the most that ever were at once.
    working: Arc<Mutex<Vec<&'static str>>>,
    most: Arc<AtomicUsize>,
}

struct Contender {
    wire: Wire,
    drain: Drain,
    task: JoinHandle<()>,
    metrics: Registry,
}

/// Works for as long as it exists.
struct Working(&'static str, Arc<Mutex<Vec<&'static str>>>);

impl Drop for Working {
    fn drop(&mut self) {
        self.1.lock().unwrap().retain(|one| *one != self.0);
    }
}

impl World {
    async fn start() -> Self {
        Self { api: InMemory::start().await, working: Arc::default(), most: Arc::default() }
    }

    fn contend(&self, identity: &'static str) -> Contender {
        let (wire, drain, metrics) = (self.api.wire(), Drain::new(), Registry::new());
        let election = Election::new(wire.client(), "default", "l", identity, &metrics).unwrap();
        let (working, most) = (self.working.clone(), self.most.clone());
        let work = move || {
            let (working, most) = (working.clone(), most.clone());
            async move {
                let _held = Working(identity, working.clone());
                let now = {
                    let mut working = working.lock().unwrap();
                    working.push(identity);
                    working.len()
                };
                most.fetch_max(now, Ordering::Relaxed);
                std::future::pending().await
            }
        };
        let task = tokio::spawn(while_leading(election, drain.clone(), work));
        Contender { wire, drain, task, metrics }
    }

    fn working(&self) -> Vec<&'static str> {
        self.working.lock().unwrap().clone()
    }

    /// How long it takes until exactly `who` works.
    async fn until(&self, who: &[&str]) -> Duration {
        let start = Instant::now();
        while self.working() != who {
            assert!(start.elapsed() < Duration::from_secs(120), "{who:?}: {:?}", self.working());
            sleep(Duration::from_millis(10)).await;
        }
        start.elapsed()
    }

    fn key() -> Key {
        Key::new("coordination.k8s.io", "leases", "default", "l")
    }

    fn spec(&self) -> Value {
        self.api.handle.store().get(&Self::key()).unwrap()["spec"].clone()
    }

    /// Edits the lease as somebody else would.
    fn edit(&self, spec: Value) {
        let edited = self.api.handle.store().modify(&Self::key(), Mode::Commit, |lease| {
            let mut lease = lease.clone();
            for (field, value) in spec.as_object().unwrap() {
                lease["spec"][field] = value.clone();
            }
            Ok(lease)
        });
        edited.unwrap();
    }

    fn at_most_one_ever_worked(&self) {
        assert_eq!(self.most.load(Ordering::Relaxed), 1);
    }
}

fn leading(contender: &Contender) -> f64 {
    let families = contender.metrics.gather();
    let metric = &families[0].get_metric()[0];
    assert_eq!(families[0].name(), "cluster_proxy_leader");
    assert_eq!(metric.get_label()[0].value(), "l");
    metric.get_gauge().get_value()
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn one_of_two_leads_and_goes_on() {
    let world = World::start().await;
    let first = world.contend("first");
    world.until(&["first"]).await;
    let second = world.contend("second");
    for _ in 0..120 {
        sleep(SECOND).await;
        assert_eq!(world.working(), ["first"]);
    }
    assert_eq!((leading(&first), leading(&second)), (1.0, 0.0));
    let spec = world.spec();
    assert_eq!((&spec["holderIdentity"], &spec["leaseTransitions"]), (&json!("first"), &json!(1)));
    assert_eq!(spec["leaseDurationSeconds"], 15);
    let lease = world.api.handle.store().get(&World::key()).unwrap();
    assert_eq!(lease["metadata"]["managedFields"][0]["manager"], super::super::FIELD_MANAGER);
    assert!(spec["renewTime"].as_str() > spec["acquireTime"].as_str(), "{spec}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_holder_is_followed_after_the_lease_and_a_stopped_one_at_once() {
    let world = World::start().await;
    let first = world.contend("first");
    world.until(&["first"]).await;
    let second = world.contend("second");
    sleep(5 * SECOND).await;

    // Dies: it says nothing any more, and its work is gone with it.
    first.wire.set(Fault::Silent);
    first.task.abort();
    let took = world.until(&["second"]).await;
    assert!((12 * SECOND..=20 * SECOND).contains(&took), "{took:?}");

    let third = world.contend("third");
    sleep(5 * SECOND).await;
    second.drain.stop();
    let took = world.until(&["third"]).await;
    assert!(took < 3 * SECOND, "{took:?}");
    assert_eq!(world.spec()["leaseTransitions"], 3);
    second.task.await.unwrap();

    // Dropped without a stop: given back all the same.
    third.task.abort();
    let fourth = world.contend("fourth");
    let took = world.until(&["fourth"]).await;
    assert!(took < 3 * SECOND, "{took:?}");
    assert_eq!(leading(&fourth), 1.0);
    world.at_most_one_ever_worked();
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_the_holder_does_not_matter() {
    let world = World::start().await;
    let first = world.contend("first");
    world.until(&["first"]).await;
    first.wire.set(Fault::Silent);
    first.task.abort();
    // Renewed by somebody whose clock is a day behind, then a year ahead: alive both times.
    let second = world.contend("second");
    for (round, day) in ["1999-01-01", "2999-01-01"].into_iter().cycle().take(8).enumerate() {
        world.edit(json!({"holderIdentity": "other",
            "renewTime": format!("{day}T00:00:{round:02}.000000Z")}));
        sleep(10 * SECOND).await;
        assert!(world.working().is_empty(), "round {round}");
    }
    // From the last change on nobody renews, whatever the record says of its time.
    let took = world.until(&["second"]).await;
    assert!(took < 10 * SECOND, "{took:?}");
    assert_eq!(leading(&second), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_its_api_server_stops_before_another_starts() {
    for fault in [Fault::Refused, Fault::Silent] {
        let world = World::start().await;
        let first = world.contend("first");
        world.until(&["first"]).await;
        let _second = world.contend("second");
        sleep(7 * SECOND).await;
        first.wire.set(fault);
        let took = world.until(&[]).await;
        assert!((7 * SECOND..=10 * SECOND).contains(&took), "{fault:?}: {took:?}");
        assert_eq!(leading(&first), 0.0);
        let took = world.until(&["second"]).await;
        // The last renewal was seen by the next look, and its end as well: 2.4 s each at most.
        assert!((2 * SECOND..=10 * SECOND).contains(&took), "{fault:?}: {took:?}");
        // Back again, it follows.
        first.wire.set(Fault::None);
        sleep(60 * SECOND).await;
        assert_eq!(world.working(), ["second"]);
        world.at_most_one_ever_worked();
    }
}

/// The lead was given up, and the API server is back before the lease could be given back.
#[tokio::test(start_paused = true)]
async fn a_lead_that_is_won_again_is_not_given_back() {
    for back_after in [0, 1, 3, 5, 9] {
        let world = World::start().await;
        let first = world.contend("first");
        world.until(&["first"]).await;
        let second = world.contend("second");
        sleep(7 * SECOND).await;
        first.wire.set(Fault::Silent);
        world.until(&[]).await;
        second.wire.set(Fault::Silent);
        sleep(back_after * SECOND).await;
        first.wire.set(Fault::None);
        world.until(&["first"]).await;
        second.wire.set(Fault::None);
        for _ in 0..30 {
            sleep(SECOND).await;
            assert_eq!(world.working(), ["first"], "{back_after}");
            assert_eq!(world.spec()["holderIdentity"], "first", "{back_after}");
        }
        world.at_most_one_ever_worked();
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_changes_nothing_and_a_lost_answer_neither() {
    let world = World::start().await;
    let first = world.contend("first");
    world.until(&["first"]).await;
    let _second = world.contend("second");
    for fault in [Fault::Refused, Fault::Silent, Fault::AnswerLost] {
        first.wire.set(fault);
        for _ in 0..6 {
            sleep(SECOND).await;
            assert_eq!(world.working(), ["first"], "{fault:?}");
        }
        first.wire.set(Fault::None);
        sleep(20 * SECOND).await;
        assert_eq!(world.working(), ["first"], "{fault:?}");
    }
    assert_eq!(world.spec()["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn who_finds_the_lease_taken_or_gone_does_the_right_thing() {
    let world = World::start().await;
    let _first = world.contend("first");
    world.until(&["first"]).await;
    // Deleted: made again by whom it belonged to.
    world.api.handle.store().delete(&World::key(), Mode::Commit, |_| Ok(())).unwrap();
    sleep(3 * SECOND).await;
    assert_eq!(world.working(), ["first"]);
    assert_eq!(world.spec()["holderIdentity"], "first");
    // Taken by force: stops at the next renewal, and does not clear what is another's.
    world.edit(json!({"holderIdentity": "bully", "leaseDurationSeconds": 60}));
    let took = world.until(&[]).await;
    assert!(took < 3 * SECOND, "{took:?}");
    sleep(50 * SECOND).await;
    assert_eq!(world.spec()["holderIdentity"], "bully");
    let took = world.until(&["first"]).await;
    assert!(took < 16 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn work_that_ends_gives_the_lead_back() {
    let world = World::start().await;
    let metrics = Registry::new();
    let election = Election::new(world.api.client(), "default", "l", "first", &metrics).unwrap();
    assert!(Election::new(world.api.client(), "default", "l", "x", &metrics).is_err());
    assert!(Election::new(world.api.client(), "default", "m", "x", &metrics).is_ok());
    let drain = Drain::new();
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let work = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(())
    };
    let task = drain.spawn(while_leading(election, drain.clone(), work));
    while runs.load(Ordering::Relaxed) < 2 {
        sleep(Duration::from_millis(10)).await;
    }
    // A stop waits for the lease to be given back.
    assert!(drain.finish(SECOND).await);
    task.await.unwrap();
    assert_eq!(world.spec()["holderIdentity"], Value::Null);
}

#[tokio::test]
async fn the_page_says_who_leads() {
    let world = World::start().await;
    let contender = world.contend("first");
    assert_metrics_written("leader", &contender.metrics, &[]);
}
