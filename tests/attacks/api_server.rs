//! A hostile API server behind an honest agent: case 104, and what of 18 belongs to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderValue;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;

use cluster_proxy::pki::ca::Authority;
use cluster_proxy::pki::tls;

use crate::ground::{DAY, run_agent};
use crate::support::api::access::kubeconfig;
use crate::support::client::{Client, empty};
use crate::support::fleet::Fleet;
use crate::support::part::Part;
use crate::support::token::{SigningKey, claims};
use crate::support::{PATIENCE, eventually, within};

/// A hub, an agent, and an API server that answers in bytes.
struct Lair {
    fleet: Fleet,
    token: String,
    /// Bytes of endless bodies that somebody took.
    taken: Arc<AtomicUsize>,
    /// Requests for what only a followed redirect leads to.
    lured: Arc<AtomicUsize>,
    _agent: Part,
}

// === impl Lair ===

impl Lair {
    async fn start() -> Self {
        let fleet = Fleet::hub_only().await;
        let signer = SigningKey::generate("c1-key");
        let token = signer.sign(&claims("default", "test", 3600));
        let directory = fleet.dir.path().join("c1");
        fleet.hub.enrol("c1", &directory).await;
        let authority = Authority::create("hostile API server", DAY).unwrap();
        let issued = authority.issue_server(&["127.0.0.1".to_owned()], DAY).unwrap();
        let (chain, key) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
        // HTTP/1.1 alone: there the answers are bytes.
        let config = tls::server(chain, key, &[b"http/1.1"]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("https://{}", listener.local_addr().unwrap());
        let own = signer.sign(&claims("cluster-proxy", "agent", 86_400));
        let text = kubeconfig(&server, &authority.certificate_pem(), &own);
        std::fs::write(directory.join("kubeconfig"), text).unwrap();
        let jwks = json!({"keys": [signer.jwk()]}).to_string();
        let (taken, lured) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&taken), Arc::clone(&lured));
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let (acceptor, jwks, (taken, lured)) =
                    (acceptor.clone(), jwks.clone(), counts.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(socket).await {
                        serve(stream, &jwks, &taken, &lured).await;
                    }
                });
            }
        });
        let agent = run_agent(fleet.hub.addresses.agents, &directory);
        let lair = Self { fleet, token, taken, lured, _agent: agent };
        let client = lair.client();
        eventually("c1 is served", PATIENCE, || async {
            (client.get("/c1/version").await.status == 200).then_some(())
        })
        .await;
        lair
    }

    fn client(&self) -> Client {
        self.fleet.anonymous().token(&self.token)
    }
}

/// Answers request after request by its path.
async fn serve(
    mut stream: TlsStream<TcpStream>,
    jwks: &str,
    taken: &AtomicUsize,
    lured: &AtomicUsize,
) {
    while let Some(path) = request(&mut stream).await {
        if path == "/lure" {
            lured.fetch_add(1, Ordering::SeqCst);
        }
        let answer = match path.as_str() {
            "/openid/v1/jwks" => whole("200 OK", jwks),
            _ => evil(&path).unwrap_or_else(|| whole("200 OK", "{}")),
        };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
        let _ = stream.flush().await;
        match path.as_str() {
            "/endless" => {
                let chunk = vec![b'x'; 64 * 1024];
                while stream.write_all(&chunk).await.is_ok() {
                    taken.fetch_add(chunk.len(), Ordering::SeqCst);
                }
                return;
            }
            "/short" | "/garbage" | "/closed" => {
                let _ = stream.shutdown().await;
                return;
            }
            _ => {}
        }
    }
}

async fn request(stream: &mut TlsStream<TcpStream>) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    head.split(' ').nth(1).map(str::to_owned)
}

fn whole(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

/// An answer that nobody asked for.
fn stolen() -> &'static str {
    "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen"
}

