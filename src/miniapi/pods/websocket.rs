//! Sessions over a WebSocket: messages that start with their channel, or plain bytes.

use std::io;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::channel::{self, FromClient, Version};
use super::session::{GOODBYE, Left, QUEUE, Session, ToClient};

/// Runs a session and tells the client how it went.
pub(super) async fn run<IO>(session: Session, version: Version, io: IO)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (to_client, mut from_client) = socket(io).await.split();
    let mut to_client = Messages(to_client);
    let (events, queue) = mpsc::channel(QUEUE);
    let left = listen(&mut from_client, version, events);
    let Some(status) = session.serve(&mut to_client, left, queue).await else {
        return; // nobody is left to tell
    };
    let goodbye = async {
        to_client.send(channel::verdict(&status)).await?;
        close(&mut to_client.0, &mut from_client).await
    };
    // A client that does not read has no claim on our time.
    let _ = timeout(GOODBYE, goodbye).await;
}

/// Ends a WebSocket in good order: says so, and waits for the client to leave.
pub(super) async fn close(
    to_client: &mut (impl Sink<Message> + Unpin),
    from_client: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
) -> Result<(), Left> {
    // Without a code, kubectl takes the end for a failure.
    let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    to_client.send(Message::Close(Some(frame))).await.map_err(|_| Left)?;
    // Closing with bytes unread would reset the connection under the client, last words and all.
    while from_client.next().await.is_some_and(|message| message.is_ok()) {}
    Ok(())
}

/// A connection whose binary messages are a stream of bytes.
pub(super) async fn bytes<IO>(
    io: IO,
) -> (impl AsyncRead + Send + Unpin, impl AsyncWrite + Send + Unpin)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (to_client, from_client) = socket(io).await.split();
    let binary = from_client.filter_map(|message| {
        std::future::ready(match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            Ok(_) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        })
    });
    let messages = to_client
        .sink_map_err(io::Error::other)
        .with(|bytes: Bytes| std::future::ready(Ok::<_, io::Error>(Message::Binary(bytes))));
    (StreamReader::new(binary), SinkWriter::new(CopyToBytes::new(messages)))
}

/// The server's side of a WebSocket whose handshake is done.
pub(super) async fn socket<IO>(io: IO) -> WebSocketStream<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .max_write_buffer_size(MAX_MESSAGE);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

struct Messages<S>(S);

// === impl Messages ===

impl<S: Sink<Message> + Send + Unpin> ToClient for Messages<S> {
    async fn send(&mut self, message: Bytes) -> Result<(), Left> {
        self.0.send(Message::Binary(message)).await.map_err(|_| Left)
    }
}

/// Reads what the client says; ends when it leaves.
async fn listen<R>(from_client: &mut R, version: Version, events: mpsc::Sender<FromClient>)
where
    R: Stream<Item = Result<Message, Error>> + Unpin,
{
    while let Some(Ok(message)) = from_client.next().await {
        let message = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => {
                // The WebSocket answers it at the next look; a client may wait for that.
                let _ = timeout(GOODBYE, from_client.next()).await;
                return;
            }
            // A ping is answered by the WebSocket itself.
            _ => continue,
        };
        if let Some(event) = version.read(message)
            && events.send(event).await.is_err()
        {
            return;
        }
    }
}

/// The largest message a client may send; kubectl sends at most 32 KiB.
const MAX_MESSAGE: usize = 1 << 20;
