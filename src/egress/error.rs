//! Why there is no connection to a hub, with the remedy in each message.

use std::io;
use std::net::SocketAddr;

use http::StatusCode;

/// Why there is no connection. No message shows credentials of a proxy.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The environment or a flag names no proxy that could be used.
    #[error("{0}")]
    Config(String),
    /// The hub's name has no address.
    #[error(
        "the name {host} cannot be resolved: {source}; check --hub and the DNS of this machine"
    )]
    Name {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No TCP connection to the hub.
    #[error(
        "no connection to {address}: {source}; check the port of --hub (the hub's agent listener, 8091 \
         by default) and firewalls; where only a proxy leads out, set HTTPS_PROXY"
    )]
    Hub {
        /// Its address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A proxy was named when the target was made, and is not any more.
    #[error("no proxy leads to {0}")]
    NoProxy(String),
    /// No connection to the proxy.
    #[error(
        "no connection to the proxy {proxy}: {source}; check HTTPS_PROXY, or except the hub by NO_PROXY"
    )]
    Proxy {
        /// `SCHEME://HOST:PORT`.
        proxy: String,
        /// What the system said.
        source: io::Error,
    },
    /// No TLS session with the proxy.
    #[error("no TLS session with the proxy {proxy}: {source}; --proxy-ca names its authority")]
    ProxyTls {
        /// `SCHEME://HOST:PORT`.
        proxy: String,
        /// What the handshake said.
        source: io::Error,
    },
    /// The proxy wants credentials, or others.
    #[error(
        "the proxy {proxy} wants credentials (407): HTTPS_PROXY takes them as \
         http://USER:PASSWORD@HOST:PORT"
    )]
    ProxyCredentials {
        /// `SCHEME://HOST:PORT`.
        proxy: String,
    },
    /// The proxy will not, or cannot, connect to the hub.
    #[error(
        "the proxy {proxy} does not connect to {target}: it answered {status}; let it allow CONNECT to \
         that name and port, or except the hub by NO_PROXY"
    )]
    ProxyRefused {
        /// `SCHEME://HOST:PORT`.
        proxy: String,
        /// `HOST:PORT` of the hub.
        target: String,
        /// Its answer.
        status: StatusCode,
    },
    /// The answer to `CONNECT` is none, or late.
    #[error(
        "the proxy {proxy} gave no answer to CONNECT that HTTP has: {detail}; check HTTPS_PROXY"
    )]
    ProxyAnswer {
        /// `SCHEME://HOST:PORT`.
        proxy: String,
        /// What happened.
        detail: String,
    },
}
