//! Live streams end with what their token stands on: ServiceAccount, Pod, expiry, cluster. The
//! spoke is the in-memory Kubernetes API, which refuses a token as soon as its objects are gone.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use cluster_proxy::name::ClusterName;

use crate::support::client::{Client, empty};
use crate::support::fleet::Fleet;
use crate::support::{PATIENCE, eventually, within};
use crate::world::{ACCOUNTS, World};

/// One stream of each kind under one token.
pub(crate) struct Streams {
    watch: Incoming,
    log: Incoming,
    exec: TokioIo<Upgraded>,
}

// === impl World ===

impl World {
    /// Waits until as many streams are counted under `reason`: the client may see an end a moment
    /// before the hub has counted it.
    async fn wait_ended(&self, reason: &str, streams: f64) {
        eventually("the ends are counted", PATIENCE, || async {
            (self.ended(reason).await == streams).then_some(())
        })
        .await;
    }

    async fn ended(&self, reason: &str) -> f64 {
        let reason = format!("reason=\"{reason}\"");
        self.fleet
            .hub
            .metric("cluster_proxy_streams_ended_total", &["cluster=\"c1\"", &reason])
            .await
    }
}

// === impl Streams ===

impl Streams {
    /// Opens one stream of each kind and reads from it.
    pub(crate) async fn open(client: &Client) -> Self {
        let open = async |path: &str| {
            let answer = client.open(client.request("GET", path, empty())).await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
            let mut body = answer.into_body();
            let first = within(path, PATIENCE, body.frame()).await;
            assert!(first.unwrap().is_ok(), "{path}");
            body
        };
        let (watch, log) = (open(WATCH).await, open(&format!("{POD}/log?follow=true")).await);
        let path = format!("{POD}/exec?command=cat&stdin=true&stdout=true");
        let mut request = client.request("GET", &path, empty());
        for (name, value) in [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v4.channel.k8s.io"),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let answer = client.open(request).await.unwrap();
        assert_eq!(answer.status(), 101);
        let exec = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        let mut streams = Self { watch, log, exec };
        streams.echo().await;
        streams
    }

    /// A byte to `cat` and back.
    async fn echo(&mut self) {
        // A masked frame (mask 0) with channel 0, standard input, and one letter (RFC 6455
        // section 5.2); it comes back on channel 1, unmasked.
        self.exec.write_all(&[0x82, 0x82, 0, 0, 0, 0, 0, b'x']).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(&[1, b'x']) {
            let byte = within("the echo", PATIENCE, self.exec.read_u8()).await.unwrap();
            seen.push(byte);
        }
    }

    /// Asserts that all end: the watch cleanly, the others not.
    pub(crate) async fn end(mut self, what: &str) {
        let whole = within(what, BOUND, self.watch.collect()).await;
        assert!(whole.is_ok(), "{what}: a watch ends cleanly: {:?}", whole.err());
        let log = within(what, BOUND, self.log.collect()).await;
        assert!(log.is_err(), "{what}: a log that was cut does not look complete");
        let mut rest = Vec::new();
        let session = within(what, BOUND, self.exec.read_to_end(&mut rest)).await;
        // No close frame: a client must not take it for the end of its command.
        assert!(session.is_err() || !rest.contains(&0x88), "{what}: {rest:?}");
    }

    /// Asserts that all go on.
    pub(crate) async fn go_on(&mut self, what: &str) {
        let more = within(what, PATIENCE, self.log.frame()).await;
        assert!(more.is_some_and(|frame| frame.is_ok()), "{what}: the log goes on");
        self.echo().await;
        let quiet = tokio::time::timeout(Duration::from_millis(100), self.watch.frame()).await;
        assert!(quiet.is_err() || quiet.unwrap().is_some_and(|frame| frame.is_ok()), "{what}");
    }
}

#[tokio::test]
async fn streams_of_a_deleted_account_end_and_its_neighbours_go_on() {
    let world = World::start().await;
    for name in ["leaver", "stayer"] {
        world.account(name).await;
        world.bind(name).await;
    }
    let (leaver, stayer) =
        (world.client("leaver", Value::Null).await, world.client("stayer", Value::Null).await);
    let leaving = Streams::open(&leaver).await;
    let mut staying = Streams::open(&stayer).await;

    world.delete(&format!("{ACCOUNTS}/leaver")).await;
    leaving.end("the streams of a deleted account").await;
    staying.go_on("the streams of another account").await;
    world.wait_ended("token-refused", 3.0).await;
    eventually("the access log says why", PATIENCE, || async {
        let log = std::fs::read_to_string(&world.fleet.hub.access_log).unwrap();
        (log.matches("\"token-refused\"").count() == 3).then_some(())
    })
    .await;

    // The same name again is somebody else: the old token stays worthless, a new one works.
    world.account("leaver").await;
    assert_eq!(leaver.get("/c1/api/v1/configmaps").await.status, 401);
    let again = world.client("leaver", Value::Null).await;
    let mut again = Streams::open(&again).await;
    again.go_on("the account that has the name now").await;
}

#[tokio::test]
async fn streams_of_a_recreated_account_end() {
    let world = World::start().await;
    world.account("a").await;
    world.bind("a").await;
    let old = Streams::open(&world.client("a", Value::Null).await).await;
    world.delete(&format!("{ACCOUNTS}/a")).await;
    world.account("a").await;
    let mut new = Streams::open(&world.client("a", Value::Null).await).await;
    old.end("the streams of the account that had the name").await;
    new.go_on("the streams of the account that has it").await;
}

#[tokio::test]
async fn streams_of_a_token_end_with_its_pod_or_secret() {
    let world = World::start().await;
    world.account("a").await;
    world.bind("a").await;
    for (kind, plural) in [("Pod", "pods"), ("Secret", "secrets")] {
        let path = format!("/api/v1/namespaces/default/{plural}");
        let object = |name: &str| {
            let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
            if kind == "Pod" {
                object["spec"] = json!({"serviceAccountName": "a",
                    "containers": [{"name": "c", "image": "example.com/c:1"}]});
            }
            object
        };
        let mut streams = Vec::new();
        for name in ["gone", "kept"] {
            world.create(&path, object(name)).await;
            let bound = json!({"kind": kind, "apiVersion": "v1", "name": name});
            streams.push(Streams::open(&world.client("a", bound).await).await);
        }
        let mut kept = streams.pop().unwrap();
        world.delete(&format!("{path}/gone?gracePeriodSeconds=0")).await;
        streams.pop().unwrap().end(&format!("the streams of a token whose {kind} is gone")).await;
        kept.go_on("the same account, another object").await;
    }
}

#[tokio::test]
async fn an_agent_without_the_rights_ends_nothing_and_says_so() {
    let world = World::start().await;
    world.account("a").await;
    world.bind("a").await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    world.create("/api/v1/namespaces/default/secrets", secret).await;
    world.delete("/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-proxy-agent").await;
    let bound = json!({"kind": "Secret", "apiVersion": "v1", "name": "s"});
    let mut streams = Streams::open(&world.client("a", bound).await).await;
    world.delete("/api/v1/namespaces/default/secrets/s").await;
    world.delete(&format!("{ACCOUNTS}/a")).await;
    eventually("both rights are missed", PATIENCE, || async {
        let metric = world.fleet.hub.metric("cluster_proxy_agent_right_missing", &["c1"]).await;
        (metric >= 2.0).then_some(())
    })
    .await;
    streams.go_on("nobody can ask").await;
    assert_eq!(world.ended("token-refused").await, 0.0);
}

#[tokio::test]
async fn streams_of_a_revoked_cluster_end_as_all_others() {
    let world = World::start().await;
    world.account("a").await;
    world.bind("a").await;
    let streams = Streams::open(&world.client("a", Value::Null).await).await;
    let name = ClusterName::parse("c1").unwrap();
    assert!(world.fleet.hub.state.revoke(&name).await.unwrap());
    streams.end("the streams of a revoked cluster").await;
    world.wait_ended("cluster-revoked", 3.0).await;
}

#[tokio::test]
async fn a_long_download_ends_with_its_token() {
    let fleet = Fleet::start(&["c1"]).await;
    let api = &fleet.spoke("c1").api;
    // An ordinary request whose answer does not come to an end.
    let path = format!("{POD}/log");
    let open = async |life: i64| {
        let client = fleet.anonymous().token(&api.token_for("default", "test", life));
        let answer = client.open(client.request("GET", &path, empty())).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body()
    };
    let (short, mut long) = (open(4 - LEEWAY).await, open(600).await);
    let whole = within("the download ends", PATIENCE, short.collect()).await;
    assert!(whole.is_err(), "what was cut does not look complete");
    assert!(long.frame().await.unwrap().is_ok());
}

const POD: &str = "/c1/api/v1/namespaces/default/pods/hello";
const WATCH: &str = "/c1/api/v1/namespaces?watch=true";
/// Within which streams end after the API server's own refusal, which here comes at once.
pub(crate) const BOUND: Duration = Duration::from_secs(10);
/// Seconds by which clocks may differ: a token is good for so long after its `exp`.
const LEEWAY: i64 = 60;
