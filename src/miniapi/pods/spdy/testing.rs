//! A client of SPDY for tests.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{self, Decoder, Frame};
use super::headers;

/// A client that says what a test wants, whether it makes sense or not.
pub(in crate::miniapi::pods) struct Client<IO> {
    pub(in crate::miniapi::pods) io: IO,
    decoder: Decoder,
    buffer: BytesMut,
    headers: headers::Writer,
    next: u32,
}

// === impl Client ===

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    pub(in crate::miniapi::pods) fn new(io: IO) -> Self {
        let (decoder, buffer) = (Decoder::default(), BytesMut::new());
        Self { io, decoder, buffer, headers: headers::Writer::new(), next: 1 }
    }

    async fn write(&mut self, frame: impl FnOnce(&mut BytesMut)) {
        let mut bytes = BytesMut::new();
        frame(&mut bytes);
        self.io.write_all(&bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// Opens a stream with the next number and returns that.
    pub(in crate::miniapi::pods) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let stream = self.next;
        self.open_as(stream, headers).await;
        self.next += 2;
        stream
    }

    pub(in crate::miniapi::pods) async fn open_as(
        &mut self,
        stream: u32,
        headers: &[(&str, &str)],
    ) {
        let block = self.headers.write(headers);
        self.write(|bytes| frame::open(bytes, stream, &block)).await;
    }

    pub(in crate::miniapi::pods) async fn data(&mut self, stream: u32, data: &[u8]) {
        for piece in data.chunks(frame::MAX_PIECE) {
            self.write(|bytes| frame::data(bytes, stream, piece, false)).await;
        }
    }

    pub(in crate::miniapi::pods) async fn fin(&mut self, stream: u32) {
        self.write(|bytes| frame::data(bytes, stream, &[], true)).await;
    }

    pub(in crate::miniapi::pods) async fn reset(&mut self, stream: u32) {
        self.write(|bytes| frame::reset(bytes, stream, 5)).await;
    }

    pub(in crate::miniapi::pods) async fn ping(&mut self, id: u32) {
        self.write(|bytes| frame::ping(bytes, id)).await;
    }

    /// The next frame of the server; `None` at the end of the connection.
    pub(in crate::miniapi::pods) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer).unwrap() {
                return Some(match frame {
                    Frame::Headers { stream, .. } => Event::Reply(stream),
                    Frame::Data { stream, piece, fin } => Event::Data(stream, piece, fin),
                    Frame::Reset { stream, status } => Event::Reset(stream, status),
                    Frame::Ping { id } => Event::Ping(id),
                    Frame::GoAway => Event::GoAway,
                    Frame::Open { .. } | Frame::Other => panic!("{frame:?}"),
                });
            }
            let read = self.io.read_buf(&mut self.buffer).await;
            if read.is_ok_and(|read| read > 0) {
                continue;
            }
            return None;
        }
    }

    /// Everything on each stream, until so many of them have ended.
    pub(in crate::miniapi::pods) async fn until_ended(
        &mut self,
        mut streams: usize,
    ) -> HashMap<u32, Vec<u8>> {
        let mut all: HashMap<u32, Vec<u8>> = HashMap::new();
        while streams > 0 {
            match self.next().await {
                Some(Event::Data(stream, piece, fin)) => {
                    all.entry(stream).or_default().extend_from_slice(&piece);
                    streams -= usize::from(fin);
                }
                Some(Event::Reply(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        all
    }
}

/// What a server said.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::miniapi::pods) enum Event {
    Reply(u32),
    Data(u32, Bytes, bool),
    Reset(u32, u32),
    Ping(u32),
    GoAway,
}
