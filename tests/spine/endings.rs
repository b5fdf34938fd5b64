//! What ends a live stream, for every kind of identity that a hub lets in: one table. Hub and cluster
//! have API servers that accept a token until they are told not to.

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use cluster_proxy::hub::Source;
use cluster_proxy::hub::authn::oidc::Issuers;
use cluster_proxy::name::ClusterName;

use crate::live::BOUND;
use crate::support::api::FakeApi;
use crate::support::client::{Client, empty};
use crate::support::fleet::Fleet;
use crate::support::issuer::Issuer;
use crate::support::token::claims;
use crate::support::{PATIENCE, eventually, within};

/// Who holds streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A ServiceAccount of the cluster, by a token that is bound to a Pod.
    Spoke,
    /// A ServiceAccount of the hub.
    Hub,
    /// A user of an issuer.
    Issuer,
    /// A user of the hub whose token is no JSON Web Token.
    Opaque,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Its token ends by itself.
    Expires,
    /// Whoever made its token does not stand by it any more.
    IsRefused,
    /// The policy has no rule for it any more.
    IsDenied,
    /// The cluster is removed.
    ClusterRemoved,
    /// The cluster is revoked.
    ClusterRevoked,
}

const KINDS: [Kind; 4] = [Kind::Spoke, Kind::Hub, Kind::Issuer, Kind::Opaque];

struct World {
    hub_api: FakeApi,
    issuer: Issuer,
    issuers: std::path::PathBuf,
    fleet: Fleet,
}

/// A stream of each kind.
struct Streams {
    watch: Incoming,
    log: Incoming,
    exec: TokioIo<Upgraded>,
}

// === impl World ===

impl World {
    async fn start() -> Self {
        let (hub_api, issuer) = (FakeApi::start("hub").await, Issuer::start().await);
        let mut fleet = Fleet::hub_only().await;
        let issuers = fleet.dir.path().join("issuers.json");
        std::fs::write(&issuers, issuer.list()).unwrap();
        fleet.hub.stop().await;
        fleet.hub.own_api = Some(hub_api.server());
        fleet.hub.opaque_tokens = true;
        fleet.hub.issuers = Issuers::of_file(&issuers).unwrap();
        fleet.hub.policy = Source::File(fleet.dir.path().join("policy.yaml"));
        fleet.hub.set_policy(EVERYBODY);
        fleet.hub.start().await;
        fleet.add("c1").await;
        fleet.hub.wait_healthy("c1").await;
        Self { hub_api, issuer, issuers, fleet }
    }

    /// A token of somebody of this kind, for `life` seconds where it has an end.
    fn token(&self, kind: Kind, name: &str, life: i64) -> String {
        let c1 = &self.fleet.spoke("c1").api;
        match kind {
            Kind::Spoke => {
                let mut claims = claims("default", name, life);
                claims["kubernetes.io"]["pod"] = json!({"name": name, "uid": name});
                let token = c1.sign(&claims);
                c1.accept(&token, &format!("system:serviceaccount:default:{name}"));
                token
            }
            Kind::Hub => self.hub_api.token_for("default", name, life),
            Kind::Issuer => self.issuer.token(name, life, &json!({})),
            Kind::Opaque => {
                let token = format!("opaque-{name}");
                self.hub_api.accept(&token, name);
                token
            }
        }
    }

    async fn open(&self, token: &str) -> Streams {
        let client = self.fleet.anonymous().token(token);
        eventually("they are let in", PATIENCE, || async {
            (client.get(&format!("{POD}/proxy/echo")).await.status == 200).then_some(())
        })
        .await;
        Streams::open(&client).await
    }

    /// What makes `change` happen to the holder of `token`.
    async fn make(&self, change: Change, kind: Kind, token: &str) {
        let c1 = ClusterName::parse("c1").unwrap();
        let state = &self.fleet.hub.state;
        match (change, kind) {
            (Change::Expires, _) => {}
            (Change::IsRefused, Kind::Spoke) => self.fleet.spoke("c1").api.refuse(token),
            (Change::IsRefused, Kind::Hub | Kind::Opaque) => self.hub_api.refuse(token),
            (Change::IsRefused, Kind::Issuer) => {
                std::fs::write(&self.issuers, Issuer::start().await.list()).unwrap();
            }
            (Change::IsDenied, _) => self.fleet.hub.set_policy(STAYERS),
            (Change::ClusterRemoved, _) => assert!(state.remove(&c1).await.unwrap()),
            (Change::ClusterRevoked, _) => assert!(state.revoke(&c1).await.unwrap()),
        }
    }

    async fn wait_ended(&self, reason: &str, streams: f64) {
        let labels = ["cluster=\"c1\"", &format!("reason=\"{reason}\"")];
        eventually("the ends are counted", PATIENCE, || async {
            let ended = self.fleet.hub.metric("cluster_proxy_streams_ended_total", &labels).await;
            (ended == streams).then_some(())
        })
        .await;
    }
}

