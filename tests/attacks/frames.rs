//! HTTP/2 frames, byte by byte: what no well-behaved library would send, and what comes back.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::support::{PATIENCE, within};

/// Frame types (RFC 9113 section 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Settings (RFC 9113 section 6.5.2).
pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const MAX_FRAME_SIZE: u16 = 5;

/// Error codes (RFC 9113 section 7).
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// How the server took something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It answered, with this status.
    Status(u16),
    /// It reset the stream, with this code.
    Reset(u32),
    /// It said goodbye to the connection, with this code.
    GoAway(u32),
    /// It closed the connection without a word.
    Closed,
}

/// A client that sends what it is told to.
pub(crate) struct Peer<S> {
    stream: S,
    /// The server's limit of streams, once its SETTINGS came.
    pub(crate) max_streams: Option<u32>,
}

// === impl Frame ===

impl Frame {
    /// The error code of a RST_STREAM or GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        self.payload
            .get(at..at + 4)
            .map_or(u32::MAX, |code| u32::from_be_bytes([code[0], code[1], code[2], code[3]]))
    }

    fn setting(&self, wanted: u16) -> Option<u32> {
        self.payload.chunks_exact(6).find_map(|one| {
            let id = u16::from_be_bytes([one[0], one[1]]);
            (id == wanted).then(|| u32::from_be_bytes([one[2], one[3], one[4], one[5]]))
        })
    }
}

// === impl Outcome ===

impl Outcome {
    /// Refused in one of the ways that HTTP/2 has, or with a 400 of ours.
    pub(crate) fn is_refusal(self) -> bool {
        !matches!(self, Self::Status(code) if code != 400)
    }

    /// The connection is over.
    pub(crate) fn is_end(self) -> bool {
        matches!(self, Self::GoAway(_) | Self::Closed)
    }
}

// === impl Peer ===

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Says hello as a client that takes any amount of data. The header table has size 0, so that
    /// [`status`] needs no memory.
    pub(crate) async fn start(stream: S) -> Self {
        let mut peer = Self::silent(stream);
        let mut hello = PREFACE.to_vec();
        hello.extend(settings(&[(HEADER_TABLE_SIZE, 0), (INITIAL_WINDOW_SIZE, LARGE)]));
        hello.extend(window_update(0, LARGE));
        peer.send(&hello).await.unwrap();
        peer
    }

    /// A client that has not said anything yet.
    pub(crate) fn silent(stream: S) -> Self {
        Self { stream, max_streams: None }
    }

    /// Sends bytes. An error says that the server has closed.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        within("sending frames", PATIENCE, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        })
        .await
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        within("a frame", PATIENCE, async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.stream.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let frame = Frame { kind: head[3], flags: head[4], stream, payload };
            if frame.kind == SETTINGS && frame.setting(MAX_CONCURRENT_STREAMS).is_some() {
                self.max_streams = frame.setting(MAX_CONCURRENT_STREAMS);
            }
            Some(frame)
        })
        .await
    }

    /// What becomes of `stream`, or of the whole connection.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            let Some(frame) = self.next().await else { return Outcome::Closed };
            match frame.kind {
                HEADERS if frame.stream == stream => return Outcome::Status(status(&frame)),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(frame.code()),
                GOAWAY if frame.code() != 0 => return Outcome::GoAway(frame.code()),
                _ => {}
            }
        }
    }

    /// What ends the connection, after whatever else it still says.
    pub(crate) async fn end(&mut self) -> Outcome {
        self.outcome(NO_STREAM).await
    }

    /// Waits until the server has taken everything sent so far: its answer to a PING.
    pub(crate) async fn settled(&mut self) -> Option<()> {
        self.send(&frame(PING, 0, 0, &[7; 8])).await.ok()?;
        loop {
            let arrived = self.next().await?;
            if arrived.kind == PING && arrived.flags == ACK && arrived.payload == [7; 8] {
                return Some(());
            }
        }
    }

    /// The body of `stream`, to its end; `None` where it breaks off.
    pub(crate) async fn body(&mut self, stream: u32) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let arrived = self.next().await?;
            match arrived.kind {
                DATA if arrived.stream == stream => {
                    body.extend(&arrived.payload);
                    if arrived.flags & END_STREAM != 0 {
                        return Some(body);
                    }
                }
                RST_STREAM if arrived.stream == stream => return None,
                _ => {}
            }
        }
    }
}

