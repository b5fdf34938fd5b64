//! What a hub runs for as long as it lives. A part that ends by itself ends the hub: a process that
//! looks alive and has lost its health pages, say, would never be restarted.

use std::collections::HashMap;

use tokio::task::{Id, JoinSet};

/// The running parts. Dropping them ends them.
#[derive(Default)]
pub(super) struct Parts {
    /// Each says whether it had a reason to end.
    running: JoinSet<bool>,
    names: HashMap<Id, &'static str>,
}

// === impl Parts ===

impl Parts {
    /// Runs a part that never ends.
    pub(super) fn spawn(&mut self, name: &'static str, part: impl Future + Send + 'static) {
        self.add(name, async move {
            part.await;
            false
        });
    }

    /// Runs a part that ends once the hub is asked to stop.
    pub(super) fn spawn_until_stop(
        &mut self,
        name: &'static str,
        part: impl Future + Send + 'static,
    ) {
        self.add(name, async move {
            part.await;
            true
        });
    }

    /// Ready once a part ended that had no reason to, or panicked.
    pub(super) async fn failed(&mut self) -> &'static str {
        while let Some(ended) = self.running.join_next_with_id().await {
            let failed = match ended {
                Ok((_, true)) => continue,
                Ok((id, false)) => id,
                Err(error) => error.id(),
            };
            return self.names.get(&failed).copied().unwrap_or_default();
        }
        std::future::pending().await
    }

    fn add(&mut self, name: &'static str, part: impl Future<Output = bool> + Send + 'static) {
        let id = self.running.spawn(part).id();
        self.names.insert(id, name);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_an_end_without_a_reason_is_a_failure() {
        let mut parts = Parts::default();
        parts.spawn("good", pending::<()>());
        parts.spawn_until_stop("stopped", async {});
        let quiet = tokio::time::timeout(Duration::from_secs(1), parts.failed()).await;
        assert!(quiet.is_err());
        parts.spawn("ended", async {});
        assert_eq!(parts.failed().await, "ended");
        parts.spawn("panicked", async { panic!("as it must") });
        assert_eq!(parts.failed().await, "panicked");
    }
}
