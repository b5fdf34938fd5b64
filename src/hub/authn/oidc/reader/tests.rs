use std::collections::HashMap;
use std::sync::Mutex;

use http::Method;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::super::config::Url;
use super::*;
use crate::hub::testing::Answering;
use crate::pki::ca::Authority;

const HOUR: Duration = Duration::from_secs(3600);

/// A server whose answers a test writes out.
struct Server {
    authority: Authority,
    url: String,
    answers: Arc<Mutex<HashMap<String, String>>>,
}

impl Server {
    async fn start() -> Self {
        let authority = Authority::create("issuer", HOUR).unwrap();
        let issued = authority.issue_server(&["127.0.0.1".to_owned()], HOUR).unwrap();
        let (chain, key) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
        let acceptor = TlsAcceptor::from(tls::server(chain, key, &[ALPN]).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let answers: Arc<Mutex<HashMap<String, String>>> = Arc::default();
        let known = answers.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                // Who does not believe us hangs up.
                let Ok(mut stream) = acceptor.accept(socket).await else { continue };
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default();
                let answer = known.lock().unwrap().get(path).cloned();
                let answer = answer.unwrap_or_else(|| head("404 Not Found", ""));
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        let server = Self { authority, url, answers };
        server.discovery(&server.url, &format!("{}/keys?of=1", server.url));
        server.answer("/keys?of=1", head("200 OK", "{\"keys\":[]}"));
        server
    }

    fn answer(&self, path: &str, answer: String) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    fn discovery(&self, issuer: &str, keys: &str) {
        let document = serde_json::json!({"issuer": issuer, "jwks_uri": keys}).to_string();
        self.answer(WELL_KNOWN, head("200 OK", &document));
    }

    fn issuer(&self) -> IssuerConfig {
        let mut issuer = IssuerConfig::new(Url::parse(&self.url).unwrap(), vec!["a".to_owned()]);
        issuer.authority = IssuerAuthority::Pem(self.authority.certificate_pem());
        issuer
    }
}

fn head(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn keys_are_where_the_discovery_document_says() {
    let server = Server::start().await;
    let issuer = server.issuer();
    assert_eq!(&read(&issuer, None).await.unwrap()[..], b"{\"keys\":[]}");

    let elsewhere = Url::parse(&format!("{}/inside", server.url)).unwrap();
    let inside = IssuerConfig { discovery_url: Some(elsewhere), ..issuer.clone() };
    let error = read(&inside, None).await.unwrap_err();
    assert!(matches!(error, ReadError::Status { status: StatusCode::NOT_FOUND, .. }), "{error}");
    let document = server.answers.lock().unwrap()[WELL_KNOWN].clone();
    server.answer("/inside", document);
    assert!(read(&inside, None).await.is_ok());
}

#[tokio::test]
async fn documents_that_lead_elsewhere_are_refused() {
    let server = Server::start().await;
    let issuer = server.issuer();
    let keys = format!("{}/keys?of=1", server.url);

    server.discovery(&format!("{}/", server.url), &keys);
    let error = read(&issuer, None).await.unwrap_err();
    assert!(matches!(error, ReadError::OtherIssuer(_)), "{error}");
    for bad in ["http://127.0.0.1/keys", "file:///etc/passwd", "https://a@127.0.0.1/", "/keys", ""]
    {
        server.discovery(&server.url, bad);
        let error = read(&issuer, None).await.unwrap_err();
        assert!(matches!(error, ReadError::KeysUrl(_)), "{bad}: {error}");
    }
    server.answer(WELL_KNOWN, head("200 OK", "<html>"));
    let error = read(&issuer, None).await.unwrap_err();
    assert!(matches!(error, ReadError::NotDiscovery(_)), "{error}");

    server.discovery(&server.url, &keys);
    let there = format!("302 Found\r\nLocation: {}/inside", server.url);
    server.answer("/inside", head("200 OK", "{\"keys\":[]}"));
    server.answer("/keys?of=1", head(&there, ""));
    let error = read(&issuer, None).await.unwrap_err();
    assert!(matches!(error, ReadError::Status { status: StatusCode::FOUND, .. }), "{error}");
    server.answer("/keys?of=1", head("200 OK", &" ".repeat(MAX_KEYS + 1)));
    let error = read(&issuer, None).await.unwrap_err();
    assert!(matches!(error, ReadError::Unreachable { .. }), "{error}");
    server.answer("/keys?of=1", head("200 OK", &" ".repeat(MAX_KEYS)));
    assert!(read(&issuer, None).await.is_ok());
}

#[tokio::test]
async fn an_authority_in_a_file_is_read_each_time_and_nobody_stands_in_for_it() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.crt");
    let issuer = IssuerConfig { authority: IssuerAuthority::File(file.clone()), ..server.issuer() };
    let refused = async || match read(&issuer, None).await.unwrap_err() {
        ReadError::Authority(why) => why,
        error => panic!("{error}"),
    };
    assert!(refused().await.contains("ca.crt"));
    std::fs::write(&file, "").unwrap();
    refused().await;
    let other = Authority::create("other", HOUR).unwrap();
    std::fs::write(&file, other.certificate_pem()).unwrap();
    let error = read(&issuer, None).await.unwrap_err();
    assert!(matches!(error, ReadError::Unreachable { .. }), "{error}");
    std::fs::write(&file, server.authority.certificate_pem()).unwrap();
    assert!(read(&issuer, None).await.is_ok());
}

/// The hub's API server, with one ConfigMap.
struct Hub(Mutex<(u16, String)>);

impl Answering for Hub {
    async fn answer(&self, method: Method, path: &str, _: Bytes) -> Option<(u16, Bytes)> {
        assert_eq!((method, path), (Method::GET, "/api/v1/namespaces/ns/configmaps/ca"));
        let (status, body) = self.0.lock().unwrap().clone();
        Some((status, body.into()))
    }
}

#[tokio::test]
async fn an_authority_in_a_config_map_follows_it() {
    let server = Server::start().await;
    let (namespace, name) = ("ns".to_owned(), "ca".to_owned());
    let authority = IssuerAuthority::ConfigMap { namespace, name };
    let issuer = IssuerConfig { authority, ..server.issuer() };
    let hub = Hub(Mutex::new((404, "{}".to_owned())));
    let pem = server.authority.certificate_pem();
    let binary = STANDARD.encode(&pem);
    assert!(matches!(read(&issuer, None).await, Err(ReadError::Authority(_))));
    assert!(matches!(read(&issuer, Some(&hub)).await, Err(ReadError::Authority(_))));
    for (map, good) in [
        (serde_json::json!({"data": {"ca.crt": pem}}), true),
        (serde_json::json!({"binaryData": {"ca.crt": binary}}), true),
        (serde_json::json!({"data": {"ca.crt": ""}, "binaryData": {"ca.crt": binary}}), false),
        (serde_json::json!({"data": {"other": pem}}), false),
        (serde_json::json!({"binaryData": {"ca.crt": "!"}}), false),
        (serde_json::json!({"data": {"ca.crt": "no certificate"}}), false),
        (serde_json::json!([]), false),
        (serde_json::json!({"data": {"ca.crt": pem, "x": "y"}}), true),
    ] {
        *hub.0.lock().unwrap() = (200, map.to_string());
        let read = read(&issuer, Some(&hub)).await;
        assert_eq!(read.is_ok(), good, "{map}");
        assert!(good || matches!(read, Err(ReadError::Authority(_))), "{map}");
    }
}
