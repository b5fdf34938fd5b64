//! What the agent says of itself when a tunnel begins.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Empty, Limited};
use serde::Deserialize;
use tokio::time::Instant;

use super::access::Accesses;
use super::headers;
use super::upstream::{Account, RequestBody};
use crate::tunnel::hello::{AgentHello, VERSION};

/// Composes the hello; keeps the API server's version for a while.
pub(super) struct Greeter {
    agent: String,
    audiences: Vec<String>,
    issuers: Vec<String>,
    accesses: Accesses,
    version: Mutex<Option<(Instant, String)>>,
}

// === impl Greeter ===

impl Greeter {
    /// `audiences` and `issuers` are the operator's, beside those of our own token.
    pub(super) fn new(
        agent: String,
        audiences: Vec<String>,
        issuers: Vec<String>,
        accesses: Accesses,
    ) -> Self {
        Self { agent, audiences, issuers, accesses, version: Mutex::default() }
    }

    /// The hello as of now. An API server that does not answer costs three seconds, and leaves its
    /// version out: the tunnel is of use for saying just that.
    pub(super) async fn hello(&self) -> AgentHello {
        let claims = self.accesses.current().token.claims();
        let audiences =
            if self.audiences.is_empty() { claims.audiences } else { self.audiences.clone() };
        let mut issuers: Vec<String> = claims.issuer.into_iter().collect();
        for issuer in &self.issuers {
            if !issuers.contains(issuer) {
                issuers.push(issuer.clone());
            }
        }
        AgentHello {
            version: VERSION,
            agent: self.agent.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            api_server_version: self.version().await,
            audiences,
            issuers,
        }
    }

    async fn version(&self) -> Option<String> {
        let kept = self.version.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((read, version)) = &kept
            && read.elapsed() < VERSION_LIFE
        {
            return Some(version.clone());
        }
        match tokio::time::timeout(VERSION_DEADLINE, self.read_version()).await {
            Ok(Some(version)) => {
                let mut kept = self.version.lock().unwrap_or_else(PoisonError::into_inner);
                *kept = Some((Instant::now(), version.clone()));
                Some(version)
            }
            // An old answer says more than none.
            _ => kept.map(|(_, version)| version),
        }
    }

    async fn read_version(&self) -> Option<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Info {
            git_version: String,
        }
        let access = self.accesses.current();
        let mut own = HeaderMap::new();
        headers::as_agent(&mut own, access.token.header());
        let mut request = Request::new(no_body());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = http::Uri::from_static("/version");
        *request.headers_mut() = own;
        let answer = access.upstream.send(Account::Agent, request).await.ok()?;
        let body = Limited::new(answer.response.into_body(), VERSION_LIMIT).collect().await.ok()?;
        let info: Info = serde_json::from_slice(&body.to_bytes()).ok()?;
        Some(info.git_version)
    }
}

/// The body of a request that has none.
pub(super) fn no_body() -> RequestBody {
    Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync()
}

/// API servers are upgraded rarely, and a restarted one drops no tunnel.
const VERSION_LIFE: Duration = Duration::from_secs(300);
/// The hub waits for the hello; a slow API server must not look like a dead agent.
const VERSION_DEADLINE: Duration = Duration::from_secs(3);
/// `/version` is a few hundred bytes.
const VERSION_LIMIT: usize = 64 << 10;
