//! The client of the local kube-apiserver.
//!
//! HTTP/2 where ALPN gives it, over several connections: an API server allows some hundred streams
//! on one, and a watch holds its stream for ever. HTTP/1.1 otherwise, and always for upgrades.
//! Requests that speak for a caller and requests that speak for the agent use separate connections
//! when the agent has a client certificate: an API server would prefer it to the caller's token.

mod connector;
mod http1;
mod http2;
mod pool;

use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};
use http_body_util::Either;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::kubernetes::{ApiServer, Credentials};
use crate::pki::tls::TlsError;
use crate::tunnel::headers::Fault;
use crate::tunnel::opener::OpenError;
use crate::tunnel::pump::ReceiveBody;
use crate::tunnel::settings::ANSWER_HEAD;
use connector::Connector;
pub(super) use http1::Driver;
use pool::{Lease, Pool};

/// A failure of a body, whatever it came from.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of a request to the API server.
pub(super) type RequestBody = UnsyncBoxBody<Bytes, BoxError>;
/// The body of an answer, of HTTP/2 or of HTTP/1.1.
pub(super) type AnswerBody = Either<ReceiveBody, Incoming>;

/// Connections to one API server. Clones share them.
#[derive(Clone)]
pub(super) struct Upstream {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Arc<Connector>,
    authority: Authority,
    host: HeaderValue,
    callers: Arc<Pool>,
    /// Connections that present the agent's client certificate, where there is one.
    own: Option<Arc<Pool>>,
}

/// Whom a connection speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Account {
    /// Whoever the request's own token names.
    Caller,
    /// The agent.
    Agent,
}

/// An answer, and the right to the stream it comes on.
pub(super) struct Answer {
    pub(super) response: Response<AnswerBody>,
    /// Held until the body has ended: with it goes what was not uploaded (HTTP/2), or the connection goes
    /// back (HTTP/1.1).
    pub(super) lease: Lease,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    /// Nothing was written.
    #[error("cannot reach the API server: {0}")]
    Unreachable(Arc<str>),
    /// The connection broke after something was written.
    #[error("the connection to the API server broke: {0}")]
    Interrupted(Arc<str>),
    /// What came was not HTTP.
    #[error("the API server's answer cannot be understood: {0}")]
    BadAnswer(Arc<str>),
}

/// Why a connection gave no answer.
struct Failed {
    /// Whole, when nothing of it was written: HTTP/1.1 alone gives a request back.
    unwritten: Option<Request<RequestBody>>,
    error: UpstreamError,
}

// === impl Upstream ===

impl Upstream {
    /// Builds TLS configurations; opens nothing yet.
    pub(super) fn new(server: &ApiServer) -> Result<Self, UpstreamConfigError> {
        let authority = server.authority();
        let invalid = || UpstreamConfigError::Host(authority.clone());
        let host = HeaderValue::from_str(&authority).map_err(|_| invalid())?;
        let parsed = authority.parse().map_err(|_| invalid())?;
        let connector = Arc::new(Connector::new(server.clone())?);
        let certificate = matches!(server.credentials, Credentials::Certificate { .. });
        let pool = |account| Arc::new(Pool::new(connector.clone(), account));
        Ok(Self {
            shared: Arc::new(Shared {
                callers: pool(Account::Caller),
                own: certificate.then(|| pool(Account::Agent)),
                connector: connector.clone(),
                authority: parsed,
                host,
            }),
        })
    }

    /// Sends one request and waits for the head of the answer. One that a kept HTTP/1.1 connection did
    /// not take any more is tried on a second. Dropping the future ends the request at the API server.
    pub(super) async fn send(
        &self,
        account: Account,
        mut request: Request<RequestBody>,
    ) -> Result<Answer, UpstreamError> {
        let pool = match (account, &self.shared.own) {
            (Account::Agent, Some(own)) => own,
            _ => &self.shared.callers,
        };
        let mut again = true;
        loop {
            let mut lease = pool.lease().await?;
            self.shared.address(&mut request, lease.version());
            match lease.try_send(request).await {
                Ok(response) => {
                    fits(response.headers())?;
                    return Ok(Answer { response, lease });
                }
                Err(Failed { unwritten: Some(unwritten), .. }) if again => {
                    again = false;
                    request = unwritten;
                }
                Err(failed) => return Err(failed.error),
            }
        }
    }

