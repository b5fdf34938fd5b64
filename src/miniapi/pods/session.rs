//! One `exec`: a WebSocket on one side, a process on the other.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use super::channel::{self, FromClient, STDERR, STDOUT, Version};
use super::options::ExecOptions;
use super::process::{self, Output, Stdin, Streams};
use super::scratch::Scratch;

/// What a session needs to know.
pub(super) struct Session {
    pub(super) version: Version,
    pub(super) options: ExecOptions,
    /// Held to the end, so that the folder outlives the process.
    pub(super) scratch: Arc<Scratch>,
    /// Cancelled when the Pod goes.
    pub(super) ended: CancellationToken,
}

// === impl Session ===

impl Session {
    /// Runs the process until it ends, the client leaves or the Pod goes, and tells the client.
    pub(super) async fn run<IO>(self, io: IO)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE))
            .max_write_buffer_size(MAX_MESSAGE);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        let (mut to_client, mut from_client) = socket.split();
        let Some(status) = self.serve(&mut to_client, &mut from_client).await else {
            return; // nobody is left to tell
        };
        let goodbye = async {
            to_client.send(Message::Binary(channel::verdict(&status))).await?;
            // Without a code, kubectl takes the end for a failure.
            let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
            to_client.send(Message::Close(Some(frame))).await?;
            // Closing with bytes unread would reset the connection under the client, verdict and all.
            while from_client.next().await.is_some_and(|message| message.is_ok()) {}
            Ok::<_, Error>(())
        };
        // A client that does not read has no claim on our time.
        let _ = timeout(GOODBYE, goodbye).await;
    }

    /// Returns how it went, or `None` when the client left first.
    async fn serve<W, R>(&self, to_client: &mut W, from_client: &mut R) -> Option<Value>
    where
        W: Sink<Message, Error = Error> + Unpin,
        R: Stream<Item = Result<Message, Error>> + Unpin,
    {
        let started = process::spawn(&self.options, self.scratch.path());
        let (mut process, Streams { stdin, stdout, stderr }) = match started {
            Ok(started) => started,
            Err(error) => return Some(channel::failed(&self.not_started(&error))),
        };
        let group = process.group();
        let (events, queue) = mpsc::channel(QUEUE);
        let exited = CancellationToken::new();
        let ended = tokio::select! {
            () = listen(from_client, self.version, events) => return None,
            never = feed(stdin, queue, self.options.stdin) => match never {},
            () = async {
                self.ended.cancelled().await;
                // At once, or a process would learn of its end from its terminal first.
                if !exited.is_cancelled() {
                    group.kill();
                }
            } => None,
            ended = async {
                let wait = async {
                    let code = process.wait().await;
                    exited.cancel();
                    Ok(code)
                };
                tokio::try_join!(wait, relay(to_client, stdout, stderr, &exited))
            } => Some(ended),
        };
        let code = match ended {
            Some(Ok((code, ()))) => code,
            Some(Err(_)) => return None, // the client left while we wrote
            None => process.wait().await,
        };
        Some(code.map_or_else(|error| channel::failed(&error.to_string()), channel::exited))
    }

    fn not_started(&self, error: &io::Error) -> String {
        let program = self.options.command.first().map(|program| program.to_string_lossy());
        let program = program.unwrap_or_default();
        match error.kind() {
            io::ErrorKind::NotFound => format!(
                "error executing command in container: exec: \"{program}\": executable file not found in $PATH"
            ),
            _ => format!("error executing command in container: exec: \"{program}\": {error}"),
        }
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
            Message::Close(_) => return,
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

/// Hands what the client said to the process, in order. Never ends: a process may go on long after
/// its standard input was closed, and a client may go on long after nobody reads it.
async fn feed(
    mut stdin: Option<Stdin>,
    mut queue: mpsc::Receiver<FromClient>,
    wanted: bool,
) -> Infallible {
    while let Some(event) = queue.recv().await {
        let done = match (event, &mut stdin) {
            (FromClient::Stdin(data), Some(stdin)) if wanted => stdin.write(&data).await,
            (FromClient::Resize { rows, columns }, Some(stdin)) => {
                stdin.resize(rows, columns);
                Ok(())
            }
            (FromClient::CloseStdin, _) => match stdin.take() {
                Some(stdin) => stdin.close().await,
                None => Ok(()),
            },
            _ => Ok(()),
        };
        if done.is_err() {
            stdin = None; // the process closed its end; the rest is discarded
        }
    }
    std::future::pending().await
}

/// Sends what the process writes. One piece is on its way at a time: a client that does not read
/// stops us, and through its pipe the process. Ends when the process's streams end.
async fn relay<W>(
    to_client: &mut W,
    mut stdout: Option<Output>,
    mut stderr: Option<Output>,
    exited: &CancellationToken,
) -> Result<(), Error>
where
    W: Sink<Message, Error = Error> + Unpin,
{
    // Some clients take the first message, empty as it is, for the sign that the session is on.
    let first = if stdout.is_some() { STDOUT } else { STDERR };
    to_client.send(Message::Binary(channel::message(first, 0).freeze())).await?;
    while stdout.is_some() || stderr.is_some() {
        // What left the process group may hold the pipe open for ever.
        let abandoned = async {
            exited.cancelled().await;
            tokio::time::sleep(AFTER_EXIT).await;
        };
        let (piece, stream) = tokio::select! {
            biased;
            piece = read(&mut stdout, STDOUT) => (piece, &mut stdout),
            piece = read(&mut stderr, STDERR) => (piece, &mut stderr),
            () = abandoned => return Ok(()),
        };
        match piece {
            Some(piece) => to_client.send(Message::Binary(piece)).await?,
            None => *stream = None,
        }
    }
    Ok(())
}

/// One piece of a stream; `None` at its end, never ready without a stream.
async fn read(stream: &mut Option<Output>, channel: u8) -> Option<Bytes> {
    let Some(stream) = stream else {
        return std::future::pending().await;
    };
    let mut message = channel::message(channel, PIECE);
    // The other end of a terminal goes away with an error (EIO), not with an end of file.
    match stream.read_buf(&mut message).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(message.freeze()),
    }
}

/// Messages read ahead of a process that does not read: enough to notice that the client leaves.
const QUEUE: usize = 4;

/// The largest message a client may send; kubectl sends at most 32 KiB.
const MAX_MESSAGE: usize = 1 << 20;

/// Bytes read from a process at a time.
const PIECE: usize = 16 << 10;

/// How long a stream may say nothing after the process has ended.
const AFTER_EXIT: Duration = Duration::from_millis(500);

/// How long a client gets to read the verdict and to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
