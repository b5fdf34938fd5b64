//! Leader election by a Lease: of several replicas, one runs what writes.
//!
//! A contender takes over once it has seen the holder's record stand still for the whole duration of
//! the lease, by its own monotonic clock: the times in the record are for people, and clocks may
//! disagree. The leader counts from before it sent its last renewal, and stops well before anybody
//! else may start. client-go does the same, with the same times, so that both can contend.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::ObjectMeta;
use prometheus::{IntGauge, Opts, Registry};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{describe, post};
use crate::drain::Drain;

/// A candidate for one Lease. Clones are the same candidate.
#[derive(Clone)]
pub struct Election {
    leases: Api<Lease>,
    name: String,
    identity: String,
    leading: IntGauge,
}

/// The record of a Lease and when we saw it first.
struct Seen {
    record: LeaseSpec,
    since: Instant,
}

/// A won election. Dropping it lets the next one lead at once.
struct Term {
    election: Election,
    tasks: Drain,
    /// From before the newest renewal was sent.
    renewed: Instant,
    /// Nothing is to be given back.
    lost: bool,
}

/// Why an attempt to get or keep the lease did not do it.
enum Missed {
    /// Another one holds it.
    Held(String),
    /// The API server did not say yes; says why.
    Failed(String),
}

// === impl Election ===

impl Election {
    /// The candidate `identity` (unique per process: two of one name would both lead) for the Lease
    /// `name` in `namespace`. Adds the gauge `cluster_proxy_leader` with the label `lease`.
    ///
    /// # Errors
    /// When `metrics` has a candidate for a Lease of that name already.
    pub fn new(
        client: kube::Client,
        namespace: &str,
        name: &str,
        identity: &str,
        metrics: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let opts = Opts::new("cluster_proxy_leader", "1 while this process holds the lease");
        let leading = IntGauge::with_opts(opts.const_label("lease", name))?;
        metrics.register(Box::new(leading.clone()))?;
        Ok(Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            leading,
        })
    }

    /// Contends until it leads.
    async fn win(&self, tasks: &Drain) -> Term {
        let mut seen = None;
        let mut told = String::new();
        loop {
            let started = Instant::now();
            let missed = match self.attempt(&mut seen).await {
                Ok(()) => return Term::begin(self.clone(), tasks.clone(), started),
                Err(missed) => missed,
            };
            let (Missed::Held(said) | Missed::Failed(said)) = &missed;
            if *said != told {
                match missed {
                    Missed::Held(_) => {
                        tracing::info!(lease = self.name, holder = said, "following")
                    }
                    Missed::Failed(_) => {
                        tracing::warn!(
                            lease = self.name,
                            reason = said,
                            "cannot contend for the lease"
                        )
                    }
                }
                told.clone_from(said);
            }
            sleep(RETRY.mul_f64(rand::random_range(1.0..=JITTER))).await;
        }
    }

    async fn attempt(&self, seen: &mut Option<Seen>) -> Result<(), Missed> {
        match timeout(ATTEMPT, self.acquire_or_renew(seen)).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(holder))) => Err(Missed::Held(holder)),
            Ok(Err(error)) => Err(Missed::Failed(describe(&error))),
            Err(_) => Err(Missed::Failed("the API server does not answer".to_owned())),
        }
    }

    /// One try. Returns the holder where that is another one whose time is not over.
    async fn acquire_or_renew(&self, seen: &mut Option<Seen>) -> kube::Result<Option<String>> {
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.record(&LeaseSpec::default())) };
            self.leases.create(&post(), &lease).await?;
            return Ok(None);
        };
        let record = lease.spec.take().unwrap_or_default();
        let since = match seen {
            Some(seen) if seen.record == record => seen.since,
            _ => Instant::now(),
        };
        *seen = Some(Seen { record: record.clone(), since });
        if let Some(holder) = holder(&record)
            && holder != self.identity
            && since.elapsed() < duration(&record)
        {
            return Ok(Some(holder.to_owned()));
        }
        lease.spec = Some(self.record(&record));
        // With the resourceVersion that was read: who wrote meanwhile wins.
        self.leases.replace(&self.name, &post(), &lease).await?;
        Ok(None)
    }

    /// The next record, with us as the holder.
    fn record(&self, before: &LeaseSpec) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let renewal = holder(before) == Some(&self.identity);
        let transitions = before.lease_transitions.unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            acquire_time: before
                .acquire_time
                .clone()
                .filter(|_| renewal)
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if renewal {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..before.clone()
        }
    }

    /// Clears the holder, where that is us.
    async fn give_back(&self) -> kube::Result<()> {
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
        let record = lease.spec.take().unwrap_or_default();
        if holder(&record) != Some(&self.identity) {
            return Ok(());
        }
        lease.spec = Some(LeaseSpec {
            holder_identity: None,
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..record
        });
        self.leases.replace(&self.name, &post(), &lease).await.map(drop)
    }

    async fn release(self) {
        // A renewal that was under way may come between.
        for _ in 0..RELEASES {
            if let Ok(Ok(())) = timeout(ATTEMPT, self.give_back()).await {
                return;
            }
        }
        tracing::warn!(
            lease = self.name,
            "the lease could not be given back: it runs out by itself"
        );
    }
}

