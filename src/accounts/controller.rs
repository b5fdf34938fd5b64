//! One look at one account: what should be done is decided by `desired` and `status`, here it is
//! done. The Secret is written first, the status after it: who reads the status finds the token.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::api::ManagedServiceAccount;
use super::ask::{explain, is_code, is_gone};
use super::context::{Context, namespace_of};
use super::desired::{self, Authorities, Decision, Why};
use super::held::Held;
use super::memory::{Key, Review, State};
use super::presence::Away;
use super::secrets;
use super::spoke::Spoke;
use super::status::{INVALID, Outcome, Problem, status};
use super::token::{Wanted, subject};
use crate::name::ClusterName;

/// What was done, and when to look again without a reason.
struct Done {
    outcome: Outcome,
    again: Option<Duration>,
}

/// Looks at one account. Failures are counted, reported in its conditions and tried again.
pub(super) async fn reconcile(
    account: Arc<ManagedServiceAccount>,
    context: Arc<Context>,
) -> Result<Action, Infallible> {
    let again = look(&account, &context).await;
    let (namespace, name) = (namespace_of(&account), account.name_any());
    if !context.has_account(namespace, &name) {
        // It went while we looked.
        context.memory.forget(&(namespace.to_owned(), name));
    }
    Ok(again.map_or_else(Action::await_change, Action::requeue))
}

/// Returns how long to wait for the next look.
async fn look(account: &ManagedServiceAccount, context: &Context) -> Option<Duration> {
    let key = (namespace_of(account).to_owned(), account.name_any());
    if context.memory.is_outdated(&key, account.metadata.resource_version.as_deref()) {
        // The watch does not know yet what we wrote. It tells, or the next look finds out.
        return Some(WATCH_LAG);
    }
    let cluster = ClusterName::parse(&key.0).ok();
    let cluster = cluster.filter(|cluster| context.enrolled.borrow().contains(cluster));
    let cluster = cluster.filter(|_| !context.addons.serve(&key.0));
    let Some(cluster) = cluster.filter(|_| account.metadata.deletion_timestamp.is_none()) else {
        context.memory.note(&key, State::Ignored, None);
        return None;
    };
    // Without the Secrets all of them would look missing.
    context.secrets.wait_until_ready().await.ok()?;
    let ends = desired::end(account);
    if ends.is_some_and(|end| end <= context.now()) {
        return delete(account, context, &key).await;
    }
    let until_end = ends.map(|end| until(end, context.now()));
    let again = visit(account, context, &key, &cluster).await;
    [again, until_end].into_iter().flatten().min()
}

/// Looks at one account whose time has not come. Returns how long to wait for the next look.
async fn visit(
    account: &ManagedServiceAccount,
    context: &Context,
    key: &Key,
    cluster: &ClusterName,
) -> Option<Duration> {
    if let Err(pause) = context.memory.may_report(key) {
        return Some(pause);
    }
    let version = account.resource_version().unwrap_or_default();
    if let Some(pause) = context.memory.pause(key, &version) {
        return Some(pause);
    }
    let done = match ensure(account, context, key, cluster).await {
        Ok(done) => done,
        Err(problem) => Done { outcome: Outcome::Failed(problem), again: None },
    };
    let written = report(account, context, key, &done.outcome).await;
    settle(context, key, version, &done, written)
}

/// Counts and logs what came of it. Returns how long to wait for the next look.
fn settle(
    context: &Context,
    key: &Key,
    version: String,
    done: &Done,
    written: Result<ManagedServiceAccount, Problem>,
) -> Option<Duration> {
    let (problem, account) = match (&done.outcome, &written) {
        (Outcome::Failed(problem), written) => (Some(problem), written.as_ref().ok()),
        (_, Err(problem)) => (Some(problem), None),
        (_, Ok(account)) => (None, Some(account)),
    };
    let refreshed = account.and_then(desired::reported).map(|(refreshed, _)| refreshed);
    let Some(problem) = problem else {
        let waits = done.outcome == Outcome::Waiting;
        if waits {
            context.memory.waits(key, refreshed);
        } else {
            context.memory.note(key, State::Ready, refreshed);
            context.memory.succeeded(key);
        }
        return done.again;
    };
    let state = if problem.is_refusal() { State::Refused } else { State::Failing };
    context.memory.note(key, state, refreshed);
    let mut versions = vec![version];
    versions.extend(account.and_then(ManagedServiceAccount::resource_version));
    let pause = context.memory.failed(key, versions);
    tracing::warn!(cluster = key.0, account = key.1, %problem, again_in = ?pause, "no token");
    Some(pause)
}

