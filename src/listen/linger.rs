//! A close that does not take the last answer back.
//!
//! A kernel that closes a socket with unread input resets the connection, and a peer that still
//! writes may lose what it has not read: the 401 or 413 that would tell it to stop. So the end of
//! what we write is told first, and what the peer still writes is read and thrown away.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::activity::Activity;

/// The byte stream under HTTP/1.1, whose shutdown lingers: for [`PATIENCE`] and [`MOST`] bytes at
/// most, and as a connection that counts. One that still serves somebody, an upgraded one whose
/// other direction goes on, is only told.
#[derive(Debug)]
pub struct Lingering<IO> {
    io: IO,
    activity: Activity,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    /// Our end was told; so many bytes may still come.
    Told(usize, Pin<Box<Sleep>>),
    Over,
}

// === impl Lingering ===

impl<IO> Lingering<IO> {
    /// Around the stream of a connection that `activity` is of.
    pub fn new(io: IO, activity: Activity) -> Self {
        Self { io, activity, state: State::Open }
    }
}

impl<IO: AsyncRead + Unpin> Lingering<IO> {
    /// Ready when the peer has ended as well, or had its chance.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Told(left, late) = &mut self.state else { return Poll::Ready(()) };
        // A turn is bounded: others are waiting.
        let mut bytes = [0; PIECE];
        for _ in 0..TURN {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(()))
                    if !buffer.filled().is_empty() && buffer.filled().len() < *left =>
                {
                    *left -= buffer.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return late.as_mut().poll(cx),
            }
        }
        cx.waker().wake_by_ref();
        late.as_mut().poll(cx)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Lingering<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.state, State::Open) {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            self.state = if self.activity.is_running() {
                State::Over
            } else {
                State::Told(MOST, Box::pin(sleep(PATIENCE)))
            };
        }
        ready!(self.poll_discard(cx));
        self.state = State::Over;
        Poll::Ready(Ok(()))
    }
}

/// An answer needs a round trip to be heard, and its reader some time to stop.
const PATIENCE: Duration = Duration::from_secs(5);
/// Several times what an API server takes for an object (3 MiB).
const MOST: usize = 16 << 20;
/// Bytes of one read: a record of TLS.
const PIECE: usize = 16 << 10;
/// Reads of one turn.
const TURN: usize = 16;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;

    fn pair() -> (Lingering<DuplexStream>, DuplexStream, Activity) {
        let (ours, theirs) = duplex(1 << 10);
        let activity = Activity::new();
        (Lingering::new(ours, activity.clone()), theirs, activity)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_is_thrown_away_after_our_end_was_told() {
        let (mut ours, mut peer, _activity) = pair();
        let closing = tokio::spawn(async move { ours.shutdown().await });
        assert_eq!(peer.read(&mut [0]).await.unwrap(), 0, "it hears the end first");
        peer.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
        assert!(!closing.is_finished());
        drop(peer);
        closing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn neither_for_ever_nor_without_end() {
        let (mut ours, peer, _activity) = pair();
        let start = Instant::now();
        ours.shutdown().await.unwrap();
        assert_eq!(start.elapsed(), PATIENCE);
        drop(peer);

        let (mut ours, mut peer, _activity) = pair();
        let start = Instant::now();
        let flood = tokio::spawn(async move {
            let mut sent = 0;
            while let Ok(count) = peer.write(&[0; 1 << 10]).await {
                sent += count;
            }
            sent
        });
        ours.shutdown().await.unwrap();
        drop(ours);
        let sent = flood.await.unwrap();
        assert!((MOST..MOST + (1 << 20)).contains(&sent), "{sent}");
        assert!(start.elapsed() < PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_direction_that_goes_on_keeps_its_bytes() {
        let (mut ours, mut peer, activity) = pair();
        let running = activity.request();
        ours.shutdown().await.unwrap();
        peer.write_all(b"more").await.unwrap();
        let mut more = [0; 4];
        ours.read_exact(&mut more).await.unwrap();
        assert_eq!(&more, b"more");
        drop(running);
    }
}