    /// Sends a request that wants to leave HTTP, on a fresh HTTP/1.1 connection. The connection
    /// lives as long as the answer's body or what it is upgraded to.
    pub(super) async fn send_upgrade(
        &self,
        account: Account,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Driver), UpstreamError> {
        let io = self.shared.connector.connect(account, connector::HTTP1_ONLY).await?.0;
        self.shared.address(&mut request, Version::HTTP_11);
        let (response, driver) = http1::send_upgrade(io, request).await?;
        fits(response.headers())?;
        Ok((response, driver))
    }
}

/// Sends a request, cleaned and addressed, on a connection that was opened for it alone and lives as
/// long as the driver. Its answer is held to the rules of every other.
pub(super) async fn send_on<S>(
    io: S,
    request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Driver), UpstreamError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (response, driver) = http1::send_upgrade(io, request).await?;
    fits(response.headers())?;
    Ok((response, driver))
}

// === impl Shared ===

impl Shared {
    /// Puts our own API server's name where the protocol wants it, and no other.
    fn address(&self, request: &mut Request<RequestBody>, version: Version) {
        let target = request.uri().path_and_query().cloned();
        let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = Some(target);
        if version == Version::HTTP_2 {
            parts.scheme = Some(Scheme::HTTPS);
            parts.authority = Some(self.authority.clone());
            request.headers_mut().remove(HOST);
        } else {
            request.headers_mut().insert(HOST, self.host.clone());
        }
        // A path alone, and a path with scheme and authority, are the two forms that always fit.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        *request.version_mut() = version;
    }
}

// === impl Failed ===

impl From<TrySendError<Request<RequestBody>>> for Failed {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        let unwritten = error.take_message();
        let error = match unwritten {
            Some(_) => UpstreamError::unreachable(error.error()),
            None => UpstreamError::after_write(error.error()),
        };
        Self { unwritten, error }
    }
}

/// Whether the hub takes an answer of these headers: one that is too large would cost more than its
/// own stream there.
fn fits(headers: &HeaderMap) -> Result<(), UpstreamError> {
    // As RFC 9113 section 6.5.2 counts.
    let each = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    let bytes: usize = each.sum();
    if bytes + OWN_HEADERS <= ANSWER_HEAD as usize {
        return Ok(());
    }
    let text = format!("its head has {bytes} bytes, and {ANSWER_HEAD} go through a tunnel");
    Err(UpstreamError::BadAnswer(text.into()))
}

/// Room for what we add: the status and our own headers.
const OWN_HEADERS: usize = 1024;

// === impl UpstreamError ===

impl UpstreamError {
    fn unreachable(error: &dyn std::error::Error) -> Self {
        Self::Unreachable(chain(error).into())
    }

    fn after_write(error: &hyper::Error) -> Self {
        if error.is_parse() {
            Self::BadAnswer(chain(error).into())
        } else {
            Self::Interrupted(chain(error).into())
        }
    }

    /// Of a stream of HTTP/2.
    fn of_stream(error: &OpenError) -> Self {
        match error {
            OpenError::NotWritten => Self::Unreachable("the connection closed".into()),
            OpenError::Reset(
                Reason::PROTOCOL_ERROR | Reason::FRAME_SIZE_ERROR | Reason::FLOW_CONTROL_ERROR,
            ) => Self::BadAnswer(chain(error).into()),
            OpenError::Lost(reason) => Self::Interrupted(reason.as_str().into()),
            OpenError::Refused => Self::Interrupted("it refused the request unseen".into()),
            OpenError::Reset(_) | OpenError::Unread | OpenError::Invalid(_) => {
                Self::Interrupted(chain(error).into())
            }
        }
    }

    /// The word for it on the wire.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::Unreachable(_) => Fault::Unreachable,
            Self::Interrupted(_) => Fault::Interrupted,
            Self::BadAnswer(_) => Fault::BadAnswer,
        }
    }
}

/// Why no client could be built.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamConfigError {
    /// The host of the API server cannot stand in a URL.
    #[error("{0:?} cannot stand in a URL; correct the server of the kubeconfig")]
    Host(String),
    /// CA bundle or client certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// An error and its causes in one line: hyper's own text alone says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
