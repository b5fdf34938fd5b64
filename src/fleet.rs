//! What is known about the clusters right now, and how it is told. No I/O and no behaviour: the hub's
//! registry is the only writer, and everybody else reads a snapshot through a watch channel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

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

/// What `/_fleet` answers: the clusters that its caller may see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FleetPage {
    /// By name.
    pub clusters: Vec<ClusterPage>,
    /// Why there may be more that its caller may see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
}

/// One cluster of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPage {
    /// Its name.
    pub name: ClusterName,
    /// Whether requests get through.
    pub health: Health,
    /// Why they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Agent processes that are connected to this hub.
    pub agents: usize,
    /// Their tunnels.
    pub tunnels: usize,
    /// When the hub last sent a request through.
    #[serde(default, with = "rfc3339", skip_serializing_if = "Option::is_none")]
    pub last_probe: Option<SystemTime>,
    /// How long that took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// End of the newest certificate that an agent uses.
    #[serde(default, with = "rfc3339", skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<SystemTime>,
    /// `gitVersion` of its API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_server_version: Option<String>,
    /// Version of its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
}

// === impl ClusterPage ===

impl ClusterPage {
    /// A cluster that is not on the page.
    pub fn unseen(name: ClusterName) -> Self {
        let reason = "the hub does not know it, or does not let you see it";
        Self {
            name,
            health: Health::Unknown,
            reason: Some(reason.to_owned()),
            agents: 0,
            tunnels: 0,
            last_probe: None,
            latency_ms: None,
            certificate_expires: None,
            api_server_version: None,
            agent_version: None,
        }
    }
}

/// How a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// A request went through tunnel and API server a few seconds ago.
    Healthy,
    /// The last one did not.
    Unhealthy,
    /// No agent is connected.
    Disconnected,
    /// It has just connected, and no request has been sent yet.
    Unknown,
}

mod rfc3339 {
    use std::time::{Duration, SystemTime};

    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(
        at: &Option<SystemTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        // After the year 9999 there is no such text, and an agent's clock may be there.
        let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
        let at = at.map(|at| at.clamp(SystemTime::UNIX_EPOCH, latest));
        let text = at.map(|at| humantime::format_rfc3339_seconds(at).to_string());
        serializer.serialize_some(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| humantime::parse_rfc3339(&text).map_err(de::Error::custom)).transpose()
    }
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
