//! Bootstrap token -> first certificate; renewal. The hub's side.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::authorities::{self, Role};
use super::ca;
use super::csr::{CsrError, SigningRequest};
use super::identity::AgentCertificate;
use super::limiter::Limiter;
use super::messages::{Granted, JoinRequest, MAX_REQUEST, Refusal, RenewRequest};
use super::tls::TlsError;
use super::token::{Token, TokenError};
use crate::name::ClusterName;
use crate::state::{Document, Edit, Enrolment, State, StateError, seconds};

/// Hub side of joining and renewing: answers one connection of ALPN `cluster-proxy-join/1`. Clones
/// share the limits on failures.
#[derive(Clone)]
pub struct JoinService {
    state: State,
    renewal_grace: Duration,
    certificate_life: Duration,
    clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    accepts: Arc<dyn Fn(&ClusterName) -> bool + Send + Sync>,
    limiter: Arc<Mutex<Limiter>>,
}

// === impl JoinService ===

impl JoinService {
    /// A service that signs with the agent CA in `state`. `renewal_grace`: how long after its end
    /// a certificate can still be renewed by proof of the enrolled key.
    pub fn new(state: State, renewal_grace: Duration) -> Self {
        Self {
            state,
            renewal_grace,
            certificate_life: CERTIFICATE_LIFE,
            clock: Arc::new(SystemTime::now),
            accepts: Arc::new(|_| true),
            limiter: Arc::default(),
        }
    }

    /// Certificates of another life than [`CERTIFICATE_LIFE`].
    #[must_use]
    pub fn with_certificate_life(self, life: Duration) -> Self {
        Self { certificate_life: life, ..self }
    }

    /// Only those may join of whom `accepts` says so. Renewals go on: a cluster that is accepted again
    /// must not need another token, and its certificate is good for nothing until then.
    #[must_use]
    pub fn with_acceptance(
        self,
        accepts: impl Fn(&ClusterName) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { accepts: Arc::new(accepts), ..self }
    }

