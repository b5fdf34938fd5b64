//! The hub of a sandbox.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use super::apiserver::Api;
use super::folder::Folder;
use super::{Drains, PATIENCE, Part, SandboxError, accounts, demo, inventory, visitor};
use crate::hub::authn::AuthnConfig;
use crate::hub::hosts::AllowedHosts;
use crate::hub::limits::Limits;
use crate::hub::{self, AccessLog, ControllersConfig, HubConfig, HubError, Source};
use crate::kubernetes::ApiReader;
use crate::name::ClusterName;
use crate::pki::authorities::{self, Role};
use crate::pki::join;
use crate::state::{Document, FolderStore, State};

/// A running hub.
pub(super) struct Hub {
    pub(super) user: SocketAddr,
    pub(super) agents: SocketAddr,
    pub(super) admin: SocketAddr,
    /// The authority that clients have to trust, PEM.
    pub(super) ca_pem: String,
    pub(super) part: Part,
}

// === impl Hub ===

impl Hub {
    /// URL of the user listener.
    pub(super) fn url(&self) -> String {
        format!("https://{}", self.user)
    }
}

/// The state that the hub keeps in `folder`: with authorities, a serving certificate that is fresh,
/// and none but `clusters` enrolled.
pub(super) async fn state(
    folder: &Folder,
    clusters: &[ClusterName],
) -> Result<State, SandboxError> {
    let state = State::new(Arc::new(FolderStore::open(folder.hub_state())?));
    if state.store().read(&Document::ServingCertificate).await?.is_none() {
        authorities::init(&state, &NAMES.map(str::to_owned)).await?;
    } else {
        // The last run may be months ago.
        authorities::renew_serving(&state).await?;
    }
    for enrolled in state.enrolments().await?.into_keys() {
        if !clusters.contains(&enrolled) {
            state.remove(&enrolled).await?;
        }
    }
    Ok(state)
}

/// Forgets the enrolment of another cluster under this name: `--apiserver` was changed since, and the
/// hub would turn the agent away.
pub(super) async fn forget_other(
    state: &State,
    name: &ClusterName,
    api: &Api,
) -> Result<(), SandboxError> {
    let enrolments = state.enrolments().await?;
    let enrolled = enrolments.get(name).and_then(|enrolment| enrolment.cluster_uid.as_ref());
    if enrolled.is_some_and(|uid| *uid != api.uid) {
        state.remove(name).await?;
    }
    Ok(())
}

/// Says so in the words of our own flag where somebody has the port, also where others share it.
pub(super) fn check_port(port: u16) -> Result<(), SandboxError> {
    let bound = TcpListener::bind(loopback(port));
    bound.map(drop).map_err(|source| SandboxError::Port { port, source })
}

/// Starts the hub; `hub_api` is the API server of its own cluster.
pub(super) async fn start(
    port: u16,
    folder: &Folder,
    state: State,
    hub_api: &Api,
    drains: &Drains,
) -> Result<Hub, SandboxError> {
    let user = loopback(port);
    let ca_pem = authorities::bundle(&state, Role::Serving).await?;
    let hub = hub::Hub::build(HubConfig {
        user,
        agents: loopback(0),
        admin: loopback(0),
        metrics: None,
        state,
        hub_api: Some(Arc::new(ApiReader::new(hub_api.server.clone())?)),
        controllers: Some(ControllersConfig {
            server: hub_api.server.clone(),
            lease_namespace: "default".to_owned(),
            accounts: Some(accounts::options()),
            inventory: Some(inventory::config()),
            managed_clusters: false,
        }),
        authn: AuthnConfig::default(),
        services: Source::File(folder.services(&demo::list())?),
        policy: Source::File(folder.policy(&visitor::policy())?),
        delegate_authorization: false,
        access_log: AccessLog::File(folder.access_log()),
        workers: WORKERS,
        min_drain: Duration::ZERO,
        drain_timeout: PATIENCE,
        head_timeout: HEAD_TIMEOUT,
        certificate_life: join::CERTIFICATE_LIFE,
        renewal_grace: join::RENEWAL_GRACE,
        allowed_hosts: AllowedHosts::default(),
        limits: Limits::default(),
    })
    .await
    .map_err(|error| match error {
        HubError::Bind { address, source, .. } if address == user => {
            SandboxError::Port { port, source }
        }
        other => SandboxError::Hub(other),
    })?;
    let addresses = hub.addresses();
    let running = hub.run(drains.hub.clone());
    let part = drains.hub.spawn(async move {
        match running.await {
            Ok(()) => SandboxError::Ended("the hub".to_owned()),
            Err(error) => SandboxError::Hub(error),
        }
    });
    let (user, agents, admin) = (addresses.user, addresses.agents, addresses.admin);
    Ok(Hub { user, agents, admin, ca_pem, part })
}

pub(super) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Names of the hub's certificate.
const NAMES: [&str; 3] = ["127.0.0.1", "::1", "localhost"];

/// Threads of the hub: enough to show that there are several.
const WORKERS: usize = 2;

/// As `hub` has it by default.
const HEAD_TIMEOUT: Duration = Duration::from_secs(70);
