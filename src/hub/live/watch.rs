//! The ServiceAccounts of one cluster as they come and go: a watch of their metadata, through the
//! tunnel and under the agent's ServiceAccount.
//!
//! Nothing of a cluster's accounts is kept here. A list of one object gives the revision where a
//! watch can begin; whatever happened before it is told as [`Notice::Missed`], and the reviews of
//! the live tokens find out. So a spoke with a million accounts costs no more than one with ten.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::StreamExt as _;
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Spoke;
use super::metrics::{Metrics, Right};
use crate::name::ClusterName;

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Changes up to now may have gone unseen.
    Missed,
    /// A ServiceAccount changed.
    Account {
        /// `system:serviceaccount:NAMESPACE:NAME`.
        user: String,
        /// Its uid; `None` when it was deleted.
        uid: Option<String>,
    },
}

/// Why a watch ended otherwise than in its time.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("{0}")]
    Unreachable(String),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the revision is too old to go on from")]
    Gone,
    #[error("the answer is not what an API server writes")]
    Malformed,
    #[error("an object is larger than {MAX_LINE} bytes")]
    TooLarge,
    #[error("it outlived its own end")]
    Silent,
}

/// Watches for ever, and begins again wherever it breaks.
pub(super) async fn run(
    api: &dyn Spoke,
    cluster: &ClusterName,
    notices: mpsc::Sender<Notice>,
    metrics: &Metrics,
) -> Infallible {
    let mut revision = None;
    let mut failures = 0_u32;
    loop {
        let began = Instant::now();
        let ended = watch(api, cluster, &mut revision, &notices, metrics).await;
        if began.elapsed() >= SETTLED {
            failures = 0;
        }
        let mut pause = AGAIN;
        if let Err(error) = ended {
            metrics.watch_failed(cluster);
            failures = failures.saturating_add(1);
            tracing::debug!(%cluster, %error, "the watch of ServiceAccounts broke");
            if matches!(error, WatchError::Status(StatusCode::FORBIDDEN)) {
                metrics.right(cluster, Right::WatchServiceAccounts, false);
                pause = FORBIDDEN;
            } else {
                pause = AGAIN.saturating_mul(1 << failures.min(10)).min(SLOWEST);
            }
            if matches!(error, WatchError::Gone) || failures.is_multiple_of(DISTRUST) {
                revision = None;
            }
        }
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
    }
}

/// One watch, from `revision` or from now; `revision` follows it.
async fn watch(
    api: &dyn Spoke,
    cluster: &ClusterName,
    revision: &mut Option<String>,
    notices: &mpsc::Sender<Notice>,
    metrics: &Metrics,
) -> Result<(), WatchError> {
    let from = match revision {
        Some(revision) => revision.clone(),
        None => {
            let now = list(api, cluster).await?;
            *revision = Some(now.clone());
            // Fails only when nobody listens any more, and then this future is dropped as well.
            let _ = notices.send(Notice::Missed).await;
            now
        }
    };
    let path = format!(
        "{ACCOUNTS}?watch=true&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={LASTS}"
    );
    let opened = api.watch(cluster, &path, METADATA_ONLY, DEADLINE).await;
    let (status, mut chunks) =
        opened.map_err(|error| WatchError::Unreachable(error.to_string()))?;
    match status {
        StatusCode::OK => metrics.right(cluster, Right::WatchServiceAccounts, true),
        StatusCode::GONE => return Err(WatchError::Gone),
        status => return Err(WatchError::Status(status)),
    }
    let end = Instant::now() + Duration::from_secs(LASTS) + DEADLINE;
    let mut lines = Lines::default();
    while let Some(chunk) =
        tokio::time::timeout_at(end, chunks.next()).await.map_err(|_| WatchError::Silent)?
    {
        let chunk = chunk.map_err(|error| WatchError::Unreachable(error.to_string()))?;
        // A spoke that floods us pays with its own delay, not with the time of other clusters.
        tokio::time::sleep(Duration::from_secs_f64(chunk.len() as f64 / BYTES_PER_SECOND)).await;
        for event in lines.push(&chunk)? {
            let (reached, notice) = read(event)?;
            *revision = Some(reached);
            if let Some(notice) = notice {
                let _ = notices.send(notice).await;
            }
        }
    }
    Ok(())
}

/// The revision of now.
async fn list(api: &dyn Spoke, cluster: &ClusterName) -> Result<String, WatchError> {
    let path = format!("{ACCOUNTS}?limit=1");
    let answer = api.request(cluster, Method::GET, &path, None, MAX_LINE, DEADLINE).await;
    let (status, body) = answer.map_err(|error| WatchError::Unreachable(error.to_string()))?;
    if status != StatusCode::OK {
        return Err(WatchError::Status(status));
    }
    let list: Object = serde_json::from_slice(&body).map_err(|_| WatchError::Malformed)?;
    checked(list.metadata.resource_version)
}

/// What an event says, and the revision it reaches.
fn read(event: Event) -> Result<(String, Option<Notice>), WatchError> {
    let Event { kind, object } = event;
    if kind == "ERROR" {
        return Err(match object.code.map(StatusCode::from_u16) {
            Some(Ok(StatusCode::GONE)) => WatchError::Gone,
            Some(Ok(status)) => WatchError::Status(status),
            _ => WatchError::Malformed,
        });
    }
    let Metadata { name, namespace, uid, resource_version } = object.metadata;
    let reached = checked(resource_version)?;
    let uid = match kind.as_str() {
        "ADDED" | "MODIFIED" => Some(uid),
        "DELETED" => None,
        "BOOKMARK" => return Ok((reached, None)),
        _ => return Err(WatchError::Malformed),
    };
    let user = format!("system:serviceaccount:{namespace}:{name}");
    Ok((reached, Some(Notice::Account { user, uid })))
}

