//! How many requests a caller, and a cluster, may have in flight. Pure counting: who has too many is
//! told to try again, and one caller cannot take what the others, or the hub itself, need.
//!
//! Requests that may stay open for ever (watches, followed logs, sessions, services) are counted
//! apart from those that end by themselves, as the API server's own priority and fairness does:
//! a thousand watches must not stop a `get`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::authn::Identity;
use super::limits::{Limit, Limits};
use crate::name::ClusterName;

/// The requests of every cluster, and of those who were not let in yet. Clones share the counts.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    /// The last of them, one in [`RESERVE`], are for short requests alone.
    in_all: usize,
    short: Most,
    long: Most,
    flight: Arc<Mutex<Flight>>,
    waiting: Places,
    uploads: Places,
}

/// At most so many of something at once.
#[derive(Clone, Debug)]
struct Places {
    most: usize,
    free: Arc<Semaphore>,
}

/// One of the places; free again when dropped.
pub(crate) type Place = OwnedSemaphorePermit;

/// Everything in flight.
#[derive(Debug, Default)]
struct Flight {
    in_all: usize,
    clusters: HashMap<ClusterName, Cluster>,
}

/// The limits of one kind of request.
#[derive(Clone, Copy, Debug)]
struct Most {
    per_caller: usize,
    per_cluster: usize,
}

#[derive(Debug, Default)]
struct Cluster {
    all: Counts,
    /// Only callers that have something in flight.
    callers: HashMap<String, Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    short: usize,
    long: usize,
}

/// One request in flight; over when dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    cluster: ClusterName,
    identity: Arc<Identity>,
    long: bool,
    flight: Arc<Mutex<Flight>>,
}

/// A request that must wait.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{whose} {most} {} in flight{}, the most the hub carries: try again (limit: --max-{})", what(*.limit), .place, flag(*.limit))]
pub(crate) struct TooMany {
    whose: &'static str,
    most: usize,
    place: String,
    pub(crate) limit: Limit,
}

// === impl Admission ===

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            in_all: limits.requests,
            short: Most {
                per_caller: limits.requests_per_caller,
                per_cluster: limits.requests_per_cluster,
            },
            long: Most {
                per_caller: limits.long_requests_per_caller,
                per_cluster: limits.long_requests_per_cluster,
            },
            flight: Arc::default(),
            waiting: Places::new(limits.waiting_requests()),
            uploads: Places::new(limits.uploads),
        }
    }

    /// A place for a request that is judged, for as long as that takes.
    pub(crate) fn wait(&self) -> Result<Place, TooMany> {
        self.waiting.take(Limit::WaitingRequests)
    }

    /// A place for the body of a request, until it was read.
    pub(crate) fn upload(&self) -> Result<Place, TooMany> {
        self.uploads.take(Limit::Uploads)
    }

    /// Counts a request of `identity`, which was verified for `cluster`.
    pub(crate) fn admit(
        &self,
        cluster: &ClusterName,
        identity: &Arc<Identity>,
        long: bool,
    ) -> Result<Admitted, TooMany> {
        let most = if long { self.long } else { self.short };
        let mut flight = lock(&self.flight);
        let Flight { in_all, clusters } = &mut *flight;
        let entry = match clusters.get_mut(cluster) {
            Some(entry) => entry,
            None => clusters.entry(cluster.clone()).or_default(),
        };
        let mine = entry.callers.get(&identity.user).copied().unwrap_or_default();
        let in_all_most = if long { self.in_all - self.in_all / RESERVE } else { self.in_all };
        let limit = if *in_all >= in_all_most {
            Limit::Requests
        } else if mine.of(long) >= most.per_caller {
            if long { Limit::LongRequestsPerCaller } else { Limit::RequestsPerCaller }
        } else if entry.all.of(long) >= most.per_cluster {
            if long { Limit::LongRequestsPerCluster } else { Limit::RequestsPerCluster }
        } else {
            *in_all += 1;
            *entry.all.of_mut(long) += 1;
            match entry.callers.get_mut(&identity.user) {
                Some(mine) => *mine.of_mut(long) += 1,
                None => {
                    *entry.callers.entry(identity.user.clone()).or_default().of_mut(long) = 1;
                }
            }
            return Ok(Admitted {
                cluster: cluster.clone(),
                identity: Arc::clone(identity),
                long,
                flight: Arc::clone(&self.flight),
            });
        };
        if entry.all.is_none() {
            clusters.remove(cluster);
        }
        let (whose, most) = match limit {
            Limit::Requests => ("all callers have", in_all_most),
            Limit::RequestsPerCaller | Limit::LongRequestsPerCaller => {
                ("this caller has", most.per_caller)
            }
            _ => ("all callers have", most.per_cluster),
        };
        let place = match limit {
            Limit::Requests => String::new(),
            _ => format!(" on cluster {cluster}"),
        };
        Err(TooMany { whose, most, place, limit })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut flight = lock(&self.flight);
        let Flight { in_all, clusters } = &mut *flight;
        *in_all -= 1;
        let Some(entry) = clusters.get_mut(&self.cluster) else { return };
        *entry.all.of_mut(self.long) -= 1;
        if let Some(mine) = entry.callers.get_mut(&self.identity.user) {
            *mine.of_mut(self.long) -= 1;
            if mine.is_none() {
                entry.callers.remove(&self.identity.user);
            }
        }
        if entry.all.is_none() {
            clusters.remove(&self.cluster);
        }
    }
}

