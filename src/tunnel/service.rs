//! Which service of the spoke a request is for: one header, `SCHEME:NAMESPACE/NAME:PORT`. Pure.
//!
//! Nothing is left open on the wire: the hub fills in scheme and port, and whatever is not exactly
//! the name of a Kubernetes Service is no target at all: an address, a host with dots, a path.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use http::{HeaderMap, HeaderValue};

use super::headers::{SERVICE, single};

/// A service, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceTarget {
    /// With TLS or without.
    pub scheme: Scheme,
    /// A DNS label (RFC 1123 section 2.1).
    pub namespace: Box<str>,
    /// Of the Service, a DNS label as well.
    pub name: Box<str>,
    /// Of the Service.
    pub port: Port,
}

/// How a service is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// With TLS.
    Https,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// By its number.
    Number(NonZeroU16),
    /// By its name, in the form of IANA's service names (RFC 6335 section 5.1), in lower case as
    /// Kubernetes has them.
    Name(Box<str>),
}

/// Why a text names no service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidService {
    /// It has not the parts.
    #[error("it has other parts than a scheme, a name and a port")]
    Form,
    /// Another scheme.
    #[error("the scheme is neither http nor https")]
    Scheme,
    /// No DNS label.
    #[error("the namespace is not the name of one: at most 63 of a-z, 0-9 and '-'")]
    Namespace,
    /// No DNS label.
    #[error("the name is not that of a Service: at most 63 of a-z, 0-9 and '-'")]
    Name,
    /// Neither.
    #[error(
        "the port is neither a number from 1 to 65535 nor a name: at most 15 of a-z, 0-9 and '-'"
    )]
    Port,
}

// === impl ServiceTarget ===

impl ServiceTarget {
    /// The one service that `headers` name; `None` when it is missing, repeated or none.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        single(headers, &SERVICE)?.parse().ok()
    }
}

impl FromStr for ServiceTarget {
    type Err = InvalidService;

    fn from_str(text: &str) -> Result<Self, InvalidService> {
        let (scheme, rest) = text.split_once(':').ok_or(InvalidService::Form)?;
        let (namespace, rest) = rest.split_once('/').ok_or(InvalidService::Form)?;
        let (name, port) = rest.split_once(':').ok_or(InvalidService::Form)?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(InvalidService::Scheme),
        };
        if !is_label(namespace, LONGEST_LABEL) {
            return Err(InvalidService::Namespace);
        }
        if !is_label(name, LONGEST_LABEL) {
            return Err(InvalidService::Name);
        }
        Ok(Self { scheme, namespace: namespace.into(), name: name.into(), port: port.parse()? })
    }
}

impl fmt::Display for ServiceTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, namespace, name, port } = self;
        write!(f, "{}:{namespace}/{name}:{port}", scheme.as_str())
    }
}

impl From<&ServiceTarget> for HeaderValue {
    fn from(service: &ServiceTarget) -> Self {
        // Invariant: every part is of letters, digits and hyphens.
        Self::try_from(service.to_string()).expect("the name of a service is a header value")
    }
}

// === impl Scheme ===

impl Scheme {
    /// As URLs have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

// === impl Port ===

impl FromStr for Port {
    type Err = InvalidService;

    fn from_str(text: &str) -> Result<Self, InvalidService> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            // One way to write a number: what compares texts must not be led astray.
            let number = text.parse().ok().filter(|number: &NonZeroU16| number.to_string() == text);
            return number.map(Self::Number).ok_or(InvalidService::Port);
        }
        let is_name = is_label(text, LONGEST_PORT)
            && text.bytes().any(|byte| byte.is_ascii_lowercase())
            && !text.contains("--");
        if is_name { Ok(Self::Name(text.into())) } else { Err(InvalidService::Port) }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Letters, digits and hyphens, neither first nor last a hyphen.
fn is_label(text: &str, longest: usize) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=longest).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// RFC 1123 section 2.1, by way of RFC 1035 section 2.3.4.
const LONGEST_LABEL: usize = 63;

