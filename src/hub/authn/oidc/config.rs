//! Whose tokens are believed, and how their claims become names.

use std::fmt;
use std::path::PathBuf;

use jsonwebtoken::Algorithm;

/// One OpenID Connect issuer (OpenID Connect Core 1.0), as `--oidc-*` or a file describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerConfig {
    /// `iss` of its tokens, byte for byte; where its discovery document is, too.
    pub url: Url,
    /// Where its discovery document is instead.
    pub discovery_url: Option<Url>,
    /// Who vouches for its certificate.
    pub authority: IssuerAuthority,
    /// `aud` must hold one of them, byte for byte.
    pub audiences: Vec<String>,
    /// What it may sign with.
    pub algorithms: Vec<Algorithm>,
    /// Where the user name is.
    pub username: ClaimMapping,
    /// Where the groups are; no groups without.
    pub groups: Option<ClaimMapping>,
    /// The claim that is the uid; no uid without.
    pub uid: Option<String>,
    /// Claims that must have exactly this value.
    pub required: Vec<(String, String)>,
    /// What no name may begin with, its prefix included.
    pub reserved: Vec<String>,
}

/// A claim that holds names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimMapping {
    /// The claim.
    pub claim: String,
    /// What is put before each name. May be empty.
    pub prefix: String,
}

/// Whose signature under an issuer's certificate counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerAuthority {
    /// The authorities of this machine.
    System,
    /// These alone, PEM.
    Pem(String),
    /// Those in a file, which is read again before each use.
    File(PathBuf),
    /// Those under `ca.crt` of a ConfigMap on the hub's API server, read again before each use.
    ConfigMap {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// An `https` URL without user, query or fragment.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url {
    text: String,
    host: String,
    port: u16,
    path: String,
}

// === impl IssuerConfig ===

impl IssuerConfig {
    /// An issuer under upstream's defaults: `sub` is the user, RS256 the algorithm, names of
    /// Kubernetes itself are reserved.
    pub fn new(url: Url, audiences: Vec<String>) -> Self {
        let username = ClaimMapping::username(SUBJECT, None, &url);
        Self {
            url,
            discovery_url: None,
            authority: IssuerAuthority::System,
            audiences,
            algorithms: vec![Algorithm::RS256],
            username,
            groups: None,
            uid: None,
            required: Vec::new(),
            reserved: vec![RESERVED.to_owned()],
        }
    }

    /// What is wrong with it as a whole, where something is.
    pub fn problem(&self) -> Option<String> {
        if self.audiences.is_empty() || self.audiences.iter().any(String::is_empty) {
            return Some("there must be an audience, and none may be empty".to_owned());
        }
        if self.algorithms.is_empty() {
            return Some("there must be an algorithm".to_owned());
        }
        if self.reserved.iter().any(String::is_empty) {
            return Some("a reserved prefix is empty: every name begins with it".to_owned());
        }
        let claims = [Some(&self.username), self.groups.as_ref()];
        let claims = claims.into_iter().flatten().map(|mapping| &mapping.claim);
        let mut claims =
            claims.chain(&self.uid).chain(self.required.iter().map(|(claim, _)| claim));
        claims.any(String::is_empty).then(|| "a claim has no name".to_owned())
    }
}

// === impl ClaimMapping ===

impl ClaimMapping {
    /// The user name in `claim`. Without a `prefix`, names of two issuers are kept apart by the
    /// issuer's own; addresses (`email`) are not. A prefix of `-` is none.
    pub fn username(claim: &str, prefix: Option<&str>, issuer: &Url) -> Self {
        let prefix = match prefix {
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
            None if claim == EMAIL => String::new(),
            None => format!("{issuer}#"),
        };
        Self { claim: claim.to_owned(), prefix }
    }
}

// === impl Url ===

