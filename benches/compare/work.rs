//! What is asked of every proxy, and one round of it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::failure::Failure;
use crate::measure::{Asker, quantile};
use crate::support::client::Client;
use crate::support::process::Process;
use crate::task::Task;

/// One line of the table.
pub(crate) struct Work {
    pub(crate) name: String,
    pub(crate) task: Task,
    pub(crate) http2: bool,
    pub(crate) connections: usize,
    /// Tokens that take turns. One caller has at most 400 requests in flight in our hub's defaults.
    pub(crate) tokens: usize,
}

/// One of those that are compared.
pub(crate) struct Proxy<'a> {
    pub(crate) name: &'static str,
    pub(crate) hub: &'a [Process],
    pub(crate) agent: &'a [Process],
    pub(crate) client: Client,
    /// What comes before the path of the API server.
    pub(crate) prefix: &'static str,
    /// Good tokens, each of its own ServiceAccount.
    pub(crate) tokens: Arc<[String]>,
}

/// What one round measured.
pub(crate) struct Round {
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    /// None where there were too few requests to speak of.
    pub(crate) p99: Option<Duration>,
    /// Microseconds per request, or seconds per GiB where [`Task::is_stream`].
    pub(crate) hub: f64,
    pub(crate) agent: f64,
}

/// The whole list, the most wanted first.
pub(crate) fn all() -> Vec<Work> {
    let mut list = Vec::new();
    for (name, task) in [("get-3k7", Task::List), ("get-200k", Task::Get(200 << 10))] {
        for connections in [32, 1, 128, 512] {
            list.push(Work::new(name, task, false, connections));
        }
        list.push(Work::new(name, task, true, 32));
    }
    let many = Work::new("get-3k7", Task::List, false, 32);
    list.push(Work {
        name: format!("{}-tokens-{MANY_TOKENS}", many.name),
        tokens: MANY_TOKENS,
        ..many
    });
    list.push(Work::new("post-10k", Task::Post(10 << 10), false, 32));
    for (name, task) in [
        ("watches-200-by-50", Task::Events { pause: Duration::from_millis(20) }),
        ("exec-echo", Task::Echo),
        ("connect-full", Task::Connect { resumed: false }),
        ("connect-resumed", Task::Connect { resumed: true }),
    ] {
        let connections = if matches!(task, Task::Events { .. }) { 200 } else { 8 };
        list.push(Work::new(name, task, false, connections));
    }
    for (name, task) in
        [("download-512m", Task::Download(512 << 20)), ("upload-512m", Task::Upload(512 << 20))]
    {
        list.push(Work { name: name.to_owned(), ..Work::new(name, task, false, 1) });
        list.push(Work { name: format!("{name}-by-8"), ..Work::new(name, task, false, 8) });
    }
    list
}

// === impl Work ===

impl Work {
    fn new(name: &str, task: Task, http2: bool, connections: usize) -> Self {
        let version = if http2 { "h2" } else { "h1" };
        let name = format!("{name}-{version}-c{connections}");
        let tokens = connections.div_ceil(CONNECTIONS_PER_TOKEN);
        Self { name, task, http2, connections, tokens }
    }

    /// Opens the connections, then measures until `round` is over, or until every stream is.
    pub(crate) async fn round(&self, proxy: &Proxy<'_>, round: Duration) -> Result<Round, Failure> {
        let client = if self.http2 { proxy.client.http2() } else { proxy.client.clone() };
        let expected = self.task.expected().await;
        let opening = (0..self.connections).map(|_| Asker::connect(&client));
        let askers: Vec<_> = stream::iter(opening).buffered(OPENING).collect().await;
        let before = [cpu(proxy.hub), cpu(proxy.agent)];
        let start = Instant::now();
        let (task, end) = (self.task, start + round);
        let running: Vec<_> = askers
            .into_iter()
            .enumerate()
            .map(|(turn, asker)| {
                let tokens = Arc::clone(&proxy.tokens);
                let turns = (turn..self.tokens.max(turn + 1)).step_by(self.connections);
                let callers = turns.map(|turn| client.token(&tokens[turn % self.tokens]));
                let (callers, expected) = (callers.collect(), expected.clone());
                let running = task.run(asker, callers, proxy.prefix, expected, end);
                AbortOnDropHandle::new(tokio::spawn(running))
            })
            .collect();
        let mut latencies = Vec::new();
        for connection in running {
            let done = timeout_at(end + PATIENCE_WITH_SLOW, connection).await;
            latencies.extend(done.map_err(|_| Failure::Stalled)?.unwrap()?);
        }
        let took = start.elapsed();
        let after = [cpu(proxy.hub), cpu(proxy.agent)];
        latencies.sort_unstable();
        let requests = latencies.len() as f64;
        let unit = if self.task.is_stream() {
            requests * expected.0 as f64 / f64::from(1 << 30)
        } else {
            requests / 1e6
        };
        let each = |index: usize| (after[index] - before[index]).as_secs_f64() / unit;
        Ok(Round {
            per_second: requests / took.as_secs_f64(),
            p50: quantile(&latencies, 0.5),
            p99: (latencies.len() >= ENOUGH_FOR_P99).then(|| quantile(&latencies, 0.99)),
            hub: each(0),
            agent: each(1),
        })
    }
}

/// What the processes of one side have used.
fn cpu(side: &[Process]) -> Duration {
    side.iter().map(Process::cpu).sum()
}

/// After the end of a round, for requests under way: 512 MiB, eight times.
const PATIENCE_WITH_SLOW: Duration = Duration::from_secs(300);
/// Below what one caller may have in flight.
const CONNECTIONS_PER_TOKEN: usize = 256;
/// Callers of a large fleet, all at once.
pub(crate) const MANY_TOKENS: usize = 10_000;
/// Handshakes at a time: our hub refuses a source that begins too many at once.
const OPENING: usize = 16;
/// Ten requests beyond the quantile.
const ENOUGH_FOR_P99: usize = 1000;
