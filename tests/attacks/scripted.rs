//! A hub, an agent, and an API server that writes down what came in bytes and answers as the target
//! asks (`?script=...`): what both ends of an attack see.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;

use cluster_proxy::pki::ca::Authority;
use cluster_proxy::pki::tls;

use crate::ground::{DAY, run_agent};
use crate::support::api::access::kubeconfig;
use crate::support::fleet::Fleet;
use crate::support::part::Part;
use crate::support::token::{SigningKey, claims};
use crate::support::{PATIENCE, eventually, within};

pub(crate) struct Scripted {
    pub(crate) fleet: Fleet,
    /// A good token of cluster `c1`.
    pub(crate) token: String,
    heads: Arc<Mutex<Vec<String>>>,
    _agent: Part,
}

/// What came back on a connection until it was closed.
pub(crate) struct Reply(pub(crate) String);

// === impl Scripted ===

impl Scripted {
    pub(crate) async fn start() -> Self {
        Self::on(Fleet::hub_only().await).await
    }

    /// On a hub that nobody has joined.
    pub(crate) async fn on(fleet: Fleet) -> Self {
        let signer = SigningKey::generate("c1-key");
        let token = signer.sign(&claims("default", "test", 3600));
        let directory = fleet.dir.path().join("c1");
        fleet.hub.enrol("c1", &directory).await;
        let authority = Authority::create("scripted API server", DAY).unwrap();
        let issued = authority.issue_server(&["127.0.0.1".to_owned()], DAY).unwrap();
        let (chain, key) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
        // HTTP/1.1 alone: there everything is bytes.
        let config = tls::server(chain, key, &[b"http/1.1"]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("https://{}", listener.local_addr().unwrap());
        let own = signer.sign(&claims("cluster-proxy", "agent", 86_400));
        let text = kubeconfig(&server, &authority.certificate_pem(), &own);
        std::fs::write(directory.join("kubeconfig"), text).unwrap();
        let jwks = json!({"keys": [signer.jwk()]}).to_string();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let (acceptor, jwks, seen) = (acceptor.clone(), jwks.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(socket).await {
                        serve(stream, &jwks, &seen).await;
                    }
                });
            }
        });
        let agent = run_agent(fleet.hub.addresses.agents, &directory);
        let this = Self { fleet, token, heads, _agent: agent };
        let client = this.fleet.anonymous().token(&this.token);
        eventually("c1 is served", PATIENCE, || async {
            (client.get("/c1/version").await.status == 200).then_some(())
        })
        .await;
        this
    }

    /// A head with a good token, for one request on a connection. `lines` end in CR LF.
    pub(crate) fn get(&self, target: &str, lines: &str) -> String {
        let token = &self.token;
        self.bare(
            "GET",
            target,
            &format!("host: localhost\r\nauthorization: Bearer {token}\r\n{lines}"),
        )
    }

    /// A head of `lines` alone.
    pub(crate) fn bare(&self, method: &str, target: &str, lines: &str) -> String {
        format!("{method} {target} HTTP/1.1\r\n{lines}x-request-id: same\r\n\r\n")
    }

    /// Sends `bytes`, and reads until the hub closes.
    pub(crate) async fn closed(&self, bytes: impl AsRef<[u8]>) -> Reply {
        let mut session = self.fleet.anonymous().connect(b"http/1.1").await.unwrap();
        // A hub that closes early is no failure of the test.
        let _ = session.write_all(bytes.as_ref()).await;
        let _ = session.flush().await;
        let mut answer = Vec::new();
        let _ = within("the hub closes", PATIENCE, session.read_to_end(&mut answer)).await;
        Reply(String::from_utf8_lossy(&answer).into_owned())
    }

    /// One request, with `connection: close`.
    pub(crate) async fn ask(&self, target: &str, lines: &str) -> Reply {
        self.closed(self.get(target, &format!("{lines}connection: close\r\n"))).await
    }

    /// The heads, in lower case but for their first lines, that the API server got and that contain
    /// `marker`.
    pub(crate) fn seen(&self, marker: &str) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        heads.iter().filter(|head| head.contains(marker)).cloned().collect()
    }
}

// === impl Reply ===

impl Reply {
    /// The code of the first answer; 0 when the connection was closed without one.
    pub(crate) fn code(&self) -> u16 {
        self.0.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// A header of the first answer.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let head = self.0.split("\r\n\r\n").next()?;
        let lines = head.split("\r\n").filter_map(|line| line.split_once(": "));
        lines.filter(|line| line.0.eq_ignore_ascii_case(name)).map(|line| line.1).next()
    }

    pub(crate) fn answers(&self) -> usize {
        self.0.matches("HTTP/1.1 ").count()
    }
}

/// A line of a head as the API server got it.
pub(crate) fn line<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    lines.filter(|line| line.0.eq_ignore_ascii_case(name)).map(|line| line.1).next()
}

async fn serve(mut stream: TlsStream<TcpStream>, jwks: &str, seen: &Mutex<Vec<String>>) {
    while let Some(head) = read_head(&mut stream).await {
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        seen.lock().unwrap().push(head.clone());
        if target.contains("script=101") {
            let upgrade = line(&head, "upgrade").unwrap_or("nothing");
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: {upgrade}\r\n\
                 set-cookie: a=b\r\n\r\n"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            // Says back what it hears, to its end.
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            return;
        }
        let script = target.split_once("script=").map_or("", |(_, script)| script);
        let answer = match script.split_once(':').unwrap_or((script, "")) {
            ("status", code) => whole(&format!("{code} As asked"), "", "as asked"),
            // The rest of the target is where it leads, percent-encoded.
            ("location", to) => {
                let to = cluster_proxy::percent::decode(to);
                whole("302 Found", &format!("location: {to}\r\n"), "")
            }
            ("header", name) => whole("200 OK", &format!("{name}: 1\r\n"), "{}"),
            _ if target == "/openid/v1/jwks" => whole("200 OK", "", jwks),
            _ => whole("200 OK", "", "{}"),
        };
        if stream.write_all(&answer).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

async fn read_head(stream: &mut TlsStream<TcpStream>) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

fn whole(status: &str, lines: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{lines}content-length: {length}\r\n\r\n{body}").into_bytes()
}
