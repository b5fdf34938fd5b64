//! What happens to the parts, and which failures that excuses.

use std::time::Duration;

use rand::Rng as _;
use serde_json::Value;

use super::ledger::{Excuse, Kind};
use super::network::Weather;
use super::support::client::plain_get;
use super::world::{AGENT_DRAIN, CLUSTERS, HUB_DRAIN, MIN_DRAIN, TUNNELS, World};

/// How hub and agents are, by their own words.
#[derive(Debug, Default)]
struct Look {
    /// Of each cluster: tunnels at the hub, tunnels at its agents, the hub's last probe.
    clusters: Vec<(usize, usize, bool)>,
    /// What the hub says of each.
    said: Vec<String>,
}

// === impl World ===

impl World {
    /// Something happens, and everything becomes well again.
    pub(crate) fn strike(&mut self) {
        let cluster = self.chance.random_range(0..CLUSTERS);
        match self.chance.random_range(0..12) {
            0 => self.bad_line(cluster),
            1 => self.partition(cluster, false),
            2 => self.partition(cluster, true),
            3 => self.break_tunnels(cluster),
            4 => self.kill_hub(),
            5 | 6 => self.drain_hub(),
            7 => self.kill_agent(cluster),
            8 | 9 => self.roll_agent(cluster),
            10 => self.kill_one_of_two(cluster),
            _ => self.kill_api(cluster),
        }
        if self.chance.random_bool(0.3) {
            self.break_callers();
        }
        self.recover();
        self.pass(CALM);
    }

    /// Waits until each cluster is healthy and has all its tunnels, at both ends, for longer than a dead
    /// one could be overlooked.
    pub(crate) fn recover(&mut self) {
        let (begun, mut well_since) = (self.now, None);
        let well_since = loop {
            let look = self.look();
            let agents = |cluster: usize| self.spokes[cluster].agents.len() * TUNNELS;
            let is_well = look.clusters.len() == CLUSTERS
                && look.clusters.iter().enumerate().all(|(cluster, (hub, agent, healthy))| {
                    *hub == agents(cluster) && *agent == agents(cluster) && *healthy
                });
            match well_since {
                _ if !is_well => well_since = None,
                None => well_since = Some(self.now),
                Some(since) if self.now - since >= SURE => break since,
                Some(_) => {}
            }
            if self.now - begun > RECOVERY {
                self.ledger.wrong(format!("not well {RECOVERY:?} after {begun:?}: {look:?}"));
                break self.now;
            }
            self.pass(Duration::from_secs(1));
        };
        // What stays well for so long was it from the beginning on: nothing may fail since then.
        for excuse in &mut self.excuses {
            excuse.to.get_or_insert(well_since);
        }
        self.tell(format!("all is well since {well_since:.3?}"));
    }

    fn look(&mut self) -> Look {
        let admin = self.addresses.admin;
        let running = self.spokes.iter().map(|spoke| {
            let built = spoke.agents.iter().filter_map(|agent| agent.agent.get());
            built.map(|agent| agent.admin_address()).collect::<Vec<_>>()
        });
        let running: Vec<_> = running.collect();
        let question = async move {
            let fleet: Value = serde_json::from_str(&plain_get(admin, "/fleet").await?)?;
            let mut look = Look::default();
            for (cluster, agents) in running.into_iter().enumerate() {
                let state = &fleet[format!("c{cluster}")];
                let mut of_agents = 0;
                for address in agents {
                    let text = plain_get(address, "/metrics").await?;
                    of_agents += sum(&text, "cluster_proxy_agent_tunnels");
                }
                look.said.push(state["probe"].to_string());
                let of_hub = state["tunnels"].as_array().map_or(0, Vec::len);
                look.clusters.push((of_hub, of_agents, state["probe"]["healthy"] == true));
            }
            anyhow::Ok(look)
        };
        self.ask(question).and_then(Result::ok).unwrap_or_default()
    }

