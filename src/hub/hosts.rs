//! Which host a request names, and whether that is us. Pure.
//!
//! A hub has many names (a Service, an ingress, an address), and who reaches it has proved by TLS
//! that it is the right one. So any host will do, unless an operator lists those that may be used.

use std::net::Ipv6Addr;
use std::str::FromStr;

use http::header::{HOST, HeaderMap};
use http::{Uri, Version};

/// Why a request is refused for its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    /// None, two, one that is no host, or one that disagrees with the target.
    #[error("the request must name its host once, and the same way everywhere")]
    Ambiguous,
    /// None that the operator lists.
    #[error(
        "the hub does not serve the host that the request names: use one of its names, or have \
         this one listed (--allowed-host)"
    )]
    NotServed,
}

/// The hosts by which a hub may be called; when there are none, any.
#[derive(Clone, Debug, Default)]
pub struct AllowedHosts(Vec<AllowedHost>);

/// A host by which a hub may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    name: String,
    /// Any, when absent.
    port: Option<u16>,
}

/// A host that cannot be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST or HOST:PORT, such as hub.example.com, [fd00::1] or 10.0.0.1:9092")]
pub struct InvalidHost;

/// A host as a request names it.
#[derive(Clone, Copy, Debug)]
struct Named<'a> {
    name: &'a str,
    port: Option<u16>,
}

// === impl AllowedHosts ===

impl AllowedHosts {
    /// Checks that a request names one host, and one that may be used.
    pub(crate) fn check(
        &self,
        headers: &HeaderMap,
        uri: &Uri,
        version: Version,
    ) -> Result<(), HostError> {
        let named = named(headers, uri, version)?;
        if self.0.is_empty() || self.0.iter().any(|allowed| allowed.is(named)) {
            Ok(())
        } else {
            Err(HostError::NotServed)
        }
    }
}

impl FromIterator<AllowedHost> for AllowedHosts {
    fn from_iter<I: IntoIterator<Item = AllowedHost>>(hosts: I) -> Self {
        Self(hosts.into_iter().collect())
    }
}

// === impl AllowedHost ===

impl AllowedHost {
    fn is(&self, named: Named<'_>) -> bool {
        self.name.eq_ignore_ascii_case(named.name)
            && self.port.is_none_or(|port| named.port == Some(port))
    }
}

impl FromStr for AllowedHost {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let Named { name, port } = Named::parse(text.as_bytes()).ok_or(InvalidHost)?;
        Ok(Self { name: name.to_owned(), port })
    }
}

// === impl Named ===

impl<'a> Named<'a> {
    /// RFC 3986 section 3.2, less what HTTP has no use for: users, escapes, empty parts.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let end = if let Some(rest) = text.strip_prefix('[') {
            let (address, _) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            address.len() + 2
        } else {
            let letter =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            let end = text.bytes().position(|byte| !letter(byte)).unwrap_or(text.len());
            (end > 0).then_some(end)?
        };
        let (name, rest) = text.split_at(end);
        if rest.is_empty() {
            return Some(Self { name, port: None });
        }
        let digits = rest.strip_prefix(':').filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
        Some(Self { name, port: Some(digits?.parse().ok()?) })
    }

    fn is(self, other: Self) -> bool {
        self.name.eq_ignore_ascii_case(other.name) && self.port == other.port
    }
}

