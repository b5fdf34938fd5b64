//! The documents a store keeps, and the trait of a store.

use std::fmt;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{Registration, Replica};
use crate::name::ClusterName;

/// Names a document. The text form (`Display`) is its file name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Document {
    /// `serving-ca.crt`: the serving CA and, during a rotation, its predecessors.
    ServingCaCertificate,
    /// `serving-ca.key`
    ServingCaKey,
    /// `serving.crt`: the hub's serving chain.
    ServingCertificate,
    /// `serving.key`
    ServingKey,
    /// `agent-ca.crt`: authorities whose agent certificates are accepted, the issuing one first.
    AgentCaCertificate,
    /// `agent-ca.key`
    AgentCaKey,
    /// `enrolments/NAME.json`
    Enrolment(ClusterName),
    /// `join-tokens.json`: hashes only.
    JoinTokens,
    /// `key-owners.json`: public key thumbprint to owner.
    KeyOwners,
    /// `key-sets/NAME.json`: the last good key set of a cluster.
    KeySet(ClusterName),
    /// `hub-key-set.json`: the last good key set of the hub's own API server.
    HubKeySet,
}

// === impl Document ===

impl Document {
    /// Whether it is a private key, which nobody but its owner may be able to read.
    pub fn is_private_key(&self) -> bool {
        matches!(self, Self::ServingCaKey | Self::ServingKey | Self::AgentCaKey)
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServingCaCertificate => f.write_str("serving-ca.crt"),
            Self::ServingCaKey => f.write_str("serving-ca.key"),
            Self::ServingCertificate => f.write_str("serving.crt"),
            Self::ServingKey => f.write_str("serving.key"),
            Self::AgentCaCertificate => f.write_str("agent-ca.crt"),
            Self::AgentCaKey => f.write_str("agent-ca.key"),
            Self::Enrolment(cluster) => write!(f, "enrolments/{cluster}.json"),
            Self::JoinTokens => f.write_str("join-tokens.json"),
            Self::KeyOwners => f.write_str("key-owners.json"),
            Self::KeySet(cluster) => write!(f, "key-sets/{cluster}.json"),
            Self::HubKeySet => f.write_str("hub-key-set.json"),
        }
    }
}

/// A document and the version that a later write must name.
#[derive(Clone)]
pub struct Versioned {
    /// The document itself. May be a private key: never logged.
    pub contents: Bytes,
    /// What [`Store::write`] compares.
    pub version: Version,
}

/// Opaque version of a document (content hash in a folder, resourceVersion in Kubernetes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

/// What a writer believes is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing yet.
    Absent,
    /// Exactly this.
    Version(Version),
}

/// The enrolments of a store, each by its cluster.
pub type Enrolments = Vec<(ClusterName, Result<Bytes, StateError>)>;

/// A home of documents.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Reads one document; `None` when it does not exist.
    fn read<'a>(
        &'a self,
        document: &'a Document,
    ) -> BoxFuture<'a, Result<Option<Versioned>, StateError>>;

    /// Writes one document over what the writer expects; [`StateError::Conflict`] otherwise.
    fn write<'a>(
        &'a self,
        document: &'a Document,
        contents: Bytes,
        expected: Expected,
    ) -> BoxFuture<'a, Result<Version, StateError>>;

    /// Deletes one document. Deleting what is not there is a success.
    fn delete<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<(), StateError>>;

    /// Every [`Document::Enrolment`]. One that cannot be read takes no other with it.
    fn enrolments(&self) -> BoxFuture<'_, Result<Enrolments, StateError>>;

    /// A cheap mark that moves whenever an enrolment is written or deleted, so that a caller who
    /// asks every second need not read all of them; while it stands still, what was read is current.
    /// `None` when the store cannot tell.
    fn enrolments_mark(&self) -> BoxFuture<'_, Result<Option<String>, StateError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Lists a hub process as living until the registration is dropped or the process dies.
    fn register(
        &self,
        replica: Replica,
    ) -> BoxFuture<'_, Result<Box<dyn Registration>, StateError>>;

    /// Every living hub process on this store, ordered by id.
    fn replicas(&self) -> BoxFuture<'_, Result<Vec<Replica>, StateError>>;
}

/// Why a document could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Somebody else wrote first. Read again, then retry.
    #[error("{0} was changed by somebody else meanwhile")]
    Conflict(String),
    /// The home itself failed.
    #[error("cannot {action} {document}: {source}")]
    Io {
        /// `read`, `write`, `delete` or `list`.
        action: &'static str,
        /// Path or name.
        document: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The API server that is the home did not do what it was asked for.
    #[error("cannot {action} {document}: {reason}")]
    Api {
        /// `read`, `write`, `delete` or `list`.
        action: &'static str,
        /// Kind, namespace and name.
        document: String,
        /// What it said, or how it could not be reached.
        reason: String,
        /// Whether the same request may be sent again: it may succeed later, and cannot be done twice.
        retry_is_safe: bool,
    },
    /// The document is there and is not what it should be.
    #[error("{document} is damaged: {reason}")]
    Damaged {
        /// Path or name.
        document: String,
        /// What is wrong with it. Holds no contents.
        reason: String,
    },
}