    /// Gauges of the hub that do not come back to zero.
    pub(crate) fn left_over(&mut self) -> Vec<String> {
        let admin = self.addresses.admin;
        let gauges = ["requests_in_flight", "live_streams", "connections", "unread_bytes"];
        let mut left = Vec::new();
        for _ in 0..60 {
            let text = self.ask(async move { plain_get(admin, "/metrics").await });
            let text = text.and_then(Result::ok).unwrap_or_default();
            let named = gauges.map(|gauge| format!("cluster_proxy_{gauge}"));
            let samples =
                text.lines().filter(|line| named.iter().any(|name| line.starts_with(name)));
            left = samples.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect();
            if left.is_empty() && !text.is_empty() {
                break;
            }
            self.pass(Duration::from_millis(500));
        }
        left
    }

    fn excuse(&mut self, kinds: &[Kind], cluster: Option<usize>, from: Duration) {
        let kinds = kinds.to_vec();
        self.excuses.push(Excuse { kinds, cluster, begun: Duration::ZERO, from, to: None });
    }

    /// Slow and lossy, and no reason for anything to fail.
    fn bad_line(&mut self, cluster: usize) {
        let delay = Duration::from_millis(self.chance.random_range(5..300));
        let weather = Weather { delay, lost: self.chance.random_range(0..10), ..Weather::FINE };
        self.tell(format!("c{cluster} has a bad line: {weather:?}"));
        let link = self.spokes[cluster].to_hub.clone();
        link.set(weather);
        self.to_users.set(Weather { delay: delay / 4, ..weather });
        self.some_time(1..15_000);
        link.set(Weather::FINE);
        self.to_users.set(Weather::FINE);
    }

    /// Nothing passes, in one direction or both: from agent to hub, or from agent to API server.
    fn partition(&mut self, cluster: usize, of_api: bool) {
        let closed = self.chance.random_range(1..4_u32);
        let weather =
            Weather { there_closed: closed & 1 > 0, back_closed: closed & 2 > 0, ..Weather::FINE };
        let longest = if self.chance.random_bool(0.4) { SHORT } else { 20_000 };
        let time = Duration::from_millis(self.chance.random_range(1..longest));
        let spoke = &self.spokes[cluster];
        let link = if of_api { spoke.to_api.clone() } else { spoke.to_hub.clone() };
        let what = if of_api { "API server" } else { "hub" };
        self.tell(format!("c{cluster} is cut off from its {what} for {time:?}: {weather:?}"));
        if longest > SHORT {
            self.excuse(&[Kind::Answered, Kind::Cut, Kind::Ended], Some(cluster), self.now);
        }
        link.set(weather);
        self.pass(time);
        link.set(Weather::FINE);
    }

    fn break_tunnels(&mut self, cluster: usize) {
        self.tell(format!("c{cluster}: the tunnels break"));
        self.excuse(&[Kind::Answered, Kind::Cut, Kind::Ended], Some(cluster), self.now);
        self.spokes[cluster].to_hub.break_all();
    }

    fn break_callers(&mut self) {
        self.tell("the connections of callers break".to_owned());
        self.excuse(&[Kind::Refused, Kind::Cut], None, self.now);
        self.to_users.break_all();
        self.excused_so_far();
    }

    /// The last excuse is for what had begun; a moment, in which everybody hears of it.
    fn excused_so_far(&mut self) {
        self.pass(Duration::from_millis(200));
        if let Some(excuse) = self.excuses.last_mut() {
            excuse.to = Some(self.now);
        }
    }

    fn kill_hub(&mut self) {
        self.tell("the hub is killed".to_owned());
        self.excuse(&ALL, None, self.now);
        self.hub = None;
        self.some_time(1..10_000);
        self.start_hub();
    }

