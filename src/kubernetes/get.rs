//! A small client for the few questions that we ask an API server of our own accord.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;

use super::{ApiServer, Credentials, EndpointError, TokenSource};
use crate::pki::tls;

/// Asks one API server under our own identity: a connection per request, because requests are
/// seconds apart. Clones share the token.
#[derive(Clone)]
pub struct ApiReader {
    server: Arc<ApiServer>,
    tls: Arc<ClientConfig>,
    token: TokenSource,
}

// === impl ApiReader ===

impl ApiReader {
    /// A reader of `server`. Opens nothing.
    ///
    /// # Errors
    /// When its CA bundle or our credentials cannot be used.
    pub fn new(server: ApiServer) -> Result<Self, EndpointError> {
        let client = match &server.credentials {
            Credentials::Certificate { chain_pem, key_pem } => Some((&chain_pem[..], &key_pem[..])),
            Credentials::Token(_) | Credentials::TokenFile(_) => None,
        };
        let tls = tls::upstream(&server.ca_pem, client, &[b"http/1.1"])
            .map_err(|error| EndpointError::Unusable(format!("{}: {error}", server.authority())))?;
        let token = TokenSource::new(&server.credentials)?;
        Ok(Self { server: Arc::new(server), tls, token })
    }

    /// Keeps the token fresh; never returns.
    pub async fn keep_fresh(self) {
        self.token.keep_fresh().await;
    }

    /// `GET path`: the status and the whole body, of at most `limit` bytes, within `deadline`.
    /// Redirects are not followed.
    pub async fn get(
        &self,
        path: &str,
        limit: usize,
        deadline: Duration,
    ) -> Result<(StatusCode, Bytes), GetError> {
        self.within(deadline, self.exchange(Method::GET, path, Bytes::new(), limit)).await
    }

    /// `POST path` with a JSON body, as [`ApiReader::get`].
    pub async fn post(
        &self,
        path: &str,
        body: Bytes,
        limit: usize,
        deadline: Duration,
    ) -> Result<(StatusCode, Bytes), GetError> {
        self.within(deadline, self.exchange(Method::POST, path, body, limit)).await
    }

    async fn within<T>(
        &self,
        deadline: Duration,
        exchange: impl Future<Output = Result<T, GetError>>,
    ) -> Result<T, GetError> {
        tokio::time::timeout(deadline, exchange).await.map_err(|_| {
            self.error(format!("no answer within {}", humantime::format_duration(deadline)))
        })?
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), GetError> {
        let failed = |error: &dyn std::error::Error| self.error(error.to_string());
        let authority = self.server.authority();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &authority)
            .header(USER_AGENT, PRODUCT)
            .header(ACCEPT, HeaderValue::from_static(DOCUMENTS));
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let mut request = request.body(Full::new(body)).map_err(|error| failed(&error))?;
        if let Some(token) = self.token.header() {
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        let address = (self.server.host.as_str(), self.server.port);
        fetch(&self.tls, address, &self.server.server_name, request, limit)
            .await
            .map_err(|why| self.error(why))
    }

    fn error(&self, why: String) -> GetError {
        GetError { server: self.server.authority(), why }
    }
}

/// Sends one request on a connection of its own; the status and the whole body, of at most `limit`
/// bytes. Redirects are not followed. Has no deadline.
///
/// # Errors
/// What went wrong, in words.
pub async fn fetch(
    tls: &Arc<ClientConfig>,
    address: (&str, u16),
    server_name: &str,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<(StatusCode, Bytes), String> {
    let socket = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let stream = tls::connect(tls, server_name, socket).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), limit).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    };
    tokio::select! {
        result = exchange => result,
        // It may end before the body was taken from it; the exchange has the last word.
        never = async { drop(connection.await); pending().await } => never,
    }
}

/// Why an API server could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("API server {server}: {why}")]
pub struct GetError {
    server: String,
    why: String,
}

/// What we accept: kube-apiserver answers 406 to who asks for its key set as plain JSON.
pub const DOCUMENTS: &str = "application/json, application/jwk-set+json";

/// Who we are in the logs of those whom we ask.
pub const PRODUCT: &str = concat!("cluster-proxy/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use zeroize::Zeroizing;

    use super::*;
    use crate::pki::ca::Authority;

    /// A reader of a server that answers every request with `answer`, and then closes or waits.
    async fn reader(answer: &'static str) -> ApiReader {
        let hour = Duration::from_secs(3600);
        let authority = Authority::create("test", hour).unwrap();
        let issued = authority.issue_server(&["127.0.0.1".to_owned()], hour).unwrap();
        let config =
            tls::server(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), &[b"http/1.1"])
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut stream = tokio_rustls::TlsAcceptor::from(config).accept(socket).await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..read]).to_lowercase();
            let good = request.starts_with("get /livez http/1.1\r\n")
                && request.contains(&format!("host: 127.0.0.1:{port}\r\n"))
                && request.contains("authorization: bearer secret\r\n");
            let answer = if good { answer } else { "HTTP/1.1 400 Bad Request\r\n\r\n" };
            stream.write_all(answer.as_bytes()).await.unwrap();
            if answer.is_empty() {
                pending::<()>().await;
            }
        });
        ApiReader::new(ApiServer {
            host: "127.0.0.1".to_owned(),
            port,
            server_name: "127.0.0.1".to_owned(),
            ca_pem: authority.certificate_pem().into(),
            ca_file: None,
            credentials: Credentials::Token(Zeroizing::new("secret".to_owned())),
        })
        .unwrap()
    }

    #[tokio::test]
    async fn a_small_answer_arrives_and_others_are_refused() {
        let second = Duration::from_secs(1);
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let (status, body) = reader(ok).await.get("/livez", 2, 10 * second).await.unwrap();
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"ok"[..]));
        let error = reader(ok).await.get("/livez", 1, 10 * second).await.unwrap_err();
        assert!(error.to_string().contains("length limit"), "{error}");
        let error = reader("").await.get("/livez", 2, second / 5).await.unwrap_err();
        assert!(error.to_string().contains("no answer within 200ms"), "{error}");
        let moved = "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n";
        let (status, _) = reader(moved).await.get("/livez", 2, 10 * second).await.unwrap();
        assert_eq!(status, StatusCode::FOUND);
    }
}
