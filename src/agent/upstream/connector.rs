//! A fresh TLS connection to the API server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Version;
use rustls::ClientConfig;
use tokio::net::{TcpSocket, TcpStream};

use super::{Account, UpstreamError};
use crate::kubernetes::{ApiServer, Credentials};
use crate::pki::tls::{self, ClientStream, TlsError};
use crate::tunnel::reader::BufferedSocket;

/// What a connection to the API server is made of.
pub(super) type Stream = ClientStream<BufferedSocket<TcpStream>>;

/// Dials one API server; follows its CA file.
pub(super) struct Connector {
    server: ApiServer,
    configs: ArcSwap<Configs>,
}

/// TLS configurations of one CA bundle: by account and by ALPN.
struct Configs {
    ca_pem: Bytes,
    caller: ByProtocol,
    agent: ByProtocol,
}

#[derive(Clone)]
struct ByProtocol {
    any: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

/// Which protocols to offer.
pub(super) type Offer = bool;
/// For upgrades: HTTP/2 has none.
pub(super) const HTTP1_ONLY: Offer = true;
/// HTTP/2 where the API server has it.
pub(super) const ANY: Offer = false;

// === impl Connector ===

impl Connector {
    pub(super) fn new(server: ApiServer) -> Result<Self, TlsError> {
        let configs = Configs::build(server.ca_pem.clone(), &server.credentials)?;
        Ok(Self { server, configs: ArcSwap::from_pointee(configs) })
    }

    /// Connects and shakes hands, in five seconds altogether.
    pub(super) async fn connect(
        &self,
        account: Account,
        offer: Offer,
    ) -> Result<(Stream, Version), UpstreamError> {
        let attempt = tokio::time::timeout(CONNECT_DEADLINE, self.attempt(account, offer));
        let outcome = match attempt.await {
            Ok(outcome) => outcome,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in 5 s")),
        };
        outcome.map_err(|error| {
            UpstreamError::Unreachable(format!("{}: {error}", self.server.authority()).into())
        })
    }

    async fn attempt(&self, account: Account, offer: Offer) -> io::Result<(Stream, Version)> {
        self.follow_ca().await;
        let configs = self.configs.load_full();
        let by_protocol = match account {
            Account::Caller => &configs.caller,
            Account::Agent => &configs.agent,
        };
        let config = if offer == HTTP1_ONLY { &by_protocol.http1 } else { &by_protocol.any };
        let tcp = dial(&self.server.host, self.server.port).await?;
        let io = BufferedSocket::new(tcp);
        let stream = tls::connect(config, &self.server.server_name, io).await?;
        let version = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Version::HTTP_2,
            _ => Version::HTTP_11,
        };
        Ok((stream, version))
    }

    /// Connections are opened seldom: reading a small file then costs nothing, and a rotated CA is
    /// known when it is first needed.
    async fn follow_ca(&self) {
        let Some(path) = &self.server.ca_file else { return };
        let ca_pem = match tokio::fs::read(path).await {
            Ok(content) => Bytes::from(content),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "keeping the last API server CA");
                return;
            }
        };
        if self.configs.load().ca_pem == ca_pem {
            return;
        }
        match Configs::build(ca_pem, &self.server.credentials) {
            Ok(configs) => {
                tracing::info!(path = %path.display(), "the API server's CA changed");
                self.configs.store(Arc::new(configs));
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "keeping the last API server CA");
            }
        }
    }
}

// === impl Configs ===

impl Configs {
    fn build(ca_pem: Bytes, credentials: &Credentials) -> Result<Self, TlsError> {
        let by_protocol = |client: Option<(&[u8], &[u8])>| {
            Ok::<_, TlsError>(ByProtocol {
                any: tls::upstream(&ca_pem, client, &[b"h2", b"http/1.1"])?,
                http1: tls::upstream(&ca_pem, client, &[b"http/1.1"])?,
            })
        };
        let caller = by_protocol(None)?;
        let agent = match credentials {
            Credentials::Certificate { chain_pem, key_pem } => {
                by_protocol(Some((chain_pem, key_pem)))?
            }
            _ => caller.clone(),
        };
        Ok(Self { ca_pem: ca_pem.clone(), caller, agent })
    }
}

async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = None;
    for address in tokio::net::lookup_host((host, port)).await? {
        match dial_address(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address")))
}

async fn dial_address(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Before connecting: the receive buffer decides the window that is announced.
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// TCP and TLS together; upstream's agent gives a dial five seconds as well.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Kernel TCP memory is shared by the whole host: with autotuned buffers a few hundred stalled
/// readers of one cluster took all of it.
const SOCKET_BUFFER: u32 = 256 << 10;