impl Url {
    /// Reads a URL.
    ///
    /// # Errors
    /// Says what it must be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| Err(format!("{text:?} {why}"));
        let Ok(uri) = text.parse::<http::Uri>() else { return bad("is not a URL") };
        if uri.scheme_str() != Some("https") {
            return bad("does not begin with https://");
        }
        let Some(authority) = uri.authority() else { return bad("names no host") };
        if authority.as_str().contains('@') {
            return bad("has a user in it");
        }
        if uri.query().is_some() || text.contains('#') {
            return bad("has a query or a fragment");
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => Some(HTTPS),
            after => after.and_then(|after| after.strip_prefix(':')?.parse().ok()),
        };
        let Some(port) = port.filter(|_| !authority.host().is_empty()) else {
            return bad("has no host, or no port after its colon");
        };
        Ok(Self {
            text: text.to_owned(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port,
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Host to dial: a name or an address, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port to dial.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its path without a slash at its end; empty for the root.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads the name of an algorithm (RFC 7518 section 3.1).
///
/// # Errors
/// Names those that there are.
pub fn algorithm(name: &str) -> Result<Algorithm, String> {
    let known = super::ALGORITHMS.iter().find(|(known, _)| *known == name);
    known.map(|(_, algorithm)| *algorithm).ok_or_else(|| {
        let names: Vec<_> = super::ALGORITHMS.iter().map(|(name, _)| *name).collect();
        format!("{name:?} is none of {}", names.join(", "))
    })
}

/// The claim that every token has (OpenID Connect Core 1.0 section 2).
pub(super) const SUBJECT: &str = "sub";

/// Unique in the world, so that it needs no prefix; believed where `email_verified` does not deny it.
pub(super) const EMAIL: &str = "email";

const HTTPS: u16 = 443;

/// How names of Kubernetes itself begin.
const RESERVED: &str = "system:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_https_urls() {
        let url = Url::parse("https://id.example:8443/realms/a/").unwrap();
        assert_eq!((url.host(), url.port(), url.path()), ("id.example", 8443, "/realms/a"));
        assert_eq!(url.as_str(), "https://id.example:8443/realms/a/");
        let url = Url::parse("https://[::1]").unwrap();
        assert_eq!((url.host(), url.port(), url.path()), ("::1", 443, ""));
        for bad in [
            "http://id.example",
            "id.example",
            "https://",
            "https://a@id.example",
            "/x",
            "https://id.example?x",
            "https://id.example/#x",
            "https://id.example:99999",
            "",
            "https://id.example:",
            "https://id .example",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_two_issuers_are_kept_apart() {
        let url = Url::parse("https://id.example").unwrap();
        let prefix = |claim, prefix| ClaimMapping::username(claim, prefix, &url).prefix;
        assert_eq!(prefix("sub", None), "https://id.example#");
        assert_eq!(prefix("email", None), "");
        assert_eq!(prefix("email", Some("oidc:")), "oidc:");
        assert_eq!(prefix("sub", Some("-")), "");
        assert_eq!(prefix("sub", Some("")), "");
    }

    #[test]
    fn what_would_let_everybody_in_is_a_problem() {
        let url = Url::parse("https://id.example").unwrap();
        let good = IssuerConfig::new(url, vec!["kubernetes".to_owned()]);
        assert_eq!(good.problem(), None);
        let broken: [fn(&mut IssuerConfig); 6] = [
            |config| config.audiences.clear(),
            |config| config.audiences.push(String::new()),
            |config| config.algorithms.clear(),
            |config| config.reserved.push(String::new()),
            |config| config.username.claim.clear(),
            |config| config.required.push((String::new(), String::new())),
        ];
        for change in broken {
            let mut config = good.clone();
            change(&mut config);
            assert!(config.problem().is_some(), "{config:?}");
        }
    }

    #[test]
    fn algorithms_have_their_registered_names() {
        assert_eq!(algorithm("ES256"), Ok(Algorithm::ES256));
        for bad in ["none", "HS256", "rs256", ""] {
            assert!(algorithm(bad).is_err(), "{bad}");
        }
    }
}
