//! One connection: who reads, who writes, and which streams there are.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::frame::{self, Decoder, Frame, FrameError};
use super::headers::{self, HeaderError};
use super::stream::{QUEUE, Stream};

/// Streams in the order in which the client opened them. Dropping it says goodbye: the client is told
/// to open no more, and to leave when those that are there are over.
pub(in crate::miniapi::pods) type Accepted = mpsc::Receiver<Stream>;

/// Why a connection ended other than by the client's goodbye.
#[derive(Debug, thiserror::Error)]
pub(in crate::miniapi::pods) enum SpdyError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Headers(#[from] HeaderError),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// Serves a connection: what the client opens, and the future that moves the bytes. It ends when
/// the client closes the connection, or when the client breaks the protocol; every stream is broken
/// when it is dropped.
pub(in crate::miniapi::pods) fn serve<R, W>(
    reader: R,
    writer: W,
) -> (Accepted, impl Future<Output = Result<(), SpdyError>>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (accept, accepted) = mpsc::channel(BACKLOG);
    let (queue, outgoing) = mpsc::channel(OUTGOING);
    let table = Table::default();
    let driver = async move {
        let mut incoming = Incoming {
            table: table.clone(),
            headers: headers::Reader::new(),
            accept,
            queue,
            newest: 0,
        };
        let _broken_with_us = BreakAll(table);
        let (accept, queue) = (incoming.accept.clone(), incoming.queue.clone());
        let goodbye = async {
            accept.closed().await;
            let _ = queue.send(Outgoing::GoAway).await;
            std::future::pending().await
        };
        tokio::select! {
            ended = incoming.run(reader) => ended,
            error = write(writer, outgoing) => Err(SpdyError::Io(error)),
            never = goodbye => never,
        }
    };
    (accepted, driver)
}

/// What is to be written.
#[derive(Debug)]
pub(super) enum Outgoing {
    Reply(u32),
    Data(u32, Bytes),
    Fin(u32),
    Reset(u32, u32),
    Ping(u32),
    GoAway,
}

/// The streams of a connection that are not over.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    streams: Arc<Mutex<HashMap<u32, Entry>>>,
}

#[derive(Debug)]
struct Entry {
    /// `None` after the client's half-close.
    pieces: Option<mpsc::Sender<Bytes>>,
    we_ended: bool,
    broken: Arc<AtomicBool>,
}

// === impl Table ===

impl Table {
    fn streams(&self) -> MutexGuard<'_, HashMap<u32, Entry>> {
        // No section under this lock can leave the map half changed.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Our half of a stream is closed.
    pub(super) fn we_ended(&self, id: u32) {
        self.end(id, |entry| entry.we_ended = true);
    }

    fn client_ended(&self, id: u32) {
        self.end(id, |entry| entry.pieces = None);
    }

    fn end(&self, id: u32, half: impl FnOnce(&mut Entry)) {
        let mut streams = self.streams();
        if let Some(entry) = streams.get_mut(&id) {
            half(entry);
            if entry.we_ended && entry.pieces.is_none() {
                streams.remove(&id);
            }
        }
    }

    /// Both halves are closed.
    pub(super) fn reset(&self, id: u32) {
        if let Some(entry) = self.streams().remove(&id) {
            entry.broken.store(true, Ordering::Release);
        }
    }
}

struct BreakAll(Table);

impl Drop for BreakAll {
    fn drop(&mut self) {
        for (_, entry) in self.0.streams().drain() {
            entry.broken.store(true, Ordering::Release);
        }
    }
}

struct Incoming {
    table: Table,
    headers: headers::Reader,
    accept: mpsc::Sender<Stream>,
    queue: mpsc::Sender<Outgoing>,
    /// The newest stream of the client.
    newest: u32,
}

// === impl Incoming ===