fn evil(path: &str) -> Option<Vec<u8>> {
    let answer = match path {
        "/unauthorized" => {
            let head = "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic realm=\"hub\"\r\n";
            format!("{head}set-cookie: a=b\r\ncontent-length: 2\r\n\r\n{{}}")
        }
        "/redirect" => {
            let head = "HTTP/1.1 302 Found\r\nlocation: /lure\r\n";
            format!("{head}content-length: 0\r\n\r\n")
        }
        "/json" => {
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5\r\n\r\n{{{{{"
                .to_owned()
        }
        "/endless" => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 10_u64 << 30),
        "/short" => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nnot so many".to_owned(),
        "/closed" => String::new(),
        "/garbage" => "\u{1}\u{2}\u{3} what is this\r\n\r\n".to_owned(),
        "/lengths" => {
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc".to_owned()
        }
        "/bad-length" => "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nab".to_owned(),
        "/head" => {
            format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(2 << 20))
        }
        "/fair-head" | "/large-head" => {
            let bytes = if path == "/fair-head" { 60 } else { 66 } << 10;
            let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n", "y".repeat(bytes));
            format!("{head}content-length: 2\r\n\r\n{{}}")
        }
        "/name" => "HTTP/1.1 200 OK\r\nx y: z\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "/both" => {
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 40\r\ntransfer-encoding: chunked\r\n";
            format!("{head}\r\n5\r\nfirst\r\n0\r\n\r\n{}", stolen())
        }
        "/codings" => {
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n{}", stolen())
        }
        "/encoded" => {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n";
            format!("{head}\r\n5\r\nfirst\r\n0\r\n\r\n")
        }
        "/informed" | "/flooded" => {
            let early = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n";
            let early = early.repeat(INFORMED + usize::from(path == "/flooded"));
            format!("{early}HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst")
        }
        "/switched" => {
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
                .to_owned()
        }
        "/trailers" => {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n";
            let trailers = TRAILERS.map(|name| format!("{name}: 1\r\n")).concat();
            format!("{head}{trailers}checksum: 42\r\n\r\n")
        }
        "/two" => {
            format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst{}", stolen())
        }
        _ => return None,
    };
    Some(answer.into_bytes())
}

#[tokio::test]
async fn s48_s50_what_trailers_must_not_say() {
    let lair = Lair::start().await;
    let client = lair.client().http2();
    let mut request = client.request("GET", "/c1/trailers", empty());
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let answer = client.open(request).await.unwrap();
    let body = within("the body", PATIENCE, answer.into_body().collect()).await.unwrap();
    let trailers = body.trailers().unwrap();
    assert_eq!(trailers["checksum"], "42");
    assert_eq!(trailers.len(), 1, "{trailers:?}");
}

/// Of an answer's trailers, none of a client's business.
const TRAILERS: [&str; 6] = [
    "set-cookie",
    "strict-transport-security",
    "access-control-allow-origin",
    "cluster-proxy-fault",
    "keep-alive",
    "x-request-id",
];

#[tokio::test]
async fn s104_what_passes_and_what_does_not() {
    let lair = Lair::start().await;
    let client = lair.client();
    let good = client.get("/c1/good").await;
    assert_eq!((good.status.as_u16(), good.text().as_str()), (200, "{}"));

    // Nothing behind the head is looked at.
    let answer = client.get("/c1/json").await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "{{{{{"));
    // Its own no to a caller's token is the caller's to read; its cookies are not.
    let answer = client.get("/c1/unauthorized").await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (401, "{}"));
    assert!(!answer.headers.contains_key("set-cookie"), "{:?}", answer.headers);
    // Nobody on the way follows.
    assert_eq!(client.get("/c1/redirect").await.status, 302);
    assert_eq!(lair.lured.load(Ordering::SeqCst), 0);

    for path in ["closed", "garbage", "lengths", "bad-length", "head", "name"] {
        let answer = client.get(&format!("/c1/{path}")).await;
        assert_eq!(answer.status, 502, "{path}: {}", answer.text());
        assert_eq!(answer.json()["kind"], "Status", "{path}");
        assert_eq!(client.get("/c1/good").await.text(), "{}", "after {path}");
    }
}

