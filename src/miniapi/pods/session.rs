//! One `exec` or `attach`: a client on one side, a process or a container's main program on the other.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::attach;
use super::channel::{self, FromClient, STDERR, STDOUT};
use super::log::Log;
use super::options::RemoteOptions;
use super::process::{self, Output, Stdin, Streams};
use super::scratch::Scratch;

/// What a session needs to know, whatever it is spoken over.
pub(super) struct Session {
    pub(super) work: Work,
    pub(super) options: RemoteOptions,
    /// Cancelled when the Pod goes.
    pub(super) ended: CancellationToken,
}

/// What is on the other side of a session.
pub(super) enum Work {
    /// A process of its own. The folder is held to the end, so that it outlives the process.
    Exec(Arc<Scratch>),
    /// The main program of a container, which writes this log.
    Attach(Log),
}

/// Where messages to the client go. The first byte of each is its channel.
pub(super) trait ToClient: Send {
    /// Sends one message; waits while the client does not read.
    fn send(&mut self, message: Bytes) -> impl Future<Output = Result<(), Left>> + Send;
}

/// The client is not there any more.
#[derive(Debug)]
pub(super) struct Left;

// === impl Session ===

impl Session {
    /// Works until there is nothing more to do, the client leaves (`left` ends) or the Pod goes.
    /// Returns how it went, or `None` when the client left first. `queue` is what the client says.
    pub(super) async fn serve(
        &self,
        to_client: &mut impl ToClient,
        left: impl Future<Output = ()>,
        queue: mpsc::Receiver<FromClient>,
    ) -> Option<Value> {
        match &self.work {
            Work::Exec(scratch) => self.exec(scratch, to_client, left, queue).await,
            Work::Attach(log) => self.attach(log, to_client, left, queue).await,
        }
    }

    async fn exec(
        &self,
        scratch: &Scratch,
        to_client: &mut impl ToClient,
        left: impl Future<Output = ()>,
        queue: mpsc::Receiver<FromClient>,
    ) -> Option<Value> {
        let started = process::spawn(&self.options, scratch.path());
        let (mut process, Streams { stdin, stdout, stderr }) = match started {
            Ok(started) => started,
            Err(error) => return Some(channel::failed(&self.not_started(&error))),
        };
        let group = process.group();
        let exited = CancellationToken::new();
        let ended = tokio::select! {
            () = left => return None,
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
            Some(Err(Left)) => return None,
            None => process.wait().await,
        };
        Some(code.map_or_else(|error| channel::failed(&error.to_string()), channel::exited))
    }

    async fn attach(
        &self,
        log: &Log,
        to_client: &mut impl ToClient,
        left: impl Future<Output = ()>,
        queue: mpsc::Receiver<FromClient>,
    ) -> Option<Value> {
        let interrupted = CancellationToken::new();
        let (input, output) =
            attach::join(log, self.options.tty, self.ended.clone(), interrupted.clone());
        let output = self.options.stdout.then_some(output);
        let exited = CancellationToken::new();
        let watch = async {
            relay(to_client, output, None, &exited).await?;
            self.ended.cancelled().await;
            Ok::<_, Left>(())
        };
        tokio::select! {
            () = left => None,
            never = feed(Some(Stdin::Main(input)), queue, self.options.stdin) => match never {},
            () = interrupted.cancelled() => Some(channel::exited(0)),
            watched = watch => watched.ok().map(|()| channel::exited(0)),
        }
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
async fn relay(
    to_client: &mut impl ToClient,
    mut stdout: Option<Output>,
    mut stderr: Option<Output>,
    exited: &CancellationToken,
) -> Result<(), Left> {
    // Some clients take the first message, empty as it is, for the sign that the session is on.
    let first = if stdout.is_some() { STDOUT } else { STDERR };
    to_client.send(channel::message(first, 0).freeze()).await?;
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
            Some(piece) => to_client.send(piece).await?,
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
pub(super) const QUEUE: usize = 4;

/// Bytes read from a process at a time.
const PIECE: usize = 16 << 10;

/// How long a stream may say nothing after the process has ended.
const AFTER_EXIT: Duration = Duration::from_millis(500);

/// How long a client gets to read the verdict and to say goodbye.
pub(super) const GOODBYE: Duration = Duration::from_secs(2);
