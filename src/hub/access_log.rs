//! One JSON line per request, at its end; for a long stream one at its start too.
//!
//! Lines leave through a bounded queue and a thread of their own: a slow or full disk costs lines (counted),
//! never requests. A line holds no query (it may carry secrets) and no header but the
//! request id and the trace id.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// The file may have been moved: open its name again.
    moved: Arc<AtomicBool>,
    dropped: IntCounter,
}

enum Entry {
    Line(Vec<u8>),
    /// Wakes the writer.
    Look,
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
        let moved = Arc::new(AtomicBool::new(false));
        let (output, path): (Box<dyn Write + Send>, _) = match destination {
            AccessLog::Off => return Ok(Self { queue: None, moved, dropped }),
            AccessLog::Stdout => (Box::new(io::stdout()), None),
            AccessLog::File(path) => (Box::new(open(path)?), Some(path.clone())),
        };
        let (sender, queue) = sync_channel(QUEUE);
        let writer = Writer {
            output: BufWriter::with_capacity(BUFFER, output),
            path,
            moved: Arc::clone(&moved),
            dropped: dropped.clone(),
            is_refused: false,
        };
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.run(&queue))?;
        Ok(Self { queue: Some(sender), moved, dropped })
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

    /// Makes the writer open its file again by name: whoever rotates logs has moved it away. Lines
    /// that wait go to the new one.
    pub(crate) fn reopen(&self) {
        let Some(queue) = &self.queue else { return };
        self.moved.store(true, Ordering::Release);
        // Full: the writer is awake, and looks before each line.
        let _ = queue.try_send(Entry::Look);
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
/// How long lines wait for others to be written with: nobody reads a log sooner, and the queue has
/// room for what comes meanwhile.
const PAUSE: Duration = Duration::from_millis(10);
/// One write per this many bytes, or whenever the queue runs empty.
const BUFFER: usize = 64 * 1024;
/// A disk that takes longer has taken its chance.
const LAST_WRITE: Duration = Duration::from_secs(2);
/// Saves growing the line while it is written.
const TYPICAL_LINE: usize = 512;

/// The end of the queue, on a thread of its own.
struct Writer {
    output: BufWriter<Box<dyn Write + Send>>,
    /// Of a file.
    path: Option<PathBuf>,
    moved: Arc<AtomicBool>,
    dropped: IntCounter,
    /// The last line could not be written.
    is_refused: bool,
}

// === impl Writer ===

impl Writer {
    fn run(mut self, queue: &Receiver<Entry>) {
        while let Ok(entry) = queue.recv() {
            for entry in std::iter::once(entry).chain(queue.try_iter()) {
                self.look();
                match entry {
                    Entry::Line(line) => self.write(&line),
                    Entry::Look => {}
                    Entry::Flush(done) => {
                        self.flush();
                        // Whoever asked may have stopped waiting.
                        let _ = done.send(());
                    }
                }
            }
            self.flush();
            // While it sleeps, who logs a line has nobody to wake: a system call and two switches of
            // threads less per request.
            #[expect(clippy::disallowed_methods, reason = "the thread is the writer's own")]
            std::thread::sleep(PAUSE);
        }
    }

    /// A full disk loses the lines for which the buffer has no room, and says so once; what is in the
    /// buffer is tried again.
    fn write(&mut self, lines: &[u8]) {
        let Err(error) = self.output.write_all(lines) else { return };
        let lost = lines.iter().filter(|byte| **byte == b'\n').count();
        self.dropped.inc_by(lost as u64);
        if !std::mem::replace(&mut self.is_refused, true) {
            tracing::warn!(%error, "the access log cannot be written: lines are lost, and counted");
        }
    }

    /// Until this succeeds, nothing says that there is room again: a line may fit into the buffer alone.
    fn flush(&mut self) {
        if self.output.flush().is_ok() && std::mem::take(&mut self.is_refused) {
            tracing::info!("the access log is written again");
        }
    }

    /// Opens the file again where that was asked for. One that cannot be opened leaves the old.
    fn look(&mut self) {
        if !self.moved.swap(false, Ordering::AcqRel) {
            return;
        }
        let Some(path) = &self.path else { return };
        match open(path) {
            Ok(file) => {
                let _ = self.output.flush();
                let new = BufWriter::<Box<dyn Write + Send>>::with_capacity(BUFFER, Box::new(file));
                let old = std::mem::replace(&mut self.output, new);
                // Something is left where the old one took no more.
                if let (_, Ok(waiting)) = old.into_parts() {
                    let whole = whole_lines(&waiting);
                    if whole.len() < waiting.len() {
                        self.dropped.inc();
                    }
                    self.write(whole);
                }
                tracing::info!("opened the access log again");
            }
            Err(error) => {
                tracing::warn!(%error, "cannot open the access log again, writing on to the old file");
            }
        }
    }
}

/// Without the rest of a line whose beginning is elsewhere. Every line is an object.
fn whole_lines(text: &[u8]) -> &[u8] {
    if text.first() == Some(&b'{') {
        return text;
    }
    let rest = text.iter().position(|byte| *byte == b'\n');
    rest.map_or(&[], |end| &text[end + 1..])
}

fn open(path: &Path) -> io::Result<File> {
    // Who asked for what is nobody else's business on a shared machine.
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::trace::Step;

    fn line(log: &AccessLogger, path: &str) {
        log.log(&AccessLine {
            time: String::new(),
            event: "end",
            request_id: "",
            trace_id: Step::start(&http::HeaderMap::new()).trace_id(),
            cluster: "",
            user: "",
            client: [127, 0, 0, 1].into(),
            method: "GET",
            verb: "get",
            path,
            code: 200,
            hop: "none",
            received: 0,
            sent: 0,
            duration_ms: 0,
            reason: "",
        });
        log.flush();
    }

    /// `/dev/full` takes nothing, as a full disk does.
    #[cfg(target_os = "linux")]
    #[test]
    fn lines_that_a_full_disk_does_not_take_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("access.log");
        let long = "/x".repeat(2_000);
        for (is_full, target) in
            [(true, Path::new("/dev/full")), (false, &folder.path().join("room"))]
        {
            let _ = std::fs::remove_file(&name);
            std::os::unix::fs::symlink(target, &name).unwrap();
            let dropped = IntCounter::new("a", "b").unwrap();
            let log = AccessLogger::open(&AccessLog::File(name.clone()), dropped.clone()).unwrap();
            for _ in 0..40 {
                line(&log, &long);
            }
            // The buffer has room for some of them, which are tried again.
            let lost = dropped.get();
            assert_eq!((lost > 0, lost < 40), (is_full, true), "{lost} are lost");
            std::fs::remove_file(&name).unwrap();
            log.reopen();
            line(&log, "/last");
            assert_eq!(dropped.get(), lost);
            let text = std::fs::read_to_string(&name).unwrap();
            let kept = if is_full { 40 - lost } else { 0 };
            assert_eq!(text.lines().count() as u64, kept + 1);
            assert!(text.ends_with('\n') && text.contains("/last"));
        }
    }

    #[test]
    fn a_moved_file_is_opened_again_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let [name, away, parent] =
            ["logs/access.log", "logs/access.log.1", "logs"].map(|name| folder.path().join(name));
        std::fs::create_dir(&parent).unwrap();
        let destination = AccessLog::File(name.clone());
        let log = AccessLogger::open(&destination, IntCounter::new("a", "b").unwrap()).unwrap();
        let line = |path: &str| line(&log, path);
        line("/1");
        std::fs::rename(&name, &away).unwrap();
        line("/2");
        // Nobody asked yet; and what cannot be opened leaves the old one in use.
        let moved = folder.path().join("moved");
        std::fs::rename(&parent, &moved).unwrap();
        log.reopen();
        line("/3");
        std::fs::rename(&moved, &parent).unwrap();
        assert!(!name.exists());
        log.reopen();
        line("/4");
        let paths = |file: &Path| {
            let text = std::fs::read_to_string(file).unwrap();
            let path = |line: &str| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["path"].as_str().unwrap().to_owned()
            };
            text.lines().map(path).collect::<Vec<_>>()
        };
        assert_eq!(
            (paths(&away), paths(&name)),
            (vec!["/1".into(), "/2".into(), "/3".into()], vec!["/4".to_owned()])
        );
    }
}
