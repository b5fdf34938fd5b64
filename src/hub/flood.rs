//! Frames that carry nothing, bounded: the HTTP/2 library bounds resets, CONTINUATIONs and small
//! DATA, but answers every PING and SETTINGS and reads PRIORITY and unknown frames for ever
//! (CVE-2019-9512, 9515 and 9518 are such floods).
//!
//! A head in HTTP/2 has a deadline here too: the library waits for its last frame for ever.
//!
//! Only the heads of frames are looked at, on the side that we read, before the library sees them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A byte stream whose reading fails once the peer has sent too many frames that carry nothing, or
/// takes too long over the head of a request ([`io::ErrorKind::TimedOut`]).
#[derive(Debug)]
pub(crate) struct FloodGuard<IO> {
    io: IO,
    frames: Frames,
    /// From the first frame of a head to the end of its last one; `None` is for ever.
    patience: Option<Duration>,
    /// Runs while a head is under way: which one, and until when.
    late: Option<(u64, Pin<Box<Sleep>>)>,
    /// Counts what is cut here.
    hits: Hits,
}

/// Where a guard counts what it cuts.
#[derive(Debug)]
pub(crate) struct Hits {
    pub(crate) floods: IntCounter,
    pub(crate) late_heads: IntCounter,
}

/// Where in the sequence of frames the peer is, and what it may still waste.
#[derive(Debug)]
struct Frames {
    /// Bytes before the next head: of the connection's preface, or of a payload.
    skip: u32,
    head: [u8; HEAD],
    /// How much of `head` is there.
    filled: usize,
    budget: u32,
    refilled: Instant,
    /// The head of a request has begun, and its last frame has not.
    heading: bool,
    /// Heads that have begun.
    heads: u64,
}

// === impl FloodGuard ===

impl<IO> FloodGuard<IO> {
    /// The peer is the client: its preface comes first, and a head may take `patience`.
    pub(crate) fn of_client(io: IO, patience: Duration, hits: Hits) -> Self {
        Self { io, frames: Frames::new(PREFACE), patience: Some(patience), late: None, hits }
    }

