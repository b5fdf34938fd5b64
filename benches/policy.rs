//! What it costs to let an identity of the hub through: the policy of 1,000 rules, and the headers by
//! which the agent speaks for it. No I/O: one thread, everything in caches, as for the second
//! request of a caller.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints and fails loudly")]

mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::Instant;

use cluster_proxy::fleet::Fleet;
use cluster_proxy::hub::Source;
use cluster_proxy::hub::authn::{
    Authenticator, AuthnConfig, HubApi, Identity, SpokeApi, SpokeApiError,
};
use cluster_proxy::hub::policy::{Asked, Policies};
use cluster_proxy::name::ClusterName;
use cluster_proxy::state::{FolderStore, State};

/// Rules of every policy here.
const RULES: usize = 1_000;

/// Decisions in one round, and rounds.
const TURNS: u32 = 20_000;
const ROUNDS: usize = 15;

fn main() {
    if measure::is_asked_only() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let authenticator = authenticator(folder.path()).await;
        let cluster = ClusterName::parse("edge-999").unwrap();
        let identity = authenticator.authenticate(&cluster, &mut bearer()).await.unwrap();
        println!("{RULES} rules, a caller in {GROUPS} groups, {ROUNDS} rounds of {TURNS} requests");
        for (shape, text) in shapes() {
            let file = folder.path().join("policy.yaml");
            std::fs::write(&file, text).unwrap();
            let registry = prometheus::Registry::new();
            let policies = Policies::load(Source::File(file), false, None, &registry).unwrap();
            let asked = asked(&identity, &cluster, "edge");
            assert!(policies.decide(&asked).await.is_ok(), "{shape}: the last rule lets them");
            let nobody = self::asked(&identity, &cluster, "nowhere");
            assert!(policies.decide(&nobody).await.is_err(), "{shape}: no rule lets them");
            let mut nanoseconds = Vec::new();
            for _ in 0..=ROUNDS {
                let began = Instant::now();
                for _ in 0..TURNS {
                    assert!(policies.decide(black_box(&asked)).await.is_ok());
                    let mut headers = HeaderMap::new();
                    black_box(&identity).stand(&mut headers);
                    black_box(headers);
                }
                nanoseconds.push(per_turn(began.elapsed()));
            }
            println!("  {shape}: {:.0} ns per request", measure::median(nanoseconds.split_off(1)));
        }
        let mut nanoseconds = Vec::new();
        for _ in 0..=ROUNDS {
            let began = Instant::now();
            for _ in 0..TURNS {
                let known = authenticator.authenticate(&cluster, &mut bearer()).await;
                assert!(black_box(known).is_ok());
            }
            nanoseconds.push(per_turn(began.elapsed()));
        }
        println!(
            "  authentication before it, remembered: {:.0} ns",
            measure::median(nanoseconds.split_off(1))
        );
    });
}

fn per_turn(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9 / f64::from(TURNS)
}

fn asked(identity: &Arc<Identity>, cluster: &ClusterName, namespace: &str) -> Asked {
    let target = format!("/apis/apps/v1/namespaces/{namespace}/deployments/web?resourceVersion=1");
    Asked {
        identity: Arc::clone(identity),
        cluster: cluster.clone(),
        method: Method::GET,
        target: PathAndQuery::try_from(target).unwrap(),
    }
}

/// Policies in which the last rule is the one that lets the caller in.
fn shapes() -> [(&'static str, String); 4] {
    let what =
        "verbs: [get, list], apiGroups: [apps], resources: [deployments], namespaces: [edge]";
    [
        (
            "a rule for each user",
            rules(|number| {
                format!("users: ['cluster:hub:user-{number}'], clusters: ['*'], {what}")
            }),
        ),
        (
            "a rule of the caller's group for each cluster",
            rules(|number| {
                format!("groups: ['cluster:hub:group-7'], clusters: [edge-{number}], {what}")
            }),
        ),
        (
            "a rule for each group, and beginnings of names",
            rules(|number| {
                let begin = if number % 2 == 0 { "*" } else { "" };
                format!(
                    "groups: ['cluster:hub:team-{number}{begin}', 'cluster:hub:group-*'], clusters: ['edge-{number}*'], {what}"
                )
            }),
        ),
        (
            "all rules for the caller and the cluster, each for a namespace",
            rules(|number| {
                let namespace =
                    if number == RULES - 1 { "edge".to_owned() } else { format!("n-{number}") };
                format!(
                    "users: ['cluster:hub:user-999'], clusters: ['*'], verbs: [get, list], apiGroups: [apps], resources: [deployments], namespaces: [{namespace}]"
                )
            }),
        ),
    ]
}

fn rules(rule: impl Fn(usize) -> String) -> String {
    (0..RULES).fold("rules:\n".to_owned(), |mut text, number| {
        writeln!(text, "- {{{}}}", rule(number)).unwrap();
        text
    })
}

fn bearer() -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Bearer opaque"))])
}

/// One that knows `user-999` of the hub by an opaque token.
async fn authenticator(folder: &std::path::Path) -> Authenticator {
    let state = State::new(Arc::new(FolderStore::open(folder.join("state")).unwrap()));
    let (_, fleet) = tokio::sync::watch::channel(Fleet::default());
    let config = AuthnConfig { opaque_tokens: true, ..AuthnConfig::default() };
    let registry = prometheus::Registry::new();
    let hub = Some(Arc::new(Hub) as Arc<dyn HubApi>);
    Authenticator::build(config, state, fleet, Arc::new(NoSpokes), hub, &registry).await.unwrap()
}

/// The hub's API server.
struct Hub;

impl HubApi for Hub {
    fn get<'a>(
        &'a self,
        _path: &'a str,
        _limit: usize,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>> {
        Box::pin(async { Err(SpokeApiError("it has nothing".to_owned())) })
    }

    fn post<'a>(
        &'a self,
        _path: &'a str,
        _body: Bytes,
        _limit: usize,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>> {
        let groups: Vec<String> = (0..GROUPS).map(|number| format!("group-{number}")).collect();
        let user = json!({"username": "user-999", "uid": "1", "groups": groups,
            "extra": {"scopes": ["all"]}});
        let status: Value = json!({"authenticated": true, "user": user});
        let body = json!({"kind": "TokenReview", "status": status}).to_string();
        Box::pin(async { Ok((StatusCode::CREATED, body.into())) })
    }
}

/// Groups of the caller.
const GROUPS: usize = 8;

struct NoSpokes;

impl SpokeApi for NoSpokes {
    fn request<'a>(
        &'a self,
        _cluster: &'a ClusterName,
        _method: Method,
        _path: &'a str,
        _body: Option<Bytes>,
        _limit: usize,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), SpokeApiError>> {
        Box::pin(async { Err(SpokeApiError("there is no cluster".to_owned())) })
    }
}
