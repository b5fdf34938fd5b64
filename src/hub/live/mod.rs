//! Live streams, and what ends them.
//!
//! A request is checked when it begins; a watch, a followed log or an exec session goes on for
//! hours. Here is who holds one, so that a deleted ServiceAccount (or Pod, Node, Secret that a
//! token is bound to) ends it within ten seconds of the API server's own refusal:
//!
//! | what | file |
//! |---|---|
//! | which streams a token has | [`book`] |
//! | which token is reviewed when, and what a review means | [`schedule`] |
//! | ServiceAccounts that come and go | [`watch`] |
//! | one question to the API server that made the token | [`review`] |
//! | one cluster, as long as it has live streams | [`follow`] |
//!
//! A spoke that lies, or does not answer, decides about its own tokens only. Tokens of the hub, which
//! no spoke ever sees, are reviewed at the hub; they are in the books of the clusters where their
//! streams go, and end with those as any other.

mod book;
mod follow;
mod metrics;
mod review;
mod schedule;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::{HeaderValue, StatusCode};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::book::{Book, Due, Ending};
use self::metrics::Metrics;
use self::review::Reviewers;
use self::schedule::Verdict;
use super::authn::{Authenticator, Identity, SpokeApi, SpokeApiError};
use super::forward::ending::EndReason;
use super::token_key::{TokenKey, TokenKeys};
use crate::name::ClusterName;

/// Requests to a spoke's API server under the agent's ServiceAccount, also such as do not end.
pub(crate) trait Spoke: SpokeApi {
    /// `GET path`; the head within `deadline`, then chunks as they come. Follows no redirect.
    fn watch<'a>(
        &'a self,
        cluster: &'a ClusterName,
        path: &'a str,
        accept: &'static str,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Chunks), SpokeApiError>>;
}

/// A body as it comes.
pub(crate) type Chunks = BoxStream<'static, Result<Bytes, SpokeApiError>>;

/// Who holds live streams. Clones share it.
#[derive(Clone)]
pub(crate) struct LiveStreams(Arc<Inner>);

struct Inner {
    keys: TokenKeys,
    /// Of one cluster.
    most_tokens: usize,
    books: Mutex<HashMap<ClusterName, Book>>,
    /// A cluster has its first live stream.
    wake: Notify,
    metrics: Metrics,
}

/// One live stream; dropped when it is over.
pub(crate) struct LiveStream {
    live: LiveStreams,
    cluster: ClusterName,
    key: TokenKey,
    ending: Arc<Ending>,
}

/// The cluster has as many distinct live tokens as are supervised, so that one more stream could
/// not be ended in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyTokens;

/// What is to be done now for one cluster.
struct Turn {
    /// Whether it has live streams.
    live: bool,
    /// Whether it is not served any more.
    over: bool,
    due: Vec<Due>,
    next: Option<Instant>,
}

// === impl LiveStreams ===

