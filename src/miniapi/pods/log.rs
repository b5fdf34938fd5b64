//! The log of a container: one line per second, computed when somebody reads it, and the lines that
//! its main program repeated.
//!
//! Line `n` of the ticks is a function of the container's start and `n`, so a log needs no task, and
//! an unread one costs nothing.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::LogOptions;
use crate::miniapi::response::Body;

/// What a container has written since it started. Clones are the same log.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pod: String,
    container: String,
    started: Instant,
    /// The same moment on the wall clock, for timestamps.
    started_at: SystemTime,
    repeated: Arc<Repeated>,
}

/// The lines that are no ticks.
#[derive(Debug, Default)]
struct Repeated {
    lines: Mutex<Lines>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Lines {
    /// Time since the start, and the text.
    kept: VecDeque<(Duration, String)>,
    /// No line will be written at this moment or before it: somebody may have read so far.
    over: Duration,
}

// === impl Log ===

impl Log {
    /// The log of a container that starts now.
    pub(super) fn start(pod: &str, container: &str) -> Self {
        Self {
            pod: pod.to_owned(),
            container: container.to_owned(),
            started: Instant::now(),
            started_at: SystemTime::now(),
            repeated: Arc::default(),
        }
    }

    /// The main program repeats a line that it read.
    pub(super) fn repeat(&self, line: &str) {
        self.with_lines(|lines| {
            // Never at a full second, so that no two lines are of the same moment.
            lines.over +=
                Duration::from_nanos(1 + u64::from(lines.over.subsec_nanos() == 999_999_999));
            lines.kept.push_back((lines.over, format!("read {line}\n")));
            if lines.kept.len() > KEPT_REPEATED {
                lines.kept.pop_front();
            }
        });
        self.repeated.changed.notify_waiters();
    }

    /// What `options` asks for, as a body. A follower's body ends when `ended` does.
    pub(super) fn read(&self, options: LogOptions, ended: CancellationToken) -> Body {
        let pieces = self.pieces(options, ended);
        StreamBody::new(pieces.map(|piece| Ok::<_, io::Error>(Frame::data(piece)))).boxed_unsync()
    }

    /// What is written from now on, until `ended`.
    pub(super) fn follow(
        &self,
        ended: CancellationToken,
    ) -> impl Stream<Item = Bytes> + Send + 'static {
        let options = LogOptions { follow: true, tail_lines: Some(0), ..LogOptions::default() };
        self.pieces(options, ended)
    }

    fn pieces(
        &self,
        options: LogOptions,
        ended: CancellationToken,
    ) -> impl Stream<Item = Bytes> + Send + 'static {
        let now = self.now();
        let age = options.since_seconds.map(Duration::from_secs);
        let mut from = age.map_or(Duration::ZERO, |age| now.saturating_sub(age));
        if let Some(tail) = options.tail_lines {
            let lines = self.between(from, now);
            let first = lines.len().saturating_sub(tail);
            from = lines.get(first).map_or(now + MOMENT, |(at, _)| *at);
        }
        let reader = Reader {
            from,
            last: if options.follow { Duration::MAX } else { now },
            left: options.limit_bytes.unwrap_or(u64::MAX),
            timestamps: options.timestamps,
            log: self.clone(),
            ended,
        };
        stream::unfold(reader, |mut reader| async move {
            let piece = reader.read().await?;
            Some((piece, reader))
        })
    }

    fn with_lines<T>(&self, act: impl FnOnce(&mut Lines) -> T) -> T {
        // No section under this lock can leave the lines half changed.
        let mut lines = self.repeated.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.over = lines.over.max(self.started.elapsed());
        act(&mut lines)
    }

    /// Now, as time since the start. Nothing will be written at this moment or before it any more.
    fn now(&self) -> Duration {
        self.with_lines(|lines| lines.over)
    }

    /// Lines of a span that are kept, with the moments they were written at; both ends belong to it.
    fn between(&self, from: Duration, to: Duration) -> Vec<(Duration, String)> {
        // A line belongs to the span when it was written at its edge.
        let first = from.as_secs() + u64::from(from.subsec_nanos() > 0);
        let newest = to.as_secs();
        let first = first.max((newest + 1).saturating_sub(KEPT_TICKS));
        let mut lines: Vec<(Duration, String)> =
            (first..=newest).map(|line| self.tick(line)).collect();
        self.with_lines(|repeated| {
            let kept = repeated.kept.iter().filter(|(at, _)| (from..=to).contains(at));
            lines.extend(kept.cloned());
        });
        lines.sort_by_key(|(at, _)| *at);
        lines
    }

    fn tick(&self, line: u64) -> (Duration, String) {
        let text = match line {
            0 => format!("container {} of pod {} started\n", self.container, self.pod),
            _ => format!("tick {line}\n"),
        };
        (Duration::from_secs(line), text)
    }

    fn stamp(&self, at: Duration) -> String {
        let at = OffsetDateTime::from(self.started_at + at);
        // Formatting fails only for years past 9999.
        at.format(&Rfc3339).unwrap_or_default()
    }
}

