//! The connections that speak for one account.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Request, Response, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::connector::{ANY, Connector};
use super::http1::Http1;
use super::http2::{Http2, Place};
use super::{Account, Failed, RequestBody, UpstreamError};

/// Opens connections on demand and hands out the least loaded.
pub(super) struct Pool {
    connector: Arc<Connector>,
    account: Account,
    connections: Mutex<Connections>,
    /// One connection is opened at a time: a burst must not open one for each request. Holds when
    /// the last attempt failed, for those who waited meanwhile.
    opening: tokio::sync::Mutex<Option<(Instant, UpstreamError)>>,
}

#[derive(Default)]
struct Connections {
    http2: Vec<Arc<Http2>>,
    http1: Vec<Http1>,
    /// The last handshake gave HTTP/1.1, where every request needs a connection of its own.
    one_by_one: bool,
}

/// The right to one exchange on a connection.
pub(in crate::agent) struct Lease {
    kind: Kind,
}

enum Kind {
    Http2(Place),
    Http1 {
        /// `None` only while it is dropped.
        connection: Option<Http1>,
        pool: Arc<Pool>,
    },
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(connector: Arc<Connector>, account: Account) -> Self {
        Self {
            connector,
            account,
            connections: Mutex::default(),
            opening: tokio::sync::Mutex::new(None),
        }
    }

    /// A place on the least loaded connection; opens one if none has room.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, UpstreamError> {
        if let Some(lease) = self.free() {
            return Ok(lease);
        }
        if self.lock().one_by_one {
            return self.open().await;
        }
        let asked = Instant::now();
        let mut opening = self.opening.lock().await;
        if let Some(lease) = self.free() {
            return Ok(lease);
        }
        if let Some((failed, error)) = &*opening
            && *failed >= asked
        {
            return Err(error.clone());
        }
        let outcome = self.open().await;
        *opening = outcome.as_ref().err().map(|error| (Instant::now(), error.clone()));
        outcome
    }

    fn free(self: &Arc<Self>) -> Option<Lease> {
        let mut connections = self.lock();
        connections.http2.retain(|connection| !connection.is_closed());
        let least = connections.http2.iter().min_by_key(|connection| connection.streams());
        if let Some(place) = least.and_then(Http2::place) {
            return Some(Lease { kind: Kind::Http2(place) });
        }
        connections.http1.retain(|connection| !connection.is_closed());
        let ready = connections.http1.iter().position(Http1::is_ready)?;
        let connection = connections.http1.swap_remove(ready);
        drop(connections);
        Some(self.http1(connection))
    }

    async fn open(self: &Arc<Self>) -> Result<Lease, UpstreamError> {
        let (io, version) = self.connector.connect(self.account, ANY).await?;
        if version != Version::HTTP_2 {
            self.lock().one_by_one = true;
            return Ok(self.http1(Http1::handshake(io).await?));
        }
        let connection = Http2::handshake(io).await?;
        let mut connections = self.lock();
        connections.one_by_one = false;
        let place = connection.place();
        connections.http2.push(connection);
        let closed = || UpstreamError::Unreachable("the connection closed at once".into());
        place.map(|place| Lease { kind: Kind::Http2(place) }).ok_or_else(closed)
    }

    fn http1(self: &Arc<Self>, connection: Http1) -> Lease {
        Lease { kind: Kind::Http1 { connection: Some(connection), pool: self.clone() } }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        // Nothing below panics half-way through a change, so a poisoned list is still a good one.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lease ===

impl Lease {
    pub(super) fn version(&self) -> Version {
        match self.kind {
            Kind::Http2(_) => Version::HTTP_2,
            Kind::Http1 { .. } => Version::HTTP_11,
        }
    }

    pub(super) async fn try_send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failed> {
        match &mut self.kind {
            Kind::Http2(place) => place.try_send(request).await,
            Kind::Http1 { connection, .. } => {
                let connection =
                    connection.as_mut().expect("invariant: taken only when the lease is dropped");
                connection.try_send(request).await
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Kind::Http1 { connection, pool } = &mut self.kind else { return };
        let Some(connection) = connection.take() else { return };
        let mut connections = pool.lock();
        if !connection.is_closed() && connections.http1.len() < MAX_IDLE {
            connections.http1.push(connection);
        }
    }
}

/// HTTP/1.1 connections kept for later requests; each costs the API server a file.
const MAX_IDLE: usize = 64;
