//! What one connection does of a work.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use cluster_proxy::pki::tls;

use crate::failure::Failure;
use crate::measure::{Asker, lateness};
use crate::support::api::LIST;
use crate::support::bodies::{digest, source_body};
use crate::support::client::{Body, Client, empty};

/// What each connection does.
#[derive(Clone, Copy)]
pub(crate) enum Task {
    /// Asks for a short list again and again.
    List,
    /// Asks for this many bytes again and again.
    Get(u64),
    /// Sends this many bytes again and again.
    Post(u64),
    /// Asks for this many bytes, once.
    Download(u64),
    /// Sends this many bytes, once.
    Upload(u64),
    /// Hears an event after each pause; what counts is how late it is.
    Events { pause: Duration },
    /// Sends a byte over an upgraded connection and waits for it to come back.
    Echo,
    /// Opens a connection for each short list.
    Connect { resumed: bool },
}

/// Length and SHA-256.
pub(crate) type Checksum = (u64, String);

// === impl Task ===

impl Task {
    /// Whether one body lasts, so that its bytes count and not its request.
    pub(crate) fn is_stream(self) -> bool {
        matches!(self, Self::Download(_) | Self::Upload(_))
    }

    /// What the body is that each request moves.
    pub(crate) async fn expected(self) -> Checksum {
        let body = match self {
            Self::Events { .. } | Self::Echo => empty(),
            Self::List | Self::Connect { .. } => crate::support::client::full("n".repeat(LIST)),
            Self::Get(bytes) | Self::Post(bytes) | Self::Download(bytes) | Self::Upload(bytes) => {
                source_body(bytes)
            }
        };
        digest(body).await.unwrap()
    }

    fn request(self, client: &Client, prefix: &str) -> Request<Body> {
        let service = format!("{prefix}/api/v1/namespaces/default/services/x/proxy");
        match self {
            Self::List | Self::Connect { .. } => {
                client.request("GET", &format!("{prefix}/api/v1/nodes"), empty())
            }
            Self::Events { pause } => {
                let ticks = pause.as_millis();
                let path = format!("{prefix}/api/v1/configmaps?watch=true&ticks={ticks}");
                client.request("GET", &path, empty())
            }
            Self::Echo => {
                let path = format!("{prefix}/api/v1/namespaces/default/pods/p/exec?command=cat");
                let mut request = client.request("POST", &path, empty());
                request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
                request.headers_mut().insert("upgrade", "SPDY/3.1".parse().unwrap());
                request
            }
            Self::Get(bytes) | Self::Download(bytes) => {
                client.request("GET", &format!("{service}/source?bytes={bytes}"), empty())
            }
            Self::Post(bytes) | Self::Upload(bytes) => {
                client.request("POST", &format!("{service}/sink"), source_body(bytes))
            }
        }
    }

    /// Works until `end` as each of `callers` in turn, and returns how long each step took.
    pub(crate) async fn run(
        self,
        mut asker: Asker,
        callers: Vec<Client>,
        prefix: &'static str,
        expected: Checksum,
        end: Instant,
    ) -> Result<Vec<Duration>, Failure> {
        match self {
            Self::Events { .. } => {
                let response = asker.try_send(self.request(&callers[0], prefix)).await?;
                if response.status() != StatusCode::OK {
                    return Err(Failure::Status(response.status()));
                }
                Ok(lateness(response.into_body(), end).await?)
            }
            Self::Echo => {
                echoes(asker.try_send(self.request(&callers[0], prefix)).await?, end).await
            }
            Self::Connect { resumed } => {
                self.connect(resumed, &callers[0], prefix, expected, end).await
            }
            _ => self.ask(asker, callers, prefix, expected, end).await,
        }
    }

    /// Checks every body.
    async fn ask(
        self,
        mut asker: Asker,
        callers: Vec<Client>,
        prefix: &'static str,
        expected: Checksum,
        end: Instant,
    ) -> Result<Vec<Duration>, Failure> {
        let mut latencies = Vec::new();
        for caller in callers.iter().cycle() {
            if !latencies.is_empty() && (self.is_stream() || Instant::now() >= end) {
                break;
            }
            let start = Instant::now();
            let response = asker.try_send(self.request(caller, prefix)).await?;
            if response.status() != StatusCode::OK {
                return Err(Failure::Status(response.status()));
            }
            let body = response.into_body();
            let arrived = match self {
                Self::Post(_) | Self::Upload(_) => told_by_sink(body).await?,
                _ => digest(body).await?,
            };
            latencies.push(start.elapsed());
            assert_eq!(arrived, expected, "a whole body");
        }
        Ok(latencies)
    }

    /// A connection for each request: with a handshake of certificates, or with the ticket of the
    /// one before.
    async fn connect(
        self,
        resumed: bool,
        client: &Client,
        prefix: &'static str,
        expected: Checksum,
        end: Instant,
    ) -> Result<Vec<Duration>, Failure> {
        let config = || tls::upstream(&client.ca_pem, None, &[b"http/1.1"]).unwrap();
        let kept = config();
        let (mut latencies, mut has_ticket) = (Vec::new(), false);
        while Instant::now() < end {
            let fresh = if resumed { Arc::clone(&kept) } else { config() };
            let start = Instant::now();
            let stream = TcpStream::connect(client.address).await.unwrap();
            let stream = tls::connect(&fresh, "localhost", stream).await.unwrap();
            let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            assert_eq!(is_resumed, resumed && has_ticket, "the handshake that the work is about");
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let response = sender.send_request(self.request(client, prefix)).await?;
            if response.status() != StatusCode::OK {
                return Err(Failure::Status(response.status()));
            }
            assert_eq!(digest(response.into_body()).await?, expected, "a whole body");
            if has_ticket || !resumed {
                latencies.push(start.elapsed());
            }
            has_ticket = true;
            drop(sender);
            // An error says that the proxy closed first.
            let _ = connection.await.unwrap();
        }
        Ok(latencies)
    }
}

/// How long a byte took to the API server and back, until `end`.
async fn echoes(response: Response<Incoming>, end: Instant) -> Result<Vec<Duration>, Failure> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::Status(response.status()));
    }
    let mut pipe = TokioIo::new(hyper::upgrade::on(response).await?);
    let mut took = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        pipe.write_all(b"x").await.unwrap();
        let mut byte = [0];
        pipe.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"x");
        took.push(start.elapsed());
    }
    Ok(took)
}

/// What the API server says of the body that it got.
async fn told_by_sink(body: Incoming) -> hyper::Result<Checksum> {
    let told = body.collect().await?.to_bytes();
    let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
    Ok((told["bytes"].as_u64().unwrap(), told["sha256"].as_str().unwrap().to_owned()))
}
