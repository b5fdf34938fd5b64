//! An agent in this process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cluster_proxy::agent::{Agent, AgentConfig, Exposure, ImpersonationRule};
use cluster_proxy::drain::Drain;
use cluster_proxy::egress::Egress;

use super::part::Part;

/// An agent on a thread of its own.
pub(crate) struct RunningAgent {
    drain: Drain,
    part: Part,
    /// Once it runs.
    agent: Arc<OnceLock<Agent>>,
}

// === impl RunningAgent ===

impl RunningAgent {
    /// Starts the agent of the cluster `name`, which has joined in `directory` and finds its
    /// kubeconfig there.
    pub(crate) fn start(name: &str, directory: &Path, hub: SocketAddr) -> Self {
        Self::start_with(name, directory, hub, |_| {})
    }

    /// As [`RunningAgent::start`], with what its owner wants otherwise.
    pub(crate) fn start_with(
        name: &str,
        directory: &Path,
        hub: SocketAddr,
        change: impl FnOnce(&mut AgentConfig),
    ) -> Self {
        let drain = Drain::new();
        let mut config = AgentConfig {
            hub: vec![format!("localhost:{}", hub.port())],
            egress: Egress::default(),
            directory: directory.to_owned(),
            kubeconfig: Some(directory.join("kubeconfig")),
            tunnels: 2,
            audiences: Vec::new(),
            issuers: Vec::new(),
            impersonation: Some(ImpersonationRule::default()),
            services: Exposure::default(),
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            drain_timeout: Duration::from_secs(1),
        };
        change(&mut config);
        let agent = Arc::<OnceLock<Agent>>::default();
        let (running, built) = (drain.clone(), Arc::clone(&agent));
        let part = Part::start(&format!("agent-{name}"), move || async move {
            let agent = Agent::build(config).await.unwrap();
            let agent = built.get_or_init(|| agent).clone();
            agent.run(running).await.unwrap();
            // Its streams may go on after it; who stopped it ends them.
            std::future::pending().await
        });
        Self { drain, part, agent }
    }

    /// Makes it read everything again, as SIGHUP does.
    pub(crate) fn reload(&self) {
        self.agent.get().unwrap().reload();
    }

    /// Ends it as SIGTERM does.
    pub(crate) async fn stop(self, patience: Duration) {
        self.drain.finish(patience).await;
        self.part.kill();
    }

    /// Ends it as SIGKILL does.
    pub(crate) fn kill(self) {
        self.part.kill();
    }
}
