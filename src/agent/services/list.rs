//! Which services the owner of the cluster exposes. Pure.

use std::num::NonZeroU16;
use std::str::FromStr;

use crate::tunnel::service::{InvalidService, Port, ServiceTarget};

/// An entry of the owner's list: `NAMESPACE/NAME[:PORT]`, all ports when none is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExposedService {
    namespace: Box<str>,
    name: Box<str>,
    port: Option<Port>,
}

/// Why a text is no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntry {
    /// It names no service.
    #[error("expected NAMESPACE/NAME[:PORT], for example shop/web:8080: {0}")]
    Service(#[from] InvalidService),
    /// A detour around the RBAC of callers.
    #[error("default/kubernetes is the API server, and that is no service to expose")]
    ApiServer,
}

// === impl ExposedService ===

impl ExposedService {
    /// Whether it is about this Service, on whichever port.
    pub(super) fn names(&self, namespace: &str, name: &str) -> bool {
        *self.namespace == *namespace && *self.name == *name
    }

    /// Whether it exposes what a request asks for. A port is compared as it is written: a list that
    /// says `web:http` exposes nothing under a number.
    pub(super) fn exposes(&self, asked: &ServiceTarget) -> bool {
        self.names(&asked.namespace, &asked.name)
            && self.port.as_ref().is_none_or(|port| *port == asked.port)
    }
}

impl FromStr for ExposedService {
    type Err = InvalidEntry;

    fn from_str(text: &str) -> Result<Self, InvalidEntry> {
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port.parse()?)),
            None => (text, None),
        };
        // The wire's own rules for names, so that no entry is written that nothing can match.
        let ServiceTarget { namespace, name, .. } =
            format!("http:{name}:{}", NonZeroU16::MIN).parse()?;
        if is_api_server(&namespace, &name) {
            return Err(InvalidEntry::ApiServer);
        }
        Ok(Self { namespace, name, port })
    }
}

/// The Service that Kubernetes makes for its API server.
fn is_api_server(namespace: &str, name: &str) -> bool {
    (namespace, name) == ("default", "kubernetes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposes(entry: &str, asked: &str) -> bool {
        entry.parse::<ExposedService>().unwrap().exposes(&asked.parse().unwrap())
    }

    #[test]
    fn an_entry_exposes_what_it_names() {
        assert!(exposes("shop/web", "http:shop/web:80"));
        assert!(exposes("shop/web", "https:shop/web:admin"));
        assert!(exposes("shop/web:80", "http:shop/web:80"));
        assert!(exposes("shop/web:admin", "http:shop/web:admin"));
        assert!(!exposes("shop/web", "http:shop/web2:80"));
        assert!(!exposes("shop/web", "http:shop2/web:80"));
        assert!(!exposes("shop/web:80", "http:shop/web:81"));
        assert!(!exposes("shop/web:80", "http:shop/web:admin"));
    }

    #[test]
    fn an_entry_is_a_service_and_not_the_api_server() {
        let parse = str::parse::<ExposedService>;
        assert!(parse("default/kubernetes2").is_ok());
        assert_eq!(parse("default/kubernetes"), Err(InvalidEntry::ApiServer));
        assert_eq!(parse("default/kubernetes:443"), Err(InvalidEntry::ApiServer));
        assert!(parse("a/b:80").is_ok());
        for bad in
            ["", "web", "shop/", "/web", "shop/web:", "shop/web:0", "a/b/c", "a/b:1:2", "*/web"]
        {
            assert!(matches!(parse(bad), Err(InvalidEntry::Service(_))), "{bad}");
        }
    }
}
