//! Watches: each reader walks the store's history at its own pace, so a slow one costs no memory
//! and learns with 410 that it was left behind.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::Instant;

use super::query::Query;
use super::resources::Resource;
use super::response::{self, Body, MiniStatus};
use super::selectors::Selector;
use super::store::{Change, Store};
use super::view::View;
use crate::drain::Drain;

/// What is watched, and how it is shown.
pub(super) struct Watch {
    /// The objects.
    pub(super) store: Store,
    /// Which resource.
    pub(super) resource: Arc<Resource>,
    /// One namespace, or all.
    pub(super) namespace: Option<String>,
    /// Which of them.
    pub(super) selector: Selector,
    /// How events show objects.
    pub(super) view: View,
    /// Ends every watch when the process stops.
    pub(super) drain: Drain,
}

struct Reader {
    watch: Watch,
    changed: Receiver<u64>,
    cursor: u64,
    ready: VecDeque<Bytes>,
    deadline: Instant,
    bookmark: Option<Instant>,
    ended: bool,
}

// === impl Watch ===

impl Watch {
    /// Starts a watch as the parameters say. Without `resourceVersion` (or with 0) it begins with
    /// what exists.
    pub(super) fn start(self, query: &Query) -> Result<Response<Body>, MiniStatus> {
        let given = query.get("resourceVersion").unwrap_or("0");
        let given: u64 = given
            .parse()
            .map_err(|_| MiniStatus::bad_request(format!("invalid resource version {given:?}")))?;
        let changed = self.store.subscribe();
        let initial = query.is_true("sendInitialEvents");
        if initial && query.get("resourceVersionMatch") != Some("NotOlderThan") {
            let why = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
                       resourceVersionMatch to NotOlderThan";
            return Err(MiniStatus::invalid("ListOptions", "", why));
        }
        let bookmarks = query.is_true("allowWatchBookmarks");
        let seconds = query.number("timeoutSeconds").unwrap_or(LONGEST).min(LONGEST);
        let now = Instant::now();
        let mut reader = Reader {
            cursor: given,
            changed,
            ready: VecDeque::new(),
            deadline: now + Duration::from_secs(seconds),
            bookmark: bookmarks.then(|| now + BOOKMARK_EVERY),
            ended: false,
            watch: self,
        };
        if initial || given == 0 {
            reader.begin(initial && bookmarks);
        }
        let frames = stream::unfold(reader, |mut reader| async move {
            let bytes = reader.next().await?;
            Some((Ok::<_, std::io::Error>(Frame::data(bytes)), reader))
        });
        let mut response = response::with_type(StatusCode::OK, "application/json", Bytes::new());
        *response.body_mut() = StreamBody::new(frames).boxed_unsync();
        Ok(response)
    }

    fn selects(&self, object: &Value) -> bool {
        let namespace = self.namespace.as_deref();
        let here = namespace.is_none_or(|wanted| super::object::namespace(object) == wanted);
        here && self.selector.matches(object)
    }

    /// What the change is to somebody who sees only what is selected.
    fn event(&self, change: &Change) -> Option<Bytes> {
        let before = change.previous.as_ref().is_some_and(|object| self.selects(object));
        let after = !change.deleted && self.selects(&change.object);
        let kind = match (before, after) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        Some(self.line(kind, &change.object))
    }

    fn line(&self, kind: &str, object: &Value) -> Bytes {
        let shown = self.view.one(&self.resource, object);
        event_line(kind, &shown)
    }
}

// === impl Reader ===

impl Reader {
    fn begin(&mut self, mark_end: bool) {
        let Resource { group, plural, .. } = &*self.watch.resource;
        let (revision, objects) =
            self.watch.store.list(group, plural, self.watch.namespace.as_deref());
        self.cursor = revision;
        let selected = objects.iter().filter(|object| self.watch.selector.matches(object));
        self.ready.extend(selected.map(|object| self.watch.line("ADDED", object)));
        if mark_end {
            self.ready.push_back(self.bookmark_line(true));
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(bytes);
            }
            if self.ended {
                return None;
            }
            // Marked seen before reading, so that a change in between wakes us again.
            self.changed.borrow_and_update();
            self.read();
            if !self.ready.is_empty() {
                continue;
            }
            let wake = self.bookmark.map_or(self.deadline, |at| at.min(self.deadline));
            tokio::select! {
                changed = self.changed.changed() => self.ended = changed.is_err(),
                () = self.watch.drain.stopping() => self.ended = true,
                () = tokio::time::sleep_until(wake) => self.on_time(),
            }
        }
    }

    fn read(&mut self) {
        let Resource { group, plural, .. } = &*self.watch.resource;
        match self.watch.store.changes(self.cursor, group, plural) {
            Ok((revision, changes)) => {
                // A revision of the future waits until the store gets there.
                self.cursor = self.cursor.max(revision);
                self.ready.extend(changes.iter().filter_map(|change| self.watch.event(change)));
            }
            Err(status) => {
                self.ready.push_back(event_line("ERROR", &status.to_value()));
                self.ended = true;
            }
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if now >= self.deadline {
            self.ended = true;
        } else {
            self.bookmark = Some(now + BOOKMARK_EVERY);
            self.ready.push_back(self.bookmark_line(false));
        }
    }

    fn bookmark_line(&self, end_of_initial: bool) -> Bytes {
        let mut object = json!({
            "apiVersion": self.watch.resource.api_version(),
            "kind": self.watch.resource.kind,
            "metadata": {"resourceVersion": self.cursor.to_string()},
        });
        if end_of_initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        self.watch.line("BOOKMARK", &object)
    }
}

fn event_line(kind: &str, object: &Value) -> Bytes {
    let mut line = json!({"type": kind, "object": object}).to_string();
    line.push('\n');
    line.into()
}

/// What kube-apiserver does about once a minute.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// Seconds after which a watch ends by itself; clients start a new one where it ended.
const LONGEST: u64 = 3600;

#[cfg(test)]
mod tests;
