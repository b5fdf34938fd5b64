//! How controllers reach the spokes.

use crate::name::ClusterName;

/// Clients of spokes, through the tunnel and under the agent's own ServiceAccount there: the spoke's
/// RBAC decides what they may do.
pub trait SpokeClients: Send + Sync + 'static {
    /// A client of `cluster`. Without a tunnel its requests fail at once, and they work again as soon
    /// as there is one: it may be kept.
    fn client(&self, cluster: &ClusterName) -> kube::Client;
}
