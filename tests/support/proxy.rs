//! An HTTP proxy that lets those with credentials connect, and resolves names in its own way.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::part::Part;

/// A running proxy. Ends, and cuts what runs through it, when it is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// The first lines of the requests so far.
    asked: Arc<Mutex<Vec<String>>>,
    _part: Part,
}

// === impl Proxy ===

impl Proxy {
    /// Starts one at `address`, which connects whoever is `jane` with the password `secret` to
    /// `target`, whatever they call it.
    pub(crate) fn start(address: SocketAddr, target: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&asked);
        let part = Part::start("proxy", move || async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(client, target, Arc::clone(&seen)));
            }
        });
        Self { address, asked, _part: part }
    }

    /// The first lines of the requests so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(mut client: TcpStream, target: SocketAddr, asked: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = client.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let line = head.lines().next().unwrap().to_owned();
    asked.lock().unwrap().push(line);
    // jane:secret
    if !head.contains("Basic amFuZTpzZWNyZXQ=") {
        let refused = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        let _ = client.write_all(refused).await;
        return;
    }
    let Ok(mut hub) = TcpStream::connect(target).await else {
        let _ = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await;
        return;
    };
    let _ = client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await;
    // Whoever breaks off breaks off both.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut hub).await;
}
