//! What is known about the clusters right now. No I/O and no behaviour: the hub's registry is the
//! only writer, and everybody else reads a snapshot through a watch channel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use crate::name::ClusterName;

/// A snapshot of every enrolled cluster.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Fleet {
    /// Enrolled clusters by name, connected or not.
    pub clusters: BTreeMap<ClusterName, Arc<ClusterState>>,
}

/// One enrolled cluster.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterState {
    /// The hub's own cluster (enrolled with `--hub-itself`): it shares the hub's signing keys.
    pub hub_itself: bool,
    /// Live tunnels, in the order they arrived.
    pub tunnels: Vec<TunnelState>,
    /// What the agent said of its own cluster in its last hello.
    pub about: Option<About>,
    /// The last request that went through tunnel and API server.
    pub probe: Option<Probe>,
}

/// What a spoke says about itself. Good for its own cluster only, and never for routing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// `gitVersion` of its API server, when the agent could read it.
    pub api_server_version: Option<String>,
    /// Version of the agent.
    pub agent_version: String,
    /// Audiences of the agent's own token: what its API server accepts.
    pub audiences: Vec<String>,
    /// Issuers of the agent's own token, and those it was told of.
    pub issuers: Vec<String>,
}

/// One live tunnel.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TunnelState {
    /// Number of the tunnel, unique in this hub process.
    pub id: u64,
    /// Which agent process holds the other end.
    pub agent: String,
    /// When it was registered.
    #[serde(with = "seconds")]
    pub since: SystemTime,
    /// End of the agent's certificate.
    #[serde(with = "seconds")]
    pub certificate_expires: SystemTime,
}

/// The result of one real request through tunnel and API server.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// When it ended.
    #[serde(with = "seconds")]
    pub at: SystemTime,
    /// Whether the API server answered with a success.
    pub healthy: bool,
    /// Round trip in milliseconds.
    pub latency_ms: u64,
    /// What went wrong, where something did.
    pub error: Option<String>,
}

mod seconds {
    use std::time::{SystemTime, UNIX_EPOCH};

    pub(super) fn serialize<S: serde::Serializer>(
        at: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }
}
