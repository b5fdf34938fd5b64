//! Two clusters behind one hub, each on links of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio_util::task::AbortOnDropHandle;

use cluster_proxy::pki::authorities;
use cluster_proxy::state::{FolderStore, State};

use crate::delay::delayed;
use crate::network::spoke;
use crate::support::api::FakeApi;
use crate::support::client::{Client, plain_get};
use crate::support::process::{Process, command, free_port};
use crate::support::processes::enrol;
use crate::support::{PATIENCE, eventually};

/// The cluster where things fail, and the one where nothing does.
pub(crate) const CLUSTERS: [&str; 2] = ["c1", "c2"];

/// Everything ends when this is dropped.
pub(crate) struct World {
    pub(crate) hub: Process,
    /// In the order of [`CLUSTERS`].
    pub(crate) apis: Vec<FakeApi>,
    /// Of `c1`, then of `c2`.
    pub(crate) agents: [Vec<Process>; 2],
    pub(crate) user: SocketAddr,
    pub(crate) agent_port: u16,
    pub(crate) admin: SocketAddr,
    ca_pem: String,
    flags: Vec<String>,
    wrapper: Vec<String>,
    proxy: Option<AbortOnDropHandle<()>>,
    directory: TempDir,
}

/// How it is otherwise than usual.
#[derive(Default)]
pub(crate) struct Wishes {
    /// Further flags of the hub.
    pub(crate) hub: &'static [&'static str],
    /// A program that runs the hub, with its arguments.
    pub(crate) wrapper: Vec<String>,
    /// Agents of `c1` besides the first.
    pub(crate) more_agents: usize,
    /// In the folder where all of it runs, by name.
    pub(crate) files: &'static [(&'static str, &'static str)],
    /// How much later bytes arrive between `c1` and the hub.
    pub(crate) delay: Option<Duration>,
}

// === impl World ===

