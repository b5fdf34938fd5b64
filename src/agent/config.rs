//! Values the agent needs, already parsed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::impersonation::ImpersonationRule;
use super::services::Exposure;
use crate::egress::Egress;

/// Configuration of an agent.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Hub's agent listeners, `host:port`. Tunnels go to every address of every name.
    pub hub: Vec<String>,
    /// How they are reached.
    pub egress: Egress,
    /// Folder with `agent.key`, `agent.crt`, `hub-ca.crt`, written by `join`.
    pub directory: PathBuf,
    /// Kubeconfig of the local API server; in-cluster configuration when `None`.
    pub kubeconfig: Option<PathBuf>,
    /// Tunnels per hub replica, 1..=8.
    pub tunnels: usize,
    /// Audiences, where the agent has no token of its own to read them from.
    pub audiences: Vec<String>,
    /// Further issuers of this cluster's tokens.
    pub issuers: Vec<String>,
    /// Which identities of the hub may use this cluster by impersonation; `None` for nobody.
    pub impersonation: Option<ImpersonationRule>,
    /// Which services of this cluster callers of the hub reach.
    pub services: Exposure,
    /// Admin listener.
    pub admin: SocketAddr,
    /// How long running streams may take when the agent stops.
    pub drain_timeout: Duration,
}

// === impl AgentConfig ===

impl AgentConfig {
    /// Says which value cannot work, in the words of the flag that sets it.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.hub.is_empty() {
            return Err("no hub to dial: give its agent listener as --hub HOST:PORT".into());
        }
        for hub in &self.hub {
            split(hub).map_err(|problem| format!("--hub {hub:?}: {problem}"))?;
        }
        if !TUNNELS.contains(&self.tunnels) {
            let (least, most) = (TUNNELS.start(), TUNNELS.end());
            return Err(format!("--tunnels must be {least} to {most}, not {}", self.tunnels));
        }
        Ok(())
    }
}

/// Host (an IPv6 address without brackets) and port of `HOST:PORT`.
pub(super) fn split(hub: &str) -> Result<(&str, u16), &'static str> {
    let (host, port) = hub.rsplit_once(':').ok_or("wants HOST:PORT")?;
    let port = port.parse().map_err(|_| "the port is not a number up to 65535")?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(address) => Ok((address, port)),
        None if host.is_empty() => Err("the host is missing"),
        None if host.contains(':') => Err("an IPv6 address needs brackets: [::1]:8091"),
        None => Ok((host, port)),
    }
}

/// One is enough for throughput, two for failover; more only make batches smaller.
const TUNNELS: std::ops::RangeInclusive<usize> = 1..=8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_addresses() {
        assert_eq!(split("hub.example:8091"), Ok(("hub.example", 8091)));
        assert_eq!(split("[::1]:8091"), Ok(("::1", 8091)));
        for bad in ["hub", ":8091", "::1:8091", "hub:http", "hub:70000", ""] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
