//! Reads of the socket below TLS, in steps of 64 KiB: the TLS layer alone asks for a record at most, in
//! two calls.
//!
//! The buffer exists while something is in it. Thousands of idle tunnels share a hub, and one that is
//! kept would be most of what each of them costs.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// A socket that gives several TLS records per system call. Writes go straight to it.
#[derive(Debug)]
pub struct BufferedSocket<S> {
    socket: S,
    /// Read, and not yet asked for.
    left: BytesMut,
}

// === impl BufferedSocket ===

impl<S> BufferedSocket<S> {
    /// Allocates nothing yet.
    pub fn new(socket: S) -> Self {
        Self { socket, left: BytesMut::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BufferedSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left.is_empty() {
            let mut buffer = take_spare();
            let read = poll_read_buf(Pin::new(&mut self.socket), cx, &mut buffer);
            if buffer.is_empty() {
                // Nothing yet, the end, or an error.
                keep_spare(buffer);
                ready!(read)?;
                return Poll::Ready(Ok(()));
            }
            self.left = buffer;
        }
        let length = self.left.len().min(buf.remaining());
        buf.put_slice(&self.left[..length]);
        self.left.advance(length);
        if self.left.is_empty() {
            keep_spare(std::mem::take(&mut self.left));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BufferedSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

thread_local! {
    /// The buffer that nobody on this thread uses: most reads leave nothing behind, and so share it.
    static SPARE: Cell<BytesMut> = Cell::new(BytesMut::new());
}

fn take_spare() -> BytesMut {
    let mut buffer = SPARE.take();
    buffer.reserve(READ_BUFFER);
    buffer
}

/// Of an empty buffer.
fn keep_spare(mut buffer: BytesMut) {
    buffer.clear();
    SPARE.set(buffer);
}

/// Several TLS records (16 KiB) per system call.
const READ_BUFFER: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_was_read_comes_in_order_and_an_idle_one_holds_nothing() {
        let (mut far, near) = tokio::io::duplex(1 << 20);
        let (mut other_far, other_near) = tokio::io::duplex(1 << 20);
        let (mut near, mut other) = (BufferedSocket::new(near), BufferedSocket::new(other_near));
        let sent: Vec<u8> = (0..200_000_u32).map(|at| at as u8).collect();
        far.write_all(&sent).await.unwrap();
        other_far.write_all(b"another").await.unwrap();
        let mut first = [0; 10];
        near.read_exact(&mut first).await.unwrap();
        // Between two reads of the first, and with the same thread's buffer.
        let mut word = [0; 7];
        other.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"another");
        let mut rest = vec![0; sent.len() - first.len()];
        near.read_exact(&mut rest).await.unwrap();
        assert_eq!([&first[..], &rest].concat(), sent);
        assert_eq!((near.left.capacity(), other.left.capacity()), (0, 0));

        drop(far);
        assert_eq!(near.read(&mut first).await.unwrap(), 0, "the end is an end");
        near.write_all(b"back").await.unwrap_err();
        other.write_all(b"back").await.unwrap();
        let mut word = [0; 4];
        other_far.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"back");
    }
}
