//! A TCP connection to a hub.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::BufReader;
use tokio::net::TcpStream;

use super::config::split;
use crate::tunnel::transport::read_buffered;

/// What TLS to the hub runs over: one read of the socket takes several TLS records.
pub(super) type Io = BufReader<TcpStream>;

/// One address of a hub, and the name it was found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Target {
    /// The name to verify.
    pub(super) host: String,
    pub(super) address: SocketAddr,
}

/// Every address of `hub` (`HOST:PORT`) as of now.
pub(super) async fn resolve(hub: &str) -> io::Result<Vec<Target>> {
    let (host, port) =
        split(hub).map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))?;
    let lookup = tokio::net::lookup_host((host, port));
    let addresses = tokio::time::timeout(RESOLVE_DEADLINE, lookup).await??;
    Ok(addresses.map(|address| Target { host: host.to_owned(), address }).collect())
}

/// Connects, with the options that find a dead hub.
pub(super) async fn connect(target: &Target) -> io::Result<Io> {
    let attempt = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(target.address));
    let tcp = attempt.await??;
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(&tcp);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(read_buffered(tcp))
}

const RESOLVE_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Pings of the tunnel are quicker; this is for the time before and after them.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// As long as the design gives a dead peer to be found.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);
