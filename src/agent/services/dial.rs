//! A connection to one address of a service, over TLS where the path says so.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::either::Either;

use super::ServiceError;
use crate::pki::tls::{self, ClientStream};

pub(super) type Connection = Either<TcpStream, ClientStream<TcpStream>>;

/// How to speak TLS, and the name that the certificate must have.
pub(super) struct Secure {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: String,
}

/// Connects to `address`.
pub(super) async fn dial(
    address: SocketAddr,
    secure: Option<&Secure>,
) -> Result<Connection, ServiceError> {
    let unreachable = |error| ServiceError::Unreachable(address, error);
    let dialled = timeout(DIAL_DEADLINE, TcpStream::connect(address)).await;
    let stream = dialled.unwrap_or_else(|_| Err(late())).map_err(unreachable)?;
    // Small answers must not wait; without it they are only slower.
    let _ = stream.set_nodelay(true);
    let Some(Secure { config, name }) = secure else { return Ok(Either::Left(stream)) };
    let shaken = timeout(HANDSHAKE_DEADLINE, tls::connect(config, name, stream)).await;
    let shaken = shaken.unwrap_or_else(|_| Err(late()));
    shaken.map(Either::Right).map_err(|error| match tls::bad_certificate(&error) {
        Some(bad) => ServiceError::Certificate(address, bad, error),
        None => ServiceError::Unreachable(address, error),
    })
}

fn late() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

/// To one address. A pod of the same cluster answers at once or not at all.
const DIAL_DEADLINE: Duration = Duration::from_secs(2);
/// Longer than a pod takes that is short of CPU.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
