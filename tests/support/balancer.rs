//! A TCP balancer: each connection goes to a backend drawn by lot.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::client::plain_get;
use super::part::Part;

/// One address in front of several. Connections that run outlive a change of the backends.
pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    backends: Arc<Mutex<Vec<Backend>>>,
    _part: Part,
}

#[derive(Clone, Copy)]
struct Backend {
    address: SocketAddr,
    /// Where `/readyz` is asked; always ready without.
    health: Option<SocketAddr>,
    ready: bool,
}

// === impl Balancer ===

impl Balancer {
    /// Starts one without backends.
    pub(crate) async fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let backends = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&backends);
        let part = Part::start("balancer", move || async move {
            let listener = TcpListener::from_std(listener).unwrap();
            tokio::join!(follow(&shared), deal(listener, &shared));
        });
        Self { address, backends, _part: part }
    }

    /// Adds a backend that counts as ready always.
    pub(crate) fn add(&self, address: SocketAddr) {
        self.backends.lock().unwrap().push(Backend { address, health: None, ready: true });
    }

    /// Adds a backend that gets connections while `/readyz` at `health` says so.
    pub(crate) fn add_checked(&self, address: SocketAddr, health: SocketAddr) {
        let backend = Backend { address, health: Some(health), ready: false };
        self.backends.lock().unwrap().push(backend);
    }

    /// Removes a backend.
    pub(crate) fn remove(&self, address: SocketAddr) {
        self.backends.lock().unwrap().retain(|backend| backend.address != address);
    }
}

async fn follow(backends: &Mutex<Vec<Backend>>) {
    loop {
        let known = backends.lock().unwrap().clone();
        for backend in known {
            let Some(health) = backend.health else { continue };
            let answer = tokio::time::timeout(ANSWER, plain_get(health, "/readyz")).await;
            let ready = matches!(answer, Ok(Ok(text)) if text == "ok\n");
            let mut backends = backends.lock().unwrap();
            let same = backends.iter_mut().filter(|one| one.address == backend.address);
            same.for_each(|one| one.ready = ready);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn deal(listener: TcpListener, backends: &Mutex<Vec<Backend>>) {
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        let ready: Vec<SocketAddr> = {
            let backends = backends.lock().unwrap();
            backends.iter().filter(|one| one.ready).map(|one| one.address).collect()
        };
        if ready.is_empty() {
            continue;
        }
        let drawn = ready[rand::random_range(0..ready.len())];
        tokio::spawn(async move {
            let Ok(mut backend) = TcpStream::connect(drawn).await else { return };
            let _ = client.set_nodelay(true);
            let _ = backend.set_nodelay(true);
            // Whoever breaks off breaks off both.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
        });
    }
}

/// Readiness is followed within this: far below the least time of a drain.
const INTERVAL: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_secs(1);