/// A frame with any payload; its length is what it is.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut frame = head(length, kind, flags, stream);
    frame.extend(payload);
    frame
}

/// The head of a frame that claims `length` bytes.
pub(crate) fn head(length: u32, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    let length = length.to_be_bytes();
    let mut head = vec![length[1], length[2], length[3], kind, flags];
    head.extend(stream.to_be_bytes());
    head
}

pub(crate) fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in pairs {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

pub(crate) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// A whole HEADERS frame.
pub(crate) fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &block(fields))
}

/// A header block of literals that are neither indexed nor compressed (RFC 7541 section 6.2.2), in
/// the order given.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name.as_bytes());
        text(&mut block, value.as_bytes());
    }
    block
}

/// A literal that the receiver keeps in its table (RFC 7541 section 6.2.1).
pub(crate) fn remembered(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0x40];
    text(&mut block, name.as_bytes());
    text(&mut block, value.as_bytes());
    block
}

/// RFC 7541 section 5.2, without Huffman codes.
fn text(block: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len();
    if length < 127 {
        block.push(u8::try_from(length).unwrap());
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(u8::try_from(length % 128).unwrap() | 0x80);
            length /= 128;
        }
        block.push(u8::try_from(length).unwrap());
    }
    block.extend(text);
}

/// The status in a response's head, which comes first (RFC 9113 section 8.3).
fn status(frame: &Frame) -> u16 {
    let mut block = &frame.payload[..];
    while block[0] & 0xe0 == 0x20 {
        // A change of the table's size.
        block = &block[1..];
    }
    // Entries 8 to 14 of the static table.
    if let Some(at) = block[0].checked_sub(0x88).filter(|at| *at < 7) {
        return [200, 204, 206, 304, 400, 404, 500][usize::from(at)];
    }
    assert_eq!(block[0] & 0x0f, 8, "a literal under the name :status: {block:x?}");
    let value = &block[2..2 + usize::from(block[1] & 0x7f)];
    if block[1] & 0x80 == 0 {
        return std::str::from_utf8(value).unwrap().parse().unwrap();
    }
    // Huffman codes of digits: 5 bits for 0 to 2, then 6 bits (RFC 7541 appendix B).
    let bits = value.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    let mut left = value.len() * 8;
    let mut status = 0;
    for _ in 0..3 {
        let five = u16::try_from(bits >> (left - 5) & 0x1f).unwrap();
        let digit = if five <= 2 {
            left -= 5;
            five
        } else {
            left -= 6;
            u16::try_from(bits >> left & 0x3f).unwrap() - 0x19 + 3
        };
        status = status * 10 + digit;
    }
    status
}

const ACK: u8 = 1;
/// Never the id of a stream of ours.
const NO_STREAM: u32 = u32::MAX;
/// Window enough for every answer of a test.
const LARGE: u32 = 1 << 30;

#[test]
fn statuses_are_read_as_written() {
    let plain = |payload: &[u8]| {
        status(&Frame { kind: HEADERS, flags: 0, stream: 1, payload: payload.to_vec() })
    };
    assert_eq!(plain(&[0x20, 0x88]), 200);
    assert_eq!(plain(&[0x8d]), 404);
    assert_eq!(plain(b"\x08\x03431"), 431);
    // 302 and 307 of RFC 7541 appendix C.6.
    assert_eq!(plain(&[0x48, 0x82, 0x64, 0x02]), 302);
    assert_eq!(plain(&[0x48, 0x83, 0x64, 0x0e, 0xff]), 307);
}
