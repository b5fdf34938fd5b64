//! The connections that speak for one account.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Request, Response, Version};
use http_body_util::Either;
use tokio::time::Instant;

use super::connector::{ANY, Connector};
use super::http1::Http1;
use super::http2::{Http2, Load, Place};
use super::{Account, AnswerBody, Failed, RequestBody, UpstreamError};

/// Opens connections on demand, and uses no more of them than it needs: an API server closes those
/// that nobody uses.
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

    /// A place on a connection; opens one if none has room.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, UpstreamError> {
        if let Some(lease) = self.free() {
            return Ok(lease);
        }
        // Boxed, because a handshake is rare and its future large.
        if self.lock().one_by_one {
            return Box::pin(self.open()).await;
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
        let outcome = Box::pin(self.open()).await;
        *opening = outcome.as_ref().err().map(|error| (Instant::now(), error.clone()));
        outcome
    }

    fn free(self: &Arc<Self>) -> Option<Lease> {
        let mut connections = self.lock();
        while let Some(at) = choose(connections.http2.iter().map(|connection| connection.load())) {
            if let Some(place) = connections.http2[at].place() {
                return Some(Lease { kind: Kind::Http2(place) });
            }
            // Full, as all others are then, or closed.
            let open = connections.http2.len();
            connections.http2.retain(|connection| !connection.is_closed());
            if connections.http2.len() == open {
                break;
            }
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
        // Those that the API server has closed since a burst.
        connections.http2.retain(|connection| !connection.is_closed());
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
    ) -> Result<Response<AnswerBody>, Failed> {
        match &mut self.kind {
            Kind::Http2(place) => Ok(place.try_send(request).await?.map(Either::Left)),
            Kind::Http1 { connection, .. } => {
                let connection =
                    connection.as_mut().expect("invariant: taken only when the lease is dropped");
                Ok(connection.try_send(request).await?.map(Either::Right))
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

/// Which of the connections takes a stream, oldest first: the first that is not half full, so that the
/// ones of a burst fall idle after it; else the one with the most room.
fn choose(loads: impl Iterator<Item = Load> + Clone) -> Option<usize> {
    let calm = loads.clone().position(|load| load.streams < load.most / 2);
    let room = |(_, load): &(usize, Load)| load.most.saturating_sub(load.streams);
    calm.or_else(|| loads.enumerate().max_by_key(room).map(|(at, _)| at))
}

/// HTTP/1.1 connections kept for later requests; each costs the API server a file. Were they fewer than
/// requests in flight, requests would pay for handshakes all the time.
const MAX_IDLE: usize = 256;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn a_burst_is_spread_and_what_it_opened_falls_idle() {
        let chosen = |loads: &[usize]| {
            choose(loads.iter().map(|streams| Load { streams: *streams, most: 240 }))
        };
        assert_eq!(chosen(&[]), None);
        // Streams end in the order in which they began.
        let (mut loads, mut running) = (vec![0; 5], VecDeque::new());
        for step in 0..3000 {
            if step < 1000 || step % 2 == 0 {
                let at = chosen(&loads).unwrap();
                loads[at] += 1;
                running.push_back(at);
            }
            if step == 999 {
                assert_eq!(loads, [200; 5]);
            }
            let ends = if step == 1000 { 901 } else { usize::from(step > 1000 && step % 2 == 1) };
            for at in running.drain(..ends) {
                loads[at] -= 1;
            }
        }
        assert_eq!(loads, [99, 0, 0, 0, 0]);
        // Where there is no more room than that, it is used.
        let two = [(49, 100), (50, 100)].map(|(streams, most)| Load { streams, most });
        assert_eq!(choose(two.into_iter()), Some(0));
        let full = [(100, 100), (60, 100)].map(|(streams, most)| Load { streams, most });
        assert_eq!(choose(full.into_iter()), Some(1));
    }
}
