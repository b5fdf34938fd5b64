//! The agent beside an API server, as it comes and goes.

use std::net::SocketAddr;
use std::time::Duration;

use super::Spoke;
use crate::support::agent::RunningAgent;

// === impl Spoke ===

impl Spoke {
    /// Starts the agent in this spoke's folder.
    pub(crate) fn start_agent(&mut self, hub: SocketAddr) {
        self.agent = Some(self.agent_beside(hub));
    }

    /// Starts an agent with the same credentials beside the others.
    pub(crate) fn agent_beside(&self, hub: SocketAddr) -> RunningAgent {
        RunningAgent::start(&self.name, &self.directory, hub)
    }

    /// Hands the agent out.
    pub(crate) fn take_agent(&mut self) -> RunningAgent {
        self.agent.take().unwrap()
    }

    /// Ends the agent as SIGKILL does.
    pub(crate) fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// Ends the agent as SIGTERM does.
    pub(crate) async fn stop_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop(Duration::from_secs(2)).await;
        }
    }
}
