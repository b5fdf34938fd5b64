//! SPDY/3.1 frames to and from bytes. Pure.
//!
//! ```text
//!  control: 1 | version:15 | type:16 | flags:8 | length:24 | payload
//!  data:    0 | stream:31            | flags:8 | length:24 | payload
//! ```
//!
//! Source: SPDY Protocol, draft 3.1, section 2.2.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// SYN_STREAM: the client opens a stream.
    Open { stream: u32, fin: bool, block: Bytes },
    /// SYN_REPLY or HEADERS: headers on a stream that is there.
    Headers { stream: u32, fin: bool, block: Bytes },
    /// RST_STREAM.
    Reset { stream: u32, status: u32 },
    /// PING.
    Ping { id: u32 },
    /// GOAWAY: no further streams.
    GoAway,
    /// SETTINGS, WINDOW_UPDATE and what else has no use here (see the module above).
    Other,
    /// A piece of a data frame; `fin` with the last one of a stream.
    Data { stream: u32, piece: Bytes, fin: bool },
}

/// Why bytes are no frames. The connection is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::miniapi::pods) enum FrameError {
    #[error("the client speaks version {0} of SPDY, not 3")]
    Version(u16),
    #[error("a control frame of {0} bytes")]
    TooLong(usize),
    #[error("a control frame of type {0} has another length than its type")]
    Length(u16),
    #[error("stream 0 cannot be used")]
    StreamZero,
}

/// Finds frames in what was received. A data frame comes in pieces, so that its length (16 MiB at
/// most) costs no memory.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    data: Option<Rest>,
}

/// What is missing of a data frame.
#[derive(Debug)]
struct Rest {
    stream: u32,
    length: usize,
    fin: bool,
}

// === impl Decoder ===

impl Decoder {
    /// Takes one frame, or a piece of one, from the front of `buffer`; `None` when more is needed.
    ///
    /// # Errors
    /// [`FrameError`]; nothing that follows can be understood then.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let Some(rest) = &mut self.data {
            if buffer.is_empty() {
                return Ok(None);
            }
            let piece = buffer.split_to(rest.length.min(buffer.len()).min(MAX_PIECE)).freeze();
            rest.length -= piece.len();
            let (stream, whole) = (rest.stream, rest.length == 0);
            let fin = whole && rest.fin;
            if whole {
                self.data = None;
            }
            return Ok(Some(Frame::Data { stream, piece, fin }));
        }
        let Some(mut head) = buffer.get(..HEAD) else { return Ok(None) };
        let (first, second) = (head.get_u32(), head.get_u32());
        let (flags, length) = ((second >> 24) as u8, (second & 0xff_ffff) as usize);
        if first & CONTROL != 0 {
            return control(buffer, first, flags, length);
        }
        buffer.advance(HEAD);
        let (stream, fin) = (nonzero(first)?, flags & FIN != 0);
        if length == 0 {
            return Ok(Some(Frame::Data { stream, piece: Bytes::new(), fin }));
        }
        self.data = Some(Rest { stream, length, fin });
        self.decode(buffer)
    }
}

fn control(
    buffer: &mut BytesMut,
    first: u32,
    flags: u8,
    length: usize,
) -> Result<Option<Frame>, FrameError> {
    let (version, kind) = ((first >> 16 & 0x7fff) as u16, (first & 0xffff) as u16);
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    if length > MAX_CONTROL {
        return Err(FrameError::TooLong(length));
    }
    if buffer.len() < HEAD + length {
        return Ok(None);
    }
    buffer.advance(HEAD);
    let mut payload = buffer.split_to(length).freeze();
    let wrong = |_| FrameError::Length(kind);
    let fin = flags & FIN != 0;
    Ok(Some(match kind {
        SYN_STREAM => {
            let stream = nonzero(payload.try_get_u32().map_err(wrong)? & !CONTROL)?;
            // The stream it belongs to, its priority and its slot: all without use here.
            if payload.len() < 6 {
                return Err(FrameError::Length(kind));
            }
            Frame::Open { stream, fin, block: payload.slice(6..) }
        }
        SYN_REPLY | HEADERS => {
            let stream = nonzero(payload.try_get_u32().map_err(wrong)? & !CONTROL)?;
            Frame::Headers { stream, fin, block: payload }
        }
        RST_STREAM => {
            let stream = nonzero(payload.try_get_u32().map_err(wrong)? & !CONTROL)?;
            Frame::Reset { stream, status: payload.try_get_u32().map_err(wrong)? }
        }
        PING => Frame::Ping { id: payload.try_get_u32().map_err(wrong)? },
        GOAWAY => Frame::GoAway,
        _ => Frame::Other,
    }))
}

fn nonzero(stream: u32) -> Result<u32, FrameError> {
    if stream == 0 { Err(FrameError::StreamZero) } else { Ok(stream) }
}

/// Writes a data frame. `piece` is at most [`MAX_PIECE`] long.
pub(super) fn data(into: &mut BytesMut, stream: u32, piece: &[u8], fin: bool) {
    debug_assert!(piece.len() <= MAX_PIECE);
    into.reserve(HEAD + piece.len());
    into.put_u32(stream);
    into.put_u32(if fin { u32::from(FIN) << 24 } else { 0 } | piece.len() as u32);
    into.put_slice(piece);
}