/// Makes ServiceAccount, token and Secret what they should be.
async fn ensure(
    account: &ManagedServiceAccount,
    context: &Context,
    key: &Key,
    cluster: &ClusterName,
) -> Result<Done, Problem> {
    let wanted = Wanted::of(account).map_err(|error| Problem {
        reason: INVALID,
        message: format!("spec.rotation.validity {error}"),
    })?;
    let secret = secrets::find(context, key).await?;
    let secret = secret.as_deref();
    let spoke = match context.presence.spoke(cluster) {
        Ok(spoke) => spoke,
        Err(Away::Offline) if context.is_connected(cluster) => {
            return wait(account, context, secret, &wanted, Away::Arriving);
        }
        Err(away) => return wait(account, context, secret, &wanted, away),
    };
    let uid = spoke.ensure_account(&key.1, context.hub_uid.get()).await?;
    let subject = spoke.subject(&key.1);
    let now = context.now();
    // What was granted and could not be reported is as good as if it had been.
    let token = secret.and_then(desired::token);
    let granted = token.and_then(|token| context.memory.granted(key, token));
    let known = granted.or_else(|| desired::reported(account));
    let decision = desired::refresh(account, known, secret, &wanted, &subject, Some(&uid), now);
    let due = match decision {
        Decision::Mint(why) => {
            return mint(account, context, key, &spoke, &uid, &wanted, why).await;
        }
        Decision::Keep(due) => until(due, now),
    };
    // What is kept is there.
    let outcome = granted
        .map_or(Outcome::Kept, |(refreshed, expires)| Outcome::Minted { refreshed, expires });
    let Some(token) = token else { return Ok(Done { outcome, again: None }) };
    let review = match context.memory.review(key, token) {
        Review::In(left) => left,
        Review::Due if spoke.accepts(token, &wanted).await? => context.memory.reviewed(key, token),
        Review::Due => {
            return mint(account, context, key, &spoke, &uid, &wanted, Why::Refused).await;
        }
    };
    let should_be = desired::secret(account, token, &wanted, &authorities(context, &spoke));
    if !secret.is_some_and(|secret| desired::is_as(secret, &should_be)) {
        secrets::write(context, key, &should_be).await?;
    }
    Ok(Done { outcome, again: Some(due.min(review)) })
}

/// The spoke cannot be asked: that is only worth a word where a token is needed and missing.
fn wait(
    account: &ManagedServiceAccount,
    context: &Context,
    secret: Option<&Secret>,
    wanted: &Wanted,
    away: Away,
) -> Result<Done, Problem> {
    let now = context.now();
    let subject = subject(&context.config.namespace, &account.name_any());
    let known = desired::reported(account);
    let decision = desired::refresh(account, known, secret, wanted, &subject, None, now);
    let has_token = match decision {
        Decision::Keep(_) | Decision::Mint(Why::Due) => desired::is_usable(secret, now),
        Decision::Mint(_) => false,
    };
    // Its arrival is an event; the end of its token is none.
    let ends = secret.and_then(desired::token).and_then(super::token::Claims::of);
    match away {
        _ if has_token => Ok(Done {
            outcome: Outcome::Waiting,
            again: ends.map(|claims| until(claims.expires, now)),
        }),
        Away::Arriving => Ok(Done { outcome: Outcome::Waiting, again: None }),
        Away::Offline => Err(Problem::report("the cluster has no live tunnel")),
        Away::Unusable(problem) => Err(problem),
    }
}

