//! Services that answer as no web server should: what is made of it, and that nobody else hears of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::ground::{Ground, path};
use crate::support::client::{Client, empty};
use crate::support::part::Part;

const LIST: &str = "- {namespace: shop, service: web}";
const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood";

/// Reads a head, says what it was told to, and hangs up.
struct Raw {
    address: SocketAddr,
    says: Arc<Mutex<String>>,
    _part: Part,
}

// === impl Raw ===

impl Raw {
    async fn start() -> Self {
        let (bound, address) = oneshot::channel();
        let says = Arc::<Mutex<String>>::default();
        let saying = Arc::clone(&says);
        let part = Part::start("raw", move || async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let said = saying.lock().unwrap().clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    stream.write_all(said.as_bytes()).await?;
                    stream.shutdown().await
                });
            }
        });
        Self { address: address.await.unwrap(), says, _part: part }
    }
}

/// Cases 18 and 104: heads that can be read in two, or that are none.
#[tokio::test]
async fn s18_s104_answers_that_are_none_are_502() {
    let ground = Ground::start(LIST, &["shop/web"]).await;
    let raw = Raw::start().await;
    ground.place(&[("http", raw.address), ("admin", ground.back.address)]).await;
    let informed = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(40) + GOOD;
    let large = format!("HTTP/1.1 200 OK\r\nx-large: {}\r\n\r\n", "a".repeat(2 << 20));
    for (what, answer, says) in [
        (
            "framed twice",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "not valid HTTP",
        ),
        (
            "lengths that differ",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nhello",
            "not valid HTTP",
        ),
        ("informed without end", &informed, "not valid HTTP"),
        ("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n", "not valid HTTP"),
        ("HTTP/2", "\0\0\0\x04\0\0\0\0\0", "not valid HTTP"),
        ("a head of 2 MiB", &large, "not valid HTTP"),
        (
            "an unasked upgrade",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            "not valid HTTP",
        ),
        ("nothing", "", "lost, while the request was under way"),
    ] {
        for client in [ground.client.clone(), ground.client.http2()] {
            answer.clone_into(&mut raw.says.lock().unwrap());
            let answer = client.get(&path("http:web:80", "/")).await;
            let message = answer.assert_status(502, "BadGateway");
            assert!(message.starts_with("cluster-proxy: service: "), "{what}: {message}");
            assert!(message.contains(says), "{what}: {message}");
            GOOD.clone_into(&mut raw.says.lock().unwrap());
            let good = client.get(&path("http:web:80", "/")).await;
            assert_eq!((good.status.as_u16(), good.text().as_str()), (200, "good"), "{what}");
        }
    }
}

/// A second answer is nobody's, and half a body is no whole one.
#[tokio::test]
async fn s18_s104_bodies_that_lie() {
    let ground = Ground::start(LIST, &["shop/web"]).await;
    let raw = Raw::start().await;
    ground.place(&[("http", raw.address), ("admin", ground.back.address)]).await;
    let say = |text: &str| text.clone_into(&mut raw.says.lock().unwrap());
    let collect = async |client: &Client| {
        let request = client.request("GET", &path("http:web:80", "/"), empty());
        // A head whose body is cut at once may be cut with it.
        let answer = client.open(request).await?;
        assert_eq!(answer.status(), 200);
        let body = http_body_util::BodyExt::collect(answer.into_body()).await?;
        anyhow::Ok(body.to_bytes())
    };
    for client in [ground.client.clone(), ground.client.http2()] {
        say(&format!("{GOOD}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"));
        assert_eq!(collect(&client).await.unwrap(), "good");
        say("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
        assert!(collect(&client).await.is_err());
        say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n");
        assert!(collect(&client).await.is_err());
        // Without a length the end of the connection is the end of the body.
        say("HTTP/1.1 200 OK\r\n\r\nwhole");
        assert_eq!(collect(&client).await.unwrap(), "whole");
    }
}
