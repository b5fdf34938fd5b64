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
    loop {
        let stream = tokio::select! {
            stream = accepted.recv() => stream,
            request = overdue(&halves) => {
                if let Some(half) = halves.remove(&request) {
                    half.stream.reset().await;
                }
                continue;
            }
        };
        let Some(stream) = stream else { return };
        // Those that ended give back their place.
        while connections.try_join_next().is_some() {}
        let port = stream.header("port").and_then(|port| port.parse::<u16>().ok());
        let is_error = match stream.header("streamtype") {
            Some("error") => Some(true),
            Some("data") => Some(false),
            _ => None,
        };
        let (Some(port), Some(is_error), Some(request)) =
            (port, is_error, stream.header("requestid"))
        else {
            stream.reset().await;
            continue;
        };
        let request = request.to_owned();
        let Some(other) = halves.remove(&(request.clone(), !is_error)) else {
            let half = Half { stream, since: Instant::now() };
            if let Some(before) = halves.insert((request, is_error), half) {
                before.stream.reset().await;
            }
            continue;
        };
        let (data, error) = if is_error { (other.stream, stream) } else { (stream, other.stream) };
        connections.spawn(connect(port, data, error, Arc::clone(pod)));
    }
}

/// Waits until a half has missed its partner for too long, and says whose it is.
async fn overdue(halves: &HashMap<(String, bool), Half>) -> (String, bool) {
    match halves.iter().min_by_key(|(_, half)| half.since) {
        Some((request, half)) => {
            tokio::time::sleep_until(half.since + PAIRING).await;
            request.clone()
        }
        None => std::future::pending().await,
    }
}

async fn connect(port: u16, mut data: Stream, mut error: Stream, pod: Arc<str>) {
    match Service::on(port) {
        Some(service) => service.serve(data.receive, data.send, &pod).await,
        None => {
            let why = Service::nothing_on(port, &pod);
            // A client that is gone wants no explanation.
            let _ = error.send.write_all(why.as_bytes()).await;
            let _ = data.send.shutdown().await;
        }
    }
    let _ = error.send.shutdown().await;
}

/// How long the second stream of a pair may take; the kubelet's limit.
const PAIRING: Duration = Duration::from_secs(30);
