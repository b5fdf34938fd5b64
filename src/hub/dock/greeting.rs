//! The first words on a new tunnel: who both sides are, and whether the cluster behind the agent is
//! the one that was enrolled.

use std::time::Duration;

use http::Method;

use super::notices::{control, shown};
use super::{Dock, Refused};
use crate::hub::spokes::{ask, exchange};
use crate::name::ClusterName;
use crate::state::{Document, Enrolment};
use crate::tunnel::hello::{self, AgentHello, Hello, HubHello};
use crate::tunnel::opener::Opener;

// === impl Dock ===

impl Dock {
    pub(super) async fn hello(
        &self,
        opener: &Opener,
        cluster: &ClusterName,
        living: &[String],
    ) -> Result<AgentHello, Refused> {
        let ours = HubHello {
            version: hello::VERSION,
            replica: self.replicas.id().to_owned(),
            replicas: shown(living),
            hub_version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: cluster.to_string(),
        };
        let ours = ours.encode().map_err(|error| Refused::Hello(error.to_string()))?;
        let request = control(hello::PATH, ours);
        let answer = exchange(opener, request, hello::LIMIT, HELLO_TIMEOUT).await;
        let answer = answer.map_err(|error| Refused::Hello(error.to_string()))?;
        if answer.status() == hello::SURPLUS {
            return Err(Refused::Surplus);
        }
        if !answer.status().is_success() {
            return Err(Refused::Hello(format!("the agent answered {}", answer.status())));
        }
        let theirs = AgentHello::decode(answer.body())
            .and_then(|theirs| hello::negotiate(theirs.version).map(|_| theirs))
            .map_err(|error| Refused::Hello(error.to_string()))?;
        // Its SETTINGS have come by now: without extended CONNECT there would be no exec.
        if !opener.takes_upgrades() {
            return Err(Refused::Hello("the agent takes no upgrades".to_owned()));
        }
        Ok(theirs)
    }

    /// Holds the spoke to the cluster that was enrolled: `kube-system` lives as long as its cluster
    /// does, so its uid names it. A spoke that does not let us read it is served, with a warning.
    pub(super) async fn pin(
        &self,
        opener: &Opener,
        cluster: &ClusterName,
        enrolment: &Enrolment,
    ) -> Result<(), Refused> {
        let answer =
            ask(opener, Method::GET, KUBE_SYSTEM, None, NAMESPACE_LIMIT, PIN_TIMEOUT).await;
        let seen = match answer {
            Ok((code, body)) if code.is_success() => uid(&body),
            Ok((code, _)) => {
                tracing::warn!(%cluster, %code, "the agent may not read namespace kube-system: the cluster's identity is unchecked");
                return Ok(());
            }
            Err(error) => {
                tracing::warn!(%cluster, %error, "the cluster's identity could not be checked");
                return Ok(());
            }
        };
        match (seen, &enrolment.cluster_uid) {
            (None, _) => Ok(()),
            (Some(seen), Some(pinned)) if seen == *pinned => Ok(()),
            (Some(seen), Some(pinned)) => {
                Err(Refused::OtherCluster { seen, pinned: pinned.clone() })
            }
            (Some(seen), None) => {
                let document = Document::Enrolment(cluster.clone());
                let stored =
                    self.state.update(
                        &document,
                        |enrolment: &mut Option<Enrolment>| match enrolment {
                            Some(enrolment) => {
                                enrolment.cluster_uid.get_or_insert_with(|| seen.clone());
                                Ok(())
                            }
                            None => Err(()),
                        },
                    );
                stored.await.map_err(|error| Refused::State(error.to_string()))
            }
        }
    }
}

fn uid(namespace: &[u8]) -> Option<String> {
    let namespace: serde_json::Value = serde_json::from_slice(namespace).ok()?;
    let uid = namespace.get("metadata")?.get("uid")?.as_str()?;
    (uid.len() <= LONGEST_UID).then(|| uid.to_owned())
}

/// The first exchange.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Reading one namespace.
const PIN_TIMEOUT: Duration = Duration::from_secs(5);
const KUBE_SYSTEM: &str = "/api/v1/namespaces/kube-system";
/// A namespace with generous annotations.
const NAMESPACE_LIMIT: usize = 256 * 1024;
/// A Kubernetes uid is a UUID.
const LONGEST_UID: usize = 64;
