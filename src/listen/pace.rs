//! Deadlines of an HTTP connection that is not serving anybody: the head that never ends, and the
//! connection that is kept for nothing. Requests and their bodies have no deadline here.
//!
//! hyper has one timer for both, which would cut an idle connection as fast as a slow head.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::activity::Activity;

/// How long a connection may take to say what it wants.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From the first byte of a head to its end.
    pub head: Duration,
    /// From the end of an answer to the first byte of the next head.
    pub idle: Duration,
}

/// The byte stream under HTTP/1.1, or under HTTP/2 until its preface has come. A head that is late
/// is an error ([`io::ErrorKind::TimedOut`]); a connection idle for too long looks ended by its
/// peer, so that HTTP closes it in good order.
#[derive(Debug)]
pub struct Paced<IO> {
    io: IO,
    activity: Activity,
    deadlines: Deadlines,
    phase: Phase,
    /// Requests when the phase began: a request may come and go between two reads.
    seen: u64,
    due: Instant,
    /// Fires no later than `due`; moved only when it must be, not for every request.
    timer: Pin<Box<Sleep>>,
    /// The peer has not taken all of what we wrote.
    blocked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Head,
    Serving,
    /// This many bytes of the preface of HTTP/2 have not come.
    Preface(usize),
    /// HTTP/2 goes on by itself.
    Through,
}

// === impl Paced ===

impl<IO> Paced<IO> {
    /// Under HTTP/1.1.
    pub fn http1(io: IO, activity: Activity, deadlines: Deadlines) -> Self {
        Self::new(io, activity, deadlines, Phase::Idle)
    }

    /// Under HTTP/2: the preface counts as a head, and what follows is the business of
    /// [`Activity::idle`] and of pings.
    pub fn http2(io: IO, activity: Activity, deadlines: Deadlines) -> Self {
        Self::new(io, activity, deadlines, Phase::Preface(PREFACE))
    }

    fn new(io: IO, activity: Activity, deadlines: Deadlines, phase: Phase) -> Self {
        let first = if phase == Phase::Idle { deadlines.idle } else { deadlines.head };
        let due = Instant::now() + first;
        let timer = Box::pin(sleep_until(due));
        Self { io, activity, deadlines, phase, seen: 0, due, timer, blocked: false }
    }

    fn enter(&mut self, phase: Phase, patience: Duration) {
        self.phase = phase;
        self.seen = self.activity.started();
        self.due = Instant::now() + patience;
    }

    /// Bytes came.
    fn got(&mut self, count: usize) {
        match self.phase {
            Phase::Through => {}
            Phase::Preface(left) if count >= left => self.phase = Phase::Through,
            Phase::Preface(left) => self.phase = Phase::Preface(left - count),
            _ if self.activity.is_running() => self.phase = Phase::Serving,
            Phase::Head if self.seen == self.activity.started() => {}
            _ => self.enter(Phase::Head, self.deadlines.head),
        }
    }

