//! A connection through a proxy: HTTP `CONNECT` (RFC 9110 section 9.3.6), then bytes.

use std::io;
use std::time::Duration;

use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio_util::either::Either;

use super::proxy::Proxy;
use super::{EgressError, Leg, dial, lookup};
use crate::pki::tls;

/// Connects to `proxy` and has it connect to `target` (`HOST:PORT`).
pub(super) async fn through(proxy: &Proxy, target: &str) -> Result<Leg, EgressError> {
    let leg = reach(proxy).await?;
    let answer = tokio::time::timeout(ANSWER_DEADLINE, ask(proxy, leg, target));
    let late = |_| EgressError::ProxyAnswer {
        proxy: proxy.to_string(),
        detail: format!("none in {ANSWER_DEADLINE:?}"),
    };
    answer.await.map_err(late)?
}

async fn reach(proxy: &Proxy) -> Result<Leg, EgressError> {
    let unreachable = |source| EgressError::Proxy { proxy: proxy.to_string(), source };
    let addresses = lookup(&proxy.host, proxy.port).await.map_err(unreachable)?;
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in addresses {
        match dial(address).await {
            Ok(tcp) => {
                let Some(config) = &proxy.tls else { return Ok(Either::Left(tcp)) };
                let no_tls = |source| EgressError::ProxyTls { proxy: proxy.to_string(), source };
                let handshake = tls::connect(config, &proxy.host, tcp);
                let handshake = tokio::time::timeout(ANSWER_DEADLINE, handshake).await;
                let stream = handshake.map_err(io::Error::from).and_then(|done| done);
                return stream.map(Either::Right).map_err(no_tls);
            }
            Err(error) => failure = error,
        }
    }
    Err(unreachable(failure))
}

async fn ask(proxy: &Proxy, leg: Leg, target: &str) -> Result<Leg, EgressError> {
    let broken = |detail: &dyn std::fmt::Display| EgressError::ProxyAnswer {
        proxy: proxy.to_string(),
        detail: detail.to_string(),
    };
    let host = HeaderValue::try_from(target).map_err(|error| broken(&error))?;
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(target)
        .header(header::HOST, host)
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| broken(&error))?;
    if let Some(credentials) = &proxy.credentials {
        request.headers_mut().insert(header::PROXY_AUTHORIZATION, credentials.clone());
    }
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(leg))
        .await
        .map_err(|error| broken(&error))?;
    let connected = async move {
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        match answer.status() {
            status if status.is_success() => {
                hyper::upgrade::on(answer).await.map_err(|error| broken(&error))
            }
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(EgressError::ProxyCredentials { proxy: proxy.to_string() })
            }
            status => Err(EgressError::ProxyRefused {
                proxy: proxy.to_string(),
                target: target.to_owned(),
                status,
            }),
        }
    };
    tokio::pin!(connected);
    let upgraded = tokio::select! {
        connected = &mut connected => connected,
        // It ends when it hands the bytes over, or when it fails: the answer says which.
        _ = connection.with_upgrades() => connected.await,
    }?;
    // Invariant: this is what the connection was made of.
    let parts = upgraded.downcast::<TokioIo<Leg>>();
    let parts = parts.map_err(|_| broken(&"the connection was handed over as another"))?;
    if !parts.read_buf.is_empty() {
        return Err(broken(&"bytes came before the hub could have sent any"));
    }
    Ok(parts.io.into_inner())
}

impl std::fmt::Display for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// The hub may be far from the proxy, and slow to answer it.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// Nothing in the head of an answer is used but its status.
const MAX_HEAD: usize = 16 << 10;