/// A revision goes into a path.
fn checked(revision: String) -> Result<String, WatchError> {
    let plain = (1..=MAX_REVISION).contains(&revision.len())
        && revision.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if plain { Ok(revision) } else { Err(WatchError::Malformed) }
}

/// Cuts a stream of bytes into its events, one a line.
#[derive(Default)]
struct Lines(Vec<u8>);

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Metadata,
    /// Of a `Status`.
    code: Option<u16>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
}

// === impl Lines ===

impl Lines {
    fn push(&mut self, chunk: &[u8]) -> Result<Vec<Event>, WatchError> {
        // Only what is new can end the line that waits.
        let searched = self.0.len();
        self.0.extend_from_slice(chunk);
        let Some(last) = self.0[searched..].iter().rposition(|byte| *byte == b'\n') else {
            return if self.0.len() > MAX_LINE {
                Err(WatchError::TooLarge)
            } else {
                Ok(Vec::new())
            };
        };
        let whole: Vec<u8> = self.0.drain(..=searched + last).collect();
        let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(|_| WatchError::Malformed)).collect()
    }
}

const ACCOUNTS: &str = "/api/v1/serviceaccounts";

/// Secrets that an account names and the like are nobody's business here.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Seconds after which the API server ends a watch, so that a dead one is noticed.
const LASTS: u64 = 300;

/// For heads, lists, and the end of a watch that is over.
const DEADLINE: Duration = Duration::from_secs(10);

/// Metadata of one object: 256 KiB of annotations is all that an API server takes, and who manages
/// which field may need as much.
const MAX_LINE: usize = 1024 * 1024;

/// Several thousand changes a second, far above what a cluster sees.
const BYTES_PER_SECOND: f64 = 4.0 * 1024.0 * 1024.0;

/// API servers write numbers of up to 20 digits.
const MAX_REVISION: usize = 64;

/// Pause between two watches.
const AGAIN: Duration = Duration::from_millis(500);

const SLOWEST: Duration = Duration::from_secs(30);

/// Rights are granted by people.
const FORBIDDEN: Duration = Duration::from_secs(60);

/// A watch that held so long was a good one.
const SETTLED: Duration = Duration::from_secs(30);

/// A revision from which so many watches in a row broke is not tried again.
const DISTRUST: u32 = 4;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(kind: &str, name: &str, uid: &str, revision: &str) -> Value {
        json!({"type": kind, "object": {"kind": "PartialObjectMetadata", "metadata": {
            "namespace": "apps", "name": name, "uid": uid, "resourceVersion": revision}}})
    }

    fn one(event: &Value) -> Result<(String, Option<Notice>), WatchError> {
        let mut events = Lines::default().push(format!("{event}\n").as_bytes())?;
        assert_eq!(events.len(), 1);
        read(events.remove(0))
    }

    #[test]
    fn events_are_read() {
        let user = "system:serviceaccount:apps:a".to_owned();
        let account = |uid: Option<&str>| {
            Some(Notice::Account { user: user.clone(), uid: uid.map(str::to_owned) })
        };
        assert_eq!(one(&event("ADDED", "a", "u", "7")).unwrap(), ("7".into(), account(Some("u"))));
        assert_eq!(one(&event("MODIFIED", "a", "v", "8")).unwrap().1, account(Some("v")));
        assert_eq!(one(&event("DELETED", "a", "v", "9")).unwrap().1, account(None));
        assert_eq!(one(&event("BOOKMARK", "", "", "10")).unwrap(), ("10".into(), None));
    }

    #[test]
    fn errors_and_nonsense_end_the_watch() {
        let status =
            |code: u16| json!({"type": "ERROR", "object": {"kind": "Status", "code": code}});
        assert!(matches!(one(&status(410)), Err(WatchError::Gone)));
        assert!(matches!(one(&status(500)), Err(WatchError::Status(_))));
        for nonsense in [
            json!({"type": "ERROR", "object": {}}),
            json!({"type": "GONE", "object": {"metadata": {"resourceVersion": "1"}}}),
            event("ADDED", "a", "u", ""),
            event("ADDED", "a", "u", "1&watch=false"),
            event("ADDED", "a", "u", &"1".repeat(65)),
            json!({"type": "ADDED"}),
            json!([1]),
        ] {
            assert!(matches!(one(&nonsense), Err(WatchError::Malformed)), "{nonsense}");
        }
    }

    #[test]
    fn lines_come_in_any_pieces_and_have_a_bound() {
        let text =
            format!("{}\n\n{}\n", event("ADDED", "a", "u", "1"), event("ADDED", "b", "u", "2"));
        for size in [1, 7, 64, text.len()] {
            let mut lines = Lines::default();
            let events: Vec<Event> =
                text.as_bytes().chunks(size).flat_map(|piece| lines.push(piece).unwrap()).collect();
            let names: Vec<_> = events.iter().map(|event| &event.object.metadata.name).collect();
            assert_eq!(names, ["a", "b"], "{size}");
            assert!(lines.0.is_empty());
        }
        let mut lines = Lines::default();
        assert!(lines.push(&vec![b' '; MAX_LINE]).is_ok());
        assert!(matches!(lines.push(b" "), Err(WatchError::TooLarge)));
    }
}
