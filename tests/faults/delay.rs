//! A proxy that carries bytes after a while: the kernels of small machines have no `netem`.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

/// Carries connections to `to`, each byte `delay` later, in both directions.
pub(crate) async fn delayed(
    at: SocketAddr,
    to: SocketAddr,
    delay: Duration,
) -> AbortOnDropHandle<()> {
    let listener = TcpListener::bind(at).await.unwrap();
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let Ok((near, _)) = listener.accept().await else { continue };
            tokio::spawn(async move {
                let Ok(far) = TcpStream::connect(to).await else { return };
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                tokio::join!(
                    carry(near_read, far_write, delay),
                    carry(far_read, near_write, delay)
                );
            });
        }
    }))
}

async fn carry(
    mut from: impl AsyncRead + Unpin + Send + 'static,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Bytes)>(IN_FLIGHT);
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read) = from.read(&mut buffer).await {
            let piece = Bytes::copy_from_slice(&buffer[..read]);
            if sender.send((Instant::now() + delay, piece)).await.is_err() || read == 0 {
                return;
            }
        }
    });
    while let Some((due, piece)) = receiver.recv().await {
        sleep_until(due).await;
        if piece.is_empty() || to.write_all(&piece).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
    reading.abort();
}

/// Pieces: more than a tunnel sends in the time of a delay.
const IN_FLIGHT: usize = 4096;
