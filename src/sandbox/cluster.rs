//! One spoke of a sandbox: an API server, and the agent that joins it to the hub.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::apiserver::Api;
use super::folder::Folder;
use super::hub::{Hub, loopback};
use super::{Drains, PATIENCE, Part, READY, SandboxError, accounts, demo, provision, visitor};
use crate::agent::{Agent, AgentConfig, ImpersonationRule};
use crate::egress::Egress;
use crate::kubernetes::{ApiReader, ApiServer, Credentials};
use crate::name::ClusterName;
use crate::pki::authorities::{self, Role};
use crate::pki::token::{self, Token};
use crate::pki::{ca, credentials};
use crate::state::State;

/// A spoke whose API server and agent run.
pub(super) struct Cluster {
    pub(super) name: ClusterName,
    /// URL of its API server, which nobody but its agent needs.
    pub(super) api_url: String,
    pub(super) parts: Vec<Part>,
}

// === impl Cluster ===

impl Cluster {
    /// Prepares the API server, joins, starts the agent.
    pub(super) async fn start(
        name: ClusterName,
        api: Api,
        folder: &Folder,
        state: &State,
        hub: &SocketAddr,
        drains: &Drains,
    ) -> Result<Self, SandboxError> {
        let directory = folder.agent(&name);
        let kubeconfig = directory.join("kubeconfig");
        folder.write(&kubeconfig, &provision::agent(&api.client, &api.server).await?)?;
        provision::managed_rights(&api.client, accounts::NAME).await?;
        visitor::rights(&api.client).await?;
        provision::services(&api.client, demo::NAMESPACE).await?;

        join(&name, state, hub, folder).await?;
        let failed = |cluster: ClusterName| move |source| SandboxError::Agent { cluster, source };
        let agent = Agent::build(AgentConfig {
            hub: vec![hub.to_string()],
            egress: Egress::default(),
            directory,
            kubeconfig: Some(kubeconfig),
            tunnels: TUNNELS,
            audiences: Vec::new(),
            issuers: Vec::new(),
            impersonation: Some(ImpersonationRule::default()),
            services: demo::exposure(),
            admin: loopback(0),
            drain_timeout: PATIENCE,
        })
        .await
        .map_err(failed(name.clone()))?;
        let running = agent.run(drains.agents.clone());
        let cluster = name.clone();
        let agent = drains.agents.spawn(async move {
            match running.await {
                Ok(()) => SandboxError::Ended(format!("the agent of {cluster}")),
                Err(source) => SandboxError::Agent { cluster, source },
            }
        });
        Ok(Self { name, api_url: api.url(), parts: vec![api.part, agent] })
    }

    /// Ready once a request with `token` came back from the API server through the hub.
    pub(super) async fn answers(
        &self,
        hub: &Hub,
        token: &Zeroizing<String>,
    ) -> Result<(), SandboxError> {
        let reader = ApiReader::new(ApiServer {
            host: hub.user.ip().to_string(),
            port: hub.user.port(),
            server_name: hub.user.ip().to_string(),
            ca_pem: hub.ca_pem.clone().into(),
            ca_file: None,
            credentials: Credentials::Token(token.clone()),
        })?;
        let path = format!("/{}/api/v1/nodes", self.name);
        let deadline = Instant::now() + READY;
        loop {
            let why = match reader.get(&path, MAX_ANSWER, ANSWER).await {
                Ok((status, _)) if status.is_success() => return Ok(()),
                Ok((status, body)) => format!("{status} {}", message(&body)),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                return Err(SandboxError::NotReady { cluster: self.name.clone(), why });
            }
            tracing::debug!(cluster = %self.name, why, "not ready yet");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Enrols as any cluster would. Every run joins anew: the folder may have slept for longer than a
/// certificate can be renewed.
async fn join(
    name: &ClusterName,
    state: &State,
    hub: &SocketAddr,
    folder: &Folder,
) -> Result<(), SandboxError> {
    let refused = |source| SandboxError::Join { cluster: name.clone(), source };
    let bundle = authorities::bundle(state, Role::Serving).await?;
    let pin = ca::certificates(bundle.as_bytes())?.first().and_then(ca::key_hash);
    let token =
        Token::create(state, name.clone(), token::DEFAULT_LIFE, false, SystemTime::now()).await?;
    let stream = TcpStream::connect(hub)
        .await
        .map_err(|source| SandboxError::Dial { address: *hub, source })?;
    let host = hub.ip().to_string();
    let pin = pin.unwrap_or_default();
    credentials::enrol(&host, stream, &token.reveal(), &pin, folder.agent(name))
        .await
        .map_err(refused)?;
    Ok(())
}

/// The message of a `Status`, as far as it is one.
fn message(body: &[u8]) -> String {
    let status: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    status["message"].as_str().unwrap_or_default().to_owned()
}

/// Tunnels of an agent, as by default.
const TUNNELS: usize = 2;

/// Time between two tries.
const AGAIN: Duration = Duration::from_millis(50);

/// One try may take this long.
const ANSWER: Duration = Duration::from_secs(5);

/// A list of one node takes some KiB.
const MAX_ANSWER: usize = 1 << 20;
