//! What lies between two machines: a relay that delays bytes, loses them as TCP feels a loss, holds them
//! back, or breaks connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::host::Host;

/// One way from those who dial to one listener. Clones share it.
#[derive(Clone)]
pub(crate) struct Link {
    /// Where to dial.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    weather: watch::Sender<Weather>,
    breaks: watch::Sender<u64>,
    /// Bytes that came through, of all links.
    moved: Arc<AtomicU64>,
    chance: Mutex<StdRng>,
}

/// How a link is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// One way.
    pub(crate) delay: Duration,
    /// How many of a hundred pieces are sent again, which holds up those behind them.
    pub(crate) lost: u32,
    /// Nothing passes from the dialler to the listener.
    pub(crate) there_closed: bool,
    /// Nothing passes the other way.
    pub(crate) back_closed: bool,
}

/// Which way bytes go.
#[derive(Clone, Copy)]
enum Way {
    There,
    Back,
}

// === impl Weather ===

impl Weather {
    pub(crate) const FINE: Self =
        Self { delay: Duration::from_millis(1), lost: 0, there_closed: false, back_closed: false };

    fn is_open(&self, way: Way) -> bool {
        match way {
            Way::There => !self.there_closed,
            Way::Back => !self.back_closed,
        }
    }
}

// === impl Link ===

impl Link {
    /// A link to `target`, on a port of its own.
    pub(crate) fn open(
        network: &Host,
        target: SocketAddr,
        seed: u64,
        moved: Arc<AtomicU64>,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target,
            weather: watch::Sender::new(Weather::FINE),
            breaks: watch::Sender::new(0),
            moved,
            chance: Mutex::new(StdRng::seed_from_u64(seed)),
        });
        let link = Self { address, shared: Arc::clone(&shared) };
        network.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, Arc::clone(&shared)));
            }
        });
        link
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }

    /// Breaks every connection, as a box in between does that forgot them.
    pub(crate) fn break_all(&self) {
        self.shared.breaks.send_modify(|breaks| *breaks += 1);
    }
}

// === impl Shared ===

impl Shared {
    async fn passable(&self, way: Way) {
        // The sender is ours, so there is no error.
        let _ = self.weather.subscribe().wait_for(|weather| weather.is_open(way)).await;
    }

    /// When what is sent now arrives, behind what was sent before.
    fn arrival(&self, before: Instant) -> Instant {
        let weather = *self.weather.borrow();
        let is_lost = self.chance.lock().unwrap().random_range(0..100) < weather.lost;
        let again = if is_lost { RESENT } else { Duration::ZERO };
        before.max(Instant::now() + weather.delay + again)
    }
}

/// Carries one connection to its end.
async fn carry(near: TcpStream, shared: Arc<Shared>) {
    let mut breaks = shared.breaks.subscribe();
    for way in [Way::There, Way::Back] {
        shared.passable(way).await;
    }
    let Ok(far) = TcpStream::connect(shared.target).await else { return forget(&near) };
    for socket in [&near, &far] {
        let _ = socket.set_nodelay(true);
        // However this ends, it is a break: whole ends were told before.
        forget(socket);
    }
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    let both = async {
        tokio::try_join!(
            pass(near_read, far_write, Way::There, &shared),
            pass(far_read, near_write, Way::Back, &shared),
        )
    };
    tokio::select! {
        _ = both => {}
        _ = breaks.changed() => {}
    }
}

/// A close without a goodbye.
fn forget(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Carries one direction to its end; an error is a break, which arrives when it can.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    shared: &Shared,
) -> std::io::Result<()> {
    let (send, mut queue) = mpsc::channel::<(Instant, std::io::Result<Bytes>)>(IN_FLIGHT);
    let reading = async move {
        let mut last = Instant::now();
        loop {
            let mut piece = BytesMut::with_capacity(PIECE);
            let read = from.read_buf(&mut piece).await;
            last = shared.arrival(last);
            let is_end = !matches!(read, Ok(bytes) if bytes > 0);
            let piece = read.map(|_| piece.freeze());
            if send.send((last, piece)).await.is_err() || is_end {
                return std::future::pending().await;
            }
        }
    };
    let writing = async {
        while let Some((arrival, piece)) = queue.recv().await {
            tokio::time::sleep_until(arrival).await;
            shared.passable(way).await;
            let piece = piece?;
            if piece.is_empty() {
                return to.shutdown().await;
            }
            to.write_all(&piece).await?;
            shared.moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    };
    tokio::select! {
        written = writing => written,
        never = reading => never,
    }
}

/// Time after which TCP sends a lost piece again, at first.
const RESENT: Duration = Duration::from_millis(200);
const PIECE: usize = 16 << 10;
/// Pieces under way in one direction.
const IN_FLIGHT: usize = 32;
