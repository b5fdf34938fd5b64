//! Attacks written byte by byte in HTTP/1.1. An entry is what is sent, what must come of it at both
//! ends, and the request that differs in one thing and works.
//!
//! In the bytes, `{path}` is a target of cluster `c1` that no other entry uses, and `{bearer}` a good
//! `Authorization` value for it.

mod bodies;
mod differences;
mod framing;
mod lines;
mod second;
mod wire;

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;

use self::wire::{Answer, Wire};
use crate::ground::{Arrived, Ground, path};

/// One attack.
#[derive(Clone)]
pub(crate) struct Entry {
    /// Number in the list of attacks.
    pub(crate) case: u32,
    /// What is sent.
    pub(crate) attack: String,
    pub(crate) want: Want,
    /// What differs in one thing, and comes through as a whole.
    pub(crate) paired: String,
}

/// What must come of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// No head was read: 400 without a body of note or nothing at all, and the connection ends.
    /// Nothing comes to the API server.
    Malformed,
    /// A `Status` with this code, and nothing comes to the API server.
    Status(u16),
    /// The head may be under way already, but never comes to an end at the API server; the connection
    /// ends.
    Cut,
    /// Exactly one request comes to the API server, with this body in a framing of our own.
    One(&'static str),
}

/// Runs `entries` one after the other, and shows every one that fails.
pub(crate) async fn run(ground: &Ground, entries: &[Entry]) {
    let mut failed = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let name = format!("s{}-{index}", entry.case);
        let checked = AssertUnwindSafe(check(ground, entry, &name)).catch_unwind().await;
        if checked.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}: see above");
}

/// What came back on one connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// To the attack, then to the canary.
    pub(crate) answers: Vec<Answer>,
    /// What followed until the connection ended.
    pub(crate) rest: Vec<u8>,
}

async fn check(ground: &Ground, entry: &Entry, name: &str) {
    let shown = format!("{name}: {:?}", entry.attack);
    let answers = ours(ground, &entry.attack, name).await;
    judge(ground, entry.want, name, &answers, &shown);

    let paired = format!("{name}-paired");
    let answers = ours(ground, &entry.paired, &paired).await;
    let shown = format!("{paired}: {:?}", entry.paired);
    assert_eq!(answers.first().map(|answer| answer.status), Some(200), "{shown}: {answers:?}");
    assert_eq!((ground.reached(&paired), ground.complete(&paired)), (1, 1), "{shown}");
    // Nothing of an attack comes later either.
    judge(ground, entry.want, name, &[], &shown);
}

/// An exchange with our front, after which every answer belongs to its request.
async fn ours(ground: &Ground, bytes: &str, name: &str) -> Vec<Answer> {
    let Exchange { answers, rest } =
        exchange(Wire::start(ground).await, bytes, name, &ground.bearer).await;
    assert_eq!(rest, b"", "{name}: after {answers:?}");
    if let Some(answer) = answers.get(1) {
        assert_eq!(answer.status, 200, "{name}: out of step: {answer:?}");
        assert!(in_step(&ground.arrived(&canary(name))), "{name}: out of step");
    }
    answers
}

/// Sends `bytes`, then an innocent request if the connection lets it: the canary. Whatever a body
/// hid would be answered in between. A body that broke ends the connection after its answer,
/// unannounced.
pub(crate) async fn exchange(mut wire: Wire, bytes: &str, name: &str, bearer: &str) -> Exchange {
    wire.send(&fill(bytes, &path(name), bearer)).await;
    let mut answers = Vec::from_iter(wire.answer().await);
    if answers.first().is_some_and(|answer| !answer.is_last()) {
        wire.send(&fill(CANARY, &path(&canary(name)), bearer)).await;
        answers.extend(wire.answer().await);
    }
    Exchange { answers, rest: wire.rest().await }
}

/// The canary of `name` in a list of requests.
pub(crate) fn canary(name: &str) -> String {
    format!("{name}-canary")
}

/// Whether a canary arrived once, and as it was sent.
pub(crate) fn in_step(arrived: &[Arrived]) -> bool {
    matches!(arrived, [canary] if canary.method == "GET")
}

/// `answers` is empty when only the far end is looked at.
fn judge(ground: &Ground, want: Want, name: &str, answers: &[Answer], shown: &str) {
    let (reached, arrived) = (ground.reached(name), ground.arrived(name));
    match want {
        Want::Malformed | Want::Status(_) => assert_eq!(reached, 0, "{shown}: {answers:?}"),
        Want::Cut => assert!(arrived.is_empty(), "{shown}: {answers:?}: {arrived:?}"),
        Want::One(body) => {
            assert_eq!((reached, arrived.len()), (1, 1), "{shown}: {answers:?}: {arrived:?}");
            whole(&arrived[0], body, shown);
        }
    }
    let Some(answer) = answers.first() else { return };
    match want {
        Want::Malformed => {
            assert!([400, 414, 431].contains(&answer.status), "{shown}: {answer:?}");
            assert!(answer.is_last(), "{shown}: {answer:?}");
        }
        Want::Status(code) => {
            assert_eq!(answer.status, code, "{shown}: {answer:?}");
            assert_eq!(answer.json()["kind"], "Status", "{shown}: {answer:?}");
            assert_eq!(answer.json()["code"], code, "{shown}: {answer:?}");
        }
        Want::Cut => {
            assert!((400..=599).contains(&answer.status), "{shown}: {answer:?}");
            assert_eq!(answers.len(), 1, "{shown}: the connection goes on: {answers:?}");
        }
        Want::One(_) => assert_eq!(answer.status, 200, "{shown}: {answer:?}"),
    }
}

/// One body, and nothing in the head that could frame it otherwise.
fn whole(arrived: &Arrived, body: &str, shown: &str) {
    assert_eq!(arrived.body, body, "{shown}");
    assert!(!arrived.headers.contains_key("transfer-encoding"), "{shown}: {arrived:?}");
    let lengths: Vec<_> = arrived.headers.get_all("content-length").into_iter().collect();
    assert!(lengths.len() <= 1, "{shown}: {arrived:?}");
    assert!(
        lengths.iter().all(|length| *length == &body.len().to_string()),
        "{shown}: {arrived:?}"
    );
    assert!(arrived.trailers.is_none(), "{shown}: {arrived:?}");
}

pub(crate) fn fill(bytes: &str, path: &str, bearer: &str) -> Vec<u8> {
    bytes.replace("{path}", path).replace("{bearer}", bearer).into_bytes()
}

/// A POST whose head goes on with `rest`, which holds the empty line and the body too.
pub(crate) fn post(rest: &str) -> String {
    format!("POST {{path}} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {{bearer}}\r\n{rest}")
}

/// A GET, as [`post`].
pub(crate) fn get(rest: &str) -> String {
    post(rest).replacen("POST", "GET", 1)
}

const CANARY: &str = "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {bearer}\r\nConnection: close\r\n\r\n";