/// The one host of a request. What a whole URL in the request line says, wins over `Host` (RFC 9112
/// section 3.2.2); in HTTP/2 both must agree.
fn named<'a>(
    headers: &'a HeaderMap,
    uri: &'a Uri,
    version: Version,
) -> Result<Named<'a>, HostError> {
    let parse = |bytes| Named::parse(bytes).ok_or(HostError::Ambiguous);
    let mut lines = headers.get_all(HOST).iter();
    let line = lines.next().map(|line| parse(line.as_bytes())).transpose()?;
    if lines.next().is_some() {
        return Err(HostError::Ambiguous);
    }
    let target = uri.authority().map(|authority| parse(authority.as_str().as_bytes()));
    match (line, target.transpose()?) {
        (Some(line), Some(target)) if version >= Version::HTTP_2 && !line.is(target) => {
            Err(HostError::Ambiguous)
        }
        // HTTP/1.1 wants the line, whatever the target says.
        (None, None) => Err(HostError::Ambiguous),
        (None, Some(_)) if version < Version::HTTP_2 => Err(HostError::Ambiguous),
        (_, Some(target)) => Ok(target),
        (Some(line), None) => Ok(line),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const ANY: AllowedHosts = AllowedHosts(Vec::new());

    fn check(
        allowed: &AllowedHosts,
        version: Version,
        target: &str,
        lines: &[&str],
    ) -> Result<(), HostError> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(HOST, HeaderValue::from_str(line).unwrap());
        }
        allowed.check(&headers, &target.parse().unwrap(), version)
    }

    #[test]
    fn one_host_and_the_same_everywhere() {
        let http1 = |target, lines| check(&ANY, Version::HTTP_11, target, lines);
        assert_eq!(http1("/c1", &["hub:443"]), Ok(()));
        for lines in [&[][..], &["a", "a"], &["a", "b"]] {
            assert_eq!(http1("/c1", lines), Err(HostError::Ambiguous), "{lines:?}");
        }
        // A whole URL says it itself, beside a line that is well-formed.
        assert_eq!(http1("https://hub/c1", &["elsewhere"]), Ok(()));
        assert_eq!(http1("https://hub/c1", &[]), Err(HostError::Ambiguous));
        assert_eq!(http1("https://hub/c1", &["else where"]), Err(HostError::Ambiguous));
        assert_eq!(http1("https://me@hub/c1", &["hub"]), Err(HostError::Ambiguous));

        let http2 = |target, lines| check(&ANY, Version::HTTP_2, target, lines);
        assert_eq!(http2("https://hub/c1", &[]), Ok(()));
        assert_eq!(http2("https://hub/c1", &["HUB"]), Ok(()));
        assert_eq!(http2("/c1", &["hub"]), Ok(()));
        assert_eq!(http2("https://hub/c1", &["evil"]), Err(HostError::Ambiguous));
        assert_eq!(http2("https://hub:1/c1", &["hub:2"]), Err(HostError::Ambiguous));
        assert_eq!(http2("/c1", &[]), Err(HostError::Ambiguous));
    }

    #[test]
    fn what_is_a_host() {
        for good in ["hub", "HUB.example.com.", "a_b-c", "10.0.0.1:9092", "[::1]", "[fd00::1]:443"]
        {
            assert!(good.parse::<AllowedHost>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ":443",
            "hub:",
            "hub:x",
            "hub:65536",
            "hub:443:443",
            "hub:443@evil",
            "me@hub",
            "hub/c1",
            "hub c1",
            "hub\tx",
            "[::1",
            "[hub]",
            "[::1]x",
            "::1",
            "h%75b",
            "h\u{fc}b",
            "hub,evil",
        ] {
            assert_eq!(bad.parse::<AllowedHost>(), Err(InvalidHost), "{bad}");
        }
    }

    #[test]
    fn listed_hosts_alone_are_served_where_there_is_a_list() {
        let listed = ["hub.example.com", "10.0.0.1:9092", "[::1]"];
        let listed: AllowedHosts = listed.iter().map(|host| host.parse().unwrap()).collect();
        let ask = |host| check(&listed, Version::HTTP_11, "/c1", &[host]);
        for served in ["hub.example.com", "Hub.Example.Com:443", "10.0.0.1:9092", "[::1]:1"] {
            assert_eq!(ask(served), Ok(()), "{served}");
        }
        for other in
            ["hub", "example.com", "x.hub.example.com", "10.0.0.1", "10.0.0.1:443", "[::2]"]
        {
            assert_eq!(ask(other), Err(HostError::NotServed), "{other}");
            assert_eq!(check(&ANY, Version::HTTP_11, "/c1", &[other]), Ok(()), "{other}");
        }
        // What the target says counts, not the line beside it.
        let whole = |url, host| check(&listed, Version::HTTP_11, url, &[host]);
        assert_eq!(whole("http://hub.example.com/c1", "evil"), Ok(()));
        assert_eq!(whole("http://evil/c1", "hub.example.com"), Err(HostError::NotServed));
    }
}
