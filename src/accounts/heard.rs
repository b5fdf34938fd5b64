//! What a spoke's events lead to: looks at its accounts, a few of each in a minute. A spoke may say what
//! it likes as often as it likes, and must not keep the hub busy with it.

use std::collections::BTreeSet;

use tokio::time::{Instant, sleep_until};

use super::context::Context;
use crate::name::ClusterName;

/// Accounts of one cluster that its spoke spoke of too often to look at them now.
#[derive(Debug, Default)]
pub(super) struct Heard {
    late: BTreeSet<String>,
    /// When the first of them may be looked at.
    at: Option<Instant>,
}

// === impl Heard ===

impl Heard {
    /// The spoke said something of `name`. Where that is an account, it is looked at as soon as it may be.
    pub(super) fn of(&mut self, context: &Context, cluster: &ClusterName, name: &str) {
        if !context.has_account(cluster.as_str(), name) {
            return;
        }
        match context.memory.hear(&(cluster.as_str().to_owned(), name.to_owned())) {
            Ok(()) => context.trigger(cluster.as_str(), name),
            Err(pause) => {
                let at = Instant::now() + pause;
                self.at = Some(self.at.map_or(at, |first| first.min(at)));
                self.late.insert(name.to_owned());
            }
        }
    }

    /// Waits until one of those that are late may be looked at.
    pub(super) async fn due(&self) {
        match self.at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Looks at those whose time has come.
    pub(super) fn catch_up(&mut self, context: &Context, cluster: &ClusterName) {
        self.at = None;
        for name in std::mem::take(&mut self.late) {
            self.of(context, cluster, &name);
        }
    }
}
