//! Requests that come back. Pure, but for one random name.
//!
//! An agent whose kubeconfig leads to the hub would send each request round for ever. So the hub
//! leaves a name in `Via` (RFC 9110 section 7.6.3), and refuses what bears it already. Names that
//! others left stay: a way round may lead over several hubs.
//!
//! The name is made up anew by each process: it says nothing about the hub, and who copies it from
//! a request that it was sent has only requests of its own refused.

use http::Version;
use http::header::{HeaderMap, HeaderValue, VIA};

/// The name under which one hub process sends requests on.
#[derive(Clone, Debug)]
pub(crate) struct Pseudonym {
    name: String,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

/// A request that this process has sent on before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the hub has sent this request on before, and it came back: the server in the kubeconfig of a \
     cluster's agent must be that cluster's API server, not this hub"
)]
pub(crate) struct Loop;

// === impl Pseudonym ===

impl Pseudonym {
    /// A new one.
    pub(crate) fn random() -> Self {
        let name = format!("cluster-proxy-{:016x}", rand::random::<u64>());
        let entry = |protocol: &str| {
            // Invariant: letters, digits, hyphens, a dot and a space.
            HeaderValue::try_from(format!("{protocol} {name}")).expect("an entry is a header value")
        };
        Self { http10: entry("1.0"), http11: entry("1.1"), http2: entry("2"), name }
    }

    /// Whether a request has been here.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Loop> {
        let values = headers.get_all(VIA).iter().map(HeaderValue::as_bytes);
        let mut entries = values.flat_map(|value| value.split(|byte| *byte == b','));
        let ours = |entry: &[u8]| {
            let mut words = entry.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            // Protocol, name, comment.
            words.nth(1) == Some(self.name.as_bytes())
        };
        if entries.any(ours) { Err(Loop) } else { Ok(()) }
    }

    /// Leaves the name on a request that came over `version`.
    pub(crate) fn sign(&self, headers: &mut HeaderMap, version: Version) {
        let entry = match version {
            Version::HTTP_10 => &self.http10,
            Version::HTTP_2 => &self.http2,
            _ => &self.http11,
        };
        headers.append(VIA, entry.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(values: &[&str]) -> HeaderMap {
        let values = values.iter().map(|value| (VIA, HeaderValue::from_str(value).unwrap()));
        let mut headers = HeaderMap::new();
        values.for_each(|(name, value)| {
            headers.append(name, value);
        });
        headers
    }

    #[test]
    fn what_was_signed_is_known_again_and_by_nobody_else() {
        let (mine, other) = (Pseudonym::random(), Pseudonym::random());
        for (version, protocol) in
            [(Version::HTTP_10, "1.0 "), (Version::HTTP_11, "1.1 "), (Version::HTTP_2, "2 ")]
        {
            let mut headers = via(&["1.0 fred, 1.1 example.net (Apache)"]);
            assert_eq!(mine.check(&headers), Ok(()));
            other.sign(&mut headers, version);
            assert_eq!(mine.check(&headers), Ok(()), "another hub's way is no loop");
            mine.sign(&mut headers, version);
            let last = headers.get_all(VIA).iter().next_back().unwrap();
            assert!(last.to_str().unwrap().starts_with(protocol), "{last:?} over {version:?}");
            assert_eq!(mine.check(&headers), Err(Loop));
            assert_eq!(other.check(&headers), Err(Loop));
            assert_eq!(headers.get_all(VIA).iter().count(), 3, "what others wrote stays");
        }
    }

    #[test]
    fn a_name_is_known_wherever_a_proxy_may_have_moved_it() {
        let mine = Pseudonym::random();
        let name = mine.name.as_str();
        for (value, known) in [
            (format!("1.1 {name}"), true),
            (format!("1.1 a,2 {name},1.1 b"), true),
            (format!("HTTP/1.1\t{name} (comment)"), true),
            (format!("1.1 {name}x"), false),
            (format!("{name} 1.1"), false),
            (format!("1.1 a ({name})"), false),
            (String::new(), false),
        ] {
            assert_eq!(mine.check(&via(&["1.1 a", &value])).is_err(), known, "{value}");
        }
    }
}