// === impl Streams ===

impl Streams {
    async fn open(client: &Client) -> Self {
        let open = async |path: &str| {
            let answer = client.open(client.request("GET", path, empty())).await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
            let mut body = answer.into_body();
            assert!(within(path, PATIENCE, body.frame()).await.unwrap().is_ok(), "{path}");
            body
        };
        let watch = open("/c1/api/v1/configmaps?watch=true").await;
        let log = open(&format!("{POD}/log?follow=true")).await;
        let mut request = client.request("GET", &format!("{POD}/exec"), empty());
        for (name, value) in [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let answer = client.open(request).await.unwrap();
        assert_eq!(answer.status(), 101);
        let exec = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        let mut streams = Self { watch, log, exec };
        streams.go_on("at first").await;
        streams
    }

    /// All end in time: the watch as a whole, the others cut.
    async fn end(mut self, what: &str) {
        let whole = within(what, BOUND, self.watch.collect()).await;
        assert!(whole.is_ok(), "{what}: a watch ends cleanly: {:?}", whole.err());
        let log = within(what, BOUND, self.log.collect()).await;
        assert!(log.is_err(), "{what}: a log that was cut does not look complete");
        let mut rest = Vec::new();
        let _ = within(what, BOUND, self.exec.read_to_end(&mut rest)).await;
        assert!(rest.is_empty(), "{what}: {rest:?}");
    }

    async fn go_on(&mut self, what: &str) {
        let more = within(what, PATIENCE, self.log.frame()).await;
        assert!(more.is_some_and(|frame| frame.is_ok()), "{what}: the log goes on");
        self.exec.write_all(b"x").await.unwrap();
        assert_eq!(within(what, PATIENCE, self.exec.read_u8()).await.unwrap(), b'x', "{what}");
    }
}

/// Everybody of `kinds` has streams, `change` happens to each of them, and only those streams end.
async fn streams_end(change: Change, kinds: &[Kind], reason: &str) {
    let world = World::start().await;
    // Those of one cluster end together.
    let alone = !matches!(change, Change::ClusterRemoved | Change::ClusterRevoked);
    let mut staying = Vec::new();
    if alone {
        for kind in KINDS {
            let stays = change != Change::IsRefused || kind != Kind::Issuer;
            if stays {
                let token = world.token(kind, "stayer", 600);
                staying.push((kind, world.open(&token).await));
            }
        }
    }
    let mut leaving = Vec::new();
    for kind in kinds {
        let life = if change == Change::Expires { 7 - LEEWAY } else { 600 };
        let token = world.token(*kind, "leaver", life);
        leaving.push((*kind, world.open(&token).await, token));
    }
    let made = if alone { &leaving[..] } else { &leaving[..1] };
    for (kind, _, token) in made {
        world.make(change, *kind, token).await;
    }
    let streams = leaving.len() * 3;
    let ends = leaving.into_iter().map(|(kind, streams, _)| async move {
        streams.end(&format!("{kind:?} {change:?}")).await;
    });
    futures_util::future::join_all(ends).await;
    for (kind, streams) in &mut staying {
        streams.go_on(&format!("{kind:?} stays when another {change:?}")).await;
    }
    if alone || change == Change::ClusterRevoked {
        world.wait_ended(reason, streams as f64).await;
    }
}

#[tokio::test]
async fn with_their_token() {
    let kinds = [Kind::Spoke, Kind::Hub, Kind::Issuer];
    streams_end(Change::Expires, &kinds, "token-expired").await;
}

#[tokio::test]
async fn when_whoever_made_the_token_refuses_it() {
    streams_end(Change::IsRefused, &KINDS, "token-refused").await;
}

#[tokio::test]
async fn with_the_rule_that_let_them_in() {
    let kinds = [Kind::Hub, Kind::Issuer, Kind::Opaque];
    streams_end(Change::IsDenied, &kinds, "policy-denied").await;
}

#[tokio::test]
async fn with_the_enrolment() {
    streams_end(Change::ClusterRemoved, &KINDS, "cluster-removed").await;
}

#[tokio::test]
async fn with_a_revocation() {
    streams_end(Change::ClusterRevoked, &KINDS, "cluster-revoked").await;
}

const POD: &str = "/c1/api/v1/namespaces/default/pods/p";

/// Seconds by which clocks may differ: a token is good for so long after its `exp`.
const LEEWAY: i64 = 60;

const EVERYBODY: &str = "rules: [{users: ['*'], clusters: ['*']}]";

const STAYERS: &str = "rules: [{users: ['cluster:hub:system:serviceaccount:default:stayer', \
                       'cluster:oidc:stayer', 'cluster:hub:stayer'], clusters: ['*']}]";
