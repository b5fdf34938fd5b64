//! Why an agent could not join or renew, with the remedy in each message.

use std::path::PathBuf;
use std::{fmt, io};

use super::credentials::DEADLINE;
use super::pin::PinnedVerifier;
use super::tls::{self, BadCertificate};
use super::token::TokenError;

/// Why joining or renewing failed; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The hub said no, and why.
    #[error("the hub refused: {0}")]
    Refused(String),
    /// The hub could not judge, and may be able to later.
    #[error("the hub cannot answer now: {0}; try again later")]
    NotNow(String),
    /// The token's text form.
    #[error("--token: {0}")]
    Token(#[from] TokenError),
    /// The pin's text form.
    #[error(
        "--ca-hash: it reads sha256: and 64 hexadecimal digits; copy what `join token` printed"
    )]
    CaHash,
    /// Somebody else answered, or the CA was replaced since the token was made.
    #[error(
        "{host} is not the hub that --ca-hash names: expected {expected}, it presented {presented}. \
         Check --hub; if the hub's serving CA was replaced, make a new token with `join token`. \
         Otherwise somebody may be in between: nothing was sent to it"
    )]
    WrongHash {
        /// Name dialled.
        host: String,
        /// The pin.
        expected: String,
        /// What the server showed.
        presented: String,
    },
    /// The certificate of the hub is for other names.
    #[error(
        "the hub's certificate is not for {host} ({detail}); dial a name it has, or sign one \
         that has this name too on the hub: `pki issue` with `--name` for each name, old and new"
    )]
    WrongName {
        /// Name dialled.
        host: String,
        /// What rustls said.
        detail: String,
    },
    /// Outside the validity of the hub's certificate.
    #[error(
        "the certificate of {host} is not valid at this time ({detail}); check the clock of this \
         machine and of the hub, then `pki inspect` on the hub"
    )]
    Clock {
        /// Name dialled.
        host: String,
        /// What rustls said.
        detail: String,
    },
    /// None of the authorities in the agent's folder signed the hub's certificate.
    #[error(
        "{host} has a certificate of an authority that this agent does not know. If the hub's \
         serving authority was replaced while this agent was away (`pki rotate-ca serving --finish`), \
         enrol it again: `cluster-proxy join token NAME` on the hub prints the command, and a running \
         agent uses the new enrolment by itself. Otherwise somebody may be in between: nothing was \
         sent to it"
    )]
    UnknownAuthority {
        /// Name dialled.
        host: String,
    },
    /// Any other failed handshake.
    #[error(
        "no TLS session with {host}: {source}. --hub takes the hub's agent listener (by default \
         port 8091), reached without a proxy that ends TLS"
    )]
    Handshake {
        /// Name dialled.
        host: String,
        /// What the handshake said.
        source: io::Error,
    },
    /// The conversation broke, or the other end is not a hub.
    #[error("{host} did not answer as a hub: {detail}")]
    Conversation {
        /// Name dialled.
        host: String,
        /// What happened.
        detail: String,
    },
    /// The hub's answer is not what was asked for.
    #[error("the hub's answer is not used: {0}; are hub and agent of matching versions?")]
    Answer(&'static str),
    /// It took too long.
    #[error("the hub did not answer within {DEADLINE:?}; check --hub and the network")]
    Deadline,
    /// The folder holds no credentials.
    #[error(
        "{path} does not exist: join first (`join token NAME` on the hub prints how), or check --dir"
    )]
    NotJoined {
        /// The missing file.
        path: PathBuf,
    },
    /// A file failed.
    #[error("cannot use {path}: {source}; check --dir and its permissions")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error(
        "{path} cannot be used: {reason}. A new token from `join token` on the hub replaces it"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Cryptography or the runtime failed.
    #[error("internal failure: {0}")]
    Internal(String),
}

// === impl JoinError ===

impl JoinError {
    pub(super) fn internal(error: impl fmt::Display) -> Self {
        Self::Internal(error.to_string())
    }

    pub(super) fn handshake(
        host: &str,
        source: io::Error,
        pinned: Option<&PinnedVerifier>,
    ) -> Self {
        let host = host.to_owned();
        if let Some((pin, presented)) = pinned.and_then(|verifier| verifier.mismatch()) {
            let presented = match presented {
                [] => "no authority".to_owned(),
                some => some.join(", "),
            };
            return Self::WrongHash { host, expected: pin.to_string(), presented };
        }
        if tls::is_unknown_authority(&source) {
            return Self::UnknownAuthority { host };
        }
        let detail = tls::certificate_error(&source).map(ToString::to_string).unwrap_or_default();
        match tls::bad_certificate(&source) {
            Some(BadCertificate::OtherName) => Self::WrongName { host, detail },
            Some(BadCertificate::OutOfTime) => Self::Clock { host, detail },
            Some(BadCertificate::Unbelieved) | None => Self::Handshake { host, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError as Bad;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_certificate_has_its_remedy() {
        for (bad, remedy) in [
            (Bad::Expired, "check the clock"),
            (Bad::NotValidYet, "check the clock"),
            (Bad::NotValidForName, "dial a name it has"),
            (Bad::UnknownIssuer, "enrol it again"),
            (Bad::Revoked, "--hub takes the hub's agent listener"),
        ] {
            let error = rustls::Error::InvalidCertificate(bad.clone());
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            let said = JoinError::handshake("hub.example", error, None).to_string();
            assert!(said.contains(remedy) && said.contains("hub.example"), "{bad:?}: {said}");
        }
    }
}
