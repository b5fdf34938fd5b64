//! Where one event of a watch ends and the next begins, without looking at what it says.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

/// The place in the bytes of a watch, as far as they have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Events {
    /// JSON: each event ends with a newline, and holds none.
    Lines {
        /// An event has begun and not ended.
        inside: bool,
    },
    /// Protobuf: before each event stands its length, four bytes, big-endian.
    Lengths {
        /// So many bytes of the length have passed.
        head: u8,
        /// The length as far as it has passed, then what is missing of the event.
        left: u32,
    },
    /// Another format, or a compressed one: anywhere is as good as anywhere else.
    Unknown,
}

// === impl Events ===

impl Events {
    /// Of an answer with these headers, of whose body nothing has passed.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let (None, Some(content)) = (text(CONTENT_ENCODING), text(CONTENT_TYPE)) else {
            return Self::Unknown;
        };
        match content.split(';').next().unwrap_or_default().trim() {
            "application/json" => Self::Lines { inside: false },
            "application/vnd.kubernetes.protobuf" => Self::Lengths { head: 0, left: 0 },
            _ => Self::Unknown,
        }
    }

    /// Whether no event is under way.
    pub(super) fn is_between(self) -> bool {
        match self {
            Self::Lines { inside } => !inside,
            Self::Lengths { head, .. } => head == 0,
            Self::Unknown => true,
        }
    }

    /// `bytes` pass.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        match self {
            Self::Lines { inside } => *inside = bytes.last().map_or(*inside, |last| *last != b'\n'),
            Self::Lengths { .. } => {
                while let Some(end) = self.pass_event(bytes) {
                    bytes = &bytes[end..];
                }
            }
            Self::Unknown => {}
        }
    }

    /// The first of `bytes` pass, up to the end of one event: how many these are. `None` when all of
    /// them passed and no event ended.
    pub(super) fn pass_event(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Lines { inside } => {
                let end = bytes.iter().position(|byte| *byte == b'\n');
                *inside = if end.is_some() { false } else { *inside || !bytes.is_empty() };
                end.map(|at| at + 1)
            }
            Self::Lengths { head, left } => {
                let mut passed = 0;
                while *head < LENGTH {
                    *left = *left << 8 | u32::from(*bytes.get(passed)?);
                    *head += 1;
                    passed += 1;
                }
                let here =
                    u32::try_from(bytes.len() - passed).map_or(*left, |here| here.min(*left));
                *left -= here;
                if *left > 0 {
                    return None;
                }
                *head = 0;
                Some(passed + here as usize)
            }
            Self::Unknown => None,
        }
    }
}

/// Bytes of the length before an event of protobuf.
const LENGTH: u8 = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINES: Events = Events::Lines { inside: false };
    const LENGTHS: Events = Events::Lengths { head: 0, left: 0 };

    fn encode(events: Events, payload: &[u8]) -> Vec<u8> {
        match events {
            LINES => payload.iter().map(|byte| byte | 0x80).chain([b'\n']).collect(),
            _ => [&u32::try_from(payload.len()).unwrap().to_be_bytes(), payload].concat(),
        }
    }

    proptest! {
        /// However the bytes are cut, the ends of events are found where they are.
        #[test]
        fn ends_are_found_in_any_pieces(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
            cuts in proptest::collection::vec(1_usize..30, 1..20),
            lines in any::<bool>(),
        ) {
            let kind = if lines { LINES } else { LENGTHS };
            let mut ends = vec![0];
            let mut bytes = Vec::new();
            for payload in &payloads {
                bytes.extend(encode(kind, payload));
                ends.push(bytes.len());
            }
            let (mut at, mut events) = (0, kind);
            for cut in cuts.iter().cycle() {
                let mut asked = events;
                let next = ends.iter().find(|end| **end > at);
                prop_assert_eq!(asked.pass_event(&bytes[at..]), next.map(|end| end - at));
                prop_assert_eq!(events.is_between(), ends.contains(&at), "at {}", at);
                if at == bytes.len() {
                    break;
                }
                let to = bytes.len().min(at + cut);
                events.pass(&bytes[at..to]);
                at = to;
            }
        }
    }

    #[test]
    fn the_format_is_what_the_answer_says() {
        let of = |pairs: &[(http::HeaderName, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
            Events::of(&pairs.collect())
        };
        let protobuf = "application/vnd.kubernetes.protobuf;stream=watch";
        assert_eq!(of(&[(CONTENT_TYPE, "application/json")]), LINES);
        assert_eq!(of(&[(CONTENT_TYPE, "application/json;stream=watch")]), LINES);
        assert_eq!(of(&[(CONTENT_TYPE, protobuf)]), LENGTHS);
        for other in ["application/cbor-seq", "text/plain", ""] {
            assert_eq!(of(&[(CONTENT_TYPE, other)]), Events::Unknown);
        }
        assert_eq!(of(&[]), Events::Unknown);
        let packed = [(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "gzip")];
        assert_eq!(of(&packed), Events::Unknown);
    }
}