/// One reader's place in a log.
struct Reader {
    log: Log,
    /// The first moment to send.
    from: Duration,
    /// The last moment to send.
    last: Duration,
    /// Bytes that may still be sent.
    left: u64,
    timestamps: bool,
    ended: CancellationToken,
}

// === impl Reader ===

impl Reader {
    /// The next lines; `None` at the end. Waits for them where the reader follows.
    async fn read(&mut self) -> Option<Bytes> {
        let log = self.log.clone();
        loop {
            if self.from > self.last || self.left == 0 {
                return None;
            }
            let mut changed = pin!(log.repeated.changed.notified());
            changed.as_mut().enable();
            let now = log.now().min(self.last);
            // A reader that stalled finds the oldest lines gone, as in a log file that was rotated.
            let lines = log.between(self.from, now);
            self.from = self.from.max(now + MOMENT);
            if !lines.is_empty() {
                return Some(self.piece(&lines));
            }
            let next_tick = Duration::from_secs(now.as_secs() + 1);
            tokio::select! {
                () = tokio::time::sleep_until(log.started + next_tick) => {}
                () = changed => {}
                () = self.ended.cancelled() => return None,
            }
        }
    }

    fn piece(&mut self, lines: &[(Duration, String)]) -> Bytes {
        let mut text = String::new();
        for (at, line) in lines {
            if self.timestamps {
                text.push_str(&self.log.stamp(*at));
                text.push(' ');
            }
            text.push_str(line);
        }
        let mut text = text.into_bytes();
        text.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= text.len() as u64;
        text.into()
    }
}

/// The smallest step of time.
const MOMENT: Duration = Duration::from_nanos(1);

/// Ticks that can be read back: some 16 minutes.
const KEPT_TICKS: u64 = 1000;

/// Repeated lines that can be read back, of 1 KiB at most.
const KEPT_REPEATED: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(log: &Log, options: LogOptions) -> String {
        let body = log.read(options, CancellationToken::new());
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn options_choose_lines() {
        let log = Log::start("web", "main");
        tokio::time::advance(Duration::from_millis(5500)).await;
        let all = LogOptions::default();
        assert_eq!(
            text(&log, all).await,
            "container main of pod web started\ntick 1\ntick 2\ntick 3\ntick 4\ntick 5\n"
        );
        assert_eq!(text(&log, LogOptions { tail_lines: Some(2), ..all }).await, "tick 4\ntick 5\n");
        assert_eq!(text(&log, LogOptions { tail_lines: Some(0), ..all }).await, "");
        assert_eq!(
            text(&log, LogOptions { since_seconds: Some(2), ..all }).await,
            "tick 4\ntick 5\n"
        );
        assert_eq!(
            text(&log, LogOptions { tail_lines: Some(2), limit_bytes: Some(9), ..all }).await,
            "tick 4\nti"
        );
        let stamped = text(&log, LogOptions { tail_lines: Some(1), timestamps: true, ..all }).await;
        let (at, line) = stamped.split_once(' ').unwrap();
        assert_eq!(line, "tick 5\n");
        let at = OffsetDateTime::parse(at, &Rfc3339).unwrap();
        assert_eq!(at, OffsetDateTime::from(log.started_at + Duration::from_secs(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_is_bounded() {
        let log = Log::start("web", "main");
        tokio::time::advance(Duration::from_secs(1_000_000)).await;
        let lines = text(&log, LogOptions::default()).await;
        assert_eq!(lines.lines().count() as u64, KEPT_TICKS);
        assert!(lines.ends_with("tick 1000000\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_sees_each_line_in_its_second_and_ends_with_the_pod() {
        let log = Log::start("web", "main");
        let ended = CancellationToken::new();
        let options = LogOptions { follow: true, tail_lines: Some(0), ..LogOptions::default() };
        let mut body = log.read(options, ended.clone());
        let began = Instant::now();
        for line in 1..=3 {
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(piece, format!("tick {line}\n"));
            assert_eq!(began.elapsed().as_secs(), line);
        }
        // A reader that slept gets everything it missed in one piece.
        tokio::time::advance(Duration::from_secs(2)).await;
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(piece, "tick 4\ntick 5\n");
        ended.cancel();
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_program_read_is_in_the_log_where_it_belongs() {
        let log = Log::start("web", "main");
        tokio::time::advance(Duration::from_millis(1500)).await;
        let mut follower = log.follow(CancellationToken::new()).boxed();
        log.repeat("one");
        log.repeat("two");
        assert_eq!(follower.next().await.unwrap(), "read one\nread two\n");
        assert_eq!(follower.next().await.unwrap(), "tick 2\n");
        // At the very moment at which the follower has read already.
        log.repeat("three");
        assert_eq!(follower.next().await.unwrap(), "read three\n");
        let all = LogOptions { tail_lines: Some(5), ..LogOptions::default() };
        assert_eq!(text(&log, all).await, "tick 1\nread one\nread two\ntick 2\nread three\n");
        for _ in 0..2 * KEPT_REPEATED {
            log.repeat("much");
        }
        let lines = text(&log, LogOptions::default()).await;
        assert_eq!(lines.lines().filter(|line| *line == "read much").count(), KEPT_REPEATED);
    }
}