    /// Another clock than the system's.
    #[must_use]
    pub fn with_clock(self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    /// Serves one connection to its end: one exchange of at most [`DEADLINE`] and
    /// [`MAX_REQUEST`] bytes. Failures are limited per source.
    pub async fn serve<IO>(&self, stream: IO, peer: SocketAddr)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(|request| async move {
            Ok::<_, Infallible>(self.answer(request, peer.ip()).await)
        });
        let mut server = hyper::server::conn::http1::Builder::new();
        server.timer(TokioTimer::new()).keep_alive(false).max_buf_size(MAX_REQUEST);
        let connection = server.serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(DEADLINE, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%peer, %error, "join connection failed"),
            Err(_) => {
                // A connection that says nothing costs as much as a guess.
                self.limiter().failed(peer.ip(), Instant::now());
                tracing::debug!(%peer, "join connection took too long");
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>, source: IpAddr) -> Response<Full<Bytes>> {
        // Renewals are proof of a key, which nobody guesses, and costs us less than the handshake
        // before it: a stranger's failures must not keep a fleet behind one address from renewing.
        let guessable = request.uri().path() != "/renew";
        if guessable && !self.limiter().allows(source, Instant::now()) {
            return refusal(&Denied::TooOften);
        }
        let outcome = match (request.method().clone(), request.uri().path()) {
            (Method::POST, "/join") => match body(request).await {
                Ok(asked) => self.join(asked).await,
                Err(denied) => Err(denied),
            },
            (Method::POST, "/renew") => match body(request).await {
                Ok(asked) => self.renew(asked).await,
                Err(denied) => Err(denied),
            },
            (_, "/join" | "/renew") => Err(Denied::Method),
            _ => Err(Denied::Path),
        };
        match outcome {
            Ok(granted) => {
                tracing::info!(cluster = %granted.cluster, %source, "signed an agent's certificate");
                respond(StatusCode::OK, &granted)
            }
            Err(denied) => {
                if denied.is_the_senders() {
                    self.limiter().failed(source, Instant::now());
                }
                tracing::warn!(%source, reason = %denied, "refused a certificate");
                refusal(&denied)
            }
        }
    }

    async fn join(&self, asked: JoinRequest) -> Result<Granted, Denied> {
        let token = Token::parse(&asked.token)?;
        let cluster = token.cluster.clone();
        // Everything that can fail without the token comes first: a mistake must not use it up.
        let csr = SigningRequest::check(&asked.csr, &cluster)?;
        let now = (self.clock)();
        if !(self.accepts)(&cluster) {
            // For who has a good token alone: a stranger learns nothing of the name.
            token.check(&self.state, now).await?;
            return Err(Denied::NotAccepted(cluster));
        }
        let (granted, issued) = self.sign(&cluster, &csr, now).await?;
        let document = Document::Enrolment(cluster);
        let before: Option<Enrolment> = self.state.read(&document).await?;

        let redeemed = token.redeem(&self.state, now).await?;
        let enrolment = Enrolment {
            key_sha256: issued.key_sha256,
            enrolled_at: seconds(now),
            certificate_expires: seconds(issued.expires),
            cluster_uid: None,
            hub_itself: redeemed.hub_itself,
            revoked: false,
            replaces: None,
        };
        self.state
            .edit(&document, |found: Option<Enrolment>| {
                // Revoked, removed or joined while we worked: that decision is the younger one. A
                // renewal or the first look at the cluster is none, and must not cost the token.
                let decided = |enrolment: &Option<Enrolment>| {
                    enrolment.as_ref().map(|known| (known.key_sha256.clone(), known.revoked))
                };
                if decided(&found) != decided(&before) {
                    return Edit::Keep(Err(Denied::Changed));
                }
                let Some(found) = found else { return Edit::Write(enrolment.clone(), Ok(())) };
                // A new key, not a new cluster: another one needs `clusters remove` first.
                let cluster_uid = found.cluster_uid;
                let replaces = (!found.revoked).then_some(found.key_sha256);
                Edit::Write(Enrolment { cluster_uid, replaces, ..enrolment.clone() }, Ok(()))
            })
            .await??;
        Ok(granted)
    }

    async fn renew(&self, asked: RenewRequest) -> Result<Granted, Denied> {
        let csr = SigningRequest::check(&asked.csr, &asked.cluster)?;
        let now = (self.clock)();
        // Before signing: most refusals cost no signature.
        let enrolment = self.state.enrolment(&asked.cluster).await?;
        let presented =
            crate::hash::sha256_hex(&rcgen::PublicKeyData::subject_public_key_info(&csr.key));
        self.renewable(enrolment.as_ref(), &presented, now)?;

        let (granted, issued) = self.sign(&asked.cluster, &csr, now).await?;
        let document = Document::Enrolment(asked.cluster);
        self.state
            .edit(&document, |found: Option<Enrolment>| {
                let found = match self.renewable(found.as_ref(), &presented, now) {
                    Ok(found) => found.clone(),
                    Err(denied) => return Edit::Keep(Err(denied)),
                };
                // Of two renewals at once the longer certificate counts.
                let expires = found.certificate_expires.max(seconds(issued.expires));
                Edit::Write(Enrolment { certificate_expires: expires, ..found }, Ok(()))
            })
            .await??;
        Ok(granted)
    }

    fn renewable<'a>(
        &self,
        enrolment: Option<&'a Enrolment>,
        key_sha256: &str,
        now: SystemTime,
    ) -> Result<&'a Enrolment, Denied> {
        // One answer for no such name and another key: a stranger learns no names.
        let enrolment = enrolment
            .filter(|enrolment| enrolment.key_sha256 == key_sha256)
            .ok_or(Denied::NotEnrolled)?;
        if enrolment.revoked {
            return Err(Denied::Revoked);
        }
        let end = enrolment.certificate_expires.saturating_add(self.renewal_grace.as_secs());
        if end <= seconds(now) {
            return Err(Denied::TooLate);
        }
        Ok(enrolment)
    }

    async fn sign(
        &self,
        cluster: &ClusterName,
        csr: &SigningRequest,
        now: SystemTime,
    ) -> Result<(Granted, AgentCertificate), Denied> {
        // Read each time: a rotation counts at once, and joins are rare.
        let authority = authorities::load(&self.state, Role::Agent).await?;
        let hub_ca = authorities::bundle(&self.state, Role::Serving).await?;
        let certificate = authority.issue_agent(cluster, &csr.key, now, self.certificate_life)?;
        let issued = AgentCertificate::from_der(&certificate)
            .map_err(|error| TlsError::Unusable(error.to_string()))?;
        let certificate = ca::pem(&certificate);
        Ok((Granted { cluster: cluster.clone(), certificate, hub_ca }, issued))
    }

    fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for JoinService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinService")
            .field("renewal_grace", &self.renewal_grace)
            .field("certificate_life", &self.certificate_life)
            .finish_non_exhaustive()
    }
}

