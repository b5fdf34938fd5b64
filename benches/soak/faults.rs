//! What goes wrong, when, and which failures that explains.

use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use crate::support::PATIENCE;
use crate::support::process::{run, signal};
use crate::support::processes::Pair;
use crate::work::Failure;

/// What the hub reads again.
pub(crate) const FLAGS: [&str; 4] =
    ["--policy", "policy.yaml", "--exposed-services", "services.yaml"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Everything that can be read again is, good or broken.
    Reload,
    /// SIGTERM, and a new hub once it is gone.
    HubRestart,
    /// SIGKILL, and a new agent.
    AgentKill,
    /// Nothing is answered for a while that nobody may notice.
    Hiccup,
    /// Nothing is answered for so long that the tunnels are given up.
    Freeze,
}

pub(crate) struct Faults {
    chance: StdRng,
    count: usize,
    /// When requests may have failed.
    windows: Vec<(Instant, Instant)>,
}

// === impl Faults ===

impl Faults {
    pub(crate) fn new(chance: StdRng) -> Self {
        Self { chance, count: 0, windows: Vec::new() }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn choose(&mut self, from: &[Fault]) -> Fault {
        from[self.chance.random_range(0..from.len())]
    }

    /// Causes it, and waits until all is well again.
    pub(crate) async fn cause(&mut self, fault: Fault, pair: &mut Pair) {
        self.count += 1;
        let start = Instant::now();
        match fault {
            Fault::Reload => {
                self.reload(pair);
                sleep(BETWEEN_RELOADS).await;
                return;
            }
            Fault::HubRestart => {
                pair.hub.stop(PATIENCE).await;
                pair.start_hub_with(&FLAGS);
            }
            Fault::AgentKill => {
                pair.agent.kill();
                pair.start_agent();
            }
            Fault::Hiccup => freeze(pair, Duration::from_secs(1)).await,
            Fault::Freeze => freeze(pair, Duration::from_secs(12)).await,
        }
        pair.wait_serves(PATIENCE).await;
        // An answer that was on its way may be told late.
        self.windows.push((start, Instant::now() + SETTLING));
        sleep(SETTLING + BETWEEN_RELOADS).await;
    }

    /// Failures outside of every window.
    pub(crate) fn unexplained(&self, failures: &[Failure]) -> Vec<Failure> {
        let explained = |one: &Failure| {
            // Something of the fault happened while the request was under way.
            self.windows.iter().any(|(start, end)| one.began < *end && one.ended > *start)
        };
        failures.iter().filter(|one| !explained(one)).cloned().collect()
    }

    fn reload(&self, pair: &Pair) {
        let folder = pair.directory();
        let pick = |texts: [&'static str; 3]| texts[self.count % 3];
        let policy = pick([
            "rules: []",
            "rules: [",
            "rules: [{users: ['a'], clusters: ['c1'], nonResourceURLs: ['/x']}]",
        ]);
        std::fs::write(folder.join("policy.yaml"), policy).unwrap();
        let services = pick(["[]", "- {namespace: [", "- {namespace: a, service: b}"]);
        std::fs::write(folder.join("services.yaml"), services).unwrap();
        run(folder, &["pki", "renew", "--dir", "hub"]);
        match self.count % 20 {
            7 => drop(run(folder, &["pki", "rotate-ca", "agent", "--dir", "hub"])),
            13 => drop(run(folder, &["pki", "rotate-ca", "serving", "--dir", "hub"])),
            _ => {}
        }
        // Another token of the agent's own.
        pair.api.write_kubeconfig(&folder.join("c1/kubeconfig"));
        signal(pair.hub.id(), "HUP");
        signal(pair.agent.id(), "HUP");
    }
}

async fn freeze(pair: &Pair, time: Duration) {
    signal(pair.agent.id(), "STOP");
    sleep(time).await;
    signal(pair.agent.id(), "CONT");
}

const BETWEEN_RELOADS: Duration = Duration::from_secs(2);
const SETTLING: Duration = Duration::from_secs(1);
