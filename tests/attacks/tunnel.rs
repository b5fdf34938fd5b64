//! A hostile agent with a valid certificate against the hub: cases 92, 93, 96 to 99 and 105.
//!
//! `c1` is the agent's cluster, `c2` an ordinary one that must not notice anything.

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use cluster_proxy::hub::limits::Limits;

use crate::agent::{HostileAgent, Script, reply};
use crate::frames::{
    CONTINUATION, DATA, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, PING, PREFACE,
    PRIORITY, PUSH_PROMISE, SETTINGS, frame, head, headers, remembered, reset, settings,
    window_update,
};
use crate::support::client::{Client, empty};
use crate::support::fleet::{Fleet, HEAD_TIMEOUT};
use crate::support::token::{SigningKey, claims};
use crate::support::{PATIENCE, eventually, within};

/// A fleet with an ordinary cluster `c2`, and all that an agent of `c1` needs.
pub(crate) struct Field {
    pub(crate) fleet: Fleet,
    pub(crate) signer: SigningKey,
}

// === impl Field ===

impl Field {
    pub(crate) async fn start() -> Self {
        Self::limited(Limits::default()).await
    }

    /// The same with a hub of these limits.
    pub(crate) async fn limited(limits: Limits) -> Self {
        let mut fleet = Fleet::limited(limits).await;
        fleet.add("c2").await;
        fleet.hub.wait_healthy("c2").await;
        fleet.hub.enrol("c1", &fleet.dir.path().join("c1")).await;
        Self { fleet, signer: SigningKey::generate("c1-key") }
    }

    /// Connects the agent of `c1` and waits until it is the one that serves.
    pub(crate) async fn agent(&self, script: Script) -> HostileAgent {
        let agent = HostileAgent::start(
            self.fleet.hub.addresses.agents,
            &self.fleet.dir.path().join("c1"),
            script,
        )
        .await;
        self.fleet.hub.wait_tunnels("c1", 1, PATIENCE).await;
        // Its keys come a moment after the tunnel.
        let caller = self.caller();
        eventually("c1 is served", PATIENCE, || async {
            (caller.get("/c1/mine").await.status == 200).then_some(())
        })
        .await;
        agent
    }

    /// An agent that answers every caller with the target that was asked for.
    fn echo(&self) -> Script {
        Script::new(&self.signer, |request, respond| {
            let path = request.uri().path().to_owned();
            reply(respond, &path);
        })
    }

    /// A caller with a good token of `c1`.
    pub(crate) fn caller(&self) -> Client {
        self.account("test")
    }

    /// The same of another ServiceAccount.
    pub(crate) fn account(&self, name: &str) -> Client {
        let token = self.signer.sign(&claims("default", name, 3600));
        self.fleet.anonymous().token(&token)
    }

    /// `c1` is gone, and `c2` has not noticed.
    async fn only_c1_is_gone(&self, what: &str) {
        self.fleet.hub.wait_tunnels("c1", 0, PATIENCE).await;
        let answer = self.caller().get("/c1/api/v1/pods").await;
        assert_eq!(answer.status, 503, "{what}: {}", answer.text());
        let answer = self.fleet.client("c2").get("/c2/api/v1/pods").await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    }
}

#[tokio::test]
async fn s92_a_claim_to_serve_another_cluster_is_nothing() {
    let mut field = Field::start().await;
    let mut script = field.echo();
    for claim in ["cluster", "clusters", "clusterName", "route"] {
        script.hello[claim] = json!("c2");
    }
    let _agent = field.agent(script).await;
    assert_eq!(field.caller().get("/c1/mine").await.text(), "/mine");
    let client = field.fleet.client("c2");
    let pods = client.get("/c2/api/v1/pods").await;
    assert_eq!(pods.json()["kind"], "List");
    // Not even when nobody else serves it.
    field.fleet.spoke_mut("c2").stop_agent().await;
    field.fleet.hub.wait_tunnels("c2", 0, PATIENCE).await;
    assert_eq!(client.get("/c2/api/v1/pods").await.status, 503);
    assert_eq!(field.caller().get("/c1/mine").await.text(), "/mine");
}

#[tokio::test]
async fn s93_a_second_holder_of_the_name() {
    let field = Field::start().await;
    let hub = &field.fleet.hub;
    // The same key twice: two agents for availability.
    let first = field.agent(field.echo()).await;
    let mut second =
        HostileAgent::start(hub.addresses.agents, &field.fleet.dir.path().join("c1"), field.echo())
            .await;
    hub.wait_tunnels("c1", 2, PATIENCE).await;
    assert!(!first.is_closed() && !second.is_closed());

    // Another key by a new enrolment: from then on the old one is turned away, and counted.
    let other = field.fleet.dir.path().join("c1-again");
    hub.enrol("c1", &other).await;
    second.closed().await;
    let mut old =
        HostileAgent::start(hub.addresses.agents, &field.fleet.dir.path().join("c1"), field.echo())
            .await;
    old.closed().await;
    let refusals = hub.metric("cluster_proxy_agents_refused_total", &["other-key"]).await;
    assert!(refusals >= 1.0, "{refusals}");
    let _new = HostileAgent::start(hub.addresses.agents, &other, field.echo()).await;
    hub.wait_tunnels("c1", 1, PATIENCE).await;
    assert_eq!(field.caller().get("/c1/mine").await.text(), "/mine");
}

