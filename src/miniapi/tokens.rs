//! ServiceAccount tokens: signing keys, claims, verification and the published key set.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::files;

/// Signs and verifies the tokens of one cluster.
pub(super) struct Tokens {
    issuer: String,
    audiences: Vec<String>,
    file: Option<PathBuf>,
    keys: Mutex<Keys>,
}

/// The claims of a ServiceAccount token, as kube-apiserver writes them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) aud: Vec<String>,
    pub(super) exp: u64,
    pub(super) iat: u64,
    pub(super) iss: String,
    pub(super) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(super) kubernetes: Kubernetes,
    pub(super) nbf: u64,
    pub(super) sub: String,
}

/// The private claim of a ServiceAccount token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kubernetes {
    pub(super) namespace: String,
    pub(super) serviceaccount: Reference,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<Reference>,
}

/// An object that a token is bound to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) uid: String,
}

// === impl Kubernetes ===

impl Kubernetes {
    /// A token that ends with nothing but its account.
    pub(super) fn of(namespace: &str, account: Reference) -> Self {
        let namespace = namespace.to_owned();
        Self { namespace, serviceaccount: account, pod: None, secret: None, node: None }
    }
}

/// Signs first with the first; the others are still trusted and published.
struct Keys {
    own: Vec<SigningKey>,
    foreign: Vec<Value>,
}

struct SigningKey {
    id: String,
    pem: String,
    jwk: Value,
    signing: EncodingKey,
    verifying: DecodingKey,
}

// === impl Tokens ===

impl Tokens {
    /// Loads the keys from `directory`, or makes one (and keeps it there).
    pub(super) fn open(
        issuer: &str,
        audiences: &[String],
        directory: Option<&Path>,
    ) -> Result<Self, String> {
        let file = directory.map(|directory| directory.join(KEY_FILE));
        let text = match &file {
            Some(file) => files::read(file)?,
            None => None,
        };
        let own = match text {
            Some(text) => split_pem(&text).map(SigningKey::load).collect::<Result<Vec<_>, _>>()?,
            None => vec![SigningKey::generate()?],
        };
        if own.is_empty() {
            return Err("the file of signing keys holds none: remove it to make a new one".into());
        }
        let tokens = Self {
            issuer: issuer.to_owned(),
            audiences: audiences.to_vec(),
            file,
            keys: Mutex::new(Keys { own, foreign: Vec::new() }),
        };
        tokens.save(&tokens.lock())?;
        Ok(tokens)
    }

    /// What the API server itself accepts as audience; the default of a TokenRequest.
    pub(super) fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Signs a token for a ServiceAccount; returns it with its last second.
    pub(super) fn sign(
        &self,
        subject: Kubernetes,
        audiences: Vec<String>,
        lifetime: Duration,
    ) -> (String, u64) {
        let now = jsonwebtoken::get_current_timestamp();
        let claims = Claims {
            aud: if audiences.is_empty() { self.audiences.clone() } else { audiences },
            exp: now + lifetime.as_secs(),
            iat: now,
            iss: self.issuer.clone(),
            jti: Uuid::new_v4().to_string(),
            nbf: now,
            sub: format!(
                "system:serviceaccount:{}:{}",
                subject.namespace, subject.serviceaccount.name
            ),
            kubernetes: subject,
        };
        let keys = self.lock();
        let key = &keys.own[0];
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(key.id.clone());
        header.typ = None;
        let token = jsonwebtoken::encode(&header, &claims, &key.signing)
            .expect("a P-256 key that loaded signs ES256");
        (token, claims.exp)
    }

