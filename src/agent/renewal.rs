//! Keeps the agent's certificate valid.

use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::backoff::Backoff;
use super::dial;
use super::metrics::Metrics;
use crate::egress::{Egress, EgressError};
use crate::pki::credentials::{AgentCredentials, JoinError};

/// Renews whenever it is time, an expired certificate at once; never returns. `renewed` counts the
/// successes: tunnels change over when it does.
pub(super) async fn keep_valid(
    hubs: Vec<String>,
    egress: Egress,
    credentials: AgentCredentials,
    renewed: watch::Sender<u64>,
    metrics: Metrics,
) {
    let mut backoff = Backoff::new();
    loop {
        wait_until(|| {
            metrics.certificate_expires(credentials.expires());
            credentials.renew_at()
        })
        .await;
        match renew(&hubs, &egress, &credentials).await {
            Ok(()) => {
                backoff.reset();
                tracing::info!("the certificate was renewed");
                renewed.send_modify(|count| *count += 1);
                tokio::time::sleep(BETWEEN).await;
            }
            Err(RenewError::Join(JoinError::Refused(_) | JoinError::UnknownAuthority { .. }))
                if enrolled_anew(&credentials).await =>
            {
                renewed.send_modify(|count| *count += 1);
            }
            Err(RenewError::Join(error @ JoinError::UnknownAuthority { .. })) => {
                tracing::error!(%error, "the certificate could not be renewed");
                tokio::time::sleep(backoff.after_refusal()).await;
            }
            Err(RenewError::Join(JoinError::Refused(reason))) => {
                tracing::error!(
                    reason,
                    "the hub refuses to renew the certificate; if this cluster was removed or \
                     revoked, enrol it again: `cluster-proxy join token` on the hub prints the command"
                );
                tokio::time::sleep(backoff.after_refusal().max(REFUSED_LEAST)).await;
            }
            Err(error) => {
                tracing::warn!(%error, "the certificate could not be renewed yet");
                tokio::time::sleep(backoff.after_failure()).await;
            }
        }
    }
}

/// Whether somebody joined into the folder since it was read; then that enrolment is used from now
/// on. For when the hub refuses the one in use.
pub(super) async fn enrolled_anew(credentials: &AgentCredentials) -> bool {
    match credentials.reload().await {
        Ok(true) => {
            tracing::info!(cluster = %credentials.cluster(), "using the new enrolment");
            true
        }
        Ok(false) => false,
        Err(error) => {
            tracing::debug!(%error, "the agent's folder cannot be read again");
            false
        }
    }
}

/// In steps: a machine that slept has a clock that jumped, and a timer that knows nothing of it; and
/// a tunnel that was refused may have begun to use a new enrolment, whose life is shorter.
async fn wait_until(at: impl Fn() -> SystemTime) {
    while let Ok(left) = at().duration_since(SystemTime::now())
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(STEP)).await;
    }
}

/// Asks the hubs one after the other; the last failure tells.
async fn renew(
    hubs: &[String],
    egress: &Egress,
    credentials: &AgentCredentials,
) -> Result<(), RenewError> {
    let mut failure = RenewError::NoHub;
    for hub in hubs {
        let targets = match dial::resolve(egress, hub).await {
            Ok(targets) => targets,
            Err(error) => {
                failure = error.into();
                continue;
            }
        };
        for target in targets {
            let attempt = async {
                let io = dial::connect(egress, &target).await?;
                credentials.renew(&target.host, io).await.map_err(RenewError::from)
            };
            match tokio::time::timeout(DEADLINE, attempt).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = RenewError::Slow,
            }
        }
    }
    Err(failure)
}

#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("no hub has an address")]
    NoHub,
    #[error("the hub cannot be reached: {0}")]
    Unreachable(#[from] EgressError),
    #[error("the hub gave no answer within {DEADLINE:?}")]
    Slow,
    #[error(transparent)]
    Join(#[from] JoinError),
}

const STEP: Duration = Duration::from_secs(30);
/// Connection, handshake and one exchange.
const DEADLINE: Duration = Duration::from_secs(30);
/// A certificate whose life is too short to have two thirds must not make a busy loop.
const BETWEEN: Duration = Duration::from_secs(1);
const REFUSED_LEAST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_shorter_life_is_noticed_while_waiting_for_the_end_of_a_longer_one() {
        let (begun, now) = (Instant::now(), SystemTime::now());
        let enrolled_anew = begun + STEP * 3 / 2;
        let year = now + Duration::from_secs(365 * 24 * 3600);
        wait_until(|| if Instant::now() < enrolled_anew { year } else { now }).await;
        assert_eq!(begun.elapsed(), STEP * 2);
    }
}