/// Bytes that nobody who serves HTTP/2 may send.
fn outrages() -> Vec<(&'static str, Vec<u8>)> {
    let get =
        [(":method", "GET"), (":scheme", "https"), (":authority", "hub"), (":path", "/c2/api")];
    let promise = [&2_u32.to_be_bytes()[..], &crate::frames::block(&get)].concat();
    // Streams of the hub have low odd ids.
    let (unopened, even) = (99_999, 2);
    let mut endless = frame(HEADERS, 0, unopened, &[]);
    endless.extend(frame(CONTINUATION, 0, unopened, &[0; 16_000]).repeat(200));
    let mut bomb = remembered("x", &"y".repeat(4_000));
    bomb.extend(std::iter::repeat_n(0xbe, 100_000));
    vec![
        ("a request of its own", headers(END_STREAM, even, &get)),
        ("a request on a stream of the hub's", headers(END_STREAM, unopened, &get)),
        ("a push", frame(PUSH_PROMISE, 4, 1, &promise)),
        ("a request in HTTP/1.1", b"GET http://169.254.169.254/ HTTP/1.1\r\n\r\n".to_vec()),
        ("a preface", PREFACE.to_vec()),
        ("data for a stream that never was", frame(DATA, 0, unopened, b"x")),
        ("a reset of a stream that never was", reset(unopened, 8)),
        ("an end of a stream that never was", frame(DATA, END_STREAM, even, b"")),
        ("a frame of 16 MiB", [head(0xff_ffff, DATA, 0, 1), vec![0; 1 << 20]].concat()),
        ("a window past 2^31", window_update(0, 0x7fff_ffff).repeat(2)),
        ("a window that grows by nothing", window_update(0, 0)),
        ("frames of size 0", settings(&[(MAX_FRAME_SIZE, 0)])),
        ("a window of 2^31", settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)])),
        ("settings for a stream", frame(SETTINGS, 0, 1, &[])),
        ("a head without end", endless),
        ("a bomb", frame(HEADERS, 4, 1, &bomb)),
        ("pings", frame(PING, 0, 0, &[0; 8]).repeat(200_000)),
        ("settings", settings(&[]).repeat(200_000)),
        ("priorities", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]).repeat(200_000)),
        ("frames of no known kind", frame(0xee, 0, 0, &[]).repeat(200_000)),
    ]
}

#[tokio::test]
async fn s96_s97_bytes_that_no_server_sends() {
    let field = Field::start().await;
    for (what, bytes) in outrages() {
        let mut agent = field.agent(field.echo()).await;
        assert_eq!(field.caller().get("/c1/mine").await.text(), "/mine", "{what}");
        agent.send(bytes).await;
        agent.closed().await;
        field.only_c1_is_gone(what).await;
    }
}

