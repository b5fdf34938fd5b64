//! Our own bearer token: kept fresh while its owner renews the file, and looked into.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::endpoint::{Credentials, EndpointError, read_bounded};

/// The current token of our own account. Clones share it; reading it costs one atomic load.
#[derive(Clone)]
pub struct TokenSource {
    file: Option<PathBuf>,
    current: Arc<ArcSwapOption<Token>>,
}

/// What a token says of itself. Nothing here was verified: good for a hint, never for a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// `iss`.
    pub issuer: Option<String>,
    /// `aud`, as a list.
    pub audiences: Vec<String>,
    /// `exp`, seconds since 1970, in a year of four digits at most.
    pub expires: Option<u64>,
}

struct Token {
    header: HeaderValue,
    claims: Claims,
}

// === impl TokenSource ===

impl TokenSource {
    /// Reads the token of `credentials` for the first time; a source without one for a certificate.
    pub fn new(credentials: &Credentials) -> Result<Self, EndpointError> {
        let (file, token) = match credentials {
            Credentials::TokenFile(path) => (Some(path.clone()), Some(read(path)?)),
            Credentials::Token(token) => (None, Some(Token::new(token).map_err(unusable)?)),
            Credentials::Certificate { .. } => (None, None),
        };
        Ok(Self { file, current: Arc::new(ArcSwapOption::from_pointee(token)) })
    }

    /// The value of `Authorization`, marked sensitive.
    pub fn header(&self) -> Option<HeaderValue> {
        self.current.load().as_ref().map(|token| token.header.clone())
    }

    /// What the current token says of itself.
    pub fn claims(&self) -> Claims {
        self.current.load().as_ref().map(|token| token.claims.clone()).unwrap_or_default()
    }

    /// Reads the file again and again; never returns. A file that cannot be read is reported, and
    /// the last token kept: the API server is the judge of it.
    pub async fn keep_fresh(self) {
        let Some(path) = self.file.clone() else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(READ_INTERVAL).await;
            let file = path.clone();
            match tokio::task::spawn_blocking(move || read(&file)).await {
                Ok(Ok(token)) => self.current.store(Some(Arc::new(token))),
                Ok(Err(error)) => tracing::warn!(%error, "keeping the last token"),
                Err(error) => tracing::warn!(%error, "reading the token did not finish"),
            }
        }
    }
}

// === impl Token ===

impl Token {
    fn new(token: &str) -> Result<Self, &'static str> {
        let token = token.trim();
        if token.is_empty() {
            return Err("the token is empty");
        }
        let value = Zeroizing::new(format!("Bearer {token}"));
        let mut header = HeaderValue::from_str(&value)
            .map_err(|_| "the token has characters that no header can carry")?;
        header.set_sensitive(true);
        Ok(Self { header, claims: Claims::of(token) })
    }
}

fn read(path: &std::path::Path) -> Result<Token, EndpointError> {
    let problem = |what: &dyn std::fmt::Display| {
        EndpointError::Unusable(format!("token file {}: {what}", path.display()))
    };
    let content = Zeroizing::new(read_bounded(path, MAX_TOKEN).map_err(|error| problem(&error))?);
    let text = std::str::from_utf8(&content).map_err(|_| problem(&"is not UTF-8"))?;
    Token::new(text).map_err(|what| problem(&what))
}

fn unusable(what: &'static str) -> EndpointError {
    EndpointError::Unusable(what.to_owned())
}

// === impl Claims ===

impl Claims {
    /// What `token` says of itself, unverified; nothing for a token that is no JWT (RFC 7519).
    pub fn of(token: &str) -> Self {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Audience {
            One(String),
            Many(Vec<String>),
        }
        #[derive(Deserialize)]
        struct Payload {
            iss: Option<String>,
            aud: Option<Audience>,
            exp: Option<serde_json::Number>,
        }
        let payload = token
            .split('.')
            .nth(1)
            .and_then(|part| URL_SAFE_NO_PAD.decode(part).ok())
            .and_then(|json| serde_json::from_slice::<Payload>(&json).ok());
        let Some(payload) = payload else {
            return Self::default();
        };
        Self {
            issuer: payload.iss,
            audiences: match payload.aud {
                Some(Audience::One(one)) => vec![one],
                Some(Audience::Many(many)) => many,
                None => Vec::new(),
            },
            expires: payload.exp.and_then(|at| at.as_u64()).filter(|at| *at < YEAR_10000),
        }
    }
}

/// Where RFC 3339 ends, and with it every text that could name the time.
const YEAR_10000: u64 = 253_402_300_800;

/// The kubelet renews a mounted token at 80 % of its life, and clients are asked to read the file
/// once a minute; half of that leaves room for a slow read.
const READ_INTERVAL: Duration = Duration::from_secs(30);

/// The largest token an API server takes is bounded by its header limit.
const MAX_TOKEN: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(payload: &serde_json::Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload.to_string()))
    }

    #[test]
    fn peeks_into_a_jwt_and_into_nothing_else() {
        assert_eq!(Claims::of(&jwt(&serde_json::json!({"exp": 12}))).expires, Some(12));
        assert_eq!(Claims::of(&jwt(&serde_json::json!({"exp": -1}))).expires, None);
        let last = YEAR_10000 - 1;
        for (exp, expires) in [(last, Some(last)), (YEAR_10000, None), (u64::MAX, None)] {
            assert_eq!(Claims::of(&jwt(&serde_json::json!({ "exp": exp }))).expires, expires);
        }
        let claims = Claims::of(&jwt(&serde_json::json!({"iss": "i", "aud": ["a", "b"]})));
        assert_eq!(claims.issuer.as_deref(), Some("i"));
        assert_eq!(claims.audiences, ["a", "b"]);
        assert_eq!(Claims::of(&jwt(&serde_json::json!({"aud": "a"}))).audiences, ["a"]);
        for other in ["", "opaque", "a.b.c", "..", "a.e30"] {
            assert_eq!(Claims::of(other), Claims::default(), "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_file_is_used_within_a_minute() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first\n").unwrap();
        let source = TokenSource::new(&Credentials::TokenFile(file.path().into())).unwrap();
        assert_eq!(source.header().unwrap(), "Bearer first");
        let keeper = tokio::spawn(source.clone().keep_fresh());
        std::fs::write(file.path(), "second").unwrap();
        tokio::time::sleep(Duration::from_secs(59)).await;
        assert_eq!(source.header().unwrap(), "Bearer second");
        std::fs::write(file.path(), "").unwrap();
        tokio::time::sleep(Duration::from_secs(59)).await;
        assert_eq!(source.header().unwrap(), "Bearer second", "an empty file changes nothing");
        keeper.abort();
    }

    #[test]
    fn the_header_is_sensitive_and_errors_are_silent() {
        let source =
            TokenSource::new(&Credentials::Token(Zeroizing::new("hunter2".into()))).unwrap();
        assert!(source.header().unwrap().is_sensitive());
        let bad = Credentials::Token(Zeroizing::new("hunter2\nx".into()));
        let error = TokenSource::new(&bad).err().unwrap();
        assert!(!error.to_string().contains("hunter2"));
    }
}
