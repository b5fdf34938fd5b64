//! One cluster with live streams: its ServiceAccounts are watched and its live tokens reviewed,
//! until it has none for a while.

use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::LiveStreams;
use super::review::Reviewers;
use super::watch::{self, Notice};
use crate::name::ClusterName;

/// Follows `cluster` until it had no live stream for [`LINGER`], or is not served. Fails static: what cannot be asked
/// ends nothing.
pub(super) async fn follow(live: LiveStreams, reviewers: &Reviewers, cluster: ClusterName) {
    let mut following = Following { live: &live, cluster: &cluster, over: false };
    let (sender, mut notices) = mpsc::channel(NOTICES);
    let mut watching = pin!(watch::run(&*reviewers.spokes, &cluster, sender, &live.0.metrics));
    let mut reviews = FuturesUnordered::new();
    let mut idle: Option<Instant> = None;
    loop {
        let now = Instant::now();
        let turn = live.turn(&cluster, now, AT_ONCE - reviews.len());
        if turn.live {
            idle = None;
        } else {
            let lingers = now - *idle.get_or_insert(now) < LINGER;
            if (turn.over || !lingers) && live.close(&cluster) {
                following.over = true;
                return;
            }
        }
        for due in turn.due {
            let cluster = &cluster;
            reviews.push(async move {
                let verdict = reviewers.review(cluster, &due).await;
                (due, verdict)
            });
        }
        // Whoever comes later is due later: a token is never due before the next look.
        let next = turn.next.filter(|_| reviews.len() < AT_ONCE).unwrap_or(now + LOOK);
        tokio::select! {
            never = watching.as_mut() => match never {},
            Some(notice) = notices.recv() => match notice {
                Notice::Missed => live.missed(&cluster),
                Notice::Account { user, uid } => live.account(&cluster, &user, uid.as_deref()),
            },
            Some((due, verdict)) = reviews.next() => live.judge(&cluster, &due, verdict),
            () = tokio::time::sleep_until(next.min(now + LOOK)) => {}
        }
    }
}

/// Lets somebody else follow the cluster when this ends, however it ends.
struct Following<'a> {
    live: &'a LiveStreams,
    cluster: &'a ClusterName,
    /// The cluster is out of the books; who enters it now finds its own follower.
    over: bool,
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.live.unfollow(self.cluster);
        }
    }
}

/// Reviews under way together on one cluster: 4,096 tokens every ten seconds where an answer takes
/// under 20 ms, and no load that an API server would notice.
const AT_ONCE: usize = 8;

/// How often the book is looked at when nothing happens; below the first review of any token.
const LOOK: Duration = Duration::from_secs(2);

/// A watch is kept this long for the next stream.
const LINGER: Duration = Duration::from_secs(30);

/// Notices that wait; the watch waits when there are more.
const NOTICES: usize = 64;

#[cfg(test)]
mod tests;
