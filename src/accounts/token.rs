//! What a token says about itself, and what to ask for. Pure: nothing here is verified, because the
//! hub asked for the token itself and the spoke's API server is the judge of it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};

use super::api::{AUDIENCES, ManagedServiceAccount};
use super::duration::{self, InvalidDuration};

/// The claims of a ServiceAccount token that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claims {
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub(super) subject: String,
    /// Uid of the ServiceAccount.
    pub(super) account: String,
    /// When it was signed.
    pub(super) issued: Timestamp,
    /// When it ends.
    pub(super) expires: Timestamp,
}

// === impl Claims ===

impl Claims {
    /// The claims of `token`; nothing for what is not a ServiceAccount token with an end.
    pub(super) fn of(token: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Payload {
            sub: String,
            iat: i64,
            exp: i64,
            #[serde(rename = "kubernetes.io")]
            kubernetes: Kubernetes,
        }
        #[derive(Deserialize)]
        struct Kubernetes {
            serviceaccount: Account,
        }
        #[derive(Deserialize)]
        struct Account {
            uid: String,
        }
        let mut parts = token.split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
        let payload: Payload = serde_json::from_slice(&payload).ok()?;
        Some(Self {
            subject: payload.sub,
            account: payload.kubernetes.serviceaccount.uid,
            issued: Timestamp::from_second(payload.iat).ok()?,
            expires: Timestamp::from_second(payload.exp).ok()?,
        })
    }
}

/// The subject of tokens of a ServiceAccount.
pub(super) fn subject(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// What a TokenRequest asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    /// Life in seconds.
    pub(super) seconds: i64,
    /// Audiences in the order of the annotation; those of the API server when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) audiences: Vec<String>,
}

// === impl Wanted ===

impl Wanted {
    /// What `account` wants.
    ///
    /// # Errors
    /// When its validity is no duration.
    pub(super) fn of(account: &ManagedServiceAccount) -> Result<Self, InvalidDuration> {
        let life = match &account.spec.rotation.validity {
            Some(validity) => duration::parse(validity)?,
            None => VALIDITY,
        };
        Ok(Self {
            seconds: i64::try_from(life.as_secs()).map_err(|_| InvalidDuration)?,
            audiences: listed(account.annotations().get(AUDIENCES)),
        })
    }
}

/// The entries of an annotation that is a list.
pub(super) fn listed(value: Option<&String>) -> Vec<String> {
    let entries = value.map(String::as_str).unwrap_or_default().split(',').map(str::trim);
    entries.filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
}

/// As the published definition has it by default.
const VALIDITY: Duration = Duration::from_secs(8_640 * 3_600);

#[cfg(test)]
mod tests {
    use super::super::testing::{account, jwt};
    use super::*;
    use serde_json::json;

    #[test]
    fn only_tokens_of_service_accounts_have_claims() {
        let payload = json!({"sub": "s", "iat": 5, "exp": 10,
            "kubernetes.io": {"serviceaccount": {"name": "a", "uid": "u"}}});
        let claims = Claims::of(&jwt(&payload)).unwrap();
        assert_eq!((claims.subject.as_str(), claims.account.as_str()), ("s", "u"));
        assert_eq!((claims.issued.as_second(), claims.expires.as_second()), (5, 10));
        for missing in ["/sub", "/iat", "/exp", "/kubernetes.io/serviceaccount/uid"] {
            let mut payload = payload.clone();
            *payload.pointer_mut(missing).unwrap() = json!(null);
            assert_eq!(Claims::of(&jwt(&payload)), None, "{missing}");
        }
        let huge = json!({"sub": "s", "iat": 5, "exp": i64::MAX,
            "kubernetes.io": {"serviceaccount": {"uid": "u"}}});
        for bad in ["", "opaque", "a.b.c", &jwt(&huge), &format!("{}.x", jwt(&payload))] {
            assert_eq!(Claims::of(bad), None, "{bad}");
        }
    }

    #[test]
    fn validity_and_audiences_are_what_is_asked_for() {
        let mut account = account("c1", "a");
        let default = Wanted::of(&account).unwrap();
        assert_eq!(default, Wanted { seconds: 8_640 * 3_600, audiences: vec![] });
        account.spec.rotation.validity = Some("1h30m".to_owned());
        account.annotations_mut().insert(AUDIENCES.to_owned(), "vault, ,x".to_owned());
        let wanted = Wanted::of(&account).unwrap();
        assert_eq!(wanted, Wanted { seconds: 5400, audiences: vec!["vault".into(), "x".into()] });
        account.spec.rotation.validity = Some("soon".to_owned());
        assert_eq!(Wanted::of(&account), Err(InvalidDuration));
    }
}
