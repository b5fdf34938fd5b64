//! The log of a container: one line per second, computed when somebody reads it.
//!
//! Line `n` is a function of the container's start and `n`, so a log needs no task, no buffer and
//! no lock, and an unread one costs nothing.

use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::LogOptions;
use crate::miniapi::response::Body;

/// What a container has written since it started.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pod: String,
    container: String,
    started: Instant,
    /// The same moment on the wall clock, for timestamps.
    started_at: SystemTime,
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
        }
    }

    /// What `options` asks for, as a body. A follower's body ends when `ended` does.
    pub(super) fn read(&self, options: LogOptions, ended: CancellationToken) -> Body {
        let newest = self.newest();
        let tail = options.tail_lines.map_or(u64::MAX, |lines| lines as u64);
        let reader = Reader {
            next: self.first_since(options.since_seconds).max((newest + 1).saturating_sub(tail)),
            last: if options.follow { u64::MAX } else { newest },
            left: options.limit_bytes.unwrap_or(u64::MAX),
            timestamps: options.timestamps,
            log: self.clone(),
            ended,
        };
        let pieces = stream::unfold(reader, |mut reader| async move {
            let piece = reader.read().await?;
            Some((Ok::<_, io::Error>(Frame::data(piece)), reader))
        });
        StreamBody::new(pieces).boxed_unsync()
    }

    /// Number of the newest line. Line 0 is written at the start.
    fn newest(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// First line that is kept and was written in the last so many seconds.
    fn first_since(&self, seconds: Option<u64>) -> u64 {
        let age = self.started.elapsed();
        let oldest = seconds
            .map_or(Duration::ZERO, |seconds| age.saturating_sub(Duration::from_secs(seconds)));
        // A line belongs to the window when it was written at its edge or later.
        let first = oldest.as_secs() + u64::from(oldest.subsec_nanos() > 0);
        first.max((self.newest() + 1).saturating_sub(KEPT_LINES))
    }

    fn written_at(&self, line: u64) -> Duration {
        INTERVAL.saturating_mul(u32::try_from(line).unwrap_or(u32::MAX))
    }

    fn write(&self, line: u64, timestamps: bool, into: &mut String) {
        if timestamps {
            let at = OffsetDateTime::from(self.started_at + self.written_at(line));
            // Formatting fails only for years past 9999.
            into.push_str(&at.format(&Rfc3339).unwrap_or_default());
            into.push(' ');
        }
        match line {
            0 => into
                .push_str(&format!("container {} of pod {} started\n", self.container, self.pod)),
            _ => into.push_str(&format!("tick {line}\n")),
        }
    }
}

/// One reader's place in a log.
struct Reader {
    log: Log,
    /// The line to send next.
    next: u64,
    /// The last line to send.
    last: u64,
    /// Bytes that may still be sent.
    left: u64,
    timestamps: bool,
    ended: CancellationToken,
}

// === impl Reader ===

impl Reader {
    /// The next lines; `None` at the end. Waits for them where the reader follows.
    async fn read(&mut self) -> Option<Bytes> {
        if self.next > self.last || self.left == 0 {
            return None;
        }
        let newest = self.log.newest();
        if self.next > newest {
            let due = self.log.started + self.log.written_at(self.next);
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = self.ended.cancelled() => return None,
            }
        }
        let newest = self.log.newest().min(self.last);
        // A reader that stalled finds the oldest lines gone, as in a log file that was rotated.
        self.next = self.next.max((newest + 1).saturating_sub(KEPT_LINES));
        let mut text = String::new();
        for line in self.next..=newest {
            self.log.write(line, self.timestamps, &mut text);
        }
        self.next = newest + 1;
        let mut text = text.into_bytes();
        text.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= text.len() as u64;
        Some(text.into())
    }
}

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Lines that can be read back: some 16 minutes, and at most 60 KiB in one piece.
const KEPT_LINES: u64 = 1000;

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
        assert_eq!(lines.lines().count() as u64, KEPT_LINES);
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
}