    /// The peer is the server.
    pub(crate) fn of_server(io: IO, hits: Hits) -> Self {
        Self { io, frames: Frames::new(0), patience: None, late: None, hits }
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.late.as_mut().is_some_and(|(_, late)| late.as_mut().poll(cx).is_ready())
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for FloodGuard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        // First, so that a head that comes byte by byte ends as well.
        if self.is_late(cx) {
            self.hits.late_heads.inc();
            let late = io::Error::new(io::ErrorKind::TimedOut, "a head took too long");
            return Poll::Ready(Err(late));
        }
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if !self.frames.accept(&buf.filled()[before..]) {
            self.hits.floods.inc();
            let flood = io::Error::other("too many HTTP/2 frames that carry nothing");
            return Poll::Ready(Err(flood));
        }
        let head = self.frames.heads;
        if !self.frames.is_heading() {
            self.late = None;
        } else if self.late.as_ref().is_none_or(|(timed, _)| *timed != head) {
            let timer = |patience| (head, Box::pin(tokio::time::sleep(patience)));
            self.late = self.patience.map(timer);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for FloodGuard<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

// === impl Frames ===

impl Frames {
    fn new(skip: u32) -> Self {
        let refilled = Instant::now();
        Self { skip, head: [0; HEAD], filled: 0, budget: BURST, refilled, heading: false, heads: 0 }
    }

    /// Takes the next bytes of the peer; false when its budget is used up.
    fn accept(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = bytes.len().min(self.skip as usize);
                bytes = &bytes[skipped..];
                // Not more than `skip`, which is a u32.
                self.skip -= skipped as u32;
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(HEAD - self.filled));
            self.head[self.filled..self.filled + part.len()].copy_from_slice(part);
            self.filled += part.len();
            bytes = rest;
            if self.filled < HEAD {
                break;
            }
            self.filled = 0;
            let [high, middle, low, kind, flags, ..] = self.head;
            self.skip = u32::from_be_bytes([0, high, middle, low]);
            if matches!(kind, HEADERS | CONTINUATION) {
                self.heads += u64::from(kind == HEADERS);
                self.heading = flags & END_HEADERS == 0;
            }
            if carries_nothing(kind, flags, self.skip) && !self.spend() {
                return false;
            }
        }
        true
    }

    /// A head is under way: frames of it are missing, or a part of the last one.
    fn is_heading(&self) -> bool {
        let last = matches!(self.head[3], HEADERS | CONTINUATION) && self.skip > 0;
        self.heading || last
    }

    fn spend(&mut self) -> bool {
        if self.budget == 0 {
            let seconds = self.refilled.elapsed().as_secs();
            self.budget = u32::try_from(seconds)
                .map_or(BURST, |seconds| seconds.saturating_mul(PER_SECOND).min(BURST));
            self.refilled = Instant::now();
        }
        let left = self.budget.checked_sub(1);
        self.budget = left.unwrap_or(0);
        left.is_some()
    }
}

/// Whether a frame moves neither a request nor a body on. WINDOW_UPDATE does; RST_STREAM and empty
/// heads are bounded by the library.
fn carries_nothing(kind: u8, flags: u8, length: u32) -> bool {
    match kind {
        // Padding makes an empty frame look like a full one, and no client of an API pads.
        DATA => flags & PADDED != 0 || (length == 0 && flags & END_STREAM == 0),
        PRIORITY | SETTINGS | PING => true,
        kind => kind > CONTINUATION,
    }
}

/// What a peer may send at once: far more than any client does in the life of a connection.
const BURST: u32 = 1_000;
/// What it may send on and on; a client that asks for a sign of life sends one in several seconds.
const PER_SECOND: u32 = 50;

/// Length of the client's preface (RFC 9113 section 3.4).
const PREFACE: u32 = 24;
/// Length of a frame's head (RFC 9113 section 4.1).
const HEAD: usize = 9;
/// Frame types and flags (RFC 9113 section 6). CONTINUATION is the highest known.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        // The sizes of these tests.
        let length = u16::try_from(length).unwrap();
        let [high, low] = length.to_be_bytes();
        // A payload that would read as heads of PING frames.
        [&[0, high, low, kind, flags, 0, 0, 0, 1][..], &vec![PING; usize::from(length)]].concat()
    }

    fn hits() -> Hits {
        let counter = |name| IntCounter::new(name, name).unwrap();
        Hits { floods: counter("floods"), late_heads: counter("late_heads") }
    }

    fn accepts(bytes: &[u8]) -> bool {
        Frames::new(0).accept(bytes)
    }

    #[test]
    fn only_frames_that_carry_nothing_count() {
        let burst = BURST as usize;
        for nothing in [
            frame(DATA, 0, 0),
            frame(DATA, PADDED, 9),
            frame(PRIORITY, 0, 5),
            frame(SETTINGS, 0, 0),
            frame(SETTINGS, 1, 0),
            frame(PING, 0, 8),
            frame(CONTINUATION + 1, 0, 0),
            frame(255, 0, 30),
        ] {
            assert!(accepts(&nothing.repeat(burst)), "{nothing:?}");
            assert!(!accepts(&nothing.repeat(burst + 1)), "{nothing:?}");
        }
        for something in [
            frame(DATA, 0, 1),
            frame(DATA, END_STREAM, 0),
            frame(1, 0, 20),
            frame(3, 0, 4),
            frame(8, 0, 4),
            frame(CONTINUATION, 0, 40),
        ] {
            assert!(accepts(&something.repeat(burst * 3)), "{something:?}");
        }
    }

    #[test]
    fn the_preface_is_no_frame() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(PING, 0, 8).repeat(BURST as usize));
        let mut frames = Frames::new(PREFACE);
        assert!(frames.accept(&bytes));
        assert!(!frames.accept(&frame(PING, 0, 8)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_a_second_is_welcome_for_ever() {
        let mut frames = Frames::new(0);
        let second = frame(PING, 0, 8).repeat(PER_SECOND as usize);
        for _ in 0..1_000 {
            assert!(frames.accept(&second));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        // More in one go than there can be left.
        assert!(!frames.accept(&second.repeat(50)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_a_deadline_and_a_body_has_none() {
        let patience = Duration::from_secs(10);
        for (frames, works) in [
            (vec![frame(HEADERS, END_HEADERS, 20)], true),
            (vec![frame(HEADERS, 0, 20), frame(CONTINUATION, END_HEADERS, 20)], true),
            (vec![frame(HEADERS, END_HEADERS, 20), frame(DATA, 0, 30)[..20].to_vec()], true),
            (vec![frame(HEADERS, 0, 20)], false),
            (vec![frame(HEADERS, END_HEADERS, 20)[..15].to_vec()], false),
            (vec![frame(HEADERS, 0, 20), frame(CONTINUATION, 0, 20)], false),
        ] {
            let (mut near, far) = tokio::io::duplex(1 << 16);
            let mut guard = FloodGuard::of_client(far, patience, hits());
            near.write_all(&[0; PREFACE as usize]).await.unwrap();
            for bytes in &frames {
                near.write_all(bytes).await.unwrap();
            }
            let mut seen = vec![0; PREFACE as usize + frames.concat().len()];
            guard.read_exact(&mut seen).await.unwrap();
            let more = tokio::time::timeout(10 * patience, guard.read_u8()).await;
            assert_eq!(more.is_err(), works, "{frames:?}: {more:?}");
            assert_eq!(guard.hits.late_heads.get(), u64::from(!works), "{frames:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn heads_without_a_pause_are_many_heads() {
        let patience = Duration::from_secs(10);
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let mut guard = FloodGuard::of_client(far, patience, hits());
        near.write_all(&[0; PREFACE as usize]).await.unwrap();
        // Every read ends in the middle of one.
        let head = frame(HEADERS, END_HEADERS, 20);
        let turned = [&head[15..], &head[..15]].concat();
        near.write_all(&head[..15]).await.unwrap();
        guard.read_exact(&mut [0; PREFACE as usize + 15]).await.unwrap();
        for _ in 0..100 {
            tokio::time::advance(patience / 2).await;
            near.write_all(&turned).await.unwrap();
            guard.read_exact(&mut vec![0; turned.len()]).await.unwrap();
        }
    }

    proptest! {
        #[test]
        fn cuts_between_reads_change_nothing(
            kinds in prop::collection::vec((0_u8..12, 0_u8..16, 0_usize..40), 900..1_500),
            cuts in prop::collection::vec(1_usize..50, 1..20),
        ) {
            let bytes: Vec<u8> = kinds.iter().flat_map(|one| frame(one.0, one.1, one.2)).collect();
            let (mut frames, mut rest, mut good) = (Frames::new(0), &bytes[..], true);
            for cut in cuts.iter().cycle() {
                let (part, after) = rest.split_at(rest.len().min(*cut));
                good &= frames.accept(part);
                rest = after;
                if rest.is_empty() || !good {
                    break;
                }
            }
            let nothing = kinds.iter().filter(|one| {
                carries_nothing(one.0, one.1, u32::try_from(one.2).unwrap())
            });
            prop_assert_eq!(good, nothing.count() <= BURST as usize);
        }
    }
}