/// One place in so many of the whole hub is for requests that end by themselves.
const RESERVE: usize = 10;

fn lock(flight: &Mutex<Flight>) -> MutexGuard<'_, Flight> {
    // Nothing panics between two changes that belong together.
    flight.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Places ===

impl Places {
    fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self { most, free: Arc::new(Semaphore::new(most)) }
    }

    fn take(&self, limit: Limit) -> Result<Place, TooMany> {
        let free = Arc::clone(&self.free).try_acquire_owned();
        let (whose, place) = ("all callers have", String::new());
        free.map_err(|_| TooMany { whose, most: self.most, place, limit })
    }
}

// === impl Counts ===

impl Counts {
    const fn of(self, long: bool) -> usize {
        if long { self.long } else { self.short }
    }

    const fn of_mut(&mut self, long: bool) -> &mut usize {
        if long { &mut self.long } else { &mut self.short }
    }

    const fn is_none(self) -> bool {
        self.short == 0 && self.long == 0
    }
}

/// The flag that sets it, without its first word.
const fn flag(limit: Limit) -> &'static str {
    match limit {
        Limit::WaitingRequests => Limit::Requests.label(),
        limit => limit.label(),
    }
}

/// What `limit` counts.
const fn what(limit: Limit) -> &'static str {
    match limit {
        Limit::LongRequestsPerCaller | Limit::LongRequestsPerCluster => "long-running requests",
        Limit::WaitingRequests => "requests that are not let in yet",
        Limit::Uploads => "requests with bodies that are not read yet",
        _ => "requests",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cluster(name: &str) -> ClusterName {
        ClusterName::parse(name).unwrap()
    }

    fn caller(user: &str) -> Arc<Identity> {
        Arc::new(Identity {
            user: user.to_owned(),
            impersonation: None,
            account_uid: None,
            bound: false,
            expires: None,
        })
    }

    fn admission() -> Admission {
        Admission::new(&Limits {
            requests_per_caller: 2,
            requests_per_cluster: 3,
            long_requests_per_caller: 3,
            long_requests_per_cluster: 4,
            ..Limits::default()
        })
    }

    #[test]
    fn a_caller_leaves_room_for_others_and_a_cluster_for_clusters() {
        let (admission, c1, a, b) = (admission(), cluster("c1"), caller("a"), caller("b"));
        let first = admission.admit(&c1, &a, false).unwrap();
        let _second = admission.admit(&c1, &a, false).unwrap();
        let refused = admission.admit(&c1, &a, false).unwrap_err();
        assert_eq!(refused.limit, Limit::RequestsPerCaller);
        let text = refused.to_string();
        assert!(text.starts_with("this caller has 2 requests in flight on cluster c1"), "{text}");
        assert!(text.contains("--max-requests-per-caller"), "{text}");
        let _other = admission.admit(&c1, &b, false).unwrap();
        assert_eq!(admission.admit(&c1, &b, false).unwrap_err().limit, Limit::RequestsPerCluster);
        // The same name on another cluster is another caller.
        assert!(admission.admit(&cluster("c2"), &a, false).is_ok());
        drop(first);
        assert!(admission.admit(&c1, &a, false).is_ok());
    }

    #[test]
    fn the_hub_has_an_end_as_well() {
        let admission = Admission::new(&Limits { requests: 1, ..Limits::default() });
        let held = admission.admit(&cluster("c1"), &caller("a"), true).unwrap();
        let refused = admission.admit(&cluster("c2"), &caller("b"), false).unwrap_err();
        assert_eq!(refused.limit, Limit::Requests);
        assert!(refused.to_string().starts_with("all callers have 1 requests in flight, the most"));
        assert_eq!(lock(&admission.flight).clusters.len(), 1, "a refusal leaves nothing");
        drop(held);
        assert!(admission.admit(&cluster("c2"), &caller("b"), false).is_ok());
    }

    #[test]
    fn watches_do_not_stop_a_get() {
        let (admission, c1, a) = (admission(), cluster("c1"), caller("a"));
        let watches: Vec<_> = (0..3).map(|_| admission.admit(&c1, &a, true).unwrap()).collect();
        assert_eq!(admission.admit(&c1, &a, true).unwrap_err().limit, Limit::LongRequestsPerCaller);
        let get = admission.admit(&c1, &a, false).unwrap();
        let _other = admission.admit(&c1, &caller("b"), true).unwrap();
        let refused = admission.admit(&c1, &caller("c"), true).unwrap_err();
        assert_eq!(refused.limit, Limit::LongRequestsPerCluster);
        drop((watches, get));
    }

    #[test]
    fn the_last_tenth_of_the_hub_is_for_requests_that_end() {
        let admission = Admission::new(&Limits { requests: 10, ..Limits::default() });
        let (c1, a) = (cluster("c1"), caller("a"));
        let _watches: Vec<_> = (0..9).map(|_| admission.admit(&c1, &a, true).unwrap()).collect();
        let refused = admission.admit(&c1, &a, true).unwrap_err();
        assert_eq!(refused.limit, Limit::Requests);
        assert!(refused.to_string().starts_with("all callers have 9 requests"), "{refused}");
        let _get = admission.admit(&c1, &a, false).unwrap();
        assert_eq!(admission.admit(&c1, &a, false).unwrap_err().limit, Limit::Requests);
    }

    proptest! {
        /// Whatever comes and goes: never more than the limits, and nothing is remembered for
        /// nobody.
        #[test]
        fn counts_come_back(steps in prop::collection::vec((0..3_usize, 0..4_usize, any::<bool>(), any::<bool>()), 0..200)) {
            let admission = admission();
            let mut held: Vec<(usize, usize, bool, Admitted)> = Vec::new();
            for (at, who, long, comes) in steps {
                if comes {
                    let got = admission.admit(&cluster(&format!("c{at}")), &caller(&who.to_string()), long);
                    let all = held.iter().filter(|one| one.0 == at && one.2 == long);
                    let mine = all.clone().filter(|one| one.1 == who).count();
                    let (per_caller, per_cluster) = if long { (3, 4) } else { (2, 3) };
                    prop_assert_eq!(got.is_ok(), mine < per_caller && all.count() < per_cluster);
                    held.extend(got.ok().map(|admitted| (at, who, long, admitted)));
                } else if !held.is_empty() {
                    held.swap_remove(who % held.len());
                }
            }
            held.clear();
            let flight = lock(&admission.flight);
            prop_assert!(flight.clusters.is_empty() && flight.in_all == 0);
        }
    }
}
