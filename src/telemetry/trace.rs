//! W3C Trace Context, level 1 (<https://www.w3.org/TR/trace-context-1/>): which trace a request
//! belongs to. Pure.
//!
//! A caller's `traceparent` comes from anybody. It is taken apart and written anew, so that nothing
//! but two numbers and one bit of it goes on; what is not valid is replaced by a new trace.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

use http::{HeaderMap, HeaderName, HeaderValue};

/// One place in one trace, as `traceparent` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace: NonZeroU128,
    span: NonZeroU64,
    sampled: bool,
}

/// The name that one request has at the client, the hub, the agent and the API server: 32
/// hexadecimal digits in logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(NonZeroU128);

/// Our own step of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    here: TraceParent,
    /// The caller had begun the trace: what it says of it in `tracestate` is worth keeping.
    joined: bool,
}

// === impl TraceParent ===

impl TraceParent {
    /// Reads `traceparent`; `None` unless there is exactly one and it is valid.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::parse(value.as_bytes()),
            _ => None,
        }
    }

    /// Reads `00-TRACE-SPAN-FLAGS`; of a later version what level 1 knows (section 3.2.4).
    fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(LENGTH)?;
        let version = hex(&known[..2])?;
        let may_go_on = match version {
            0 => rest.is_empty(),
            INVALID_VERSION => false,
            _ => rest.first().is_none_or(|byte| *byte == b'-'),
        };
        if !may_go_on || [known[2], known[35], known[52]] != [b'-'; 3] {
            return None;
        }
        Some(Self {
            trace: NonZeroU128::new(hex(&known[3..35])?)?,
            span: NonZeroU64::new(u64::try_from(hex(&known[36..52])?).ok()?)?,
            sampled: hex(&known[53..])? & SAMPLED != 0,
        })
    }

    /// Which trace it is.
    pub fn trace_id(self) -> TraceId {
        TraceId(self.trace)
    }

    /// A trace that begins here. Nothing is recorded by us, so nothing is marked as sampled.
    fn begin() -> Self {
        Self { trace: rand::random(), span: rand::random(), sampled: false }
    }
}

impl From<TraceParent> for HeaderValue {
    fn from(TraceParent { trace, span, sampled }: TraceParent) -> Self {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        digits(trace.get(), &mut text[3..35]);
        digits(span.get().into(), &mut text[36..52]);
        digits(sampled.into(), &mut text[53..]);
        // Invariant: hexadecimal digits and hyphens.
        Self::from_bytes(&text).expect("a plain header value")
    }
}

// === impl Step ===

impl Step {
    /// Joins the trace that `headers` name, or begins one.
    pub fn start(headers: &HeaderMap) -> Self {
        match TraceParent::from_headers(headers) {
            Some(caller) => {
                Self { here: TraceParent { span: rand::random(), ..caller }, joined: true }
            }
            None => Self { here: TraceParent::begin(), joined: false },
        }
    }

    /// Which trace it is part of.
    pub fn trace_id(&self) -> TraceId {
        self.here.trace_id()
    }

    /// Makes `headers` those of the next hop: this step is the parent there.
    pub fn pass_on(&self, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT, self.here.into());
        if !(self.joined && is_tracestate_fit(headers)) {
            headers.remove(TRACESTATE);
        }
    }
}

// === impl TraceId ===

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 32];
        digits(self.0.get(), &mut text);
        // Invariant: hexadecimal digits.
        f.write_str(std::str::from_utf8(&text).expect("digits are text"))
    }
}

impl serde::Serialize for TraceId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Opaque to us, so only its size and its characters are looked at. What is not fit goes whole:
/// half a list would say something else.
fn is_tracestate_fit(headers: &HeaderMap) -> bool {
    let mut bytes = 0;
    headers.get_all(TRACESTATE).iter().all(|value| {
        bytes += value.len();
        bytes <= LONGEST_TRACESTATE && value.to_str().is_ok()
    })
}

/// Lower-case digits only, as the format has them.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// Fills `text` with the last hexadecimal digits of `number`: every request has several such numbers, and
/// `fmt` writes them slowly enough to be seen in profiles.
fn digits(mut number: u128, text: &mut [u8]) {
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 0xf) as usize];
        number >>= 4;
    }
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Of a `traceparent` of version 00, and of the part that every later one begins with.
const LENGTH: usize = 55;
/// Section 3.2.2.1 forbids it.
const INVALID_VERSION: u128 = 0xff;
/// The one flag of level 1.
const SAMPLED: u128 = 1;
/// What section 3.3.1.5 asks everybody to pass on; more is ours to drop.
const LONGEST_TRACESTATE: usize = 512;

#[cfg(test)]
mod tests;
