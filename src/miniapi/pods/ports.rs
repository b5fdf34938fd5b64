//! Port-forward over the channels of a WebSocket (`v4.channel.k8s.io`), as kube-rs and older clients
//! speak it: one connection to each port that the query names.
//!
//! The first byte of a message is its channel: `2 n` for the data of the n-th port, `2 n + 1` for
//! the reason why there is no connection. The first message of each says its port, low byte first.
//! No side can end one direction alone; the client closes the WebSocket, the server does so when
//! every service has ended.
//!
//! Source: the kubelet's `portforward` over WebSockets (`k8s.io/kubelet/pkg/cri/streaming`).

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use futures_util::stream::{self, BoxStream, SelectAll};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, WriteHalf};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::channel;
use super::services::Service;
use super::session::{GOODBYE, Left};
use super::websocket;

/// Serves one client until it leaves, every service has ended, or the Pod goes. There are at most
/// [`MAX_PORTS`] ports.
pub(super) async fn run<IO>(io: IO, ports: Vec<u16>, pod: Arc<str>, ended: CancellationToken)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (mut to_client, mut from_client) = websocket::socket(io).await.split();
    // Dropped with what it runs.
    let mut services = JoinSet::new();
    let (outputs, inputs) = connect(&ports, &pod, &mut services);
    let served = async {
        let told = tell(&mut to_client, outputs);
        tokio::pin!(told);
        tokio::select! {
            told = &mut told => told,
            // The services hear of the client's end, and end with it.
            () = hear(&mut from_client, inputs) => told.await,
        }
    };
    let gone = tokio::select! {
        () = ended.cancelled() => false,
        served = served => served.is_err(),
    };
    if !gone {
        // A client that does not read has no claim on our time.
        let _ = timeout(GOODBYE, websocket::close(&mut to_client, &mut from_client)).await;
    }
}

/// What the client sends to one port; `None` when nobody reads it any more.
type Input = Option<WriteHalf<DuplexStream>>;

/// Starts what listens on each port.
fn connect(
    ports: &[u16],
    pod: &Arc<str>,
    services: &mut JoinSet<()>,
) -> (SelectAll<BoxStream<'static, Bytes>>, Vec<Input>) {
    let mut outputs = SelectAll::new();
    let mut inputs = Vec::with_capacity(ports.len());
    for (data, port) in (0u8..).step_by(2).zip(ports.iter().copied()) {
        let greeting = |channel| {
            let mut message = channel::message(channel, size_of::<u16>());
            message.put_u16_le(port);
            message.freeze()
        };
        let greetings = stream::iter([greeting(data), greeting(data + 1)]);
        let Some(service) = Service::on(port) else {
            let mut why = channel::message(data + 1, 0);
            why.put_slice(Service::nothing_on(port, pod).as_bytes());
            outputs.push(greetings.chain(stream::iter([why.freeze()])).boxed());
            inputs.push(None);
            continue;
        };
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let pod = Arc::clone(pod);
        services.spawn(async move {
            let (read, write) = tokio::io::split(theirs);
            service.serve(read, write, &pod).await;
        });
        let (output, input) = tokio::io::split(ours);
        let pieces = stream::unfold(output, move |mut output| async move {
            let mut message = channel::message(data, BUFFER);
            match output.read_buf(&mut message).await {
                Ok(0) | Err(_) => None,
                Ok(_) => Some((message.freeze(), output)),
            }
        });
        outputs.push(greetings.chain(pieces).boxed());
        inputs.push(Some(input));
    }
    (outputs, inputs)
}

/// Sends what the services write, until all of them have ended.
async fn tell(
    to_client: &mut (impl Sink<Message> + Unpin),
    mut outputs: SelectAll<BoxStream<'static, Bytes>>,
) -> Result<(), Left> {
    while let Some(message) = outputs.next().await {
        to_client.send(Message::Binary(message)).await.map_err(|_| Left)?;
    }
    Ok(())
}

/// Hands over what the client says, until it has no more to say. A service that does not read
/// holds up the others of its client.
async fn hear(
    from_client: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    mut inputs: Vec<Input>,
) {
    while let Some(Ok(message)) = from_client.next().await {
        // Pings and the close are answered by the WebSocket itself, while it is read.
        let Message::Binary(mut message) = message else { continue };
        // Reasons go the other way only.
        let Ok(channel) = message.try_get_u8() else { continue };
        let input = inputs.get_mut(usize::from(channel / 2)).filter(|_| channel % 2 == 0);
        if let Some(slot @ Some(_)) = input
            && let Some(input) = slot
            && input.write_all(&message).await.is_err()
        {
            *slot = None;
        }
    }
    for mut input in inputs.into_iter().flatten() {
        // One that is gone already has heard enough.
        let _ = input.shutdown().await;
    }
}

/// Ports of one client: the channels of a port are two values of a byte.
pub(super) const MAX_PORTS: usize = 128;

/// Bytes between the client and a service, in each direction.
const BUFFER: usize = 16 << 10;
