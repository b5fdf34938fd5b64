//! The way out of this network to a hub: straight, or through the HTTP proxy that the environment
//! names, as curl and Go programs take it.
//!
//! | step | file |
//! |---|---|
//! | which proxy, and for whom | [`proxy`] |
//! | a connection to a proxy, and `CONNECT` on it | [`connect`] |
//!
//! TLS with the hub runs inside either, end to end: a proxy sees the hub's name and bytes.

mod connect;
mod error;
mod proxy;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_util::either::Either;

use crate::pki::tls::ClientStream;

pub use error::EgressError;
pub use proxy::{Proxies, Variables};

/// A connection to a hub, or to a proxy that passes bytes on to it; the second kind is a proxy that
/// speaks TLS itself.
pub type Leg = Either<TcpStream, ClientStream<TcpStream>>;

/// Ways to hubs. Clones share the configuration.
#[derive(Clone, Debug, Default)]
pub struct Egress(Arc<Proxies>);

/// One way to a hub.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The name to verify: DNS name, or IP address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Where to connect; `None` where a proxy does that, and resolves the name as well.
    pub address: Option<SocketAddr>,
}

// === impl Egress ===

impl Egress {
    /// By these proxies; [`Default`] knows none.
    pub fn new(proxies: Proxies) -> Self {
        Self(Arc::new(proxies))
    }

    /// Every way to `host`:`port` as of now: one for each address, or one through a proxy.
    ///
    /// # Errors
    /// When the name has no address.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<Target>, EgressError> {
        let target = |address| Target { host: host.to_owned(), port, address };
        if self.0.find(host, port).is_some() {
            return Ok(vec![target(None)]);
        }
        let unknown = |source| EgressError::Name { host: host.to_owned(), source };
        let addresses = lookup(host, port).await.map_err(unknown)?;
        Ok(addresses.into_iter().map(|address| target(Some(address))).collect())
    }

    /// Connects, with the options that find a dead hub.
    ///
    /// # Errors
    /// Says whether the proxy or the hub could not be reached.
    pub async fn connect(&self, target: &Target) -> Result<Leg, EgressError> {
        match target.address {
            Some(address) => {
                let dialled = dial(address).await;
                let error = |source| EgressError::Hub { address, source };
                dialled.map(Either::Left).map_err(error)
            }
            None => {
                let proxy = self.0.find(&target.host, target.port);
                let proxy = proxy.ok_or_else(|| EgressError::NoProxy(target.to_string()))?;
                connect::through(&proxy, &target.authority()).await
            }
        }
    }
}

// === impl Target ===

impl Target {
    /// `HOST:PORT`, an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => address.fmt(f),
            None => write!(f, "{} (by a proxy)", self.authority()),
        }
    }
}

async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::time::timeout(RESOLVE_DEADLINE, tokio::net::lookup_host((host, port)));
    Ok(found.await??.collect())
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await??;
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(&tcp);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(tcp)
}

const RESOLVE_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Pings of the tunnel are quicker; this is for the time before and after them.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// As long as the design gives a dead peer to be found.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);
