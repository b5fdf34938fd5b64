//! What this hub left at a spoke and nobody wants any more.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use kube::ResourceExt as _;
use tokio::time::{Instant, sleep_until};

use super::ask::explain;
use super::context::Context;
use super::spoke::{Account, Spoke, mark};
use crate::name::ClusterName;

/// When to sweep at one spoke.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    at: Option<Instant>,
    /// Not before this.
    earliest: Option<Instant>,
    /// After a failure: the pauses before the next tries.
    pauses: Option<ExponentialBackoff>,
}

// === impl Sweep ===

impl Sweep {
    /// There may be something to sweep.
    pub(super) fn soon(&mut self) {
        let (now, earliest) = (Instant::now(), self.earliest);
        self.at.get_or_insert_with(|| earliest.map_or(now, |earliest| earliest.max(now)));
    }

    /// Waits until it is time.
    pub(super) async fn due(&self) {
        match self.at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Sweeps; what fails is tried again.
    pub(super) async fn run(&mut self, context: &Context, cluster: &ClusterName, spoke: &Spoke) {
        let result = sweep(context, cluster, spoke).await;
        let now = Instant::now();
        self.earliest = Some(now + BETWEEN);
        self.at = match result {
            Ok(()) => {
                self.pauses = None;
                None
            }
            Err(error) => {
                let error = explain("no cleaning", &error);
                tracing::warn!(%cluster, error, "a ServiceAccount that nobody wants stays for now");
                let pauses = self.pauses.get_or_insert_with(|| retries().build());
                Some(now + pauses.next().unwrap_or(RETRY_MOST))
            }
        };
    }
}

/// Deletes ServiceAccounts that this hub marked and that no account of it wants.
async fn sweep(context: &Context, cluster: &ClusterName, spoke: &Spoke) -> Result<(), kube::Error> {
    let Some(hub) = context.hub_uid.get() else { return Ok(()) };
    // Before they are known none of them is there.
    if context.accounts.wait_until_ready().await.is_err() {
        return Ok(());
    }
    let is_left = |account: &Account| {
        mark(&account.metadata) == Some(hub)
            && account.metadata.deletion_timestamp.is_none()
            && !context.has_account(cluster.as_str(), &account.name_any())
    };
    let left = spoke.accounts.state_filter(is_left);
    if left.is_empty() {
        return Ok(());
    }
    // One request to the hub's API server, however many a spoke says there are.
    let wanted = context.names(cluster.as_str()).await?;
    for account in left {
        let name = account.name_any();
        // Its account may have come back while others were deleted.
        if wanted.contains(&name) || context.has_account(cluster.as_str(), &name) {
            continue;
        }
        spoke.delete_account(&account).await?;
        tracing::info!(%cluster, name, "deleted the ServiceAccount of an account that is gone");
    }
    Ok(())
}

fn retries() -> ExponentialBuilder {
    let builder = ExponentialBuilder::new().with_min_delay(RETRY).with_max_delay(RETRY_MOST);
    builder.with_jitter().without_max_times()
}

/// A spoke's events lead to a sweep of it as often as this at most.
const BETWEEN: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(2);
const RETRY_MOST: Duration = Duration::from_secs(60);
