//! The file of issuers is looked at again and again.

use std::convert::Infallible;
use std::time::Duration;

use super::Issuers;
use crate::hub::authn::metrics::Metrics;
use crate::hub::authn::sources::Sources;

/// Takes over changed issuers within [`POLL`]. A file that cannot be used is reported once, and the
/// last good issuers are kept.
pub(in crate::hub::authn) async fn follow(
    mut issuers: Issuers,
    sources: &Sources,
    metrics: &Metrics,
) -> Infallible {
    let mut reported = String::new();
    loop {
        tokio::time::sleep(POLL).await;
        let looked = issuers.clone();
        let looked = tokio::task::spawn_blocking(move || looked.changed()).await;
        // A join error means that the runtime is going away.
        let Ok(looked) = looked else { return std::future::pending().await };
        let error = match looked {
            Ok(None) => String::new(),
            Ok(Some(next)) => {
                tracing::info!(issuers = next.configs().len(), "the list of issuers was read");
                sources.believe(&next);
                issuers = next;
                String::new()
            }
            Err(error) => error.to_string(),
        };
        if !error.is_empty() && error != reported {
            metrics.issuers_unusable();
            tracing::error!(
                error,
                "--authentication-config: the issuers that were in use are kept"
            );
        }
        reported = error;
    }
}

/// A file costs nothing to read; whoever leaves should be out soon.
const POLL: Duration = Duration::from_secs(5);
