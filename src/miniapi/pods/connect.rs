//! exec, attach and port-forward: from an authorised request to a running session.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::channel::Version;
use super::options::{self, RemoteOptions};
use super::session::{GOODBYE, Session, Work};
use super::upgrade::{self, Carrier, Protocol};
use super::{Shared, forward, ports, remote, websocket};
use crate::miniapi::response::{Body, MiniStatus};

/// A Pod, or one of its containers.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) namespace: &'a str,
    pub(super) pod: &'a str,
}

/// Runs a process in the Pod.
///
/// # Errors
/// Of this and the functions below: a `Status` for a request that cannot become a session; nothing
/// was started then.
pub(super) fn exec<B>(
    shared: &Shared,
    request: Request<B>,
    place: Place<'_>,
) -> Result<Response<Body>, MiniStatus> {
    let options = RemoteOptions::of_exec(request.uri().query().unwrap_or_default())?;
    let (protocol, response) = upgrade::negotiate(request.method(), request.headers(), &REMOTE)?;
    let permit = shared.permit()?;
    let (scratch, ended) = shared.enter(place, options.container.as_deref())?;
    let session = Session { work: Work::Exec(scratch), options, ended: ended.clone() };
    start(shared, request, permit, ended, move |io| Box::pin(speak(session, protocol, io)));
    Ok(response)
}

/// Joins the main program of a container.
pub(super) fn attach<B>(
    shared: &Shared,
    request: Request<B>,
    place: Place<'_>,
) -> Result<Response<Body>, MiniStatus> {
    let options = RemoteOptions::of_attach(request.uri().query().unwrap_or_default())?;
    let (protocol, response) = upgrade::negotiate(request.method(), request.headers(), &REMOTE)?;
    let permit = shared.permit()?;
    let (log, ended) = shared.main(place, options.container.as_deref())?;
    let session = Session { work: Work::Attach(log), options, ended: ended.clone() };
    start(shared, request, permit, ended, move |io| Box::pin(speak(session, protocol, io)));
    Ok(response)
}

/// Carries connections to ports of the Pod.
pub(super) fn port_forward<B>(
    shared: &Shared,
    request: Request<B>,
    place: Place<'_>,
) -> Result<Response<Body>, MiniStatus> {
    let (protocol, response) =
        upgrade::negotiate(request.method(), request.headers(), &PORT_FORWARD)?;
    let ports = match protocol {
        CHANNELS => options::ports(request.uri().query().unwrap_or_default())?,
        // Each stream says its own.
        _ => Vec::new(),
    };
    let permit = shared.permit()?;
    let ended = shared.alive(place)?;
    let pod = Arc::from(place.pod);
    start(shared, request, permit, ended.clone(), move |io| {
        Box::pin(async move {
            match protocol {
                CHANNELS => ports::run(io, ports, pod, ended).await,
                (Carrier::Spdy, _) => {
                    let (reader, writer) = tokio::io::split(io);
                    forward::run(reader, writer, pod, ended).await;
                }
                (Carrier::WebSocket, _) => {
                    let (reader, writer) = websocket::bytes(io).await;
                    forward::run(reader, writer, pod, ended).await;
                }
            }
        })
    });
    Ok(response)
}

async fn speak(session: Session, (carrier, name): Protocol, io: &mut Connection) {
    match (carrier, Version::of(name)) {
        (Carrier::WebSocket, Some(version)) => websocket::run(session, version, io).await,
        // Version 4 is the newest that SPDY has, and REMOTE offers no other.
        _ => remote::run(session, io).await,
    }
}

type Connection = TokioIo<Upgraded>;

/// Runs the session once the connection is ours. Ends with the Pod's token, which the runtime
/// cancels when it goes.
fn start<B>(
    shared: &Shared,
    mut request: Request<B>,
    permit: OwnedSemaphorePermit,
    ended: CancellationToken,
    session: impl for<'a> FnOnce(&'a mut Connection) -> BoxFuture<'a, ()> + Send + 'static,
) {
    let upgrade = hyper::upgrade::on(&mut request);
    shared.sessions.spawn(async move {
        let _permit = permit;
        let upgraded = tokio::select! {
            upgraded = upgrade => upgraded,
            () = ended.cancelled() => return,
        };
        match upgraded {
            Ok(upgraded) => {
                let mut io = TokioIo::new(upgraded);
                session(&mut io).await;
                // An end that can be told from a broken connection.
                let _ = timeout(GOODBYE, io.shutdown()).await;
            }
            Err(error) => tracing::debug!(%error, "an upgrade failed"),
        }
    });
}

const REMOTE: [Protocol; 3] = [
    (Carrier::WebSocket, "v5.channel.k8s.io"),
    (Carrier::WebSocket, "v4.channel.k8s.io"),
    (Carrier::Spdy, "v4.channel.k8s.io"),
];

/// What came before SPDY in WebSockets.
const CHANNELS: Protocol = (Carrier::WebSocket, "v4.channel.k8s.io");

const PORT_FORWARD: [Protocol; 3] = [
    CHANNELS,
    // SPDY frames as the bytes of binary messages.
    (Carrier::WebSocket, "SPDY/3.1+portforward.k8s.io"),
    (Carrier::Spdy, "portforward.k8s.io"),
];