/// Why there is no certificate. The text goes to the stranger who asked.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("there were too many failed attempts from this address; wait a minute")]
    TooOften,
    #[error("the hub's agent listener answers POST to /join and /renew only")]
    Path,
    #[error("only POST is understood here")]
    Method,
    #[error("the body is larger than {MAX_REQUEST} bytes")]
    TooLarge,
    #[error(
        "the body is not the JSON that this endpoint takes; is the agent of a matching version?"
    )]
    Body,
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error(transparent)]
    Token(TokenError),
    #[error(
        "no cluster of this name is enrolled with this key; join again with a new token from \
         `join token` on the hub"
    )]
    NotEnrolled,
    #[error("this key was revoked on the hub; join again with a new token from `join token`")]
    Revoked,
    #[error(
        "the certificate ended longer ago than the hub's --renewal-grace; join again with a new \
         token from `join token`"
    )]
    TooLate,
    #[error(
        "Open Cluster Management on the hub does not accept {0}: accept its ManagedCluster \
         (spec.hubAcceptsClient: true), and join with the same token again"
    )]
    NotAccepted(ClusterName),
    #[error("the enrolment was changed meanwhile; join again with a new token from `join token`")]
    Changed,
    /// The text stays here: it names paths of the hub.
    #[error("the hub cannot sign certificates now; its log says why")]
    Unavailable,
}

// === impl Denied ===

impl Denied {
    fn status(&self) -> StatusCode {
        match self {
            Self::TooOften => StatusCode::TOO_MANY_REQUESTS,
            Self::Path => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body => StatusCode::BAD_REQUEST,
            Self::Token(_) | Self::NotEnrolled => StatusCode::UNAUTHORIZED,
            Self::Csr(_) | Self::Revoked | Self::TooLate | Self::NotAccepted(_) | Self::Changed => {
                StatusCode::FORBIDDEN
            }
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether it counts against the sender.
    fn is_the_senders(&self) -> bool {
        !matches!(self, Self::Unavailable | Self::Changed | Self::NotAccepted(_))
    }
}

impl From<TokenError> for Denied {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::State(error) => error.into(),
            other => Self::Token(other),
        }
    }
}

impl From<StateError> for Denied {
    fn from(error: StateError) -> Self {
        TlsError::from(error).into()
    }
}

impl From<TlsError> for Denied {
    fn from(error: TlsError) -> Self {
        tracing::error!(%error, "cannot sign agents' certificates");
        Self::Unavailable
    }
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Denied> {
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect().await;
    let body =
        body.map_err(
            |error| {
                if error.is::<LengthLimitError>() { Denied::TooLarge } else { Denied::Body }
            },
        )?;
    serde_json::from_slice(&body.to_bytes()).map_err(|_| Denied::Body)
}

fn refusal(denied: &Denied) -> Response<Full<Bytes>> {
    respond(denied.status(), &Refusal { message: denied.to_string() })
}

fn respond(status: StatusCode, body: &impl serde::Serialize) -> Response<Full<Bytes>> {
    // Strings under string keys always serialize.
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Life of an agent's certificate: short, because a stolen key is useless after it. The agent
/// renews at two thirds.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How long an expired certificate can be renewed unless told otherwise.
pub const RENEWAL_GRACE: Duration = Duration::from_secs(30 * 24 * 3600);

/// For the whole exchange, from the handshake's end.
const DEADLINE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