    /// What ran when the drain began has all of its time; what begins later may be refused.
    fn drain_hub(&mut self) {
        let begun = self.now;
        self.tell("the hub drains".to_owned());
        self.excuse(&[Kind::Ended], None, begun);
        self.excuse(&[Kind::Cut], None, begun + HUB_DRAIN);
        self.excuse(&ALL, None, begun + MIN_DRAIN);
        if let Some(excuse) = self.excuses.last_mut() {
            excuse.begun = begun;
        }
        let Some(hub) = &self.hub else { return };
        hub.drain.stop();
        let has_ended =
            |world: &Self| world.hub.as_ref().is_none_or(|hub| hub.running.is_finished());
        if !self.wait(HUB_DRAIN + LAST_WORDS, has_ended) {
            self.ledger.wrong(format!("the drain of {begun:?} did not end"));
        }
        self.tell("the hub has ended".to_owned());
        self.hub = None;
        self.some_time(1..3_000);
        self.start_hub();
    }

    fn kill_agent(&mut self, cluster: usize) {
        self.tell(format!("c{cluster}: the agent is killed"));
        self.excuse(&[Kind::Answered, Kind::Cut, Kind::Ended], Some(cluster), self.now);
        self.spokes[cluster].agents.clear();
        self.some_time(1..10_000);
        self.start_agent(cluster);
    }

    /// Another agent comes, and the first goes as it was told to: nobody notices but watches, which begin
    /// again, and what runs longer than a drain.
    fn roll_agent(&mut self, cluster: usize) {
        self.tell(format!("c{cluster}: another agent comes"));
        self.start_agent(cluster);
        self.recover();
        let begun = self.now;
        self.tell(format!("c{cluster}: the first agent drains"));
        self.excuse(&[Kind::Ended], Some(cluster), begun);
        self.excuse(&[Kind::Cut], Some(cluster), begun + AGENT_DRAIN);
        let first = &self.spokes[cluster].agents[0];
        let drain = first.drain.clone();
        let left = first.host.spawn(async move { drain.finish(AGENT_DRAIN).await });
        if !self.wait(AGENT_DRAIN + LAST_WORDS, |_| left.is_finished()) {
            self.ledger.wrong(format!("the agent's drain of {begun:?} did not end"));
        }
        self.tell(format!("c{cluster}: the first agent has ended"));
        self.spokes[cluster].agents.remove(0);
    }

    /// What runs through it breaks off, and the other one serves at once.
    fn kill_one_of_two(&mut self, cluster: usize) {
        self.tell(format!("c{cluster}: another agent comes"));
        self.start_agent(cluster);
        self.recover();
        self.tell(format!("c{cluster}: the first agent is killed"));
        self.excuse(&[Kind::Answered, Kind::Cut, Kind::Ended], Some(cluster), self.now);
        self.spokes[cluster].agents.remove(0);
        self.excused_so_far();
    }

    fn kill_api(&mut self, cluster: usize) {
        self.tell(format!("c{cluster}: the API server is killed"));
        self.excuse(&[Kind::Answered, Kind::Cut], Some(cluster), self.now);
        self.spokes[cluster].api_host = None;
        self.some_time(1..10_000);
        self.start_api(cluster);
    }

    fn some_time(&mut self, milliseconds: std::ops::Range<u64>) {
        let time = Duration::from_millis(self.chance.random_range(milliseconds));
        self.pass(time);
    }
}

/// The samples of a metric, added up.
fn sum(text: &str, metric: &str) -> usize {
    let samples = text.lines().filter_map(|line| line.strip_prefix(metric));
    let samples = samples.filter(|rest| rest.starts_with([' ', '{']));
    let values = samples.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
    // Gauges of things that are counted.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and whole")]
    let sum = values.sum::<f64>() as usize;
    sum
}

const ALL: [Kind; 4] = [Kind::Refused, Kind::Answered, Kind::Cut, Kind::Ended];
/// Milliseconds of silence that nobody has to notice: a ping is late after two seconds.
const SHORT: u64 = 1_500;
/// Longer than a dead tunnel stays unnoticed: the pause between pings, and what a ping may take.
const SURE: Duration = Duration::from_secs(11);
/// For agents to come back whatever their pauses have grown to, and for probes.
const RECOVERY: Duration = Duration::from_secs(90);
/// Nothing happens but calls.
const CALM: Duration = Duration::from_secs(3);
/// From the limit of a drain to the end of the process.
const LAST_WORDS: Duration = Duration::from_secs(6);
