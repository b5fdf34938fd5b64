//! Hubs, agents and API servers that end, kindly or not (F1 to F4, F9).

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::network::inside;
use crate::scene::{Control, Scene, milliseconds};
use crate::streams::Kind;
use crate::support::client::plain_get;
use crate::support::process::signal;
use crate::support::{PATIENCE, eventually};
use crate::world::{TUNNELS, Wishes, World};

#[test]
fn f1_an_agent_is_killed() {
    inside("processes::f1_an_agent_is_killed", || async {
        let mut scene = Scene::start(two_agents().await).await;
        let start = scene.fault();
        scene.world.agents[0][0].kill();
        sleep(AFTER).await;
        let endings = scene.endings(0);
        assert!(!endings.is_empty(), "nothing went through it");
        scene.assert_cut(0);
        let last = endings.iter().map(|one| one.at - start).max().unwrap();
        assert!(last < SOON, "streams ended {last:?} after their agent");
        let failed = scene.failed(0, start);
        let late = failed.iter().filter(|one| one.began > start + SOON).count();
        assert_eq!(late, 0, "the other agent serves: {failed:?}");
        let first = scene.first_success(0, start).unwrap();
        scene.wait_streams(0).await;
        let measure = format!(
            "{} streams ended, the last after {:.0} ms; {} GETs failed; first success after {:.0} ms",
            endings.len(),
            milliseconds(last),
            failed.len(),
            milliseconds(first)
        );
        scene.end("F1 agent SIGKILL", &measure, Control::Untouched);
    });
}

#[test]
fn f2_agents_are_replaced_one_by_one() {
    inside("processes::f2_agents_are_replaced_one_by_one", || async {
        let mut scene = Scene::start(two_agents().await).await;
        let start = scene.fault();
        for index in 0..2 {
            let status = scene.world.agents[0][index].stop(PATIENCE).await;
            assert!(status.success());
            scene.world.agents[0][index] = scene.world.agent(0, scene.world.agent_port);
            scene.world.wait_tunnels("c1", 2 * TUNNELS).await;
        }
        sleep(Duration::from_secs(1)).await;
        let failed = scene.failed(0, start);
        assert!(failed.is_empty(), "{failed:?}");
        let (all, cut) = (scene.since(0, start).len(), scene.endings(0).len());
        scene.wait_streams(0).await;
        let measure = format!("0 of {all} GETs failed, {cut} streams opened again");
        scene.end("F2 agents restarted", &measure, Control::Untouched);
    });
}

#[test]
fn f3_a_hub_is_stopped() {
    inside("processes::f3_a_hub_is_stopped", || async {
        let hub = &["--drain-timeout", "13s", "--min-drain-duration", "10s"];
        let world = World::start(Wishes { hub, ..Wishes::default() }).await;
        let mut scene = Scene::start(world).await;
        let start = scene.fault();
        signal(scene.world.hub.id(), "TERM");
        let admin = scene.world.admin;
        eventually("it is not ready any more", PATIENCE, || async {
            (plain_get(admin, "/readyz").await.ok()? != "ok\n").then_some(())
        })
        .await;
        let unready = start.elapsed();
        sleep(Duration::from_secs(10).saturating_sub(start.elapsed())).await;
        // What began a little before may have been told to go elsewhere.
        let late = Instant::now() - Duration::from_millis(500);
        let drained = scene.failed(0, start).into_iter().filter(|one| one.began < late);
        let drained: Vec<_> = drained.collect();
        assert!(drained.is_empty(), "in the 10 s after SIGTERM: {drained:?}");
        let execs = scene.streams[0].live_of(Kind::Exec);
        assert_eq!(execs, 3, "an exec is kept to the limit");
        eventually("the hub ends", PATIENCE, || {
            let ended = scene.world.hub.has_ended();
            async move { ended.then_some(()) }
        })
        .await;
        let took = start.elapsed();
        eventually("every stream has ended", PATIENCE, || {
            let live = scene.streams[0].live();
            async move { (live == 0).then_some(()) }
        })
        .await;
        let endings = scene.endings(0);
        let watches: Vec<_> = endings.iter().filter(|one| one.kind == Kind::Watch).collect();
        let unclean = watches.iter().filter(|one| !one.is_clean).count();
        assert_eq!(unclean, 0, "watches end cleanly, so that clients resume");
        scene.assert_cut(0);
        scene.world.start_hub();
        scene.wait_streams(0).await;
        let measure = format!(
            "not ready after {:.0} ms; 0 GETs failed in 10 s; {} watches ended cleanly, {} streams cut at the limit; gone after {:.1} s",
            milliseconds(unready),
            watches.len(),
            endings.len() - watches.len(),
            took.as_secs_f64()
        );
        scene.end("F3 hub SIGTERM", &measure, Control::Concerned);
    });
}

#[test]
fn f4_a_hub_is_killed() {
    inside("processes::f4_a_hub_is_killed", || async {
        let mut scene = Scene::start(two_agents().await).await;
        let start = scene.fault();
        scene.world.hub.kill();
        scene.world.start_hub();
        scene.world.wait_tunnels("c1", 2 * TUNNELS).await;
        scene.world.wait_tunnels("c2", TUNNELS).await;
        let back = start.elapsed();
        assert!(back < BACK, "all agents were back after {back:?}");
        scene.wait_streams(0).await;
        scene.assert_cut(0);
        let first = scene.first_success(0, start).unwrap();
        let measure = format!(
            "first success after {:.1} s, every tunnel of 3 agents after {:.1} s",
            first.as_secs_f64(),
            back.as_secs_f64()
        );
        scene.end("F4 hub SIGKILL", &measure, Control::Concerned);
    });
}

#[test]
fn f9_an_api_server_is_restarted() {
    inside("processes::f9_an_api_server_is_restarted", || async {
        let mut scene = Scene::start(World::start(Wishes::default()).await).await;
        let start = scene.fault();
        scene.world.apis[0].kill();
        sleep(Duration::from_secs(3)).await;
        let down = Instant::now();
        let client = scene.world.client(0);
        let answer = timeout(PATIENCE, client.get("/c1/version")).await.unwrap();
        answer.assert_status(502, "BadGateway");
        scene.world.apis[0].restart();
        let up = Instant::now();
        scene.wait_streams(0).await;
        sleep(Duration::from_secs(2)).await;
        let failed = scene.failed(0, start);
        let other: Vec<_> = failed.iter().filter(|one| !told(one, "502")).collect();
        assert!(other.is_empty(), "{other:?}");
        let first = scene.first_success(0, up).unwrap();
        let late = failed.iter().filter(|one| one.began > up + first + SOON).count();
        assert_eq!(late, 0, "no dead connection is used twice: {failed:?}");
        scene.assert_cut(0);
        let measure = format!(
            "{} GETs got 502 in {:.1} s; first success {:.0} ms after it is back",
            failed.len(),
            (up - start).max(down - start).as_secs_f64(),
            milliseconds(first)
        );
        scene.end("F9 API server restarted", &measure, Control::Untouched);
    });
}

fn told(sample: &crate::support::load::Sample, code: &str) -> bool {
    sample.failed.as_ref().is_some_and(|text| text.starts_with(code))
}

async fn two_agents() -> World {
    World::start(Wishes { more_agents: 1, ..Wishes::default() }).await
}

/// The matrix says one second; a machine that compiles meanwhile is given some more.
const SOON: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(5);
/// Ten seconds of the matrix; our own start in a build without optimisation is in them.
const BACK: Duration = Duration::from_secs(10);
