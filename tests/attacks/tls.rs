//! TLS of the user front, in bytes where no library would send them: cases 106 to 109 and 111.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use cluster_proxy::pki::authorities;
use cluster_proxy::pki::tls;

use crate::frames::{END_STREAM, Outcome, headers};
use crate::ground::Ground;
use crate::messages::get;
use crate::support::fleet::Fleet;
use crate::support::{PATIENCE, eventually, within};

/// A first message of TLS.
struct Hello {
    version: u16,
    suites: Vec<u16>,
    compression: Vec<u8>,
    name: Option<&'static str>,
}

/// How the server takes it.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// Goes on: the payload of its first records, which under TLS 1.2 hold its certificate.
    Handshake(Vec<u8>),
    /// Refuses, with this description (RFC 8446 section 6).
    Alert(u8),
    Closed,
}

// === impl Hello ===

impl Hello {
    /// What a client of TLS 1.2 offers.
    fn modern() -> Self {
        Self { version: TLS12, suites: vec![GOOD], compression: vec![0], name: Some("localhost") }
    }

    /// The handshake message.
    fn message(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        let mut extend = |id: u16, body: &[u8]| {
            extensions.extend(id.to_be_bytes());
            extensions.extend(sized(body));
        };
        if let Some(name) = self.name {
            extend(0, &sized(&[&[0], &sized(name.as_bytes())[..]].concat()));
        }
        // secp256r1 and x25519; uncompressed points; ECDSA and RSA-PSS with SHA-256.
        extend(10, &sized(&[0, 0x17, 0, 0x1d]));
        extend(11, &[1, 0]);
        extend(13, &sized(&[4, 3, 8, 4]));
        extend(0xff01, &[0]);
        let suites: Vec<u8> = self.suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.push(0);
        body.extend(sized(&suites));
        body.push(u8::try_from(self.compression.len()).unwrap());
        body.extend(&self.compression);
        body.extend(sized(&extensions));
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1, length[1], length[2], length[3]][..], &body].concat()
    }

    async fn ask(&self, fleet: &Fleet) -> Answer {
        ask(fleet, &record(HANDSHAKE, &self.message())).await
    }
}

/// A length of two bytes, and what is that long.
fn sized(body: &[u8]) -> Vec<u8> {
    [&u16::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1][..], &sized(payload)].concat()
}

async fn ask(fleet: &Fleet, bytes: &[u8]) -> Answer {
    let mut socket = TcpStream::connect(fleet.hub.addresses.user).await.unwrap();
    // The server may have had enough before the end.
    let _ = socket.write_all(bytes).await;
    within("an answer of TLS", PATIENCE, answer(&mut socket)).await
}

async fn answer(socket: &mut (impl AsyncRead + Unpin)) -> Answer {
    let mut handshake = Vec::new();
    loop {
        let mut head = [0; 5];
        if socket.read_exact(&mut head).await.is_err() {
            return Answer::Closed;
        }
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        if socket.read_exact(&mut payload).await.is_err() {
            return Answer::Closed;
        }
        match head[0] {
            ALERT => return Answer::Alert(payload[1]),
            _ => handshake.extend(payload),
        }
        // ServerHelloDone of TLS 1.2 is the end of the server's turn.
        if handshake.ends_with(&[14, 0, 0, 0]) {
            return Answer::Handshake(handshake);
        }
    }
}