/// RFC 6335 section 5.1.
const LONGEST_PORT: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_services_and_nothing_else() {
        let label = "a".repeat(63);
        for good in [
            "https:shop/web:443".to_owned(),
            "http:shop/web:80".to_owned(),
            "https:shop/web:metrics".to_owned(),
            "https:1/2-3:65535".to_owned(),
            "http:default/kubernetes:1".to_owned(),
            format!("https:{label}/{label}:abcdefghij-1234"),
        ] {
            assert_eq!(good.parse::<ServiceTarget>().unwrap().to_string(), good);
        }
        for (bad, why) in [
            ("", InvalidService::Form),
            ("shop/web:443", InvalidService::Form),
            ("https:web:443", InvalidService::Form),
            ("https:shop/web", InvalidService::Form),
            ("HTTPS:shop/web:443", InvalidService::Scheme),
            (":shop/web:443", InvalidService::Scheme),
            ("ftp:shop/web:443", InvalidService::Scheme),
            ("https:/web:443", InvalidService::Namespace),
            ("https:Shop/web:443", InvalidService::Namespace),
            ("https:a.b/web:443", InvalidService::Namespace),
            ("https: shop/web:443", InvalidService::Namespace),
            ("https:shop/:443", InvalidService::Name),
            ("https:shop/-web:443", InvalidService::Name),
            ("https:shop/web-:443", InvalidService::Name),
            ("https:shop/169.254.169.254:80", InvalidService::Name),
            ("https:shop/a/b:80", InvalidService::Name),
            ("https:shop/web_1:80", InvalidService::Name),
            ("https:shop/w\u{e9}b:80", InvalidService::Name),
            ("https:shop/web:", InvalidService::Port),
            ("https:shop/web:0", InvalidService::Port),
            ("https:shop/web:65536", InvalidService::Port),
            ("https:shop/web:0443", InvalidService::Port),
            ("https:shop/web:+443", InvalidService::Port),
            ("https:shop/web:443:444", InvalidService::Port),
            ("https:shop/web:Metrics", InvalidService::Port),
            ("https:shop/web:1-2", InvalidService::Port),
            ("https:shop/web:a--b", InvalidService::Port),
            ("https:shop/web:abcdefghij-12345", InvalidService::Port),
            ("https:shop/web:443 ", InvalidService::Port),
        ] {
            assert_eq!(bad.parse::<ServiceTarget>(), Err(why), "{bad}");
        }
        let long = format!("https:shop/{}:443", "a".repeat(64));
        assert_eq!(long.parse::<ServiceTarget>(), Err(InvalidService::Name));
    }

    #[test]
    fn a_header_names_one_or_none() {
        let service: ServiceTarget = "https:shop/web:443".parse().unwrap();
        let mut headers = HeaderMap::new();
        assert_eq!(ServiceTarget::from_headers(&headers), None);
        headers.insert(SERVICE, (&service).into());
        assert_eq!(ServiceTarget::from_headers(&headers), Some(service.clone()));
        headers.append(SERVICE, (&service).into());
        assert_eq!(ServiceTarget::from_headers(&headers), None);
        headers.insert(SERVICE, HeaderValue::from_static("web"));
        assert_eq!(ServiceTarget::from_headers(&headers), None);
    }

    proptest::proptest! {
        /// One way to write each, so that equal texts are equal services.
        #[test]
        fn what_is_read_is_written_the_same(
            text in "(https?|ftp)?:?[a-zA-Z0-9./-]{0,8}/?[a-z0-9.-]{0,8}:?[a-z0-9-]{0,7}",
        ) {
            if let Ok(service) = text.parse::<ServiceTarget>() {
                proptest::prop_assert_eq!(service.to_string(), text);
            }
        }

        #[test]
        fn names_are_read(
            name in "[a-z]([a-z0-9-]{0,20}[a-z0-9])?",
            port in 1u16..,
            tls: bool,
        ) {
            let scheme = if tls { Scheme::Https } else { Scheme::Http };
            let text = format!("{}:{name}/{name}:{port}", scheme.as_str());
            let service: ServiceTarget = text.parse().unwrap();
            proptest::prop_assert_eq!((service.scheme, &*service.namespace), (scheme, &*name));
            proptest::prop_assert_eq!(HeaderValue::from(&service), text.as_str());
        }
    }
}
