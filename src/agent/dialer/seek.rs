//! Finding the replicas that no address leads to: behind one balancer every connection is a draw.
//!
//! One draw at a time, with pauses that grow once so many in vain are no bad luck any more, and none
//! at all while every replica has its tunnels: a thousand agents that look for one new replica are
//! no storm.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::tunnel::Failure;
use super::{Dialer, Hub};
use crate::agent::backoff::Backoff;

// === impl Dialer ===

impl Dialer {
    /// Dials the addresses of `hub` in turn for as long as one of its replicas lacks tunnels, and
    /// keeps what it finds; until the drain stops.
    pub(super) async fn seek(self: Arc<Self>, hub: Arc<Hub>) {
        let mut held = JoinSet::new();
        let mut backoff = Backoff::new();
        let mut turn = 0;
        let mut in_vain = 0;
        let mut pause = first_pause();
        loop {
            tokio::select! {
                () = hub.coverage.lacking() => {}
                () = self.drain.stopping() => break,
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.drain.stopping() => break,
            }
            while held.try_join_next().is_some() {}
            let Some(missing) = hub.coverage.missing() else {
                // Found by those who keep the addresses.
                in_vain = 0;
                backoff.reset();
                pause = first_pause();
                continue;
            };
            let Some(target) = hub.target(turn) else { continue };
            turn += 1;
            tracing::debug!(missing = missing.replica, address = %target, "looking for a replica");
            let established = tokio::select! {
                established = self.establish(&hub, &target, None) => established,
                () = self.drain.stopping() => break,
            };
            pause = match established {
                Ok(tunnel) => {
                    in_vain = 0;
                    backoff.reset();
                    let (dialer, hub) = (self.clone(), hub.clone());
                    held.spawn(async move { dialer.hold(&hub, &target, tunnel).await });
                    rand::random_range(PAUSE)
                }
                Err(Failure::Surplus(_)) => {
                    in_vain += 1;
                    if in_vain < BAD_LUCK * missing.living {
                        rand::random_range(PAUSE)
                    } else {
                        backoff.after_failure()
                    }
                }
                Err(failure) => self.after(&failure, &target, &mut backoff),
            };
        }
        while held.join_next().await.is_some() {}
    }
}

/// Those who keep the addresses come first; and agents that hear of a new replica together must not
/// arrive together.
fn first_pause() -> Duration {
    rand::random_range(FIRST_PAUSE)
}

/// Between two draws: a balancer with three replicas is drawn out within a few seconds.
const PAUSE: std::ops::Range<Duration> = Duration::from_millis(200)..Duration::from_millis(600);
/// One of N fair draws finds the replica; so many times N find it but once in fifty.
const BAD_LUCK: usize = 4;
const FIRST_PAUSE: std::ops::Range<Duration> =
    Duration::from_millis(500)..Duration::from_millis(1500);