/// Writes SYN_REPLY.
pub(super) fn reply(into: &mut BytesMut, stream: u32, block: &[u8]) {
    head(into, SYN_REPLY, 4 + block.len());
    into.put_u32(stream);
    into.put_slice(block);
}

/// Writes RST_STREAM.
pub(super) fn reset(into: &mut BytesMut, stream: u32, status: u32) {
    head(into, RST_STREAM, 8);
    into.put_u32(stream);
    into.put_u32(status);
}

/// Writes PING.
pub(super) fn ping(into: &mut BytesMut, id: u32) {
    head(into, PING, 4);
    into.put_u32(id);
}

/// Writes GOAWAY without a complaint. All streams that are there are good.
pub(super) fn go_away(into: &mut BytesMut) {
    head(into, GOAWAY, 8);
    into.put_u32(!CONTROL);
    into.put_u32(0);
}

fn head(into: &mut BytesMut, kind: u16, length: usize) {
    into.reserve(HEAD + length);
    into.put_u32(CONTROL | u32::from(VERSION) << 16 | u32::from(kind));
    into.put_u32(length as u32);
}

const CONTROL: u32 = 1 << 31;
const VERSION: u16 = 3;
const HEAD: usize = 8;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Status of RST_STREAM: the peer broke a rule.
pub(super) const PROTOCOL_ERROR: u32 = 1;
/// Status of RST_STREAM: nothing was done with the stream.
pub(super) const REFUSED_STREAM: u32 = 3;

/// Nobody wants the stream any more.
pub(super) const CANCEL: u32 = 5;

/// Bytes of data that are handled at once.
pub(super) const MAX_PIECE: usize = 16 << 10;

/// Bytes of a control frame: a header block and little else.
pub(super) const MAX_CONTROL: usize = 16 << 10;

/// Writes SYN_STREAM, as a client does.
#[cfg(test)]
pub(super) fn open(into: &mut BytesMut, stream: u32, block: &[u8]) {
    head(into, SYN_STREAM, 10 + block.len());
    into.put_u32(stream);
    into.put_slice(&[0; 6]);
    into.put_slice(block);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::from(bytes));
        let mut frames = Vec::new();
        while let Some(frame) = decoder.decode(&mut buffer)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn frames_of_a_client() {
        let mut bytes = BytesMut::new();
        open(&mut bytes, 1, b"block");
        data(&mut bytes, 1, b"hello", false);
        data(&mut bytes, 1, b"", true);
        ping(&mut bytes, 5);
        reset(&mut bytes, 1, 5);
        go_away(&mut bytes);
        let piece = |text: &'static [u8], fin| {
            let piece = Bytes::from_static(text);
            Frame::Data { stream: 1, piece, fin }
        };
        let wanted = [
            Frame::Open { stream: 1, fin: false, block: Bytes::from_static(b"block") },
            piece(b"hello", false),
            piece(b"", true),
            Frame::Ping { id: 5 },
            Frame::Reset { stream: 1, status: 5 },
            Frame::GoAway,
        ];
        assert_eq!(all(&bytes).unwrap(), wanted);
    }

    #[test]
    fn what_is_no_frame() {
        let good = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
        assert_eq!(all(&good).unwrap(), [Frame::Ping { id: 1 }]);
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            all(&bytes)
        };
        assert_eq!(changed(1, 2), Err(FrameError::Version(2)));
        assert_eq!(changed(3, 3), Err(FrameError::Length(3)), "RST_STREAM has 8 bytes");
        assert_eq!(changed(5, 1), Err(FrameError::TooLong(65_540)));
        assert_eq!(changed(3, 9), Ok(vec![Frame::Other]), "WINDOW_UPDATE is of no use");
        assert_eq!(all(&[0, 0, 0, 0, 0, 0, 0, 0]), Err(FrameError::StreamZero));
        assert_eq!(all(&[0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1]), Err(FrameError::Length(1)));
    }

    proptest! {
        /// Whatever the pieces it arrives in, a data frame gives its bytes and one end.
        #[test]
        fn data_passes_unchanged(
            bytes in proptest::collection::vec(any::<u8>(), 0..100_000),
            cuts in proptest::collection::vec(1usize..40_000, 0..10),
        ) {
            let mut wire = BytesMut::new();
            wire.put_u32(7);
            wire.put_u32(u32::from(FIN) << 24 | bytes.len() as u32);
            wire.put_slice(&bytes);
            let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
            let (mut got, mut ends, mut cuts) = (Vec::new(), 0, cuts.into_iter());
            while !wire.is_empty() {
                let cut = cuts.next().unwrap_or(usize::MAX).min(wire.len());
                buffer.extend_from_slice(&wire.split_to(cut));
                while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                    let Frame::Data { stream: 7, piece, fin } = frame else { panic!("{frame:?}") };
                    prop_assert!(piece.len() <= MAX_PIECE && ends == 0);
                    got.extend_from_slice(&piece);
                    ends += usize::from(fin);
                }
            }
            prop_assert_eq!(ends, 1);
            prop_assert!(got == bytes);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = all(&bytes);
        }

        /// Nearly a frame: the head is right, the rest is anything.
        #[test]
        fn any_payload_is_read_or_refused(
            kind in 0u8..12,
            payload in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut bytes = vec![0x80, 3, 0, kind, 0, 0, 0, payload.len() as u8];
            bytes.extend_from_slice(&payload);
            if let Ok(frames) = all(&bytes) {
                prop_assert_eq!(frames.len(), 1);
            }
        }
    }
}