    /// The claims of a token that one of our keys signed, for this issuer, in its time. Audiences
    /// and the account are the caller's to check.
    pub(super) fn verify(&self, token: &str) -> Option<Claims> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        let mut validation = Validation::new(Algorithm::ES256);
        validation.leeway = 0;
        validation.validate_aud = false;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        let keys = self.lock();
        let named = keys.own.iter().filter(|key| header.kid.as_ref() == Some(&key.id));
        named
            .filter_map(|key| jsonwebtoken::decode(token, &key.verifying, &validation).ok())
            .map(|data| data.claims)
            .next()
    }

    /// The key set, as `/openid/v1/jwks` publishes it.
    pub(super) fn key_set(&self) -> Value {
        let keys = self.lock();
        let published: Vec<&Value> =
            keys.own.iter().map(|key| &key.jwk).chain(&keys.foreign).collect();
        json!({ "keys": published })
    }

    /// The discovery document of the issuer.
    pub(super) fn discovery(&self, url: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{url}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// Signs with a new key from now on. The old ones stay trusted and published only with
    /// `overlap`.
    pub(super) fn rotate(&self, overlap: bool) -> Result<(), String> {
        let key = SigningKey::generate()?;
        let mut keys = self.lock();
        if !overlap {
            keys.own.clear();
        }
        keys.own.insert(0, key);
        self.save(&keys)
    }

    /// Publishes a key that is not ours.
    pub(super) fn publish_foreign(&self, jwk: Value) {
        self.lock().foreign.push(jwk);
    }

    fn save(&self, keys: &Keys) -> Result<(), String> {
        let Some(file) = &self.file else { return Ok(()) };
        let text: String = keys.own.iter().map(|key| key.pem.as_str()).collect();
        files::write_secret(file, &text)
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        // Keys are replaced whole, so a panic elsewhere leaves nothing half done.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl SigningKey ===

impl SigningKey {
    fn generate() -> Result<Self, String> {
        let pair = rcgen::KeyPair::generate().map_err(|error| error.to_string())?;
        Self::from_pair(&pair)
    }

    fn load(pem: &str) -> Result<Self, String> {
        let pair = rcgen::KeyPair::from_pem(pem).map_err(|error| error.to_string())?;
        Self::from_pair(&pair)
    }

    fn from_pair(pair: &rcgen::KeyPair) -> Result<Self, String> {
        // An uncompressed point: 4, x, y (SEC 1 section 2.3.3).
        let (x, y) = match pair.public_key_raw() {
            [4, point @ ..] if point.len() == 64 => point.split_at(32),
            _ => return Err("the signing key is no P-256 key: remove it to make a new one".into()),
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, pair.public_key_raw()));
        let pem = pair.serialize_pem();
        Ok(Self {
            jwk: json!({
                "use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256",
                "kid": id, "x": x, "y": y,
            }),
            signing: EncodingKey::from_ec_pem(pem.as_bytes()).map_err(|error| error.to_string())?,
            verifying: DecodingKey::from_ec_components(&x, &y)
                .map_err(|error| error.to_string())?,
            id,
            pem,
        })
    }
}

fn split_pem(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(PEM_END).filter(|part| part.contains("BEGIN PRIVATE KEY"))
}

const PEM_END: &str = "-----END PRIVATE KEY-----\n";
const KEY_FILE: &str = "service-account-keys.pem";

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(tokens: &Tokens, lifetime: u64) -> String {
        let account = Reference { name: "a".to_owned(), uid: "u".to_owned() };
        tokens.sign(Kubernetes::of("ns", account), Vec::new(), Duration::from_secs(lifetime)).0
    }

    fn open(issuer: &str, directory: Option<&Path>) -> Tokens {
        Tokens::open(issuer, &["api".to_owned()], directory).unwrap()
    }

    #[test]
    fn only_own_keys_issuer_and_time_count() {
        let (ours, theirs) = (open("i", None), open("i", None));
        let token = sign(&ours, 600);
        let claims = ours.verify(&token).unwrap();
        assert_eq!(claims.sub, "system:serviceaccount:ns:a");
        assert_eq!(claims.aud, ["api"]);
        assert!(theirs.verify(&token).is_none(), "another key");
        let swapped = token.replacen('.', ".e30", 1);
        assert!(ours.verify(&swapped).is_none(), "changed claims");
        theirs.publish_foreign(ours.key_set()["keys"][0].clone());
        assert!(theirs.verify(&token).is_none(), "published is not trusted");
        assert_eq!(theirs.key_set()["keys"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn rotation_with_and_without_overlap() {
        let tokens = open("i", None);
        let old = sign(&tokens, 600);
        tokens.rotate(true).unwrap();
        assert!(tokens.verify(&old).is_some() && tokens.verify(&sign(&tokens, 600)).is_some());
        tokens.rotate(false).unwrap();
        assert!(tokens.verify(&old).is_none() && tokens.verify(&sign(&tokens, 600)).is_some());
    }

    #[test]
    fn keys_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let first = open("i", Some(directory.path()));
        let old = sign(&first, 600);
        first.rotate(true).unwrap();
        let new = sign(&first, 600);
        let second = open("i", Some(directory.path()));
        assert!(second.verify(&old).is_some() && second.verify(&new).is_some());
        assert!(open("other", Some(directory.path())).verify(&new).is_none());
    }
}