impl World {
    pub(crate) async fn start(wishes: Wishes) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(Arc::new(FolderStore::open(directory.path().join("hub")).unwrap()));
        let names = ["localhost", "127.0.0.1", "10.77.1.1", "10.77.2.1"].map(str::to_owned);
        authorities::init(&state, &names).await.unwrap();
        let ca_pem = authorities::bundle(&state, authorities::Role::Serving).await.unwrap();
        let [user, agents, admin] = [(); 3].map(|()| local(free_port()));
        for (name, text) in wishes.files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let flags: Vec<String> = wishes.hub.iter().map(|flag| (*flag).to_owned()).collect();
        let wrapper = wishes.wrapper;
        let mut world = Self {
            hub: start_hub(directory.path(), user, agents.port(), admin, &flags, &wrapper),
            apis: Vec::new(),
            agents: [Vec::new(), Vec::new()],
            user,
            agent_port: agents.port(),
            admin,
            ca_pem,
            flags,
            wrapper,
            proxy: None,
            directory,
        };
        world.hub.wait_for("listening", PATIENCE).await;
        for (index, (name, number)) in CLUSTERS.into_iter().zip(1..).enumerate() {
            spoke(name, number);
            let api = FakeApi::start_at(name, Ipv4Addr::new(10, 78, number, 1)).await;
            let folder = world.directory.path().join(name);
            enrol(&state, &world.ca_pem, agents, name, &folder).await;
            api.write_kubeconfig(&folder.join("kubeconfig"));
            world.apis.push(api);
            let more = if index == 0 { wishes.more_agents } else { 0 };
            let mut port = world.agent_port;
            if let Some(delay) = wishes.delay.filter(|_| index == 0) {
                port = free_port();
                let at = SocketAddr::from((Ipv4Addr::new(10, 77, number, 1), port));
                world.proxy = Some(delayed(at, local(world.agent_port), delay).await);
            }
            for _ in 0..=more {
                let agent = world.agent(index, port);
                world.agents[index].push(agent);
            }
        }
        for (name, agents) in CLUSTERS.iter().zip(&world.agents) {
            world.wait_tunnels(name, agents.len() * TUNNELS).await;
        }
        for index in 0..CLUSTERS.len() {
            world.wait_serves(index).await;
        }
        world
    }

    /// Starts another agent of a cluster, which dials `port` at its end of the link.
    pub(crate) fn agent(&self, index: usize, port: u16) -> Process {
        let (name, number) = (CLUSTERS[index], index + 1);
        let hub = format!("10.77.{number}.1:{port}");
        let kubeconfig = format!("{name}/kubeconfig");
        #[rustfmt::skip]
        let inner = command(self.path(), &[
            "agent", "--dir", name, "--hub", &hub, "--kubeconfig", &kubeconfig,
            "--admin-address", "127.0.0.1:0", "--drain-timeout", "2s",
        ]);
        let within = ["ip", "netns", "exec", name].map(str::to_owned);
        Process::spawn(&format!("agent-{name}"), self.path(), wrapped(&within, &inner, self.path()))
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the hub again, after it ended.
    pub(crate) fn start_hub(&mut self) {
        let Self { user, agent_port, admin, flags, wrapper, .. } = self;
        self.hub = start_hub(self.directory.path(), *user, *agent_port, *admin, flags, wrapper);
    }

    /// A caller of a cluster.
    pub(crate) fn client(&self, index: usize) -> Client {
        let token = self.apis[index].token("test");
        Client::new(self.user, self.ca_pem.as_bytes()).token(&token)
    }

    /// How many tunnels a cluster has; `None` while the hub does not say.
    pub(crate) async fn tunnels(&self, name: &str) -> Option<usize> {
        let fleet =
            tokio::time::timeout(ADMIN, plain_get(self.admin, "/fleet")).await.ok()?.ok()?;
        let fleet: Value = serde_json::from_str(&fleet).ok()?;
        Some(fleet[name]["tunnels"].as_array().map_or(0, Vec::len))
    }

    pub(crate) async fn wait_tunnels(&self, name: &str, count: usize) {
        eventually(&format!("{name} has {count} tunnels"), LONG, || async {
            (self.tunnels(name).await? == count).then_some(())
        })
        .await;
    }

    pub(crate) async fn wait_serves(&self, index: usize) {
        let (client, path) = (self.client(index), format!("/{}/version", CLUSTERS[index]));
        eventually(&format!("{path} is served"), LONG, || async {
            client.try_get(&path).await.ok()?.status.is_success().then_some(())
        })
        .await;
    }

    /// The sum of the hub's samples of `metric`.
    pub(crate) async fn metric(&self, metric: &str) -> f64 {
        let text = plain_get(self.admin, "/metrics").await.unwrap();
        let lines = text.lines().filter(|line| line.starts_with(metric));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

fn start_hub(
    directory: &Path,
    user: SocketAddr,
    agent_port: u16,
    admin: SocketAddr,
    flags: &[String],
    wrapper: &[String],
) -> Process {
    let [user, admin] = [user, admin].map(|address| address.to_string());
    let agents = format!("0.0.0.0:{agent_port}");
    #[rustfmt::skip]
    let mut args = vec![
        "hub", "--dir", "hub", "--listen", &user, "--agent-listen", &agents, "--admin-address", &admin,
    ];
    args.extend(flags.iter().map(String::as_str));
    if !flags.iter().any(|flag| flag == "--access-log") {
        args.extend(["--access-log", "access.log"]);
    }
    let inner = command(directory, &args);
    Process::spawn("hub", directory, wrapped(wrapper, &inner, directory))
}

/// `inner`, run by another program.
fn wrapped(wrapper: &[String], inner: &Command, directory: &Path) -> Command {
    let all = wrapper.iter().map(Into::into).chain([inner.get_program().to_owned()]);
    let mut all = all.chain(inner.get_args().map(ToOwned::to_owned));
    let mut command = Command::new(all.next().unwrap());
    command.args(all).current_dir(directory).env_clear().env("RUST_LOG", "info");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    command
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Of an agent, by default.
pub(crate) const TUNNELS: usize = 2;
const ADMIN: Duration = Duration::from_secs(2);
/// What waits longest: an agent that dials again, at the end of its pauses.
pub(crate) const LONG: Duration = Duration::from_secs(60);
