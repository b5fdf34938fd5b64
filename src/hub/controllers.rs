//! What the hub keeps up to date in its own API server, where it has one. Of several hubs, one does.

use tokio::sync::watch;

use super::HubError;
use crate::drain::Drain;
use crate::fleet::Fleet;
use crate::inventory::{Inventory, InventoryConfig, Surroundings};
use crate::kubernetes::lease::{Election, while_leading};
use crate::kubernetes::{self, ApiServer};
use crate::pki::tls::Presented;

/// Which controllers to run, and where.
#[derive(Clone, Debug)]
pub struct ControllersConfig {
    /// The hub's API server.
    pub server: ApiServer,
    /// Where the Lease is by which one of several hubs is chosen.
    pub lease_namespace: String,
    /// What to publish in ClusterProfiles; `None` for nothing.
    pub inventory: Option<InventoryConfig>,
}

/// What the controllers find in their hub.
pub(super) struct HubParts<'a> {
    /// Names this process.
    pub(super) id: &'a str,
    /// Port of the user listener.
    pub(super) port: u16,
    pub(super) fleet: watch::Receiver<Fleet>,
    pub(super) presented: watch::Receiver<Presented>,
    pub(super) collected: &'a prometheus::Registry,
}

/// The controllers of a hub.
pub(super) struct Controllers {
    election: Election,
    inventory: Option<Inventory>,
}

// === impl Controllers ===

impl Controllers {
    /// Builds them.
    pub(super) fn build(config: &ControllersConfig, hub: HubParts<'_>) -> Result<Self, HubError> {
        let client = kubernetes::client(&config.server)?;
        let namespace = &config.lease_namespace;
        let election = Election::new(client.clone(), namespace, LEASE, hub.id, hub.collected)?;
        let inventory = config.inventory.clone().map(|config| {
            let HubParts { port, fleet, presented, .. } = hub;
            let around = Surroundings { client, port, fleet, presented };
            Inventory::new(config, around, hub.collected)
        });
        Ok(Self { election, inventory: inventory.transpose()? })
    }

    /// Runs them while this hub is the chosen one, until `drain` stops.
    pub(super) async fn run(self, drain: Drain) {
        let inventory = &self.inventory;
        let work = || async move {
            match inventory {
                Some(inventory) => inventory.run().await,
                None => std::future::pending().await,
            }
        };
        while_leading(self.election, drain, work).await;
    }
}

/// Name of the Lease.
const LEASE: &str = "cluster-proxy-controllers";
