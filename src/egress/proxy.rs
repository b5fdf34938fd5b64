//! Which proxy leads to a hub. Pure.
//!
//! The variables are those that curl and Go read: `HTTPS_PROXY`, else `ALL_PROXY`, and `NO_PROXY`
//! with names, suffixes, addresses and networks, each in capitals or small letters. As Go has it,
//! nothing of this machine's own goes through a proxy.

use std::net::IpAddr;
use std::sync::Arc;

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use rustls::ClientConfig;

use super::EgressError;

/// What the environment says.
#[derive(Clone, Default)]
pub struct Variables {
    /// Name and value of the variable that names the proxy.
    proxy: Option<(&'static str, String)>,
    except: String,
}

/// Proxies, and for whom they are not.
#[derive(Debug, Default)]
pub struct Proxies {
    matcher: Option<Matcher>,
    tls: Option<Arc<ClientConfig>>,
}

/// The proxy on the way to one hub.
pub(super) struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// For a proxy that speaks TLS itself.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// `Proxy-Authorization`.
    pub(super) credentials: Option<HeaderValue>,
}

// === impl Variables ===

impl Variables {
    /// Reads the process's environment.
    pub fn read() -> Self {
        Self::read_by(|name| std::env::var(name).ok())
    }

    /// Reads variables by `get`.
    pub fn read_by(get: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &&'static str| get(name).filter(|value| !value.is_empty());
        let proxy = PROXY.iter().find_map(|name| Some((*name, set(name)?)));
        Self { proxy, except: NO_PROXY.iter().find_map(set).unwrap_or_default() }
    }
}

// === impl Proxies ===

impl Proxies {
    /// By `variables`. A proxy that speaks TLS is verified by what `tls` returns.
    ///
    /// # Errors
    /// When the proxy's URL is none, or of a protocol that is not HTTP, or what `tls` says.
    pub fn new(
        variables: &Variables,
        tls: impl FnOnce() -> Result<Arc<ClientConfig>, EgressError>,
    ) -> Result<Self, EgressError> {
        let Some((name, value)) = &variables.proxy else { return Ok(Self::default()) };
        // Never the value: it may hold a password.
        let invalid = || {
            EgressError::Config(format!(
                "{name} is no URL of an HTTP proxy: it reads http://HOST:PORT or https://HOST:PORT"
            ))
        };
        let matcher = Matcher::builder().https(value.as_str()).build();
        let proxy = matcher.intercept(&SOMEWHERE).ok_or_else(invalid)?;
        let authority = proxy.uri().authority().ok_or_else(invalid)?;
        // What is no number is no error to the URL's parser.
        if authority.port_u16().is_none() && authority.as_str() != authority.host() {
            return Err(invalid());
        }
        let scheme = proxy.uri().scheme().ok_or_else(invalid)?;
        let tls = if *scheme == Scheme::HTTPS {
            Some(tls()?)
        } else if *scheme == Scheme::HTTP {
            None
        } else {
            return Err(invalid());
        };
        let matcher =
            Matcher::builder().https(value.as_str()).no(variables.except.as_str()).build();
        Ok(Self { matcher: Some(matcher), tls })
    }

    /// The proxy that leads to `host` (an IPv6 address without brackets), if any.
    pub(super) fn find(&self, host: &str, port: u16) -> Option<Proxy> {
        let matcher = self.matcher.as_ref()?;
        if is_local(host) {
            return None;
        }
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let authority: Authority = authority.parse().ok()?;
        let url = Uri::builder().scheme(Scheme::HTTPS).authority(authority).path_and_query("/");
        let found = matcher.intercept(&url.build().ok()?)?;
        let proxy = found.uri();
        let tls = self.tls.clone();
        let default = if tls.is_some() { 443 } else { 80 };
        let name = proxy.host()?.trim_start_matches('[').trim_end_matches(']');
        Some(Proxy {
            host: name.to_owned(),
            port: proxy.port_u16().unwrap_or(default),
            tls,
            credentials: found.basic_auth().cloned(),
        })
    }
}

fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The first that is set counts.
const PROXY: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Any target that no exception names.
static SOMEWHERE: std::sync::LazyLock<Uri> =
    std::sync::LazyLock::new(|| Uri::from_static("https://hub.example/"));

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(set: &'static [(&'static str, &'static str)]) -> Variables {
        Variables::read_by(|name| {
            set.iter().find(|(one, _)| *one == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn proxies(set: &'static [(&'static str, &'static str)]) -> Result<Proxies, EgressError> {
        let none = || Err(EgressError::Config("no TLS here".into()));
        Proxies::new(&variables(set), none)
    }

    fn leads(set: &'static [(&'static str, &'static str)], host: &str) -> Option<String> {
        let proxy = proxies(set).unwrap().find(host, 8091)?;
        Some(format!("{}:{}", proxy.host, proxy.port))
    }

    #[test]
    fn the_first_variable_that_is_set_names_the_proxy() {
        assert_eq!(leads(&[], "hub.example"), None);
        assert_eq!(leads(&[("HTTPS_PROXY", "")], "hub.example"), None);
        // For plain HTTP, which nothing of ours speaks.
        assert_eq!(leads(&[("HTTP_PROXY", "http://p:1")], "hub.example"), None);
        for (set, expected) in [
            (&[("HTTPS_PROXY", "http://p:3128")][..], "p:3128"),
            (&[("https_proxy", "http://p")], "p:80"),
            (&[("HTTPS_PROXY", "p:3128"), ("ALL_PROXY", "http://q:1")], "p:3128"),
            (&[("HTTPS_PROXY", ""), ("ALL_PROXY", "http://q:1")], "q:1"),
            (&[("HTTPS_PROXY", "http://[fd00::1]:3128/")], "fd00::1:3128"),
        ] {
            assert_eq!(leads(set, "hub.example").as_deref(), Some(expected), "{set:?}");
        }
    }

    #[test]
    fn exceptions_are_names_suffixes_addresses_and_networks() {
        const SET: &[(&str, &str)] = &[
            ("HTTPS_PROXY", "http://p:3128"),
            ("NO_PROXY", "corp.example, .svc,10.0.0.0/8,fd00::/8,192.0.2.7"),
        ];
        for straight in [
            "corp.example",
            "hub.corp.example",
            "hub.ns.svc",
            "10.1.2.3",
            "fd00::7",
            "192.0.2.7",
            "localhost",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
        ] {
            assert_eq!(leads(SET, straight), None, "{straight}");
        }
        for by_proxy in ["hub.example", "notcorp.example", "11.1.2.3", "192.0.2.8", "fe00::7"] {
            assert!(leads(SET, by_proxy).is_some(), "{by_proxy}");
        }
        const ALL: &[(&str, &str)] = &[("HTTPS_PROXY", "http://p:3128"), ("no_proxy", "*")];
        assert_eq!(leads(ALL, "hub.example"), None);
    }

    #[test]
    fn what_is_no_http_proxy_is_an_error_that_keeps_the_password() {
        for bad in ["socks5://u:secret@p:1", "http://", "ftp://u:secret@p", "u:secret@p:x", "a b"] {
            let variables =
                Variables::read_by(|name| (name == "HTTPS_PROXY").then(|| bad.to_owned()));
            let none = || Err(EgressError::Config("no TLS here".into()));
            let error = Proxies::new(&variables, none).unwrap_err().to_string();
            assert!(error.starts_with("HTTPS_PROXY is no URL"), "{bad}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let with = proxies(&[("HTTPS_PROXY", "http://u:secret@p:1")]).unwrap();
        assert!(!format!("{with:?}").contains("secret"), "{with:?}");
        let credentials = with.find("hub.example", 1).unwrap().credentials.unwrap();
        assert_eq!(credentials, "Basic dTpzZWNyZXQ=");
        assert!(credentials.is_sensitive());
    }

    #[test]
    fn a_proxy_that_speaks_tls_is_verified() {
        let error = proxies(&[("HTTPS_PROXY", "https://p")]).unwrap_err();
        assert_eq!(error.to_string(), "no TLS here");
    }
}
