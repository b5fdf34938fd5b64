//! Port-forward: pairs of SPDY streams, each a connection to a port of the Pod.
//!
//! A client opens an `error` and a `data` stream for every connection, both with the port and with a
//! request id of their own. Words on the error stream say why there is no connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::services::Service;
use super::session::GOODBYE;
use super::spdy::{self, Accepted, Stream};

/// Serves one client until it leaves or the Pod goes.
pub(super) async fn run<R, W>(reader: R, writer: W, pod: Arc<str>, ended: CancellationToken)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (mut accepted, driver) = spdy::serve(reader, writer);
    tokio::pin!(driver);
    // Dropped with what it runs.
    let mut connections = JoinSet::new();
    tokio::select! {
        gone = &mut driver => {
            if let Err(error) = gone {
                tracing::debug!(%error, "a SPDY connection broke");
            }
            return;
        }
        () = pair(&mut accepted, &pod, &mut connections) => {}
        () = ended.cancelled() => {}
    }
    drop((accepted, connections));
    // The client hears that no more streams are taken; then the connection ends.
    let _ = timeout(GOODBYE, driver).await;
}

/// What a client has opened of a connection whose other half is missing.
struct Half {
    stream: Stream,
    since: Instant,
}

/// Brings together what belongs together; ends with the client.
async fn pair(accepted: &mut Accepted, pod: &Arc<str>, connections: &mut JoinSet<()>) {
    let mut halves: HashMap<(String, bool), Half> = HashMap::new();
    while let Some(mut stream) = accepted.recv().await {
        // Those that ended give back their place.
        while connections.try_join_next().is_some() {}
        let now = Instant::now();
        halves.retain(|_, half| now.duration_since(half.since) < PAIRING);
        let port = stream.header("port").and_then(|port| port.parse::<u16>().ok());
        let is_error = match stream.header("streamtype") {
            Some("error") => true,
            Some("data") => false,
            _ => continue,
        };
        let (Some(port), Some(request)) = (port, stream.header("requestid")) else {
            let _ = stream.send.shutdown().await;
            continue;
        };
        let request = request.to_owned();
        let Some(other) = halves.remove(&(request.clone(), !is_error)) else {
            halves.insert((request, is_error), Half { stream, since: now });
            continue;
        };
        let (data, error) = if is_error { (other.stream, stream) } else { (stream, other.stream) };
        connections.spawn(connect(port, data, error, Arc::clone(pod)));
    }
}

async fn connect(port: u16, mut data: Stream, mut error: Stream, pod: Arc<str>) {
    match Service::on(port) {
        Some(service) => service.serve(data.receive, data.send, &pod).await,
        None => {
            // Starts with the words by which kubectl knows it.
            let why = format!(
                "failed to connect to localhost:{port} inside pod {pod}: connection refused; \
                 its ports are {}",
                Service::ports()
            );
            // A client that is gone wants no explanation.
            let _ = error.send.write_all(why.as_bytes()).await;
            let _ = data.send.shutdown().await;
        }
    }
    let _ = error.send.shutdown().await;
}

/// How long the second stream of a pair may take; the kubelet's limit.
const PAIRING: Duration = Duration::from_secs(30);
