//! One tunnel to a hub, from the first packet to the goodbye.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Dialer, Hub};
use crate::agent::dial;
use crate::agent::link::{Greeting, Link};
use crate::agent::presence::{Limit, Place};
use crate::agent::serve::TunnelHandler;
use crate::egress::{EgressError, Target};
use crate::pki::credentials::JoinError;
use crate::tunnel::opener::TunnelEnd;
use crate::tunnel::server;

/// A tunnel that the hub greeted. Dropping it lets go of it, not of its streams: those belong to
/// the drain.
pub(super) struct Tunnel {
    pub(super) link: Link,
    /// The hub process at the other end.
    pub(super) replica: String,
    pub(super) task: JoinHandle<TunnelEnd>,
    /// Changes once our certificate is another than the one that this tunnel came with.
    pub(super) renewed: watch::Receiver<u64>,
    place: Arc<Place>,
    goodbye: CancellationToken,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Unreachable(#[from] EgressError),
    #[error("no TLS session within {HANDSHAKE_DEADLINE:?}")]
    Slow,
    /// Something answered that takes no tunnels, or no TLS.
    #[error("{0}")]
    NoTls(JoinError),
    #[error("{0}")]
    UnknownAuthority(JoinError),
    #[error("the hub hung up before its hello: {0}")]
    Refused(TunnelEnd),
    #[error("the hub said nothing")]
    Silent,
    /// The replica behind this address has all its tunnels.
    #[error("the replica {0} has its tunnels")]
    Surplus(String),
}

// === impl Dialer ===

impl Dialer {
    /// Connects and waits for the hub's hello: TLS 1.3 lets us finish before the hub has judged
    /// our certificate, so nothing less proves that we are welcome. A tunnel that is to replace
    /// another must reach the same replica, or one that lacks tunnels.
    pub(super) async fn establish(
        &self,
        hub: &Hub,
        target: &Target,
        instead_of: Option<&Tunnel>,
    ) -> Result<Tunnel, Failure> {
        self.valid_certificate().await;
        let tcp = dial::connect(&self.egress, target).await?;
        // Before the certificate is taken: one that is renewed from here on is news to this tunnel.
        let mut renewed = self.renewed.clone();
        renewed.mark_unchanged();
        let handshake = self.credentials.connect(&target.host, tcp);
        let stream = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake)
            .await
            .map_err(|_| Failure::Slow)?
            .map_err(Failure::of_handshake)?;
        let instead_of = instead_of.map(|old| old.replica.clone());
        let mut tunnel = self.serve(stream, renewed, Limit { tunnels: self.tunnels, instead_of });
        // Who stops waiting, because the agent stops, would leave a tunnel that nobody says goodbye on.
        let abandoned = tunnel.goodbye.clone().drop_guard();
        let mut greeting = tunnel.link.greeting.subscribe();
        let said = tokio::select! {
            biased;
            Ok(said) = greeting.wait_for(Option::is_some) => said.clone(),
            end = &mut tunnel.task => return Err(Failure::Refused(ended(end))),
            () = tokio::time::sleep(HELLO_DEADLINE) => None,
        };
        let Some(Greeting { replica, living, welcome }) = said else {
            tunnel.leave();
            return Err(Failure::Silent);
        };
        hub.coverage.greeted(&replica, living);
        if !welcome {
            tunnel.leave();
            return Err(Failure::Surplus(replica));
        }
        tunnel.replica = replica;
        abandoned.disarm();
        Ok(tunnel)
    }

    fn serve<IO>(&self, io: IO, renewed: watch::Receiver<u64>, limit: Limit) -> Tunnel
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let place = Arc::new(self.presence.place());
        let link = Link::new(place.clone(), limit);
        let goodbye = CancellationToken::new();
        let handler = TunnelHandler { service: self.service.clone(), link: link.clone() };
        let settings = self.settings.clone();
        let (drain, said, counted) = (self.drain.clone(), goodbye.clone(), place.clone());
        let task = self.drain.spawn(async move {
            let end = tokio::select! {
                end = server::serve(io, &settings, handler, said.cancelled()) => end,
                () = drain.cut() => TunnelEnd::Closed("the agent stopped"),
            };
            counted.give_back();
            end
        });
        Tunnel { link, replica: String::new(), renewed, place, goodbye, task }
    }

    /// Leaves a tunnel whose successor was greeted, a little later: the hub still looks at the
    /// cluster behind the new one, and a goodbye before that would leave it with none.
    pub(super) fn retire(&self, old: Tunnel) {
        self.outlive(old, tokio::time::sleep(OVERLAP));
    }

    /// Leaves a tunnel to its hub, which goes on using it until it closes it.
    pub(super) fn entrust(&self, old: Tunnel) {
        self.outlive(old, std::future::pending());
    }

    /// Says goodbye on `old` when `over` is ready, or when we stop ourselves.
    fn outlive(&self, old: Tunnel, over: impl Future<Output = ()> + Send + 'static) {
        old.place.give_back();
        let Tunnel { goodbye, mut task, .. } = old;
        let drain = self.drain.clone();
        self.drain.spawn(async move {
            tokio::select! {
                _ = &mut task => {}
                () = over => {}
                () = drain.stopping() => {}
            }
            goodbye.cancel();
        });
    }

    /// Waits for the renewal where the certificate has expired: the hub would hang up, and call it
    /// a refusal.
    async fn valid_certificate(&self) {
        let mut renewed = self.renewed.clone();
        renewed.mark_unchanged();
        while self.credentials.expires() <= SystemTime::now() {
            tracing::info!("the certificate has expired; dialling once it is renewed");
            if renewed.changed().await.is_err() {
                return;
            }
        }
    }
}

// === impl Failure ===

impl Failure {
    fn of_handshake(error: JoinError) -> Self {
        match error {
            JoinError::UnknownAuthority { .. } => Self::UnknownAuthority(error),
            error => Self::NoTls(error),
        }
    }
}

// === impl Tunnel ===

impl Tunnel {
    /// Says goodbye: streams that run may finish, and the hub opens no more.
    pub(super) fn leave(&self) {
        self.place.give_back();
        self.goodbye.cancel();
    }
}

pub(super) fn ended(joined: Result<TunnelEnd, tokio::task::JoinError>) -> TunnelEnd {
    joined.unwrap_or_else(|error| TunnelEnd::Broken(error.to_string()))
}

const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// The hub's first request comes at once; our answer may wait three seconds for an API server.
const HELLO_DEADLINE: Duration = Duration::from_secs(15);
/// The hub gives its look at `kube-system` five seconds between hello and first request.
const OVERLAP: Duration = Duration::from_secs(6);
