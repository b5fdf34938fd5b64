//! An upgraded connection joined with a stream.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::Reason;
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::receive::ReceiveBody;
use super::send::SendHalf;
use crate::tunnel::error::{BodyError, OpenError};

/// What a byte stream carried, and how it ended.
#[derive(Debug)]
pub struct Spliced {
    /// Bytes from `io` into the stream.
    pub sent: u64,
    /// Bytes from the stream into `io`.
    pub received: u64,
    /// How it ended: `Ok` when both directions ended cleanly.
    pub end: Result<(), BodyError>,
}

/// Told what a splice carries, as it happens: one that is dropped returns no [`Spliced`].
pub trait Meter {
    /// So many bytes more went from `io` into the stream.
    fn sent(&self, bytes: u64);
    /// So many bytes more went from the stream into `io`.
    fn received(&self, bytes: u64);
}

/// Joins an upgraded connection with a stream until both directions ended.
///
/// A half-close passes and the other direction goes on. An abort does not look like an end: when
/// `io` fails (read error, a TLS connection cut without its goodbye) the stream is reset, and when
/// the stream is reset `io` is dropped without a clean shutdown. A direction that is blocked never
/// stops the other.
pub async fn splice<IO, M>(io: IO, send: SendHalf, receive: ReceiveBody, meter: &M) -> Spliced
where
    IO: AsyncRead + AsyncWrite + Unpin,
    M: Meter,
{
    let mut splice = Splice {
        io,
        send,
        receive,
        inward: Inward::Copying,
        outward: Outward::Copying { chunk: Bytes::new(), unflushed: false },
        meter,
        sent: 0,
        received: 0,
    };
    let end = poll_fn(|cx| splice.poll(cx)).await;
    if let Err(BodyError::Source(_)) = &end {
        splice.send.abort(Reason::CANCEL);
    }
    Spliced { sent: splice.sent, received: splice.received, end }
}

struct Splice<'a, IO, M> {
    io: IO,
    send: SendHalf,
    receive: ReceiveBody,
    inward: Inward,
    outward: Outward,
    meter: &'a M,
    sent: u64,
    received: u64,
}

/// From `io` into the stream.
enum Inward {
    Copying,
    Ended,
}

/// From the stream into `io`.
enum Outward {
    Copying { chunk: Bytes, unflushed: bool },
    ShuttingDown,
    Ended,
}

// === impl Splice ===

impl<IO: AsyncRead + AsyncWrite + Unpin, M: Meter> Splice<'_, IO, M> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let inward = self.poll_inward(cx)?;
        let outward = self.poll_outward(cx)?;
        if inward.is_ready() && outward.is_ready() {
            return Poll::Ready(Ok(()));
        }
        // Last, because waiting for window and waiting for a reset share one registration; and
        // needed, because neither direction sees a reset while it waits for `io`.
        if let Poll::Ready(error) = self.send.poll_reset(cx) {
            let error = if self.receive.is_cut() { OpenError::Unread } else { error };
            return Poll::Ready(Err(BodyError::Stream(error)));
        }
        Poll::Pending
    }

    fn poll_inward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while matches!(self.inward, Inward::Copying) {
            ready!(self.send.poll_ready(cx)).map_err(BodyError::Stream)?;
            let (chunk, eof) =
                ready!(poll_read_batch(Pin::new(&mut self.io), cx)).map_err(source)?;
            let read = chunk.len() as u64;
            self.sent += read;
            self.meter.sent(read);
            self.send.push(chunk).map_err(BodyError::Stream)?;
            if eof {
                self.send.end(None).map_err(BodyError::Stream)?;
                self.inward = Inward::Ended;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_outward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        loop {
            match &mut self.outward {
                Outward::Copying { chunk, unflushed } if chunk.is_empty() => {
                    match Pin::new(&mut self.receive).poll_frame(cx) {
                        Poll::Ready(Some(Ok(frame))) => {
                            // Trailers have no meaning in a byte stream.
                            *chunk = frame.into_data().unwrap_or_default();
                        }
                        Poll::Ready(Some(Err(error))) => return stream_failed(error),
                        Poll::Ready(None) => self.outward = Outward::ShuttingDown,
                        Poll::Pending => {
                            if *unflushed {
                                ready!(Pin::new(&mut self.io).poll_flush(cx)).map_err(source)?;
                                *unflushed = false;
                            }
                            return Poll::Pending;
                        }
                    }
                }
                Outward::Copying { chunk, unflushed } => {
                    let written =
                        ready!(Pin::new(&mut self.io).poll_write(cx, chunk)).map_err(source)?;
                    if written == 0 {
                        return Poll::Ready(Err(source(io::ErrorKind::WriteZero.into())));
                    }
                    chunk.advance(written);
                    *unflushed = true;
                    self.received += written as u64;
                    self.meter.received(written as u64);
                }
                Outward::ShuttingDown => {
                    ready!(Pin::new(&mut self.io).poll_shutdown(cx)).map_err(source)?;
                    self.outward = Outward::Ended;
                }
                Outward::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Reads what is there, up to a batch: TLS gives one record per read. The second value says that
/// the end was seen after these bytes. The buffer lives only during the call, so an idle session
/// holds none.
fn poll_read_batch<IO>(
    mut io: Pin<&mut IO>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<(Bytes, bool)>>
where
    IO: AsyncRead,
{
    let mut storage = [const { MaybeUninit::<u8>::uninit() }; READ_BATCH];
    let mut buf = ReadBuf::uninit(&mut storage);
    let mut eof = false;
    while buf.remaining() > 0 && !eof {
        let before = buf.filled().len();
        match io.as_mut().poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => eof = buf.filled().len() == before,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending if before == 0 => return Poll::Pending,
            Poll::Pending => break,
        }
    }
    Poll::Ready(Ok((Bytes::copy_from_slice(buf.filled()), eof)))
}

fn source(error: io::Error) -> BodyError {
    BodyError::Source(error.into())
}

fn stream_failed(error: OpenError) -> Poll<Result<(), BodyError>> {
    Poll::Ready(Err(BodyError::Stream(error)))
}

/// Two TLS records: one DATA frame and one write instead of many, and small enough for the stack.
const READ_BATCH: usize = 32 * 1024;
