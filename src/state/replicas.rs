//! Hubs that share one state: which of them live, and what each of them serves.

use std::collections::BTreeSet;
use std::fmt;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::StateError;
use crate::name::ClusterName;

/// One live hub process, as it describes itself to the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Names the process, random per start. Lower-case letters, digits and `-`, at most 64 bytes.
    pub id: String,
    /// When it started, seconds since the epoch.
    pub started_at: u64,
    /// Whether the clusters that it expected have arrived (or it has waited long enough).
    pub settled: bool,
    /// Clusters whose agents are connected to it.
    pub connected: BTreeSet<ClusterName>,
}

/// A place in the list of live replicas. The list loses it when this is dropped, and when the
/// process dies.
pub trait Registration: Send + Sync + fmt::Debug {
    /// Describes the replica anew. The id stays.
    fn update(&self, replica: Replica) -> BoxFuture<'_, Result<(), StateError>>;
}

// === impl Replica ===

impl Replica {
    /// A hub that starts at `started_at` (seconds since the epoch) and serves nobody yet.
    pub fn new(id: String, started_at: u64) -> Self {
        Self { id, started_at, ..Self::default() }
    }
}
