//! Which Secret holds which document.
//!
//! | Secret | key | holds |
//! |---|---|---|
//! | `cluster-proxy-serving-ca-certificate` | `serving-ca.crt` | the serving CA and, during a rotation, its predecessors |
//! | `cluster-proxy-serving-ca-key` | `serving-ca.key` | its private key |
//! | `cluster-proxy-serving-certificate` | `serving.crt` | the hub's serving chain |
//! | `cluster-proxy-serving-key` | `serving.key` | its private key |
//! | `cluster-proxy-agent-ca-certificate` | `agent-ca.crt` | authorities whose agent certificates are accepted |
//! | `cluster-proxy-agent-ca-key` | `agent-ca.key` | the private key of the first |
//! | `cluster-proxy-join-tokens` | `join-tokens.json` | hashes of open join tokens |
//! | `cluster-proxy-key-owners` | `key-owners.json` | public key thumbprints and their owners |
//! | `cluster-proxy-hub-key-set` | `hub-key-set.json` | the last good key set of the hub's own API server |
//! | `cluster-proxy-enrolment-NAME` | `enrolment.json` | one enrolled cluster |
//! | `cluster-proxy-key-set-NAME` | `key-set.json` | the last good key set of a cluster |
//!
//! Every one has the labels `app.kubernetes.io/managed-by: cluster-proxy` and
//! `app.kubernetes.io/component`: `authority`, `joining`, `key-owners`, `enrolment` or `key-set`. The
//! Leases `cluster-proxy-hub-ID` of living hubs have the component `hub`.
//!
//! A hub needs in its namespace: `get`, `create`, `patch`, `delete` and `list` of Secrets, and the
//! same of Leases. It never needs `watch`. `list` shows every Secret of the namespace, so the
//! namespace should hold nothing else that is secret.

use std::collections::BTreeMap;

use crate::state::Document;

/// Where a document is.
pub(super) struct Place {
    /// Name of the Secret.
    pub(super) secret: String,
    /// Key in its data.
    pub(super) key: &'static str,
    /// Value of [`COMPONENT`].
    pub(super) component: &'static str,
}

// === impl Place ===

impl Place {
    pub(super) fn of(document: &Document) -> Self {
        let (name, key, component) = match document {
            Document::ServingCaCertificate => {
                ("serving-ca-certificate", "serving-ca.crt", "authority")
            }
            Document::ServingCaKey => ("serving-ca-key", "serving-ca.key", "authority"),
            Document::ServingCertificate => ("serving-certificate", "serving.crt", "authority"),
            Document::ServingKey => ("serving-key", "serving.key", "authority"),
            Document::AgentCaCertificate => ("agent-ca-certificate", "agent-ca.crt", "authority"),
            Document::AgentCaKey => ("agent-ca-key", "agent-ca.key", "authority"),
            Document::JoinTokens => ("join-tokens", "join-tokens.json", "joining"),
            Document::KeyOwners => ("key-owners", "key-owners.json", "key-owners"),
            Document::HubKeySet => ("hub-key-set", "hub-key-set.json", "key-set"),
            Document::Enrolment(cluster) => {
                let secret = format!("{ENROLMENT}{cluster}");
                return Self { secret, key: ENROLMENT_KEY, component: ENROLMENTS };
            }
            Document::KeySet(cluster) => {
                let secret = format!("{PREFIX}key-set-{cluster}");
                return Self { secret, key: "key-set.json", component: "key-set" };
            }
        };
        Self { secret: format!("{PREFIX}{name}"), key, component }
    }
}

/// The labels of an object of ours.
pub(super) fn labels(component: &str) -> BTreeMap<String, String> {
    [(MANAGED_BY, "cluster-proxy"), (COMPONENT, component)]
        .map(|(label, value)| (label.to_owned(), value.to_owned()))
        .into()
}

/// Selects by [`labels`].
pub(super) fn selector(component: &str) -> String {
    format!("{MANAGED_BY}=cluster-proxy,{COMPONENT}={component}")
}

const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const COMPONENT: &str = "app.kubernetes.io/component";

const PREFIX: &str = "cluster-proxy-";

/// Component of [`Document::Enrolment`].
pub(super) const ENROLMENTS: &str = "enrolment";
/// What the name of its Secret begins with; the cluster's name is the rest.
pub(super) const ENROLMENT: &str = "cluster-proxy-enrolment-";
pub(super) const ENROLMENT_KEY: &str = "enrolment.json";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::name::ClusterName;

    #[test]
    fn every_document_has_a_place_of_its_own() {
        let cluster = |name: &str| ClusterName::parse(name).unwrap();
        let longest = "a".repeat(63);
        let documents = [
            Document::ServingCaCertificate,
            Document::ServingCaKey,
            Document::ServingCertificate,
            Document::ServingKey,
            Document::AgentCaCertificate,
            Document::AgentCaKey,
            Document::JoinTokens,
            Document::KeyOwners,
            Document::HubKeySet,
            // Clusters whose names try to be something else.
            Document::Enrolment(cluster("owners")),
            Document::Enrolment(cluster(&longest)),
            Document::KeySet(cluster("owners")),
            Document::KeySet(cluster("key-set-owners")),
            Document::KeySet(cluster(&longest)),
        ];
        let places = documents.each_ref().map(Place::of);
        let names: BTreeSet<_> = places.iter().map(|place| place.secret.as_str()).collect();
        assert_eq!(names.len(), documents.len());
        for (place, document) in places.iter().zip(&documents) {
            assert!(place.secret.len() <= 253, "{}", place.secret);
            // Whoever moves a folder into Secrets finds the same file names.
            let file = document.to_string();
            let file = file.rsplit('/').next().unwrap();
            match document {
                Document::Enrolment(_) | Document::KeySet(_) => {
                    assert!(place.key.ends_with(".json"))
                }
                _ => assert_eq!(place.key, file),
            }
        }
    }
}
