//! Why a caller was not let in.

use crate::tunnel::impersonation::Unwritable;

/// Why a caller was not let in. `Display` is safe to show and holds no part of a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthnError {
    /// The one 401 for: no token, bad token, another cluster's token, unknown cluster.
    #[error("Unauthorized")]
    Unauthorized(Refusal),
    /// 401 that says why: only for a token that a key of the path's cluster has signed, so that
    /// nobody else learns anything from it.
    #[error(transparent)]
    Explained(#[from] Explanation),
    /// A user of the hub whose name no header can carry: 403.
    #[error("this identity of the hub cannot be told to a cluster: {0}")]
    Unwritable(#[from] Unwritable),
    /// A verifier could not be reached: 503, never 401.
    #[error("{0}")]
    Unavailable(String),
}

/// What the owner of a genuine token is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Explanation {
    /// A Secret-bound token from before Kubernetes 1.24.
    #[error(
        "this is a legacy service account token, which has no expiry and is not accepted here; get a token with 'kubectl create token' instead"
    )]
    LegacyToken,
    /// `--managed-only` is set, and the ServiceAccount lives elsewhere.
    #[error(
        "only managed service accounts are accepted here, and this service account is in another namespace"
    )]
    NotManaged,
}

/// Closed set of reasons, for metric and log only; the caller always sees the same 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No credential.
    Missing,
    /// Not exactly one well-formed bearer token.
    Malformed,
    /// Longer than 16 KiB.
    TooLarge,
    /// Not a JSON Web Token, and the hub's API server is not asked about others.
    Opaque,
    /// Its header is not a plain JSON object, names something twice, or is nested too deep.
    Header,
    /// `none`, HMAC, or another algorithm that no API server signs with.
    Algorithm,
    /// It has `crit`.
    Critical,
    /// No known key has the id it names, or it names none and no key made its signature.
    UnknownKey,
    /// A key has the id it names and did not make its signature.
    Signature,
    /// Signed by the hub's own API server, which does not stand by it; or one that only it could know.
    HubRefused,
    /// A claim is missing, wrongly typed or there twice.
    Claims,
    /// `iss` is not one of the cluster's.
    Issuer,
    /// `aud` has none of the cluster's.
    Audience,
    /// A claim that its issuer's configuration requires is missing or has another value.
    RequiredClaim,
    /// Past its end.
    Expired,
    /// The API server stopped to accept it while its request was under way.
    Revoked,
    /// Before its beginning.
    NotYetValid,
    /// Not a ServiceAccount, or not the one that its own claims name.
    Subject,
}

// === impl AuthnError ===

impl AuthnError {
    /// A word of a closed set, for metric and log.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unauthorized(refusal) => refusal.as_str(),
            Self::Explained(Explanation::LegacyToken) => "legacy-token",
            Self::Explained(Explanation::NotManaged) => "not-managed",
            Self::Unwritable(_) => "unwritable",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

impl From<Refusal> for AuthnError {
    fn from(refusal: Refusal) -> Self {
        Self::Unauthorized(refusal)
    }
}

// === impl Refusal ===

impl Refusal {
    /// Whether no key set knew the signature, so that a set which could not be asked might have.
    pub(super) const fn is_nobodys(self) -> bool {
        matches!(self, Self::UnknownKey | Self::Signature)
    }

    /// The word for metric and log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::TooLarge => "too-large",
            Self::Opaque => "opaque",
            Self::Header => "header",
            Self::Algorithm => "algorithm",
            Self::Critical => "critical",
            Self::UnknownKey => "unknown-key",
            Self::Signature => "signature",
            Self::HubRefused => "hub-refused",
            Self::Claims => "claims",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::RequiredClaim => "required-claim",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::NotYetValid => "not-yet-valid",
            Self::Subject => "subject",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        use Refusal::*;

        let refusals = [
            Missing,
            Malformed,
            TooLarge,
            Opaque,
            Header,
            Algorithm,
            Critical,
            UnknownKey,
            Signature,
            HubRefused,
            Claims,
            Issuer,
            Audience,
            RequiredClaim,
            Expired,
            Revoked,
            NotYetValid,
            Subject,
        ];
        let explained = [Explanation::LegacyToken, Explanation::NotManaged];
        let errors = refusals.map(AuthnError::from).into_iter();
        let errors = errors.chain(explained.map(AuthnError::from));
        let mut words: Vec<_> = errors.map(|error| error.reason()).collect();
        words.push(AuthnError::Unavailable(String::new()).reason());
        words.push(AuthnError::Unwritable(Unwritable("a name")).reason());
        let is_plain =
            |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        assert!(words.iter().all(|word| is_plain(word) && !word.is_empty()), "{words:?}");
        let all = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), all);
        assert_eq!(refusals.into_iter().filter(|refusal| refusal.is_nobodys()).count(), 2);
    }
}
