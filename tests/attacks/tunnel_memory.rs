//! What a hostile agent can make a hub keep: the part of case 97 that is measured. The hub is a process
//! of its own here, so that its memory is nobody else's.

use bytes::Bytes;
use http::Response;
use tokio::sync::mpsc;

use cluster_proxy::hub::limits::Limits;
use cluster_proxy::hub::memory::MemoryBound;

use crate::agent::{HostileAgent, Script, reply};
use crate::frames::{DATA, frame};
use crate::support::client::empty;
use crate::support::processes::Pair;
use crate::support::token::{SigningKey, claims};
use crate::support::{PATIENCE, eventually};

#[tokio::test]
async fn s97_windows_overrun_cost_no_more_than_the_budget() {
    let mut pair = Pair::start().await;
    pair.agent.kill();
    pair.hub.kill();
    pair.start_hub_with(&["--max-unread-bytes", "2MiB"]);
    let signer = SigningKey::generate("c1-key");
    let (opened, mut ids) = mpsc::channel(STREAMS);
    let mut script = Script::new(&signer, move |request, mut respond| {
        if request.uri().path() != "/watched" {
            return reply(respond, "/mine");
        }
        let id = respond.stream_id().as_u32();
        let send: h2::SendStream<Bytes> = respond.send_response(Response::new(()), false).unwrap();
        opened.try_send((id, send)).unwrap();
    });
    let namespace = pair.direct().get("/api/v1/namespaces/kube-system").await.json();
    script.uid = namespace["metadata"]["uid"].as_str().unwrap().to_owned();
    let directory = pair.directory().join("c1");
    pair.hub.wait_for("hub is listening", PATIENCE).await;
    let agent = HostileAgent::start(pair.agents, &directory, script).await;
    let caller = pair.client().token(&signer.sign(&claims("default", "test", 3600)));
    eventually("c1 is served", PATIENCE, || async {
        (caller.try_get("/c1/mine").await.ok()?.status == 200).then_some(())
    })
    .await;

    // Callers who read nothing, each on a connection of its own.
    let before = pair.hub.peak_memory();
    let mut callers = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        callers.push(caller.open(caller.request("GET", "/c1/watched", empty())).await.unwrap());
        streams.push(ids.recv().await.unwrap());
    }
    // Frames that cost most; then far more than the windows.
    for (id, _) in &streams {
        for _ in 0..2 {
            agent.send(frame(DATA, 0, *id, b"x").repeat(16_384)).await;
        }
        for _ in 0..64 {
            agent.send(frame(DATA, 0, *id, &[0; 16_384])).await;
        }
    }
    // Answered behind all of it, on the same connection.
    assert_eq!(caller.get("/c1/mine").await.status, 200);
    let grown = pair.hub.peak_memory() - before;
    let of = |limits: &Limits| MemoryBound::of(limits);
    let one = Limits {
        connections: STREAMS,
        agent_connections: 1,
        requests: STREAMS,
        uploads: 0,
        unread_bytes: 2 << 20,
        ..Limits::default()
    };
    let bound = of(&one).total() - of(&one).fixed * 5 / 4;
    assert!(grown <= bound, "grown by {} MiB, bound {} MiB", grown >> 20, bound >> 20);
    assert!(!agent.is_closed(), "the tunnel serves on");
    drop(callers);
}

/// Their windows of 256 KiB are four times the budget.
const STREAMS: usize = 32;
