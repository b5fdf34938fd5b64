//! What joining and renewing say on the wire: HTTP/1.1 and JSON, one exchange per connection.
//!
//! `POST /join` with [`JoinRequest`], `POST /renew` with [`RenewRequest`]; the answer is
//! [`Granted`] with 200, or [`Refusal`] with 400, 401, 403, 404, 405, 413, 429 or 503.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::ClusterName;

/// Trades a join token for a certificate.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct JoinRequest {
    /// `NAME.ID.SECRET`.
    pub(super) token: String,
    /// PKCS#10, PEM.
    pub(super) csr: String,
}

/// Asks for a new certificate by proof of the enrolled key, which signs the request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RenewRequest {
    /// The enrolled name.
    pub(super) cluster: ClusterName,
    /// PKCS#10, PEM.
    pub(super) csr: String,
}

/// A new certificate.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Granted {
    /// The name it is for.
    pub(super) cluster: ClusterName,
    /// PEM.
    pub(super) certificate: String,
    /// What to trust the hub by from now on: its serving CAs, PEM.
    pub(super) hub_ca: String,
}

/// A no.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Refusal {
    /// For people: what and what to do.
    pub(super) message: String,
}

impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest").field("csr", &self.csr).finish_non_exhaustive()
    }
}

/// Largest request body. A token and a request with a P-256 key take under 1 KiB.
pub(super) const MAX_REQUEST: usize = 64 << 10;

/// Largest answer body: room for dozens of CAs.
pub(super) const MAX_ANSWER: usize = 256 << 10;
