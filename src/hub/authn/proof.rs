//! The proof that a cluster signs with a key: it signs something nobody could have prepared.
//!
//! The hub asks for a token through the cluster's own tunnel, for an audience that it invents on
//! the spot and for a ServiceAccount that nobody else uses. Publishing a key needs only the public
//! half; this needs the private one.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::keys::PublicKey;
use super::token::Unverified;
use super::{SpokeApi, claims, key_sets};
use crate::name::ClusterName;

/// Why a key was not proven.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProofError {
    /// The tunnel or the API server.
    #[error("the cluster could not be asked for a token: {0}")]
    Unreachable(String),
    /// The agent may not create tokens there.
    #[error("the cluster answered {0} when asked for a token of {NAMESPACE}/{NAME}")]
    Status(StatusCode),
    /// An answer, and no proof.
    #[error(
        "the token that the cluster made was not signed by this key, or is not what was asked for"
    )]
    NotProven,
}

/// Asks `cluster` to sign with `key`.
pub(super) async fn prove(
    spokes: &dyn SpokeApi,
    cluster: &ClusterName,
    key: &PublicKey,
) -> Result<(), ProofError> {
    let audience = format!("{AUDIENCE}{}", uuid::Uuid::new_v4());
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": { "audiences": [audience], "expirationSeconds": SHORTEST_LIFETIME },
    });
    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{NAME}/token");
    let (mut status, mut body) = post(spokes, cluster, &path, &request).await?;
    if status == StatusCode::NOT_FOUND {
        create_account(spokes, cluster).await?;
        (status, body) = post(spokes, cluster, &path, &request).await?;
    }
    if !status.is_success() {
        return Err(ProofError::Status(status));
    }
    let answer: TokenRequest = serde_json::from_slice(&body).map_err(|_| ProofError::NotProven)?;
    let token = Unverified::parse(&answer.status.token).map_err(|_| ProofError::NotProven)?;
    let user = format!("system:serviceaccount:{NAMESPACE}:{NAME}");
    if key.verifies(&token) && claims::is_proof(&token.payload, &audience, &user) {
        Ok(())
    } else {
        Err(ProofError::NotProven)
    }
}

async fn create_account(spokes: &dyn SpokeApi, cluster: &ClusterName) -> Result<(), ProofError> {
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": NAME, "namespace": NAMESPACE },
    });
    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
    let (status, _) = post(spokes, cluster, &path, &account).await?;
    // Somebody else may have created it meanwhile.
    if status.is_success() || status == StatusCode::CONFLICT {
        Ok(())
    } else {
        Err(ProofError::Status(status))
    }
}

async fn post(
    spokes: &dyn SpokeApi,
    cluster: &ClusterName,
    path: &str,
    body: &serde_json::Value,
) -> Result<(StatusCode, Bytes), ProofError> {
    let body = Some(Bytes::from(body.to_string()));
    spokes
        .request(cluster, Method::POST, path, body, MAX_ANSWER, key_sets::DEADLINE)
        .await
        .map_err(|error| ProofError::Unreachable(error.to_string()))
}

/// Holds a token, so there is no `Debug`.
#[derive(Deserialize)]
struct TokenRequest {
    status: TokenRequestStatus,
}

#[derive(Deserialize)]
struct TokenRequestStatus {
    token: String,
}

/// Where managed service accounts live on a spoke: the agent may create tokens there only.
const NAMESPACE: &str = "open-cluster-management-managed-serviceaccount";

/// An account without rights that exists for proofs alone.
const NAME: &str = "cluster-proxy-key-proof";

/// No API server accepts such an audience for itself, so the token is good for nothing else.
const AUDIENCE: &str = "cluster-proxy-key-proof/";

/// API servers refuse less than ten minutes.
const SHORTEST_LIFETIME: u64 = 600;

/// A TokenRequest with its token, and room.
const MAX_ANSWER: usize = 64 * 1024;
