//! What the hub keeps up to date in its own API server, where it has one. Of several hubs, one does.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;

use super::HubError;
use super::registry::Registry;
use super::spokes::Spokes;
use crate::accounts::{Accounts, AccountsConfig};
use crate::drain::Drain;
use crate::inventory::{Inventory, InventoryConfig, Surroundings};
use crate::kubernetes::lease::{Election, while_leading};
use crate::kubernetes::{self, ApiServer};
use crate::pki::tls::Presented;
use crate::pki::{ca, trust};

/// Which controllers to run, and where.
#[derive(Clone, Debug)]
pub struct ControllersConfig {
    /// The hub's API server.
    pub server: ApiServer,
    /// Where the Lease is by which one of several hubs is chosen.
    pub lease_namespace: String,
    /// Managed service accounts; `None` to serve none.
    pub accounts: Option<AccountsOptions>,
    /// What to publish in ClusterProfiles; `None` for nothing.
    pub inventory: Option<InventoryConfig>,
    /// Whether a cluster that Open Cluster Management knows and does not accept is turned away, where
    /// the hub's cluster is a hub of it.
    pub managed_clusters: bool,
}

/// How managed service accounts are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountsOptions {
    /// Namespace of managed ServiceAccounts on spokes. The agent must not live in it.
    pub namespace: String,
    /// Serve clusters that Open Cluster Management's own add-on serves, too.
    pub take_over: bool,
    /// CA bundle, PEM, that clients have to trust where the served certificate is an operator's own.
    pub serving_ca: Option<PathBuf>,
}

/// What the controllers find in their hub.
pub(super) struct HubParts<'a> {
    /// Names this process.
    pub(super) id: &'a str,
    /// Port of the user listener.
    pub(super) port: u16,
    pub(super) registry: &'a Registry,
    pub(super) presented: watch::Receiver<Presented>,
    pub(super) collected: &'a prometheus::Registry,
}

/// The controllers of a hub.
pub(super) struct Controllers {
    election: Election,
    accounts: Option<ManagedAccounts>,
    inventory: Option<Inventory>,
}

/// The controller of accounts, and what keeps their authority up to date.
struct ManagedAccounts {
    accounts: Accounts,
    serving_ca: Option<PathBuf>,
    presented: watch::Receiver<Presented>,
    authority: watch::Sender<Arc<str>>,
}

// === impl Controllers ===

impl Controllers {
    /// Builds them.
    pub(super) fn build(config: &ControllersConfig, hub: HubParts<'_>) -> Result<Self, HubError> {
        let client = kubernetes::client(&config.server)?;
        let namespace = &config.lease_namespace;
        let election = Election::new(client.clone(), namespace, LEASE, hub.id, hub.collected)?;
        let accounts = config.accounts.clone();
        let accounts = accounts
            .map(|options| ManagedAccounts::new(options, client.clone(), &hub))
            .transpose()?;
        let inventory = config.inventory.clone().map(|config| {
            let (fleet, presented) = (hub.registry.subscribe(), hub.presented.clone());
            let around = Surroundings { client, port: hub.port, fleet, presented };
            Inventory::new(config, around, hub.collected)
        });
        Ok(Self { election, accounts, inventory: inventory.transpose()? })
    }

    /// Runs them while this hub is the chosen one, until `drain` stops.
    pub(super) async fn run(self, drain: Drain) {
        let work = || async {
            let accounts = async {
                match &self.accounts {
                    Some(accounts) => accounts.run().await,
                    None => std::future::pending().await,
                }
            };
            let inventory = async {
                match &self.inventory {
                    Some(inventory) => inventory.run().await,
                    None => std::future::pending().await,
                }
            };
            // One that cannot work waits by itself, and the other goes on.
            tokio::join!(accounts, inventory);
        };
        while_leading(self.election.clone(), drain, work).await;
    }
}

// === impl ManagedAccounts ===

impl ManagedAccounts {
    fn new(
        options: AccountsOptions,
        client: kube::Client,
        hub: &HubParts<'_>,
    ) -> Result<Self, prometheus::Error> {
        let authority = watch::Sender::new(Arc::from(""));
        let config = AccountsConfig {
            hub: client,
            spokes: Arc::new(Spokes { registry: hub.registry.clone() }),
            fleet: hub.registry.subscribe(),
            serving_ca: authority.subscribe(),
            namespace: options.namespace,
            take_over: options.take_over,
            clock: Arc::new(Timestamp::now),
        };
        Ok(Self {
            accounts: Accounts::new(config, hub.collected)?,
            serving_ca: options.serving_ca,
            presented: hub.presented.clone(),
            authority,
        })
    }

    /// Never returns.
    async fn run(&self) {
        let mut presented = self.presented.clone();
        let mut told = String::new();
        // First of all: no Secret is written without it and then once more.
        self.read_authority(&mut presented, &mut told).await;
        let follow_authority = async {
            while trust::changed(self.serving_ca.as_deref(), &mut presented).await {
                self.read_authority(&mut presented, &mut told).await;
            }
        };
        tokio::join!(self.accounts.run(), follow_authority);
    }

    /// What cannot be read is told once, and what was known stays.
    async fn read_authority(&self, presented: &mut watch::Receiver<Presented>, told: &mut String) {
        let served = presented.borrow_and_update().clone();
        match trust::authorities(self.serving_ca.as_deref(), &served).await {
            Ok(authorities) => {
                told.clear();
                let now: Arc<str> = authorities.iter().map(ca::pem).collect::<String>().into();
                self.authority.send_if_modified(|known| {
                    let is_new = *known != now;
                    known.clone_from(&now);
                    is_new
                });
            }
            Err(error) => {
                let error = error.to_string();
                if *told != error {
                    tracing::warn!(error, "Secrets of managed service accounts lack the hub's CA");
                    *told = error;
                }
            }
        }
    }
}

/// Name of the Lease. One for all: whoever writes does so from one view of the fleet.
const LEASE: &str = "cluster-proxy-controllers";