impl LiveStreams {
    /// Nobody yet; a cluster may have `most_tokens` distinct tokens that hold streams.
    pub(crate) fn new(
        registry: &prometheus::Registry,
        most_tokens: usize,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self(Arc::new(Inner {
            keys: TokenKeys::new(),
            most_tokens,
            books: Mutex::default(),
            wake: Notify::new(),
            metrics: Metrics::register(registry)?,
        })))
    }

    /// Counts a stream of a token, which `authorization` holds as authentication has checked it.
    pub(crate) fn enter(
        &self,
        cluster: &ClusterName,
        identity: &Identity,
        authorization: &HeaderValue,
    ) -> Result<LiveStream, TooManyTokens> {
        let authorization = authorization.to_str().unwrap_or_default();
        let token = authorization.strip_prefix(SCHEME).unwrap_or_default();
        let key = self.0.keys.of("", token);
        let mut books = self.lock();
        let book = books.entry(cluster.clone()).or_insert_with(|| Book::new(self.0.most_tokens));
        let entered = book.enter(key, identity, token, Instant::now(), chance());
        if !book.followed {
            self.0.wake.notify_one();
        }
        drop(books);
        let ending = entered.ok_or(TooManyTokens)?;
        Ok(LiveStream { live: self.clone(), cluster: cluster.clone(), key, ending })
    }

    /// Ends every live stream of a cluster, which is not served any more.
    pub(crate) fn end_cluster(&self, cluster: &ClusterName, reason: EndReason) {
        // Its follower has something to report for a moment, and forgets that when it notices.
        let streams = self.with(cluster, |book| book.end_all(reason)).unwrap_or_default();
        self.0.metrics.forget(cluster);
        if streams > 0 {
            tracing::info!(%cluster, streams, reason, "live streams of a cluster end");
        }
    }

    /// Supervises every cluster that has live streams; never returns. `known` is asked about
    /// the tokens of others than spokes.
    pub(crate) async fn run(self, spokes: Arc<dyn Spoke>, known: Option<Authenticator>) {
        let hub = known.as_ref().and_then(Authenticator::hub_reviews);
        let mut followers = JoinSet::new();
        loop {
            for cluster in self.unfollowed() {
                let live = self.clone();
                let reviewers = Reviewers {
                    spokes: Arc::clone(&spokes),
                    hub: hub.clone(),
                    issuers: known.clone(),
                };
                followers.spawn(async move { follow::follow(live, &reviewers, cluster).await });
            }
            tokio::select! {
                () = self.0.wake.notified() => {}
                Some(_) = followers.join_next() => {}
            }
        }
    }

    /// The clusters that nobody follows; somebody does from now on.
    fn unfollowed(&self) -> Vec<ClusterName> {
        let mut books = self.lock();
        let unfollowed = books.iter_mut().filter(|(_, book)| !book.followed);
        unfollowed
            .map(|(cluster, book)| {
                book.followed = true;
                cluster.clone()
            })
            .collect()
    }

    fn turn(&self, cluster: &ClusterName, now: Instant, most: usize) -> Turn {
        let mut books = self.lock();
        let Some(book) = books.get_mut(cluster) else {
            return Turn { live: false, over: true, due: Vec::new(), next: None };
        };
        let due = book.due(now, most);
        self.0.metrics.tokens(cluster, book.len());
        Turn { live: book.len() > 0, over: book.over, due, next: book.next() }
    }

    fn judge(&self, cluster: &ClusterName, due: &Due, verdict: Verdict) {
        self.0.metrics.reviewed(cluster, due.by, verdict);
        let now = Instant::now();
        let ended = self.with(cluster, |book| book.judge(&due.key, verdict, now, chance()));
        if let Some(streams) = ended.flatten() {
            tracing::info!(%cluster, streams, "the API server does not accept a token any more: its streams end");
        }
    }

    fn account(&self, cluster: &ClusterName, user: &str, uid: Option<&str>) {
        self.with(cluster, |book| book.account(user, uid, Instant::now()));
    }

    fn missed(&self, cluster: &ClusterName) {
        self.with(cluster, |book| book.missed(Instant::now(), chance));
    }

    /// Forgets a cluster unless it has live streams.
    fn close(&self, cluster: &ClusterName) -> bool {
        let mut books = self.lock();
        let empty = books.get(cluster).is_none_or(|book| book.len() == 0);
        if empty {
            match books.remove(cluster) {
                Some(book) if book.over => self.0.metrics.forget(cluster),
                _ => self.0.metrics.idle(cluster),
            }
        }
        empty
    }

    /// Nobody follows the cluster any more.
    fn unfollow(&self, cluster: &ClusterName) {
        if self.with(cluster, |book| book.followed = false).is_some() {
            self.0.wake.notify_one();
        }
    }

    fn with<T>(&self, cluster: &ClusterName, act: impl FnOnce(&mut Book) -> T) -> Option<T> {
        self.lock().get_mut(cluster).map(act)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClusterName, Book>> {
        // A panic in a book of maps leaves at worst a token that is reviewed once too often.
        self.0.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LiveStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveStreams").finish_non_exhaustive()
    }
}

// === impl LiveStream ===

impl LiveStream {
    /// Ready when it must end.
    pub(crate) async fn ended(&self) -> EndReason {
        self.ending.ended().await
    }
}

impl Drop for LiveStream {
    fn drop(&mut self) {
        self.live.with(&self.cluster, |book| book.leave(&self.key, &self.ending));
    }
}

impl fmt::Debug for LiveStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveStream").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

fn chance() -> f64 {
    rand::random_range(0.0..1.0)
}

/// As authentication leaves it in the header.
const SCHEME: &str = "Bearer ";