impl Incoming {
    async fn run(&mut self, mut reader: impl AsyncRead + Unpin) -> Result<(), SpdyError> {
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::with_capacity(READ));
        loop {
            while let Some(frame) = decoder.decode(&mut buffer)? {
                self.on(frame).await?;
            }
            buffer.reserve(READ);
            if reader.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn on(&mut self, frame: Frame) -> Result<(), SpdyError> {
        match frame {
            Frame::Open { stream, fin, block } => {
                let headers = self.headers.read(&block)?;
                self.open(stream, headers).await;
                if fin {
                    self.table.client_ended(stream);
                }
            }
            Frame::Headers { stream, fin, block } => {
                // The block belongs to the zlib stream, whatever it says.
                self.headers.read(&block)?;
                if fin {
                    self.table.client_ended(stream);
                }
            }
            Frame::Data { stream, piece, fin } => {
                let pieces =
                    self.table.streams().get(&stream).and_then(|entry| entry.pieces.clone());
                // Of a stream that is over, or that nobody reads any more: discarded.
                if let Some(pieces) = pieces.filter(|_| !piece.is_empty()) {
                    let _ = pieces.send(piece).await;
                }
                if fin {
                    self.table.client_ended(stream);
                }
            }
            Frame::Reset { stream, .. } => self.table.reset(stream),
            // The client counts its pings in odd numbers; others would answer ours.
            Frame::Ping { id } if id % 2 == 1 => self.write(Outgoing::Ping(id)).await,
            // Its streams go on, and it closes the connection after the last one.
            Frame::Ping { .. } | Frame::GoAway | Frame::Other => {}
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, headers: headers::Headers) {
        if id.is_multiple_of(2) || id <= self.newest {
            return self.write(Outgoing::Reset(id, frame::PROTOCOL_ERROR)).await;
        }
        self.newest = id;
        let Ok(place) = self.accept.clone().reserve_owned().await else {
            return self.write(Outgoing::Reset(id, frame::REFUSED_STREAM)).await;
        };
        let (pieces, receive) = mpsc::channel(QUEUE);
        let broken = Arc::new(AtomicBool::new(false));
        let full = {
            let mut streams = self.table.streams();
            let full = streams.len() >= MAX_STREAMS;
            if !full {
                let broken = Arc::clone(&broken);
                streams.insert(id, Entry { pieces: Some(pieces), we_ended: false, broken });
            }
            full
        };
        if full {
            return self.write(Outgoing::Reset(id, frame::REFUSED_STREAM)).await;
        }
        // First, because a client throws away what comes before the reply.
        self.write(Outgoing::Reply(id)).await;
        let (queue, table) = (self.queue.clone(), self.table.clone());
        place.send(Stream::new(id, headers, receive, queue, table, &broken));
    }

    async fn write(&self, frame: Outgoing) {
        // Nobody writes any more when the connection is about to end.
        let _ = self.queue.send(frame).await;
    }
}

/// Writes what is queued, as much as is there at once; returns only when it cannot.
async fn write<W>(mut writer: W, mut outgoing: mpsc::Receiver<Outgoing>) -> io::Error
where
    W: AsyncWrite + Unpin,
{
    let mut headers = headers::Writer::new();
    let mut buffer = BytesMut::new();
    loop {
        // The reader holds a sender, so this does not end before it.
        let Some(frame) = outgoing.recv().await else { return std::future::pending().await };
        encode(frame, &mut headers, &mut buffer);
        while buffer.len() < WRITE
            && let Ok(frame) = outgoing.try_recv()
        {
            encode(frame, &mut headers, &mut buffer);
        }
        if let Err(error) = writer.write_all_buf(&mut buffer).await {
            return error;
        }
        if outgoing.is_empty()
            && let Err(error) = writer.flush().await
        {
            return error;
        }
    }
}

fn encode(frame: Outgoing, headers: &mut headers::Writer, into: &mut BytesMut) {
    match frame {
        Outgoing::Reply(stream) => frame::reply(into, stream, &headers.write(&[])),
        Outgoing::Data(stream, piece) => frame::data(into, stream, &piece, false),
        Outgoing::Fin(stream) => frame::data(into, stream, &[], true),
        Outgoing::Reset(stream, status) => frame::reset(into, stream, status),
        Outgoing::Ping(id) => frame::ping(into, id),
        Outgoing::GoAway => frame::go_away(into),
    }
}

/// Streams at one time. A connection through port-forward takes two.
pub(super) const MAX_STREAMS: usize = 256;

/// Streams that wait for somebody to take them.
const BACKLOG: usize = 8;

/// Frames that wait to be written.
const OUTGOING: usize = 8;

/// Bytes read at once.
const READ: usize = 32 << 10;

/// Bytes after which what is queued is written, and not collected further.
const WRITE: usize = 32 << 10;
