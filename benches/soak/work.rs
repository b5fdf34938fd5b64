//! The load: GETs on kept and new connections, watches, logs and execs, uploads, readers that stall,
//! and tokens that are refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::ensure;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::streams::Streams;
use crate::support::bodies::{digest, source_body};
use crate::support::client::{Client, empty};
use crate::support::load::Load;
use crate::support::processes::Pair;

/// Everything ends when this is dropped.
pub(crate) struct Work {
    gets: Load,
    streams: Streams,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    uploads: AtomicUsize,
    refusals: AtomicUsize,
    stalls: AtomicUsize,
    failures: Mutex<Vec<Failure>>,
}

/// Something that was answered otherwise than it should.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    #[expect(dead_code, reason = "it is printed")]
    why: String,
}

// === impl Work ===

impl Work {
    pub(crate) fn start(pair: &Pair, rate: u32) -> Self {
        let client = pair.client();
        let shared = Arc::<Shared>::default();
        let mut tasks = JoinSet::new();
        for http2 in [false, true] {
            let client = if http2 { client.http2() } else { client.clone() };
            repeat(&mut tasks, &shared, client.clone(), |shared| &shared.uploads, upload);
            repeat(&mut tasks, &shared, client.clone(), |shared| &shared.refusals, refused);
            repeat(&mut tasks, &shared, client, |shared| &shared.stalls, stall);
        }
        Self {
            gets: Load::start(&client, "/c1/version", rate),
            streams: Streams::start(&client, "c1"),
            shared,
            _tasks: tasks,
        }
    }

    pub(crate) fn answered(&self) -> usize {
        self.gets.answered()
    }

    pub(crate) fn open_streams(&self) -> usize {
        self.streams.live()
    }

    pub(crate) fn summary(&self) -> String {
        let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        let Shared { uploads, refusals, stalls, .. } = &*self.shared;
        format!(
            "{} uploads, {} tokens refused, {} readers that stalled, {} streams opened again",
            count(uploads),
            count(refusals),
            count(stalls),
            self.streams.endings().len()
        )
    }

    pub(crate) fn failures(&self) -> Vec<Failure> {
        let gets = self.gets.samples().into_iter().filter_map(|one| {
            let ended = one.began + one.took;
            one.failed.map(|why| Failure { began: one.began, ended, why })
        });
        let streams = self.streams.endings().into_iter().map(|one| {
            let why = format!("a stream ended: {:?}", one.kind);
            Failure { began: one.at, ended: one.at, why }
        });
        gets.chain(streams).chain(self.shared.failures.lock().unwrap().clone()).collect()
    }
}

/// Does `once` again and again.
fn repeat<F>(
    tasks: &mut JoinSet<()>,
    shared: &Arc<Shared>,
    client: Client,
    count: fn(&Shared) -> &AtomicUsize,
    once: fn(Client) -> F,
) where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let shared = Arc::clone(shared);
    tasks.spawn(async move {
        loop {
            let began = Instant::now();
            let done = timeout(LONG, once(client.clone())).await;
            match done.map_err(anyhow::Error::from).flatten() {
                Ok(()) => drop(count(&shared).fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    let why = format!("{error:#}");
                    let failure = Failure { began, ended: Instant::now(), why };
                    shared.failures.lock().unwrap().push(failure);
                }
            }
            sleep(PAUSE).await;
        }
    });
}

async fn upload(client: Client) -> anyhow::Result<()> {
    let sent = digest(source_body(UPLOAD)).await.unwrap();
    let request = client.request("POST", &format!("{SERVICE}/sink"), source_body(UPLOAD));
    let answer = client.open(request).await?;
    ensure!(answer.status() == 200, "an upload: {}", answer.status());
    let got: Value = serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?;
    ensure!(got["sha256"] == sent.1, "an upload: {got}");
    Ok(())
}

async fn refused(client: Client) -> anyhow::Result<()> {
    // Another one each time, so that no cache knows it.
    let bad = client.token(&format!("junk-{}", uuid::Uuid::new_v4()));
    let answer = bad.try_get("/c1/version").await?;
    ensure!(answer.status == 401, "a bad token: {} {}", answer.status, answer.text());
    Ok(())
}

/// Reads a little of an endless body, and then nothing, and goes away.
async fn stall(client: Client) -> anyhow::Result<()> {
    let answer =
        client.open(client.request("GET", &format!("{SERVICE}/firehose"), empty())).await?;
    ensure!(answer.status() == 200, "a firehose: {}", answer.status());
    let mut body = answer.into_body();
    for _ in 0..100 {
        ensure!(body.frame().await.is_some_and(|frame| frame.is_ok()), "a firehose ended");
    }
    sleep(STALLED).await;
    Ok(())
}

const SERVICE: &str = "/c1/api/v1/namespaces/default/services/x/proxy";
const UPLOAD: u64 = 1 << 20;
const PAUSE: Duration = Duration::from_millis(500);
const STALLED: Duration = Duration::from_secs(5);
/// Above the time of a tunnel that is given up.
const LONG: Duration = Duration::from_secs(30);
