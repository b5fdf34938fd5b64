//! Percent-encoding (RFC 3986 section 2.1), undone once and never twice.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// `text` with its escapes undone; a broken escape stays as it is, broken UTF-8 is replaced.
pub fn decode(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// The bytes that `text` stands for; a broken escape stays as it is.
pub fn decode_bytes(text: &str) -> Cow<'_, [u8]> {
    percent_decode_str(text).into()
}

/// Where the first `%` is that no two hexadecimal digits follow.
pub fn broken_escape(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let broken = |at: &usize| {
        let digits = bytes.get(at + 1..at + 3);
        bytes[*at] == b'%' && !digits.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    };
    (0..bytes.len()).find(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_and_leniently() {
        for (text, plain) in [
            ("", ""),
            ("a+b", "a+b"),
            ("%41%2fb", "A/b"),
            ("%252e", "%2e"),
            ("%zz%4", "%zz%4"),
            ("%", "%"),
            ("%C3%A9", "\u{e9}"),
            ("%ff", "\u{fffd}"),
        ] {
            assert_eq!(decode(text), plain, "{text}");
        }
        assert_eq!(&decode_bytes("%ff%00x")[..], b"\xff\0x");
    }

    #[test]
    fn where_an_escape_is_broken() {
        for (text, at) in [
            ("/a%2fb%FF", None),
            ("", None),
            ("%", Some(0)),
            ("a%4", Some(1)),
            ("%41%zz", Some(3)),
            ("%%41", Some(0)),
            ("%+1", Some(0)),
            ("%4\u{e9}", Some(0)),
        ] {
            assert_eq!(broken_escape(text), at, "{text}");
        }
    }
}