// === impl Term ===

impl Term {
    fn begin(election: Election, tasks: Drain, renewed: Instant) -> Self {
        tracing::info!(lease = election.name, "leading");
        election.leading.set(1);
        Self { election, tasks, renewed, lost: false }
    }

    /// Gives the lease back, before we contend again: later, that would take away a lead that was won
    /// meanwhile.
    async fn end(mut self) {
        self.election.leading.set(0);
        if !self.lost {
            self.election.clone().release().await;
            self.lost = true;
        }
    }

    /// Renews until that is too late, or somebody else has the lease.
    async fn keep(&mut self) {
        let mut seen = None;
        loop {
            sleep(RETRY).await;
            let started = Instant::now();
            let end = self.renewed + RENEW_DEADLINE;
            match timeout_at(end, self.election.attempt(&mut seen)).await {
                Ok(Ok(())) => self.renewed = started,
                Ok(Err(Missed::Held(holder))) => {
                    tracing::error!(lease = self.election.name, holder, "somebody took the lease");
                    self.lost = true;
                    return;
                }
                Ok(Err(Missed::Failed(reason))) => {
                    tracing::warn!(
                        lease = self.election.name,
                        reason,
                        "the lease cannot be renewed"
                    );
                }
                Err(_) => {
                    tracing::error!(lease = self.election.name, "not renewed in time: not leading");
                    return;
                }
            }
        }
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        self.election.leading.set(0);
        // Without a runtime the process is over, and the lease runs out.
        if !self.lost && tokio::runtime::Handle::try_current().is_ok() {
            self.tasks.spawn(self.election.clone().release());
        }
    }
}

/// Contends for the lease until `drain` stops, and runs the future that `make` gives while it leads.
/// The future is dropped when the lead is lost, [`RENEW_DEADLINE`] after the last renewal at the
/// latest, and `make` is asked again when it is won again; one that ends gives the lead back. The
/// lease is given back by a task of `drain`, also when this is dropped.
pub async fn while_leading<F: Future<Output = ()>>(
    election: Election,
    drain: Drain,
    mut make: impl FnMut() -> F,
) {
    loop {
        let mut term = tokio::select! {
            term = election.win(&drain) => term,
            () = drain.stopping() => return,
        };
        // The work is gone before the term is: nobody else leads while it still runs.
        tokio::select! {
            () = term.keep() => {}
            () = make() => {}
            () = drain.stopping() => return,
        }
        let pause = async {
            term.end().await;
            sleep(RETRY).await;
        };
        tokio::select! {
            () = pause => {}
            () = drain.stopping() => return,
        }
    }
}

fn holder(record: &LeaseSpec) -> Option<&str> {
    record.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// How long a record has to stand still. One without a usable duration counts as ours would.
fn duration(record: &LeaseSpec) -> Duration {
    let seconds = record.lease_duration_seconds.filter(|seconds| *seconds > 0);
    Duration::from_secs(seconds.unwrap_or(LEASE_SECONDS).unsigned_abs().into())
}

/// How long a record has to stand still before another one takes over.
const LEASE_SECONDS: i32 = 15;

/// When a leader that could not renew stops, counted from its last renewal: a third of the lease
/// before anybody else starts.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// Between two attempts.
const RETRY: Duration = Duration::from_secs(2);

/// Spreads contenders: up to this much of [`RETRY`].
const JITTER: f64 = 1.2;

/// For one attempt: a connection that has died must leave time for another one.
const ATTEMPT: Duration = Duration::from_secs(4);

/// Attempts to give the lease back.
const RELEASES: usize = 3;

#[cfg(test)]
#[cfg(feature = "sandbox")]
mod tests;