#[tokio::test]
async fn s106_old_versions_and_weak_ciphers() {
    let fleet = Fleet::hub_only().await;
    let modern = Hello::modern().ask(&fleet).await;
    assert!(matches!(modern, Answer::Handshake(_)), "{modern:?}");

    for version in [0x0300, 0x0301, 0x0302] {
        let old = Hello { version, ..Hello::modern() };
        assert_eq!(old.ask(&fleet).await, Answer::Alert(PROTOCOL_VERSION), "{version:x}");
    }
    let weak: [(&str, u16); 11] = [
        ("NULL", 0x0001),
        ("export RC4", 0x0003),
        ("RC4", 0x0005),
        ("ECDSA RC4", 0xc007),
        ("3DES", 0x000a),
        ("ECDSA 3DES", 0xc008),
        ("CBC SHA-1", 0x002f),
        ("ECDSA CBC SHA-1", 0xc009),
        ("ECDSA CBC SHA-256", 0xc023),
        ("no forward secrecy", 0x009c),
        ("anonymous", 0x0034),
    ];
    for (what, suite) in weak {
        let only = Hello { suites: vec![suite], ..Hello::modern() };
        assert_eq!(only.ask(&fleet).await, Answer::Alert(HANDSHAKE_FAILURE), "{what}");
        let beside = Hello { suites: vec![suite, GOOD], ..Hello::modern() };
        let Answer::Handshake(server) = beside.ask(&fleet).await else { panic!("{what}") };
        assert_eq!(chosen(&server), (GOOD, 0), "{what}");
    }
    let squeezed = Hello { compression: vec![1], ..Hello::modern() };
    assert!(matches!(squeezed.ask(&fleet).await, Answer::Alert(_)));
    let either = Hello { compression: vec![1, 0], ..Hello::modern() };
    let Answer::Handshake(server) = either.ask(&fleet).await else { panic!("compression") };
    assert_eq!(chosen(&server), (GOOD, 0));
}

/// Cipher suite and compression of a ServerHello.
fn chosen(server: &[u8]) -> (u16, u8) {
    let session = usize::from(server[38]);
    let at = 39 + session;
    (u16::from_be_bytes([server[at], server[at + 1]]), server[at + 2])
}

#[tokio::test]
async fn s107_no_request_before_the_handshake() {
    let ground = Ground::start().await;
    let config = tls::upstream(ground.fleet.hub.ca_pem.as_bytes(), None, &[b"http/1.1"]).unwrap();
    let mut eager = (*config).clone();
    eager.enable_early_data = true;
    let eager = Arc::new(eager);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let socket = TcpStream::connect(ground.fleet.hub.addresses.user).await.unwrap();
        let mut stream = tls::connect(&eager, "localhost", socket).await.unwrap();
        // A ticket of the server that allowed early data would open this.
        assert!(stream.get_mut().1.early_data().is_none());
        assert!(!stream.get_ref().1.is_early_data_accepted());
        let path = ground.path("s107");
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: {}\r\nconnection: close\r\n\r\n",
            ground.bearer
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        kinds.push(stream.get_ref().1.handshake_kind());
    }
    // The second one had a ticket, and was served all the same.
    assert_eq!(kinds, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed].map(Some));
}

#[tokio::test]
async fn s108_one_certificate_whatever_the_name() {
    let fleet = Fleet::hub_only().await;
    let served = async |name| {
        let hello = Hello { name, ..Hello::modern() };
        match hello.ask(&fleet).await {
            Answer::Handshake(server) => Some(certificate(&server)),
            _ => None,
        }
    };
    let known = served(Some("localhost")).await.unwrap();
    for name in [None, Some("other.example"), Some("c2.localhost")] {
        assert_eq!(served(name).await.as_ref(), Some(&known), "{name:?}");
    }
    // An address is no name (RFC 6066 section 3): refused or ignored, and never another certificate.
    for name in ["127.0.0.1", "not a name", ""] {
        assert!(served(Some(name)).await.is_none_or(|other| other == known), "{name:?}");
    }
}

/// The first certificate in the server's turn (RFC 5246 section 7.4.2).
fn certificate(server: &[u8]) -> Vec<u8> {
    let number = |at: usize| u32::from_be_bytes([0, server[at], server[at + 1], server[at + 2]]);
    let hello = 4 + usize::try_from(number(1)).unwrap();
    assert_eq!(server[hello], 11, "the certificate follows the hello");
    let length = usize::try_from(number(hello + 7)).unwrap();
    server[hello + 10..hello + 10 + length].to_vec()
}