/// A new token, in the Secret.
async fn mint(
    account: &ManagedServiceAccount,
    context: &Context,
    key: &Key,
    spoke: &Spoke,
    uid: &str,
    wanted: &Wanted,
    why: Why,
) -> Result<Done, Problem> {
    let held = context.memory.take_held(key);
    let held = match held.filter(|held| held.fits(uid, wanted, context.now())) {
        Some(held) => held,
        None => {
            if let Err(pause) = context.memory.may_ask_token(key) {
                tracing::debug!(
                    cluster = key.0,
                    account = key.1,
                    ?why,
                    "too many tokens in a short time"
                );
                return Ok(Done { outcome: Outcome::Waiting, again: Some(pause) });
            }
            let granted = spoke.request_token(&key.1, uid, wanted).await;
            context.metrics.asked(granted.is_ok());
            let (uid, wanted) = (uid.to_owned(), wanted.clone());
            Held { granted: granted?, uid, wanted, refreshed: context.now() }
        }
    };
    let (refreshed, expires) = (held.refreshed, held.granted.expires);
    let token = &held.granted.token;
    let secret = desired::secret(account, token, wanted, &authorities(context, spoke));
    if let Err(problem) = secrets::write(context, key, &secret).await {
        context.memory.hold(key, held);
        return Err(problem);
    }
    tracing::info!(cluster = key.0, account = key.1, ?why, %expires, "new token");
    context.memory.minted(key, token, refreshed, expires);
    let outcome = Outcome::Minted { refreshed, expires };
    // The status that is written brings the next look, which knows when the one after it is due.
    Ok(Done { outcome, again: Some(SETTLED) })
}

fn authorities(context: &Context, spoke: &Spoke) -> Authorities {
    Authorities {
        spoke: spoke.ca.load().to_string(),
        proxy: context.config.serving_ca.borrow().to_string(),
    }
}

/// Writes the status, where it is not so already. Returns the account as it is then.
async fn report(
    account: &ManagedServiceAccount,
    context: &Context,
    key: &Key,
    outcome: &Outcome,
) -> Result<ManagedServiceAccount, Problem> {
    let api = Api::<ManagedServiceAccount>::namespaced(context.config.hub.clone(), &key.0);
    let refused = context.refused(key);
    let failed = |error: &kube::Error| Problem::report(explain("cannot write the status", error));
    let mut current = account.clone();
    for _ in 0..STATUS_TRIES {
        // Whatever it says by now: what was looked at is what is spoken of.
        let seen = account.metadata.generation;
        let wanted = status(&current, outcome, refused.as_deref(), seen, context.now());
        if current.status.clone().unwrap_or_default() == wanted {
            return Ok(current);
        }
        // The list of conditions is replaced whole: with what others wrote meanwhile, or not at all.
        let patch = json!({
            "metadata": {"resourceVersion": current.metadata.resource_version, "uid": current.metadata.uid},
            "status": wanted,
        });
        let manager = Some(secrets::FIELD_MANAGER.to_owned());
        let params = PatchParams { field_manager: manager, ..PatchParams::default() };
        let patch = Patch::Merge(&patch);
        let patched = api.patch_status(&key.1, &params, &patch);
        context.memory.reporting(key);
        match context.slots.ask(patched).await {
            Ok(patched) => {
                if patched.metadata.resource_version != account.metadata.resource_version {
                    let outdated = account.metadata.resource_version.clone();
                    context.memory.account_written(key, outdated);
                }
                return Ok(patched);
            }
            Err(error) if is_code(&error, 409) => {
                let read = context.slots.ask(api.get(&key.1)).await;
                current = read.map_err(|error| failed(&error))?;
                if current.uid() != account.uid() {
                    // Another of that name: its turn comes.
                    return Ok(current);
                }
            }
            Err(error) if is_gone(&error, &key.1) => return Ok(current),
            Err(error) => return Err(failed(&error)),
        }
    }
    Err(Problem::report("cannot write the status: somebody else writes it all the time"))
}

/// Deletes an account whose time has come.
async fn delete(account: &ManagedServiceAccount, context: &Context, key: &Key) -> Option<Duration> {
    let api = Api::<ManagedServiceAccount>::namespaced(context.config.hub.clone(), &key.0);
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: account.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    match context.slots.ask(api.delete(&key.1, &params)).await {
        Err(error) if !is_code(&error, 404) && !is_code(&error, 409) => {
            let error = explain("cannot delete it", &error);
            tracing::warn!(cluster = key.0, account = key.1, error, "an account outlives its time");
            let version = account.resource_version().unwrap_or_default();
            Some(context.memory.failed(key, vec![version]))
        }
        _ => {
            tracing::info!(cluster = key.0, account = key.1, "deleted: ttlSecondsAfterCreation");
            None
        }
    }
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

/// A new token needs another look, even where its status reads like the one before.
const SETTLED: Duration = Duration::from_secs(5);

/// A watch tells within milliseconds what was written.
const WATCH_LAG: Duration = Duration::from_secs(1);

/// Others write a status rarely.
const STATUS_TRIES: usize = 4;
