//! What tests of this module share.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::api::{
    ManagedServiceAccount, ManagedServiceAccountSpec, ManagedServiceAccountStatus, TokenSecretRef,
};

/// An account as an API server hands it out, made at the second 0.
pub(super) fn account(namespace: &str, name: &str) -> ManagedServiceAccount {
    let mut account = ManagedServiceAccount::new(name, ManagedServiceAccountSpec::default());
    account.metadata.namespace = Some(namespace.to_owned());
    account.metadata.uid = Some(format!("uid-of-{namespace}-{name}"));
    account.metadata.generation = Some(1);
    account.metadata.creation_timestamp = Some(Time(at(0)));
    account
}

/// The same after its token was renewed and until it ends, in seconds.
pub(super) fn reported(
    mut account: ManagedServiceAccount,
    refreshed: i64,
    expires: i64,
) -> ManagedServiceAccount {
    account.status = Some(ManagedServiceAccountStatus {
        conditions: Vec::new(),
        expiration_timestamp: Some(at(expires).to_string()),
        token_secret_ref: Some(TokenSecretRef {
            name: account.metadata.name.clone().unwrap_or_default(),
            last_refresh_timestamp: at(refreshed).to_string(),
        }),
    });
    account
}

/// A second.
pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A JWT with `payload` that nobody signed.
pub(super) fn jwt(payload: &Value) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload.to_string()))
}

/// A token of a ServiceAccount, in seconds.
pub(super) fn token(subject: &str, uid: &str, issued: i64, expires: i64) -> String {
    jwt(&json!({"sub": subject, "iat": issued, "exp": expires,
        "kubernetes.io": {"serviceaccount": {"uid": uid}}}))
}