#[tokio::test]
async fn s97_more_data_than_the_window_allows() {
    let field = Field::start().await;
    // The head and then silence, so that the test can go on by itself.
    let (opened, mut ids) = mpsc::channel(CALLS);
    let script = Script::new(&field.signer, move |request, mut respond| {
        if request.uri().path() != "/watched" {
            return reply(respond, "/mine");
        }
        let id = respond.stream_id().as_u32();
        let send = respond.send_response(Response::new(()), false).unwrap();
        opened.try_send((id, send)).unwrap();
    });
    let agent = field.agent(script).await;
    // A caller who reads nothing but the head, for now.
    let client = field.caller();
    let request = client.request("GET", "/c1/watched", empty());
    let response = client.open(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let (id, _send) = ids.recv().await.unwrap();
    // 64 MiB, far past the window of one stream: it is reset, and the rest is thrown away.
    for _ in 0..4_096 {
        agent.send(frame(DATA, 0, id, &[0; 16_384])).await;
    }
    assert_eq!(field.caller().get("/c1/mine").await.text(), "/mine");
    let mut body = response.into_body();
    let mut received = 0;
    let broken = loop {
        match within(&format!("a frame after {received} bytes"), PATIENCE, body.frame()).await {
            Some(Ok(frame)) => received += frame.into_data().unwrap().len(),
            Some(Err(error)) => break error,
            None => panic!("a whole body of {received} bytes"),
        }
    };
    assert!(received <= 1 << 20, "{received} bytes before {broken}");
    assert!(!agent.is_closed());
}

#[tokio::test]
async fn s98_every_answer_reaches_its_own_caller() {
    let field = Field::start().await;
    // Answers wait until many are there, and leave in an order of chance, in pieces of chance.
    let (asked, waiting) = mpsc::channel(CALLS);
    let script = Script::new(&field.signer, move |request, respond| {
        // The hub has questions of its own.
        if request.uri().path().starts_with("/r") {
            asked.try_send((request, respond)).unwrap();
        } else {
            reply(respond, "{}");
        }
    });
    let _agent = field.agent(script).await;
    let shuffler = tokio::spawn(shuffle(waiting));
    for round in 0..20 {
        let calls = (0..CALLS).map(|call| {
            let client = if call % 2 == 0 { field.caller() } else { field.caller().http2() };
            async move {
                let path = format!("/r{round}/{call}/{}", "x".repeat(rand::random_range(0..3_000)));
                let answer = client.get(&format!("/c1{path}")).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(answer.headers["x-asked"], path[..], "head");
                assert_eq!(answer.text(), path, "body");
            }
        });
        futures_util::future::join_all(calls).await;
    }
    shuffler.abort();
}

async fn shuffle(mut waiting: mpsc::Receiver<(Request<h2::RecvStream>, SendResponse<Bytes>)>) {
    use rand::seq::SliceRandom as _;
    loop {
        let mut batch = Vec::new();
        while batch.len() < CALLS {
            let Some((request, respond)) = waiting.recv().await else { return };
            let path = request.uri().path().to_owned();
            let head = Response::builder().header("x-asked", &path).body(()).unwrap();
            batch.push((path.into_bytes(), head, respond));
        }
        batch.shuffle(&mut rand::rng());
        let mut open: Vec<_> = batch
            .into_iter()
            .map(|(body, head, mut respond)| (body, respond.send_response(head, false).unwrap()))
            .collect();
        while !open.is_empty() {
            let at = rand::random_range(0..open.len());
            let (body, send) = &mut open[at];
            let rest = body.split_off(rand::random_range(1..=body.len()));
            let piece = std::mem::replace(body, rest);
            send.send_data(Bytes::from(piece), body.is_empty()).unwrap();
            open.retain(|(body, _)| !body.is_empty());
        }
    }
}

#[tokio::test]
async fn s99_an_agent_that_stops_reading() {
    let field = Field::start().await;
    let hub = &field.fleet.hub;
    let agent = field.agent(field.echo()).await;
    agent.stop_reading();
    let began = tokio::time::Instant::now();
    let body = vec![0; 64 << 20];
    let (get, post) = (field.caller(), field.caller());
    let other = field.fleet.client("c2");
    let calls = async { tokio::join!(get.get("/c1/mine"), post.post("/c1/mine", body)) };
    let others = async {
        for _ in 0..20 {
            assert_eq!(other.get("/c2/api/v1/pods").await.status, 200);
        }
    };
    let ((get, post), ()) = tokio::join!(calls, others);
    for answer in [get, post] {
        assert!(matches!(answer.status.as_u16(), 502..=504), "{}", answer.text());
        assert!(answer.json()["message"].as_str().unwrap().starts_with("cluster-proxy: "));
    }
    // The deadline of a head, or the ping that was not answered.
    assert!(began.elapsed() < 4 * HEAD_TIMEOUT);
    hub.wait_tunnels("c1", 0, PATIENCE).await;
}

#[tokio::test]
async fn s105_versions_of_the_tunnel() {
    let field = Field::start().await;
    let hub = &field.fleet.hub;
    let directory = field.fleet.dir.path().join("c1");
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut script = field.echo();
        change(&mut script.hello);
        script
    };
    let refused = [
        ("older than any", changed(&|hello| hello["version"] = json!(0))),
        ("no version", changed(&|hello| drop(hello.as_object_mut().unwrap().remove("version")))),
        ("text", changed(&|hello| hello["version"] = json!("1"))),
        ("negative", changed(&|hello| hello["version"] = json!(-1))),
        ("too long", changed(&|hello| hello["agent"] = json!("a".repeat(40_000)))),
        ("control characters", changed(&|hello| hello["agentVersion"] = json!("1\u{1b}[2J"))),
        ("no hello", changed(&|hello| *hello = json!("no"))),
    ];
    let mut count = 0.0;
    for (what, script) in refused {
        let mut agent = HostileAgent::start(hub.addresses.agents, &directory, script).await;
        agent.closed().await;
        let refusals = hub.metric("cluster_proxy_agents_refused_total", &["hello"]).await;
        assert!(refusals > count, "{what}");
        count = refusals;
    }
    // Two minor versions ahead, and with more to say.
    for (version, more) in [(1, "fact"), (3, "fact")] {
        let script = changed(&|hello| {
            hello["version"] = json!(version);
            hello[more] = json!([1, 2, 3]);
        });
        let agent = field.agent(script).await;
        assert_eq!(field.caller().get("/c1/mine").await.text(), "/mine");
        drop(agent);
        hub.wait_tunnels("c1", 0, PATIENCE).await;
    }
}

const CALLS: usize = 40;
