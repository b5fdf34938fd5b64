//! Watches, followed logs and execs of one caller, which open again when they end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::client::{Client, empty};

/// They end when this is dropped.
pub(crate) struct Streams {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    endings: Mutex<Vec<Ending>>,
    live: [AtomicUsize; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Watch,
    Log,
    Exec,
}

/// How a stream ended.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    pub(crate) at: Instant,
    pub(crate) kind: Kind,
    /// As if it were whole.
    pub(crate) is_clean: bool,
}

// === impl Streams ===

impl Streams {
    pub(crate) fn start(client: &Client, cluster: &'static str) -> Self {
        let shared = Arc::<Shared>::default();
        let mut tasks = JoinSet::new();
        for (kind, count) in OF_EACH {
            for _ in 0..count {
                let (client, shared) = (client.clone(), Arc::clone(&shared));
                tasks.spawn(async move {
                    loop {
                        // A stream that cannot open is asked for again.
                        if let Ok(is_clean) = run(&client, cluster, kind, &shared).await {
                            let ending = Ending { at: Instant::now(), kind, is_clean };
                            shared.endings.lock().unwrap().push(ending);
                        }
                        sleep(PAUSE).await;
                    }
                });
            }
        }
        Self { shared, _tasks: tasks }
    }

    pub(crate) fn endings(&self) -> Vec<Ending> {
        self.shared.endings.lock().unwrap().clone()
    }

    /// How many are open, of all kinds.
    pub(crate) fn live(&self) -> usize {
        self.shared.live.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn live_of(&self, kind: Kind) -> usize {
        self.shared.live[kind as usize].load(Ordering::Relaxed)
    }
}

/// Until it ends: whether as if it were whole. An error where it did not open.
async fn run(client: &Client, cluster: &str, kind: Kind, shared: &Shared) -> anyhow::Result<bool> {
    let path = match kind {
        Kind::Watch => format!("/{cluster}/api/v1/configmaps?watch=true"),
        Kind::Log => format!("/{cluster}/api/v1/namespaces/default/pods/p/log?follow=true"),
        Kind::Exec => format!("/{cluster}/api/v1/namespaces/default/pods/p/exec?command=cat"),
    };
    let mut request = client.request("GET", &path, empty());
    if kind == Kind::Exec {
        request.headers_mut().insert("connection", "Upgrade".parse()?);
        request.headers_mut().insert("upgrade", "websocket".parse()?);
    }
    let answer = tokio::time::timeout(OPEN, client.open(request)).await??;
    let expected = if kind == Kind::Exec { 101 } else { 200 };
    anyhow::ensure!(answer.status() == expected, "{}", answer.status());
    let live = &shared.live[kind as usize];
    live.fetch_add(1, Ordering::Relaxed);
    let is_clean = if kind == Kind::Exec {
        let mut pipe = TokioIo::new(hyper::upgrade::on(answer).await?);
        loop {
            let mut heard = [0; 4];
            let turn = async {
                pipe.write_all(b"ping").await?;
                pipe.read_exact(&mut heard).await
            };
            if turn.await.is_err() {
                break false;
            }
            sleep(BETWEEN_PINGS).await;
        }
    } else {
        let mut body = answer.into_body();
        loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                Some(Err(_)) => break false,
                None => break true,
            }
        }
    };
    live.fetch_sub(1, Ordering::Relaxed);
    Ok(is_clean)
}

/// The load of the matrix: half of it on each of two clusters.
const OF_EACH: [(Kind, usize); 3] = [(Kind::Watch, 25), (Kind::Log, 10), (Kind::Exec, 3)];
/// Of all kinds.
pub(crate) const ALL: usize = 38;
const PAUSE: Duration = Duration::from_millis(200);
const BETWEEN_PINGS: Duration = Duration::from_millis(500);
const OPEN: Duration = Duration::from_secs(25);
