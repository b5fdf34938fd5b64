//! What listens in a Pod, at an address of this machine: Pods have no network of their own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Shared;
use super::connect::Place;
use super::services::Service;

/// A loopback address that leads to a port of a Pod. Dropping it ends its connections.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    _accept: AbortOnDropHandle<()>,
}

/// Listens for `service` of a Pod, over TLS where that is given.
pub(super) fn listen(
    shared: &Arc<Shared>,
    service: Service,
    place: Place<'_>,
    ended: CancellationToken,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> io::Result<Listener> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    let port =
        Port { shared: shared.clone(), service, pod: place.pod.into(), tls: tls.map(Into::into) };
    let accepting = async move {
        tokio::select! {
            () = port.accept(listener) => {}
            () = ended.cancelled() => {}
        }
    };
    Ok(Listener { address, _accept: AbortOnDropHandle::new(tokio::spawn(accepting)) })
}

/// A port of a Pod. Clones are the same.
#[derive(Clone)]
struct Port {
    shared: Arc<Shared>,
    service: Service,
    pod: Arc<str>,
    tls: Option<TlsAcceptor>,
}

// === impl Port ===

impl Port {
    /// Serves whoever comes; never returns.
    async fn accept(self, listener: TcpListener) {
        // Dropped with what it runs.
        let mut connections = JoinSet::new();
        loop {
            // Those that ended give back their place.
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, _)) => drop(connections.spawn(self.clone().connection(stream))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of a Pod");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream) {
        // One of too many is closed, as by a program that has no descriptor left.
        let Ok(_permit) = self.shared.permit() else { return };
        // Small answers must not wait; without it they are only slower.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return self.serve(stream).await };
        if let Ok(Ok(stream)) = timeout(HANDSHAKE, tls.accept(stream)).await {
            self.serve(stream).await;
        }
    }

    async fn serve<IO>(&self, io: IO)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (read, write) = tokio::io::split(io);
        self.service.serve(read, write, &self.pod).await;
    }
}

/// Of a client that says nothing.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Descriptors are short for a while, as a rule.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
