//! Taking over changed files while the agent runs: at once when asked, and every so often.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::access::Reading;
use super::renewal;
use super::serve::Service;
use crate::kubernetes::Claims;
use crate::pki::credentials::AgentCredentials;

/// Follows kubeconfig, token and the authorities of services; never returns. When `asked` is notified, the folder of the agent is
/// looked at as well. `renewed` counts what tunnels have to be made anew for: their hello says whose
/// tokens the API server takes.
pub(super) async fn follow(
    service: Arc<Service>,
    credentials: AgentCredentials,
    renewed: watch::Sender<u64>,
    asked: Arc<Notify>,
) {
    let accesses = &service.accesses;
    let (mut reported, mut distrusted) = (None, None);
    loop {
        let asked = tokio::select! {
            () = tokio::time::sleep(INTERVAL) => false,
            () = asked.notified() => true,
        };
        if asked && renewal::enrolled_anew(&credentials).await {
            renewed.send_modify(|count| *count += 1);
        }
        let claims = told(accesses.current().token.claims());
        match accesses.refresh().await {
            Ok(Reading::Changed) => {
                tracing::info!("using the changed access to the API server");
                if told(accesses.current().token.claims()) != claims {
                    renewed.send_modify(|count| *count += 1);
                }
                reported = None;
            }
            Ok(Reading::Same) => {
                if asked {
                    tracing::info!(
                        "read everything again, the access to the API server is the same"
                    );
                }
                reported = None;
            }
            Err(error) => {
                let error = error.to_string();
                // Once per kind of failure, not every few seconds.
                if asked || reported.as_ref() != Some(&error) {
                    tracing::warn!(error, "keeping the access to the API server that was in use");
                }
                reported = Some(error);
            }
        }
        match service.services.refresh().await {
            Ok(changed) => {
                if changed {
                    tracing::info!("using the changed authorities of services");
                }
                distrusted = None;
            }
            Err(error) => {
                let error = error.to_string();
                if asked || distrusted.as_ref() != Some(&error) {
                    tracing::warn!(error, "keeping the authorities of services that were in use");
                }
                distrusted = Some(error);
            }
        }
    }
}

/// What a hello tells of the token. Its end is no part of that: every renewed token has another, and
/// tunnels that are made anew end the watches in the old ones.
fn told(claims: Claims) -> (Option<String>, Vec<String>) {
    (claims.issuer, claims.audiences)
}

/// The kubelet renews a mounted token at 80 % of its life, and clients are asked to read the file
/// once a minute; half of that leaves room for a slow read.
const INTERVAL: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_differs_in_its_end_alone_makes_no_tunnel_anew() {
        let claims = |audience: &str, expires| Claims {
            issuer: Some("i".into()),
            audiences: vec![audience.into()],
            expires: Some(expires),
        };
        assert_eq!(told(claims("a", 1)), told(claims("a", 2)));
        assert_ne!(told(claims("a", 1)), told(claims("b", 1)));
    }
}
