//! Upgraded streams.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::*;
use crate::tunnel::pump::{BodyError, Meter, Spliced, splice};

/// For tests that look at [`Spliced`].
impl Meter for () {
    fn sent(&self, _: u64) {}
    fn received(&self, _: u64) {}
}

/// Adds up.
#[derive(Default)]
struct Sums {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter for Sums {
    fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Joins each stream with a byte stream whose other end goes to the test.
#[derive(Clone)]
struct Joining {
    ends: mpsc::Sender<DuplexStream>,
    done: mpsc::Sender<Spliced>,
}

impl Handler for Joining {
    async fn handle(&self, request: Request<ReceiveBody>, responder: Responder) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        self.ends.send(far).await.unwrap();
        let send = responder.send(Response::new(()), false).unwrap();
        self.done.send(splice(near, send, request.into_body(), &()).await).await.unwrap();
    }
}

/// A client, a far end, and what both splices report.
struct Joined {
    client: DuplexStream,
    far: DuplexStream,
    hub: JoinHandle<Spliced>,
    agent: mpsc::Receiver<Spliced>,
    tunnel: Tunnel,
}

async fn joined() -> Joined {
    let ((ends, mut far), (done, agent)) = (mpsc::channel(1), mpsc::channel(1));
    let tunnel = Tunnel::start(Joining { ends, done }).await;
    let OpenedStream { mut response, send } =
        tunnel.open(request(Method::POST, "/exec"), false).await;
    let body = response.receive().await.unwrap().into_body();
    let (client, near) = tokio::io::duplex(64 * 1024);
    let hub = tokio::spawn(async move { splice(near, send, body, &()).await });
    Joined { client, far: far.recv().await.unwrap(), hub, agent, tunnel }
}

#[tokio::test]
async fn bytes_flow_both_ways_and_a_half_close_passes() {
    let mut joined = joined().await;
    let payload = (0..1_000_000_u32).map(|i| i as u8).collect::<Vec<_>>();
    let (mut read, mut write) = tokio::io::split(joined.client);
    let sent = payload.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut arrived = Vec::new();
    joined.far.read_to_end(&mut arrived).await.unwrap();
    assert!(arrived == payload);
    writer.await.unwrap();
    // The other direction still works.
    joined.far.write_all(b"the answer").await.unwrap();
    joined.far.shutdown().await.unwrap();
    let mut answer = String::new();
    read.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "the answer");
    let (hub, agent) = (joined.hub.await.unwrap(), joined.agent.recv().await.unwrap());
    assert!(hub.end.is_ok() && agent.end.is_ok());
    assert_eq!((hub.sent, hub.received), (1_000_000, 10));
    assert_eq!((agent.sent, agent.received), (10, 1_000_000));
    joined.tunnel.idle().await;
}

#[tokio::test]
async fn a_blocked_direction_does_not_stop_the_other() {
    let mut joined = joined().await;
    // Nobody reads at the client: the way there fills up.
    let filler = vec![0; 64 * 1024];
    while tokio::time::timeout(Duration::from_millis(50), joined.far.write_all(&filler))
        .await
        .is_ok()
    {}
    joined.client.write_all(b"interrupt").await.unwrap();
    let mut seen = [0; 9];
    joined.far.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"interrupt");
    // A client that goes away now ends the far side too, without the look of an end.
    drop(joined.client);
    assert!(matches!(joined.hub.await.unwrap().end, Err(BodyError::Source(_))));
    assert!(matches!(joined.agent.recv().await.unwrap().end, Err(BodyError::Stream(_))));
    joined.tunnel.idle().await;
}

#[tokio::test]
async fn a_lost_tunnel_is_no_end() {
    let mut joined = joined().await;
    joined.far.write_all(b"hello").await.unwrap();
    joined.client.read_exact(&mut [0; 5]).await.unwrap();
    joined.tunnel.opener.close("test");
    assert!(matches!(joined.hub.await.unwrap().end, Err(BodyError::Stream(_))));
    assert!(joined.tunnel.agent.await.is_ok());
}

/// A byte stream that gives one message and then fails, as TLS without its goodbye does.
struct Failing {
    message: &'static [u8],
}

impl tokio::io::AsyncRead for Failing {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.message.is_empty() {
            return std::task::Poll::Ready(Err(std::io::ErrorKind::UnexpectedEof.into()));
        }
        buf.put_slice(std::mem::take(&mut self.message));
        std::task::Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Failing {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::task::Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn an_abort_is_a_reset_at_the_far_end() {
    let ((ends, mut far), (done, mut agent)) = (mpsc::channel(1), mpsc::channel(1));
    let tunnel = Tunnel::start(Joining { ends, done }).await;
    let OpenedStream { mut response, send } =
        tunnel.open(request(Method::POST, "/exec"), false).await;
    let body = response.receive().await.unwrap().into_body();
    let spliced = splice(Failing { message: b"x" }, send, body, &()).await;
    assert!(matches!(spliced.end, Err(BodyError::Source(_))));
    let end = agent.recv().await.unwrap().end;
    assert!(matches!(end, Err(BodyError::Stream(_))), "{end:?}");
    drop((far.recv().await, response));
    tunnel.idle().await;
}

#[tokio::test]
async fn what_was_carried_is_known_even_of_a_splice_that_is_dropped() {
    let ((ends, mut far), (done, _agent)) = (mpsc::channel(1), mpsc::channel(1));
    let tunnel = Tunnel::start(Joining { ends, done }).await;
    let OpenedStream { mut response, send } =
        tunnel.open(request(Method::POST, "/exec"), false).await;
    let body = response.receive().await.unwrap().into_body();
    let (mut client, near) = tokio::io::duplex(64 * 1024);
    let mut far = far.recv().await.unwrap();
    let sums = Sums::default();
    let talk = async {
        client.write_all(b"question").await.unwrap();
        far.read_exact(&mut [0; 8]).await.unwrap();
        far.write_all(b"yes").await.unwrap();
        client.read_exact(&mut [0; 3]).await.unwrap();
    };
    tokio::select! {
        () = talk => {}
        spliced = splice(near, send, body, &sums) => panic!("it goes on: {spliced:?}"),
    }
    assert_eq!(sums.sent.into_inner(), 8);
    assert_eq!(sums.received.into_inner(), 3);
}
