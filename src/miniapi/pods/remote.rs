//! exec and attach over SPDY: one stream for each of error, stdin, stdout, stderr and resize.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::channel::{self, ERROR, FromClient, MAX_RESIZE, STDERR, STDOUT};
use super::options::RemoteOptions;
use super::session::{GOODBYE, Left, QUEUE, Session, ToClient};
use super::spdy::{self, Accepted, Receive, Send, Stream};

/// Runs a session and tells the client how it went.
pub(super) async fn run<IO>(session: Session, io: IO)
where
    IO: AsyncRead + AsyncWrite + std::marker::Send,
{
    let (reader, writer) = tokio::io::split(io);
    let (mut accepted, driver) = spdy::serve(reader, writer);
    let work = async {
        let collected = collect(&mut accepted, &session.options);
        let Ok(Some(mut streams)) = timeout(CREATION, collected).await else { return };
        let (events, queue) = mpsc::channel(QUEUE);
        let (stdin, resize) = (streams.stdin.as_mut(), streams.resize.as_mut());
        let left = listen(
            stdin.map(|stream| &mut stream.receive),
            resize.map(|stream| &mut stream.receive),
            &mut accepted,
            events,
        );
        if let Some(status) = session.serve(&mut streams.output, left, queue).await {
            // A client that does not read has no claim on our time.
            let _ = timeout(GOODBYE, streams.finish(&status)).await;
        }
    };
    tokio::pin!(driver);
    tokio::select! {
        ended = &mut driver => {
            // The client left: what it had started was dropped with the work.
            if let Err(error) = ended {
                tracing::debug!(%error, "a SPDY connection broke");
            }
            return;
        }
        () = work => {}
    }
    drop(accepted);
    // Closing with bytes unread would reset the connection under the client, verdict and all.
    let _ = timeout(GOODBYE, driver).await;
}

/// The streams of a session.
struct Streams {
    output: Outputs,
    stdin: Option<Stream>,
    resize: Option<Stream>,
}

/// Those that the client reads.
#[derive(Default)]
struct Outputs {
    error: Option<Send>,
    stdout: Option<Send>,
    stderr: Option<Send>,
}

/// Takes streams until all that the options call for are there; `None` when the client leaves.
async fn collect(accepted: &mut Accepted, options: &RemoteOptions) -> Option<Streams> {
    let mut streams = Streams { output: Outputs::default(), stdin: None, resize: None };
    loop {
        let Streams { output, stdin, resize } = &streams;
        let complete = output.error.is_some()
            && (stdin.is_some() || !options.stdin)
            && (output.stdout.is_some() || !options.stdout)
            && (output.stderr.is_some() || !options.stderr)
            && (resize.is_some() || !options.tty);
        if complete {
            return Some(streams);
        }
        let stream = accepted.recv().await?;
        match stream.header("streamtype") {
            Some("error") => streams.output.error = Some(stream.send),
            Some("stdout") => streams.output.stdout = Some(stream.send),
            Some("stderr") => streams.output.stderr = Some(stream.send),
            Some("stdin") => streams.stdin = Some(stream),
            Some("resize") => streams.resize = Some(stream),
            other => tracing::debug!(?other, "a stream of no known type"),
        }
    }
}

// === impl Streams ===

impl Streams {
    /// Ends all streams; the last word is the verdict. A client waits for the end of each.
    async fn finish(&mut self, status: &Value) -> Result<(), Left> {
        let Outputs { stdout, stderr, .. } = &mut self.output;
        let inputs = [&mut self.stdin, &mut self.resize].map(|stream| stream.as_mut());
        let inputs = inputs.into_iter().flatten().map(|stream| &mut stream.send);
        for stream in [stdout, stderr].into_iter().flatten().chain(inputs) {
            stream.shutdown().await.map_err(|_| Left)?;
        }
        self.output.send(channel::verdict(status)).await?;
        if let Some(error) = &mut self.output.error {
            error.shutdown().await.map_err(|_| Left)?;
        }
        Ok(())
    }
}

// === impl Outputs ===

impl ToClient for Outputs {
    async fn send(&mut self, mut message: Bytes) -> Result<(), Left> {
        let stream = match message.try_get_u8() {
            Ok(STDOUT) => &mut self.stdout,
            Ok(STDERR) => &mut self.stderr,
            Ok(ERROR) => &mut self.error,
            _ => return Ok(()),
        };
        match stream {
            Some(stream) => stream.write_all(&message).await.map_err(|_| Left),
            None => Ok(()),
        }
    }
}

/// Passes on what the client says. Never ends: the end of the connection is seen by who drives it.
async fn listen(
    stdin: Option<&mut Receive>,
    resize: Option<&mut Receive>,
    accepted: &mut Accepted,
    events: mpsc::Sender<FromClient>,
) {
    let stdin = async {
        let Some(stdin) = stdin else { return };
        loop {
            let event = match stdin.piece().await {
                Ok(Some(piece)) => FromClient::Stdin(piece),
                Ok(None) => FromClient::CloseStdin,
                Err(_) => return,
            };
            let last = event == FromClient::CloseStdin;
            if events.send(event).await.is_err() || last {
                return;
            }
        }
    };
    let resize = async {
        let Some(resize) = resize else { return };
        // Lines of JSON, however they were cut into pieces.
        let mut line = BytesMut::new();
        while let Ok(Some(piece)) = resize.piece().await {
            line.extend_from_slice(&piece);
            while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                let size = channel::resize(&line.split_to(end + 1));
                if let Some(size) = size
                    && events.send(size).await.is_err()
                {
                    return;
                }
            }
            if line.len() > MAX_RESIZE {
                return;
            }
        }
    };
    // A session has no further streams; they must not hold up those it has.
    let surplus = async { while accepted.recv().await.is_some() {} };
    tokio::join!(stdin, resize, surplus);
    std::future::pending().await
}

/// How long a client may take to open the streams of a session; the kubelet's limit.
const CREATION: Duration = Duration::from_secs(30);
