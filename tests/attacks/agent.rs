//! An agent with a valid certificate that does not mean well: it serves its tunnel as it should
//! until a test puts other bytes on the wire, between two frames of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use cluster_proxy::pki::credentials::AgentCredentials;
use cluster_proxy::pki::tls::ClientStream;
use cluster_proxy::tunnel::hello;

use crate::support::token::{AUDIENCE, ISSUER, SigningKey};
use crate::support::{PATIENCE, within};

/// Its end of one tunnel.
pub(crate) struct HostileAgent {
    wire: mpsc::Sender<Vec<u8>>,
    /// Ends when the hub closes the connection.
    connection: AbortOnDropHandle<()>,
    stopped: CancellationToken,
    _tasks: [AbortOnDropHandle<()>; 3],
}

/// What it answers to requests that no tunnel can do without an answer to.
pub(crate) struct Script {
    pub(crate) hello: Value,
    /// Streams that it allows at once.
    pub(crate) streams: u32,
    /// Of `kube-system`, which tells clusters apart.
    pub(crate) uid: String,
    /// Whether it never says which keys its cluster signs with.
    pub(crate) silent_keys: bool,
    /// The key set that it publishes.
    pub(crate) jwks: Value,
    held: Mutex<Vec<SendResponse<Bytes>>>,
    answer: Answer,
}

/// Answers a request of a caller; called on the connection's own task, so it must not wait.
type Answer = Arc<dyn Fn(Request<h2::RecvStream>, SendResponse<Bytes>) + Send + Sync>;

// === impl Script ===

impl Script {
    /// An agent of the cluster that `signer` signs for, which answers callers by `answer`.
    pub(crate) fn new(
        signer: &SigningKey,
        answer: impl Fn(Request<h2::RecvStream>, SendResponse<Bytes>) + Send + Sync + 'static,
    ) -> Self {
        let hello = json!({
            "version": hello::VERSION, "agent": "hostile", "agentVersion": "0.0.0",
            "apiServerVersion": "v1.37.0", "audiences": [AUDIENCE], "issuers": [ISSUER],
        });
        let jwks = json!({"keys": [signer.jwk()]});
        Self {
            hello,
            streams: 10_000,
            uid: "11111111-1111-1111-1111-111111111111".to_owned(),
            silent_keys: false,
            held: Mutex::default(),
            jwks,
            answer: Arc::new(answer),
        }
    }

    fn serve(&self, request: Request<h2::RecvStream>, respond: SendResponse<Bytes>) {
        match request.uri().path() {
            hello::PATH => reply(respond, &self.hello.to_string()),
            "/openid/v1/jwks" if self.silent_keys => self.held.lock().unwrap().push(respond),
            "/openid/v1/jwks" => reply(respond, &self.jwks.to_string()),
            "/version" => reply(respond, "{}"),
            "/api/v1/namespaces/kube-system" => {
                reply(respond, &json!({"metadata": {"uid": self.uid}}).to_string());
            }
            _ => (self.answer)(request, respond),
        }
    }
}

// === impl HostileAgent ===

impl HostileAgent {
    /// Dials with the enrolment in `directory` and serves by `script`.
    pub(crate) async fn start(agents: SocketAddr, directory: &Path, script: Script) -> Self {
        let stream = dial(agents, directory).await;
        let (mut read, mut write) = tokio::io::split(stream);
        let (near, far) = tokio::io::duplex(1 << 20);
        let (mut from_server, mut to_server) = tokio::io::split(near);
        let (wire, mut queued) = mpsc::channel::<Vec<u8>>(QUEUE);
        let server = tokio::spawn(serve(far, script));
        let frames = wire.clone();
        let framing = tokio::spawn(async move {
            while let Some(frame) = whole_frame(&mut from_server).await {
                let _ = frames.send(frame).await;
            }
        });
        let outwards = tokio::spawn(async move {
            while let Some(bytes) = queued.recv().await {
                // The hub has gone: the other direction says so.
                if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
                    return;
                }
            }
        });
        let stopped = CancellationToken::new();
        let stop = stopped.clone();
        let connection = tokio::spawn(async move {
            let mut bytes = vec![0; 64 * 1024];
            loop {
                let read = tokio::select! {
                    biased;
                    () = stop.cancelled() => std::future::pending().await,
                    read = read.read(&mut bytes) => read,
                };
                match read {
                    Ok(0) | Err(_) => return,
                    // The library may have given up on what a test made of its connection.
                    Ok(read) => drop(to_server.write_all(&bytes[..read]).await),
                }
            }
        });
        let tasks = [server, framing, outwards].map(AbortOnDropHandle::new);
        Self { wire, connection: AbortOnDropHandle::new(connection), stopped, _tasks: tasks }
    }

    /// Puts `bytes` on the wire, unless the hub has closed it.
    pub(crate) async fn send(&self, bytes: Vec<u8>) {
        let _ = self.wire.send(bytes).await;
    }

    /// Takes nothing from the wire any more.
    pub(crate) fn stop_reading(&self) {
        self.stopped.cancel();
    }

    /// Waits until the hub has closed the connection.
    pub(crate) async fn closed(&mut self) {
        within("the hub closes the tunnel", PATIENCE, &mut self.connection).await.unwrap();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.connection.is_finished()
    }
}

/// Mutual TLS with the hub's agent listener.
pub(crate) async fn dial(agents: SocketAddr, directory: &Path) -> ClientStream<TcpStream> {
    let credentials = AgentCredentials::load(directory).unwrap();
    let socket = TcpStream::connect(agents).await.unwrap();
    credentials.connect("localhost", socket).await.unwrap()
}

/// Answers with `body`, which is whole.
pub(crate) fn reply(mut respond: SendResponse<Bytes>, body: &str) {
    // The stream may be gone.
    if let Ok(mut send) = respond.send_response(Response::new(()), body.is_empty())
        && !body.is_empty()
    {
        let _ = send.send_data(Bytes::from(body.to_owned()), true);
    }
}

async fn serve(io: tokio::io::DuplexStream, script: Script) {
    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol().max_concurrent_streams(script.streams);
    builder.initial_window_size(1 << 20);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        script.serve(request, respond);
    }
}

/// One frame as the library wrote it.
async fn whole_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut frame = vec![0; 9];
    stream.read_exact(&mut frame).await.ok()?;
    let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
    frame.resize(9 + usize::try_from(length).unwrap(), 0);
    stream.read_exact(&mut frame[9..]).await.ok()?;
    Some(frame)
}

/// Frames, or the bytes of a whole attack.
const QUEUE: usize = 16;
