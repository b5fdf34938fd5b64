//! Accepting: one loop for both listeners, which differ only in who may connect.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use super::gate::{Arrived, Gate};
use crate::drain::Drain;
use crate::hub::workers::Workers;
use crate::listen::failures::AcceptFailures;

/// What an accepted socket is set to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOptions {
    /// Cap of the kernel's send and receive buffers, bytes; `None` leaves them to autotuning.
    pub(crate) buffers: Option<usize>,
}

/// Binds a listener for `address`. A port in use is an error, whoever uses it.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Lets a restart bind beside connections in TIME_WAIT; it does not share a live port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until `stop` asks for the end, and runs `serve` for each connection that `gate` lets in on
/// the workers, as a task of `tasks`.
pub(crate) async fn accept<F>(
    listener: TcpListener,
    options: SocketOptions,
    gate: Gate,
    workers: Workers,
    stop: Drain,
    tasks: Drain,
    serve: impl Fn(Arrived) -> F + Clone + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut failures = AcceptFailures::of(&listener);
    loop {
        let accepted = tokio::select! {
            () = stop.stopping() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                failures.pause(&error).await;
                continue;
            }
        };
        let Some(knock) = gate.knock(peer) else { continue };
        let (gate, serve) = (gate.clone(), serve.clone());
        let served = async move {
            // The socket moves to the worker's own reactor.
            match prepare(socket, options).and_then(TcpStream::from_std) {
                Ok(socket) => {
                    if let Some(arrived) = gate.enter(knock, socket, peer).await {
                        serve(arrived).await;
                    }
                }
                Err(error) => tracing::debug!(%peer, %error, "connection lost at once"),
            }
        };
        tasks.spawn_on(served, workers.next());
    }
}

fn prepare(socket: TcpStream, options: SocketOptions) -> io::Result<std::net::TcpStream> {
    let socket = socket.into_std()?;
    socket.set_nodelay(true)?;
    let reference = SockRef::from(&socket);
    reference.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    if let Some(bytes) = options.buffers {
        reference.set_send_buffer_size(bytes)?;
        reference.set_recv_buffer_size(bytes)?;
    }
    Ok(socket)
}

/// Connections that have finished TCP's handshake and wait for `accept`: a reconnect storm of a
/// thousand agents fits.
const BACKLOG: i32 = 4096;
/// Idle time before the kernel asks whether the peer is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