#[tokio::test]
async fn s104_bodies_that_lie() {
    let lair = Lair::start().await;
    for client in [lair.client(), lair.client().http2()] {
        // What is cut must not look whole.
        assert!(client.try_get("/c1/short").await.is_err());
        assert_eq!(client.get("/c1/good").await.text(), "{}");
        // An answer that nobody asked for is nobody's.
        assert_eq!(client.get("/c1/two").await.text(), "first");
        for _ in 0..10 {
            assert_eq!(client.get("/c1/good").await.text(), "{}");
        }
    }
}

#[tokio::test]
async fn s18_answers_that_can_be_read_in_two_ways() {
    let lair = Lair::start().await;
    for client in [lair.client(), lair.client().http2()] {
        // Words before the answer go no further than the agent.
        assert_eq!(client.get("/c1/informed").await.text(), "first");
        // Framed by both, more such words than that, a change of protocol or codings that nobody
        // asked for. What lies behind is nobody's.
        for path in ["both", "flooded", "switched", "codings", "encoded"] {
            let answer = client.get(&format!("/c1/{path}")).await;
            let said = answer.json();
            let got = (answer.status.as_u16(), said["kind"].as_str());
            assert_eq!(got, (502, Some("Status")), "{path}");
            assert_eq!(client.get("/c1/good").await.text(), "{}", "after {path}");
        }
        for _ in 0..10 {
            assert_eq!(client.get("/c1/good").await.text(), "{}");
        }
    }
    // So too where an upgrade was asked for.
    for (path, code) in [("good", 200), ("both", 502), ("flooded", 502), ("encoded", 502)] {
        let mut request = lair.client().request("GET", &format!("/c1/{path}"), empty());
        request.headers_mut().insert("connection", HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
        assert_eq!(lair.client().send(request).await.status, code, "{path}");
    }
}

#[tokio::test]
async fn s104_ten_gibibytes() {
    let lair = Lair::start().await;
    let client = lair.client();
    let request = client.request("GET", "/c1/endless", empty());
    let mut body = client.open(request).await.unwrap().into_body();
    let mut read = 0;
    while read < 1 << 20 {
        let frame = within("some of it", PATIENCE, body.frame()).await.unwrap().unwrap();
        read += frame.into_data().unwrap().len();
    }
    // Nobody reads on: what is under way stands still, in bounded buffers.
    let mut before = 0;
    let stood = eventually("the flow stands still", PATIENCE, || {
        let now = lair.taken.load(Ordering::SeqCst);
        let still = now == std::mem::replace(&mut before, now);
        async move {
            tokio::time::sleep(STILL).await;
            still.then_some(now)
        }
    })
    .await;
    assert!(stood < 64 << 20, "{stood} bytes are in buffers");
    assert_eq!(client.get("/c1/good").await.text(), "{}");
    drop(body);
}

/// Longer than the steps of a flow that goes on.
const STILL: std::time::Duration = std::time::Duration::from_millis(300);

/// Informational answers before the one that counts: as many as the agent passes over.
const INFORMED: usize = 16;

#[tokio::test]
async fn s104_heads_that_are_too_large() {
    let lair = Lair::start().await;
    for client in [lair.client(), lair.client().http2()] {
        if !client.http2 {
            // The client's own limit over HTTP/2 is lower.
            assert_eq!(client.get("/c1/fair-head").await.headers["x"].len(), 60 << 10);
        }
        let message = client.get("/c1/large-head").await.assert_status(502, "BadGateway");
        assert!(message.contains("cluster c1 got an answer"), "{message}");
        assert_eq!(client.get("/c1/version").await.status, 200);
    }
}