    /// No bytes came: is somebody late? `Ok` is the end of an idle connection.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.phase {
            Phase::Through => return Poll::Pending,
            Phase::Preface(_) => {}
            _ if self.activity.is_running() => {
                self.phase = Phase::Serving;
                return Poll::Pending;
            }
            Phase::Idle | Phase::Head if self.seen == self.activity.started() => {}
            _ => self.enter(Phase::Idle, self.deadlines.idle),
        }
        if self.due < self.timer.deadline() {
            self.timer.as_mut().reset(self.due);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if Instant::now() >= self.due {
                if self.phase != Phase::Idle {
                    self.activity.head_is_late();
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                if !self.blocked {
                    return Poll::Ready(Ok(()));
                }
                // A slow reader still has an answer to take.
                self.due = Instant::now() + self.deadlines.idle;
            }
            self.timer.as_mut().reset(self.due);
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Paced<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buffer) {
            Poll::Ready(result) => {
                match buffer.filled().len() - before {
                    0 => {}
                    count => this.got(count),
                }
                Poll::Ready(result)
            }
            Poll::Pending => this.poll_late(cx),
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Paced<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.blocked = written.is_pending();
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.blocked = written.is_pending();
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.blocked = flushed.is_pending();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Bytes of the client connection preface (RFC 9113 section 3.4).
const PREFACE: usize = 24;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    const DEADLINES: Deadlines =
        Deadlines { head: Duration::from_secs(10), idle: Duration::from_secs(180) };

    fn http1() -> (Paced<DuplexStream>, DuplexStream, Activity) {
        let (ours, theirs) = tokio::io::duplex(64);
        let activity = Activity::new();
        (Paced::http1(ours, activity.clone(), DEADLINES), theirs, activity)
    }

    /// Reads one byte; how long it took and what came.
    async fn read(io: &mut Paced<DuplexStream>) -> (u64, io::Result<Option<u8>>) {
        let start = Instant::now();
        let mut byte = [0];
        let got = io.read(&mut byte).await.map(|count| (count == 1).then_some(byte[0]));
        (start.elapsed().as_secs(), got)
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_ten_seconds_from_its_first_byte() {
        let (mut io, mut peer, activity) = http1();
        tokio::time::sleep(Duration::from_secs(100)).await;
        peer.write_all(b"G").await.unwrap();
        assert_eq!(read(&mut io).await.1.unwrap(), Some(b'G'));
        // A byte now and then does not buy time.
        tokio::time::sleep(Duration::from_secs(9)).await;
        peer.write_all(b"E").await.unwrap();
        assert_eq!(read(&mut io).await.1.unwrap(), Some(b'E'));
        let (after, late) = read(&mut io).await;
        assert_eq!((after, late.unwrap_err().kind()), (1, io::ErrorKind::TimedOut));
        assert!(activity.head_was_late());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_in_good_order() {
        let (mut io, _peer, activity) = http1();
        let (after, end) = read(&mut io).await;
        assert_eq!((after, end.unwrap()), (180, None));
        assert!(!activity.head_was_late());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_may_take_for_ever_and_each_head_starts_anew() {
        let (mut io, mut peer, activity) = http1();
        for _ in 0..3 {
            peer.write_all(b"G").await.unwrap();
            assert_eq!(read(&mut io).await.1.unwrap(), Some(b'G'));
            let running = activity.request();
            let quiet = tokio::time::timeout(Duration::from_secs(86_400), read(&mut io)).await;
            assert!(quiet.is_err(), "nobody is late while a request runs");
            drop(running);
        }
        // A request that was over before anybody looked is none that is still to come.
        peer.write_all(b"G").await.unwrap();
        assert_eq!(read(&mut io).await.1.unwrap(), Some(b'G'));
        drop(activity.request());
        let (after, end) = read(&mut io).await;
        assert_eq!((after, end.unwrap()), (180, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_not_idle() {
        let (mut io, mut peer, activity) = http1();
        drop(activity.request());
        let full = tokio::time::timeout(Duration::from_secs(1), io.write_all(&[0; 100])).await;
        assert!(full.is_err());
        let quiet = tokio::time::timeout(Duration::from_secs(3_600), read(&mut io)).await;
        assert!(quiet.is_err());
        let mut taken = [0; 64];
        peer.read_exact(&mut taken).await.unwrap();
        io.write_all(b"x").await.unwrap();
        let (after, end) = read(&mut io).await;
        assert!(after <= 180 && end.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_preface_has_a_deadline_and_what_follows_has_none() {
        for (bytes, ends) in [(23, true), (24, false)] {
            let (ours, mut peer) = tokio::io::duplex(64);
            let mut io = Paced::http2(ours, Activity::new(), DEADLINES);
            peer.write_all(&vec![0; bytes]).await.unwrap();
            io.read_exact(&mut vec![0; bytes]).await.unwrap();
            let quiet = tokio::time::timeout(Duration::from_secs(3_600), read(&mut io)).await;
            assert_eq!(quiet.is_ok(), ends, "{bytes}");
        }
    }
}
