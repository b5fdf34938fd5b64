//! One JSON line per request, at its end; for a long stream one at its start too.
//!
//! Lines leave through a bounded queue and a thread of their own: a slow disk costs lines (counted),
//! never requests. A line holds no query (it may carry secrets) and no header but the
//! request id and the trace id.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use prometheus::IntCounter;
use serde::Serialize;

use super::config::AccessLog;
use crate::telemetry::trace::TraceId;

/// Where finished requests are written down. Clones share the queue.
#[derive(Clone, Debug)]
pub(crate) struct AccessLogger {
    queue: Option<SyncSender<Entry>>,
    dropped: IntCounter,
}

enum Entry {
    Line(Vec<u8>),
    /// Answered once everything before it is written.
    Flush(SyncSender<()>),
}

/// One line.
#[derive(Debug, Serialize)]
pub(crate) struct AccessLine<'a> {
    /// RFC 3339, UTC, milliseconds.
    pub(crate) time: String,
    /// `start` for the first line of a long stream, else `end`.
    pub(crate) event: &'static str,
    /// As in `X-Request-Id`.
    pub(crate) request_id: &'a str,
    /// As in `traceparent`, which the caller may have begun.
    pub(crate) trace_id: TraceId,
    /// Empty when the caller was not let in.
    pub(crate) cluster: &'a str,
    /// Who called; empty when unknown.
    pub(crate) user: &'a str,
    /// Address of the client.
    pub(crate) client: std::net::IpAddr,
    /// HTTP method.
    pub(crate) method: &'a str,
    /// Kubernetes verb.
    pub(crate) verb: &'static str,
    /// Path without query.
    pub(crate) path: &'a str,
    /// Status code.
    pub(crate) code: u16,
    /// Hop that failed, `none` otherwise.
    pub(crate) hop: &'static str,
    /// Body bytes from the client.
    pub(crate) received: u64,
    /// Body bytes to the client.
    pub(crate) sent: u64,
    /// Milliseconds since the request's head was read.
    pub(crate) duration_ms: u64,
    /// Why authentication refused, or why a stream was ended by us or broke; empty otherwise.
    pub(crate) reason: &'a str,
}

// === impl AccessLogger ===

impl AccessLogger {
    /// Opens the destination and starts the writer.
    pub(crate) fn open(destination: &AccessLog, dropped: IntCounter) -> io::Result<Self> {
        let output: Box<dyn Write + Send> = match destination {
            AccessLog::Off => return Ok(Self { queue: None, dropped }),
            AccessLog::Stdout => Box::new(io::stdout()),
            AccessLog::File(path) => {
                // Who asked for what is nobody else's business on a shared machine.
                let mut options = OpenOptions::new();
                Box::new(options.create(true).append(true).mode(0o600).open(path)?)
            }
        };
        let (sender, queue) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write(&queue, BufWriter::with_capacity(BUFFER, output)))?;
        Ok(Self { queue: Some(sender), dropped })
    }

    /// Whether lines go anywhere.
    pub(crate) fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Queues one line.
    pub(crate) fn log(&self, line: &AccessLine<'_>) {
        let Some(queue) = &self.queue else { return };
        let mut text = Vec::with_capacity(TYPICAL_LINE);
        // Invariant: a line is strings and numbers, which JSON always has.
        serde_json::to_writer(&mut text, line).expect("a line is serialisable");
        let mut text = plain(text);
        text.push(b'\n');
        if let Err(TrySendError::Full(_)) = queue.try_send(Entry::Line(text)) {
            self.dropped.inc();
        }
    }

    /// Waits until what was logged is written. Blocks: for the end of the process.
    pub(crate) fn flush(&self) {
        let Some(queue) = &self.queue else { return };
        let (done, written) = sync_channel(1);
        if queue.send(Entry::Flush(done)).is_ok() {
            // An error says that the writer is gone, and everything with it.
            let _ = written.recv_timeout(LAST_WRITE);
        }
    }
}

/// JSON leaves DEL and everything beyond ASCII as it is, and some terminals obey control characters
/// there (U+009B is `ESC [`): escaped, as JSON allows in strings, the only place that has them.
fn plain(json: Vec<u8>) -> Vec<u8> {
    if json.iter().all(|byte| *byte < DEL) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() * 2);
    for unit in String::from_utf8_lossy(&json).encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if byte < DEL => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("\\u{unit:04x}")),
        }
    }
    escaped.into_bytes()
}

const DEL: u8 = 0x7f;
/// Lines waiting for the disk: about a second at full speed.
const QUEUE: usize = 16 * 1024;
/// One write per this many bytes, or whenever the queue runs empty.
const BUFFER: usize = 64 * 1024;
/// A disk that takes longer has taken its chance.
const LAST_WRITE: Duration = Duration::from_secs(2);
/// Saves growing the line while it is written.
const TYPICAL_LINE: usize = 512;

fn write(queue: &Receiver<Entry>, mut output: impl Write) {
    // A failed write loses the lines it had; the next may succeed (a disk that was full).
    while let Ok(entry) = queue.recv() {
        for entry in std::iter::once(entry).chain(queue.try_iter()) {
            match entry {
                Entry::Line(line) => drop(output.write_all(&line)),
                Entry::Flush(done) => {
                    let _ = output.flush();
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(());
                }
            }
        }
        let _ = output.flush();
    }
}
