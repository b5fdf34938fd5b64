//! Header blocks: names and values behind zlib with SPDY's dictionary.
//!
//! Source: SPDY Protocol, draft 3.1, section 2.6.10. Each direction of a connection is one zlib
//! stream, so every block that arrives must be read, also where nobody wants to know.

use std::sync::LazyLock;

use bytes::{Buf, BufMut, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// Names in lower case with their values.
pub(in crate::miniapi::pods) type Headers = Vec<(String, String)>;

/// Why a header block cannot be read. The connection is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::miniapi::pods) enum HeaderError {
    #[error("the header block is not zlib with the dictionary of SPDY/3.1")]
    Compression,
    #[error("the header block is larger than {MAX_BLOCK} bytes")]
    TooLarge,
    #[error("the header block ends early or names no text")]
    Malformed,
}

/// Reads the header blocks of one direction.
pub(super) struct Reader {
    inflate: Decompress,
}

/// Writes the header blocks of the other direction.
pub(super) struct Writer {
    deflate: Compress,
}

// === impl Reader ===

impl Reader {
    pub(super) fn new() -> Self {
        Self { inflate: Decompress::new(true) }
    }

    /// Reads the next block.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut plain = Vec::with_capacity(MAX_BLOCK + 1);
        while !block.is_empty() {
            let before = self.inflate.total_in();
            let outcome = self.inflate.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            // At most the length of the block.
            let taken = (self.inflate.total_in() - before) as usize;
            block = &block[taken..];
            match outcome {
                Err(error) if error.needs_dictionary().is_some() => {
                    let known = self.inflate.set_dictionary(&DICTIONARY);
                    known.map_err(|_| HeaderError::Compression)?;
                }
                Err(_) => return Err(HeaderError::Compression),
                Ok(_) if plain.len() > MAX_BLOCK => return Err(HeaderError::TooLarge),
                // The end of the zlib stream, or bytes that are none.
                Ok(_) if taken == 0 => return Err(HeaderError::Compression),
                Ok(_) => {}
            }
        }
        Ok(plain)
    }
}

// === impl Writer ===

impl Writer {
    pub(super) fn new() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        // Fails only on a stream that has begun.
        let known = deflate.set_dictionary(&DICTIONARY);
        debug_assert!(known.is_ok(), "{known:?}");
        Self { deflate }
    }

    /// The next block.
    pub(super) fn write(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = BytesMut::new();
        let number = |plain: &mut BytesMut, length: usize| {
            plain.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        };
        number(&mut plain, headers.len());
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            number(&mut plain, text.len());
            plain.put_slice(text.as_bytes());
        }
        let (mut block, mut rest) = (Vec::new(), &plain[..]);
        loop {
            block.reserve(rest.len() + ROOM);
            let before = self.deflate.total_in();
            let outcome = self.deflate.compress_vec(rest, &mut block, FlushCompress::Sync);
            debug_assert!(outcome.is_ok(), "{outcome:?}");
            rest = &rest[(self.deflate.total_in() - before) as usize..];
            // With room to spare everything was flushed.
            if rest.is_empty() && block.len() < block.capacity() {
                return block;
            }
        }
    }
}

fn parse(mut plain: &[u8]) -> Result<Headers, HeaderError> {
    let count = plain.try_get_u32().map_err(|_| HeaderError::Malformed)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut plain)?;
        headers.push((name.to_ascii_lowercase(), text(&mut plain)?));
    }
    if plain.is_empty() { Ok(headers) } else { Err(HeaderError::Malformed) }
}

fn text(plain: &mut &[u8]) -> Result<String, HeaderError> {
    let length = plain.try_get_u32().map_err(|_| HeaderError::Malformed)? as usize;
    let (text, rest) = plain.split_at_checked(length).ok_or(HeaderError::Malformed)?;
    *plain = rest;
    String::from_utf8(text.to_vec()).map_err(|_| HeaderError::Malformed)
}

/// Each word with its length before it, then the rest as it is.
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    for word in WORDS.split(", ") {
        bytes.put_u32(word.len() as u32);
        bytes.put_slice(word.as_bytes());
    }
    bytes.put_slice(REST.as_bytes());
    bytes
});

const WORDS: &str = "options, head, post, put, delete, trace, accept, accept-charset, accept-encoding, \
    accept-language, accept-ranges, age, allow, authorization, cache-control, connection, \
    content-base, content-encoding, content-language, content-length, content-location, \
    content-md5, content-range, content-type, date, etag, expect, expires, from, host, \
    if-match, if-modified-since, if-none-match, if-range, if-unmodified-since, last-modified, \
    location, max-forwards, pragma, proxy-authenticate, proxy-authorization, range, referer, \
    retry-after, server, te, trailer, transfer-encoding, upgrade, user-agent, vary, via, \
    warning, www-authenticate, method, get, status, 200 OK, version, HTTP/1.1, url, public, \
    set-cookie, keep-alive, origin";

const REST: &str = "1001012012022052063003023033043053063074024054064074084094104114124134144154164175025045\
    05203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 \
    Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Se\
    rvice UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed\
    , Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml\
    ,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
    charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// Bytes of a block without compression. A stream of port-forward has some 70.
const MAX_BLOCK: usize = 16 << 10;

/// Room for what zlib adds: its header, the dictionary's checksum, the end of a flush.
const ROOM: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_dictionary_is_the_one_of_the_draft() {
        assert_eq!(DICTIONARY.len(), 1423);
        let (mut low, mut high) = (1u32, 0u32);
        for byte in DICTIONARY.iter() {
            low = (low + u32::from(*byte)) % 65_521;
            high = (high + low) % 65_521;
        }
        assert_eq!(high << 16 | low, 0xe3c6_a7c2, "its Adler-32");
    }

    #[test]
    fn blocks_build_on_each_other() {
        let (mut writer, mut reader) = (Writer::new(), Reader::new());
        let headers = [("streamtype", "data"), ("port", "80"), ("requestid", "7")];
        let first = writer.write(&headers);
        let second = writer.write(&headers);
        assert!(second.len() < first.len(), "the second refers to the first");
        let wanted: Headers =
            headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        assert_eq!(reader.read(&first), Ok(wanted.clone()));
        assert_eq!(reader.read(&second), Ok(wanted));
        assert_eq!(reader.read(&writer.write(&[])), Ok(Headers::new()));
        // A block that is read without the one before it makes no sense.
        let skipped = Reader::new().read(&second);
        assert_eq!(skipped, Err(HeaderError::Compression));
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let text = |length: usize| "x".repeat(length);
        let block = |length: usize| Writer::new().write(&[("a", &text(length))]);
        assert!(Reader::new().read(&block(MAX_BLOCK - 13)).is_ok());
        assert_eq!(Reader::new().read(&block(MAX_BLOCK)), Err(HeaderError::TooLarge));
        assert_eq!(Reader::new().read(&block(10 << 20)), Err(HeaderError::TooLarge));
    }

    proptest! {
        #[test]
        fn any_headers_survive(headers in proptest::collection::vec(("[a-z-]{0,20}", ".{0,40}"), 0..20)) {
            let borrowed: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let (mut writer, mut reader) = (Writer::new(), Reader::new());
            for _ in 0..3 {
                prop_assert_eq!(&reader.read(&writer.write(&borrowed)).unwrap(), &headers);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reader::new().read(&bytes);
            let _ = parse(&bytes);
        }
    }
}
