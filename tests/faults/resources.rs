//! What runs out, and what is replaced, under load (F16, F19).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::network::{inside, shell};
use crate::scene::{Control, Scene};
use crate::support::eventually;
use crate::support::process::{run, signal};
use crate::world::{LONG, Wishes, World};

#[test]
fn f16_everything_is_read_again_every_two_seconds() {
    inside("resources::f16_everything_is_read_again_every_two_seconds", || async {
        let hub = &["--policy", "policy.yaml", "--exposed-services", "services.yaml"];
        let files = &[("policy.yaml", "rules: []"), ("services.yaml", "[]")];
        let world = World::start(Wishes { hub, files, ..Wishes::default() }).await;
        let mut scene = Scene::start(world).await;
        let start = scene.fault();
        let folder = scene.world.path().to_owned();
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        let policies = [
            "rules: []",
            "rules: [",
            "rules: [{users: ['cluster:hub:a'], clusters: ['c1'], nonResourceURLs: ['/version']}]",
        ];
        for round in 0..ROUNDS {
            write("policy.yaml", policies[round % policies.len()]);
            write(
                "services.yaml",
                ["[]", "- {namespace: [", "- {namespace: a, service: b}"][round % 3],
            );
            run(&folder, &["pki", "renew", "--dir", "hub"]);
            match round {
                2 => drop(run(&folder, &["pki", "rotate-ca", "agent", "--dir", "hub"])),
                5 => drop(run(&folder, &["pki", "rotate-ca", "serving", "--dir", "hub"])),
                _ => {}
            }
            // A new token of the agent's own, as a kubelet writes it.
            scene.world.apis[0].write_kubeconfig(&folder.join("c1/kubeconfig"));
            signal(scene.world.hub.id(), "HUP");
            for agent in scene.world.agents.iter().flatten() {
                signal(agent.id(), "HUP");
            }
            sleep(Duration::from_secs(2)).await;
        }
        let failed: Vec<_> = scene.failed(0, start);
        assert!(failed.is_empty(), "{failed:?}");
        assert!(scene.endings(0).is_empty(), "{:?}", scene.endings(0));
        let all = scene.since(0, start).len();
        let measure = format!(
            "{ROUNDS} reloads of policy, services, certificates, both authorities and the agent's token, a third of them broken: 0 of {all} GETs failed, no stream cut"
        );
        scene.end("F16 reload every 2 s", &measure, Control::Untouched);
    });
}

#[test]
fn f19_the_disk_is_full_and_then_read_only() {
    inside("resources::f19_the_disk_is_full_and_then_read_only", || async {
        let small = r#"mkdir -p small && mount -t tmpfs -o size=256k small small && exec "$@""#;
        let wrapper = ["sh", "-c", small, "sh"].map(str::to_owned).to_vec();
        let hub = &["--access-log", "small/access.log"];
        let world = World::start(Wishes { hub, wrapper, ..Wishes::default() }).await;
        let mut scene = Scene::start(world).await;
        let start = scene.fault();
        let folder = scene.world.path().to_owned();
        let at = |line: &str| shell(&format!("cd {}; {line}", folder.display()));
        at("mount --bind hub hub; mount -o remount,ro,bind hub");
        let ballast = folder.join("small/ballast");
        // It fails where nothing is left, which is what is wanted.
        let _ = std::fs::write(&ballast, vec![0; 256 << 10]);
        eventually("lines of the access log are lost, and counted", LONG, || async {
            (scene.world.metric(LOST).await > 0.0).then_some(())
        })
        .await;
        sleep(Duration::from_secs(5)).await;
        let lost = scene.world.metric(LOST).await;
        std::fs::remove_file(&ballast).unwrap();
        std::fs::write(folder.join("small/access.log"), "").unwrap();
        let freed = Instant::now();
        eventually("lines are written again", LONG, || {
            let log = std::fs::read_to_string(folder.join("small/access.log")).unwrap();
            async move { log.contains("/c1/version").then_some(()) }
        })
        .await;
        let again = freed.elapsed();
        at("umount hub");
        let failed: Vec<_> = scene.failed(0, start);
        assert!(failed.is_empty(), "{failed:?}");
        assert!(scene.endings(0).is_empty(), "{:?}", scene.endings(0));
        let all = scene.since(0, start).len();
        let measure = format!(
            "0 of {all} GETs failed, no stream cut; {lost} lines of the access log lost and counted, written again {:.1} s after there is room",
            again.as_secs_f64()
        );
        scene.end("F19 disk full, read-only", &measure, Control::Untouched);
    });
}

const ROUNDS: usize = 9;
const LOST: &str = "cluster_proxy_access_log_lines_dropped_total";