#[tokio::test]
async fn s109_a_certificate_replaced_under_load() {
    let ground = Ground::start().await;
    let path = ground.path("s109");
    let served = async || -> CertificateDer<'static> {
        let session = ground.session(b"h2").await;
        session.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let first = served().await;
    let mut old = ground.peer().await;
    let mut stream = 1;
    authorities::renew_serving(&ground.fleet.hub.state).await.unwrap();
    // Every request is answered until the new one is there, over old connections and new.
    while served().await == first {
        old.send(&headers(END_STREAM, stream, &get(&path, &ground.bearer))).await.unwrap();
        assert_eq!(old.outcome(stream).await, Outcome::Status(200));
        assert_eq!(ground.client().get(&path).await.status, 200);
        stream += 2;
        assert!(stream < 100_000, "still the old certificate");
    }
    let second = served().await;
    old.send(&headers(END_STREAM, stream, &get(&path, &ground.bearer))).await.unwrap();
    assert_eq!(old.outcome(stream).await, Outcome::Status(200));

    // A key that does not belong to it: kept out, and said.
    let file = ground.fleet.dir.path().join("hub/serving.key");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let alarm = || ground.fleet.hub.metric("cluster_proxy_certificate_reload_failed", &[]);
    eventually("the alarm", PATIENCE, || async { (alarm().await > 0.0).then_some(()) }).await;
    assert_eq!(served().await, second);
    std::fs::write(&file, good).unwrap();
    eventually("the end of the alarm", PATIENCE, || async { (alarm().await == 0.0).then_some(()) })
        .await;
}

#[tokio::test]
async fn s111_pieces_and_noise() {
    let ground = Ground::start().await;
    let fleet = &ground.fleet;
    let message = Hello::modern().message();
    let in_pieces = |size: usize| -> Vec<u8> {
        message.chunks(size).flat_map(|piece| record(HANDSHAKE, piece)).collect()
    };
    // Records of any size make one message.
    for size in [message.len(), 40, 7] {
        let answer = ask(fleet, &in_pieces(size)).await;
        assert!(matches!(answer, Answer::Handshake(_)), "{size}: {answer:?}");
    }
    let warning = record(ALERT, &[1, 90]);
    let close_notify = record(ALERT, &[1, 0]);
    let half = record(HANDSHAKE, &message[..50]);
    let noise: [(&str, Vec<u8>); 8] = [
        ("64 KiB of warnings", warning.repeat(9_400)),
        ("warnings after half a hello", [half.clone(), warning.repeat(9_400)].concat()),
        ("a goodbye after half a hello", [half.clone(), close_notify].concat()),
        ("empty records", record(HANDSHAKE, b"").repeat(10_000)),
        ("a record of 64 KiB", [&[HANDSHAKE, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat()),
        ("a hello of 16 MiB", record(HANDSHAKE, &[1, 0xff, 0xff, 0xff, 3, 3])),
        ("data before the handshake", record(23, b"GET / HTTP/1.1\r\n\r\n")),
        ("an unknown record", record(99, b"x")),
    ];
    for (what, bytes) in noise {
        let answer = ask(fleet, &bytes).await;
        assert!(!matches!(answer, Answer::Handshake(_)), "{what}: {answer:?}");
        assert_eq!(ground.client().get(&ground.path("s111")).await.status, 200, "{what}");
    }
}

/// Over HTTP/1.1 and HTTP/2, with a body too, and byte by byte; the same over TLS is answered.
#[tokio::test]
async fn s111_plain_http_is_told_so() {
    let ground = Ground::start().await;
    let heads: [&[u8]; 4] = [
        b"GET /c1/version HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /c1/api HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\n12345",
        b"G",
    ];
    for bytes in heads {
        let mut socket = TcpStream::connect(ground.fleet.hub.addresses.user).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let mut answer = String::new();
        let read = within("the whole answer", PATIENCE, socket.read_to_string(&mut answer));
        read.await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 400 "), "{answer:?}");
        assert!(answer.ends_with("write https:// in its address.\n"), "{answer:?}");
    }
    assert_eq!(ground.client().get(&ground.path("s111")).await.status, 200);
    let hub = &ground.fleet.hub;
    let counted =
        async |reason| hub.metric("cluster_proxy_handshakes_failed_total", &[reason]).await;
    assert_eq!(counted("plain-http").await, 4.0);
    assert_eq!(counted("tls").await, 0.0);
    let memory = hub.metric("process_resident_memory_bytes", &[]).await;
    assert!(memory > 0.0 || !cfg!(target_os = "linux"));
}

const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
const PROTOCOL_VERSION: u8 = 70;
const HANDSHAKE_FAILURE: u8 = 40;
const TLS12: u16 = 0x0303;
/// ECDHE with ECDSA, AES-128-GCM and SHA-256.
const GOOD: u16 = 0xc02b;
