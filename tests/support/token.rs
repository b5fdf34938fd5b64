//! Signing keys and ServiceAccount tokens, good ones and bad ones.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// A key that signs ServiceAccount tokens (ES256).
#[derive(Clone)]
pub(crate) struct SigningKey {
    pub(crate) id: String,
    private_pem: String,
    /// SubjectPublicKeyInfo, PEM.
    pub(crate) public_pem: String,
    point: Vec<u8>,
}

// === impl SigningKey ===

impl SigningKey {
    pub(crate) fn generate(id: &str) -> Self {
        let pair = rcgen::KeyPair::generate().unwrap();
        Self {
            id: id.to_owned(),
            private_pem: pair.serialize_pem(),
            public_pem: pair.public_key_pem(),
            point: pair.public_key_raw().to_vec(),
        }
    }

    /// The public half, RFC 7517.
    pub(crate) fn jwk(&self) -> Value {
        // Uncompressed point: 0x04, x, y (SEC 1 section 2.3.3).
        let (x, y) = self.point[1..].split_at(32);
        json!({
            "use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.id,
            "x": BASE64URL.encode(x), "y": BASE64URL.encode(y),
        })
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.id.clone());
        let key = EncodingKey::from_ec_pem(self.private_pem.as_bytes()).unwrap();
        jsonwebtoken::encode(&header, claims, &key).unwrap()
    }

    /// The algorithm confusion attack: HMAC with the public key as the secret.
    pub(crate) fn sign_hs256_with_public_key(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.id.clone());
        let key = EncodingKey::from_secret(self.public_pem.as_bytes());
        jsonwebtoken::encode(&header, claims, &key).unwrap()
    }
}

/// `alg: none`, RFC 7519 section 6.1.
pub(crate) fn unsigned(claims: &Value) -> String {
    let part = |value: &Value| BASE64URL.encode(value.to_string());
    format!("{}.{}.", part(&json!({"alg": "none"})), part(claims))
}

/// Claims as a kube-apiserver writes them, good from a minute ago for `life` seconds from now.
pub(crate) fn claims(namespace: &str, name: &str, life: i64) -> Value {
    let now =
        i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    json!({
        "iss": ISSUER,
        "aud": [AUDIENCE],
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "iat": now - 3600,
        "nbf": now - 3600,
        "exp": now + life,
        "jti": uuid::Uuid::new_v4().to_string(),
        "kubernetes.io": {
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": format!("uid-of-{namespace}-{name}")},
        },
    })
}

/// What every cluster calls itself unless somebody changes it: two clusters share it.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
pub(crate) const AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";
