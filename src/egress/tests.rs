//! Connections through proxies of the test, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::KeyPair;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::pki::tls;

/// A proxy that takes one connection, reads a head, answers `answer`, and then repeats every byte.
/// Gives back the head.
fn echoing<IO>(mut io: IO, answer: &'static str) -> JoinHandle<String>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    tokio::spawn(async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(io.read_u8().await.unwrap());
        }
        io.write_all(answer.as_bytes()).await.unwrap();
        let (mut read, mut write) = tokio::io::split(io);
        // The client may have hung up.
        let _ = tokio::io::copy(&mut read, &mut write).await;
        String::from_utf8(head).unwrap()
    })
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn by(proxy: String) -> Egress {
    let variables = Variables::read_by(|name| (name == "HTTPS_PROXY").then(|| proxy.clone()));
    let no_tls = || Err(EgressError::Config("no TLS here".into()));
    Egress::new(Proxies::new(&variables, no_tls).unwrap())
}

/// What becomes of a connection to `hub.example:8091` by a proxy that answers so, and what it read.
async fn answered(answer: &'static str) -> (Result<Leg, EgressError>, JoinHandle<String>) {
    let (listener, address) = listen().await;
    let proxy = tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        echoing(io, answer).await.unwrap()
    });
    let egress = by(format!("http://jane:secret@{address}"));
    let targets = egress.resolve("hub.example", 8091).await.unwrap();
    assert_eq!(targets.len(), 1);
    (egress.connect(&targets[0]).await, proxy)
}

#[tokio::test]
async fn bytes_pass_once_the_proxy_has_connected() {
    let (leg, proxy) = answered("HTTP/1.1 200 Connection established\r\n\r\n").await;
    let mut leg = leg.unwrap();
    leg.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    leg.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");
    drop(leg);
    let head = proxy.await.unwrap();
    let mut lines: Vec<&str> = head.trim_end().split("\r\n").collect();
    lines.sort_unstable();
    let expected = [
        "CONNECT hub.example:8091 HTTP/1.1",
        "host: hub.example:8091",
        "proxy-authorization: Basic amFuZTpzZWNyZXQ=",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn what_a_proxy_answers_else_is_told_with_a_remedy() {
    for (answer, expected) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "wants credentials (407)"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "answered 403 Forbidden; let it allow CONNECT"),
        ("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 2\r\n\r\nno", "answered 502 Bad Gateway"),
        ("SSH-2.0-OpenSSH\r\n\r\n", "no answer to CONNECT that HTTP has"),
        ("HTTP/1.1 200 OK\r\n\r\nearly", "bytes came before the hub"),
    ] {
        let (leg, proxy) = answered(answer).await;
        let error = leg.err().unwrap().to_string();
        assert!(error.contains(expected), "{answer:?}: {error}");
        assert!(error.contains("proxy http://127.0.0.1:"), "{error}");
        assert!(!error.contains("secret"), "{error}");
        proxy.abort();
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_told_from_a_hub_that_is_not() {
    let (listener, address) = listen().await;
    drop(listener);
    let egress = by(format!("http://{address}"));
    let target = &egress.resolve("hub.example", 8091).await.unwrap()[0];
    let error = egress.connect(target).await.err().unwrap().to_string();
    assert!(error.starts_with(&format!("no connection to the proxy http://{address}")), "{error}");

    // This machine's own is never asked of a proxy.
    let straight = egress.resolve("127.0.0.1", address.port()).await.unwrap();
    assert_eq!(straight[0].address, Some(address));
    let error = egress.connect(&straight[0]).await.err().unwrap().to_string();
    assert!(error.starts_with(&format!("no connection to {address}")), "{error}");
    let (listener, address) = listen().await;
    let straight = egress.resolve("127.0.0.1", address.port()).await.unwrap();
    assert!(egress.connect(&straight[0]).await.is_ok());
    drop(listener);
}

#[tokio::test]
async fn names_that_nobody_has_are_told() {
    let error = Egress::default().resolve("no-such-host.invalid", 8091).await.unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with("the name no-such-host.invalid cannot be resolved"), "{error}");
}

#[tokio::test]
async fn a_proxy_that_speaks_tls_is_believed_by_its_authority_alone() {
    let key = KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let serving = tls::server(certificate.as_bytes(), key.serialize_pem().as_bytes(), &[]).unwrap();
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            // Whoever does not believe us hangs up.
            if let Ok(io) = tokio_rustls::TlsAcceptor::from(serving.clone()).accept(tcp).await {
                drop(echoing(io, "HTTP/1.1 200 OK\r\n\r\n"));
            }
        }
    });
    let other = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let other = other.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    let by = |authority: &str| {
        let variables = Variables::read_by(|name| {
            (name == "HTTPS_PROXY").then(|| format!("https://{address}"))
        });
        let config = tls::upstream(authority.as_bytes(), None, &[b"http/1.1"]).unwrap();
        Egress::new(Proxies::new(&variables, || Ok(Arc::clone(&config))).unwrap())
    };
    let target = Target { host: "hub.example".into(), port: 8091, address: None };
    let mut leg = by(&certificate).connect(&target).await.unwrap();
    leg.write_all(b"hello").await.unwrap();
    leg.flush().await.unwrap();
    let mut back = [0; 5];
    leg.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");

    let error = by(&other).connect(&target).await.err().unwrap().to_string();
    assert!(error.starts_with("no TLS session with the proxy https://127.0.0.1"), "{error}");
    assert!(error.contains("--proxy-ca"), "{error}");
}
