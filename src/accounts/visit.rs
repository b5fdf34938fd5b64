//! What is done at one spoke while it is connected: its labelled ServiceAccounts are watched, those
//! that nobody wants any more deleted, and its CA is read again now and then. A spoke is not trusted:
//! what is remembered of it is bounded, and so is what follows from what it says.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures_util::StreamExt as _;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, ResourceExt as _};
use rand::Rng as _;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::api::MANAGED;
use super::ask::{Slots, explain_watch};
use super::context::Context;
use super::heard::Heard;
use super::spoke::{Account, CA_AGAIN, PER_SPOKE, Spoke, keep_little, read_ca};
use super::status::Problem;
use super::sweep::Sweep;
use crate::name::ClusterName;

/// Visits a spoke until it is told to end.
pub(super) async fn run(context: Arc<Context>, cluster: ClusterName, gone: Arc<Notify>) {
    let backoff = || {
        let builder = ExponentialBuilder::new().with_min_delay(RETRY).with_max_delay(RETRY_MOST);
        builder.with_jitter().without_max_times().build()
    };
    let mut pauses = backoff();
    loop {
        let started = Instant::now();
        let problem = visit(&context, &cluster, &gone).await;
        if context.presence.failed(&cluster, problem.clone()) {
            tracing::warn!(%cluster, %problem, "cannot serve managed service accounts");
            context.trigger_clusters(|namespace| namespace == cluster.as_str());
        }
        if started.elapsed() >= RETRY_MOST {
            pauses = backoff();
        }
        sleep(pauses.next().unwrap_or(RETRY_MOST)).await;
    }
}

/// Returns only what was in the way.
async fn visit(context: &Context, cluster: &ClusterName, gone: &Notify) -> Problem {
    let client = context.config.spokes.client(cluster);
    let namespace = &context.config.namespace;
    let slots = Slots::new(PER_SPOKE);
    let ca = match read_ca(&client, namespace, &slots).await {
        Ok(ca) => ca,
        Err(problem) => return problem,
    };
    let (accounts, writer) = reflector::store::<Account>();
    let api = Api::<Account>::namespaced(client.clone(), namespace);
    let config = Config::default().labels(&format!("{MANAGED}=true"));
    let watched = watcher(api, config).modify(|account| keep_little(account, namespace));
    let mut events = pin!(watched.default_backoff().reflect(writer));
    let ca = ArcSwap::from_pointee(ca);
    let spoke = Arc::new(Spoke { client, namespace: namespace.clone(), accounts, ca, slots });

    let mut is_known = false;
    let mut listed = 0;
    let mut heard = Heard::default();
    let mut to_sweep = Sweep::default();
    let mut ca_at = ca_again();
    loop {
        tokio::select! {
            event = events.next() => match event {
                None => return Problem::report("the watch of the spoke's ServiceAccounts ended"),
                Some(Err(error)) if is_known => {
                    tracing::debug!(%cluster, error = %explain_watch(WATCH, &error), "the watch of ServiceAccounts failed");
                }
                Some(Err(error)) => return Problem::report(explain_watch(WATCH, &error)),
                Some(Ok(Event::Init)) => listed = 0,
                Some(Ok(Event::InitApply(_))) => {
                    listed += 1;
                    if listed > MOST_ACCOUNTS {
                        return too_many();
                    }
                }
                Some(Ok(Event::InitDone)) => {
                    if !is_known {
                        context.presence.ready(cluster, spoke.clone());
                        is_known = true;
                    }
                    for account in context.accounts_of(cluster) {
                        heard.of(context, cluster, &account);
                    }
                    to_sweep.soon();
                }
                Some(Ok(Event::Apply(account))) => {
                    if spoke.accounts.len() > MOST_ACCOUNTS {
                        return too_many();
                    }
                    heard.of(context, cluster, &account.name_any());
                    to_sweep.soon();
                }
                Some(Ok(Event::Delete(account))) => heard.of(context, cluster, &account.name_any()),
            },
            () = heard.due() => heard.catch_up(context, cluster),
            () = gone.notified(), if is_known => to_sweep.soon(),
            () = to_sweep.due() => to_sweep.run(context, cluster, &spoke).await,
            () = sleep_until(ca_at) => {
                ca_at = ca_again();
                match read_ca(&spoke.client, namespace, &spoke.slots).await {
                    Ok(ca) if ca != **spoke.ca.load() => {
                        spoke.ca.store(ca.into());
                        context.trigger_clusters(|namespace| namespace == cluster.as_str());
                    }
                    Ok(_) => {}
                    Err(problem) => tracing::warn!(%cluster, %problem, "the spoke's CA is not read again"),
                }
            }
        }
    }
}

fn too_many() -> Problem {
    Problem::report(format!("the spoke has more than {MOST_ACCOUNTS} managed ServiceAccounts"))
}

fn ca_again() -> Instant {
    Instant::now() + CA_AGAIN.mul_f64(rand::rng().random_range(0.5..=1.0))
}

const WATCH: &str = "cannot watch the spoke's ServiceAccounts";

const RETRY: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// What a spoke may have the hub remember; each takes 2 KiB at most.
const MOST_ACCOUNTS: usize = 10_000;
