//! First contact with a hub: nothing is trusted but a hash that an operator carried over.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::tls::{self, TlsError};
use super::{ca, identity};

/// The hash of an authority's public key, as `--ca-hash` spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CaHash(String);

/// Accepts a server whose chain holds an authority with the pinned key that vouches for the leaf
/// and its name.
pub(super) struct PinnedVerifier {
    pin: CaHash,
    mismatch: OnceLock<Vec<String>>,
}

// === impl CaHash ===

impl CaHash {
    /// Parses `sha256:` and 64 hexadecimal digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let digits = text.strip_prefix(ca::HASH_PREFIX)?;
        let good = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        good.then_some(Self(text))
    }
}

impl fmt::Display for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl PinnedVerifier ===

impl PinnedVerifier {
    pub(super) fn new(pin: CaHash) -> Arc<Self> {
        Arc::new(Self { pin, mismatch: OnceLock::new() })
    }

    /// A client that trusts by this pin, with `alpn`.
    pub(super) fn client(self: &Arc<Self>, alpn: &[u8]) -> Result<Arc<ClientConfig>, TlsError> {
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| TlsError::Unusable(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(self.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(config.into())
    }

    /// The pin and the hashes that the server presented, when none was the pinned one.
    pub(super) fn mismatch(&self) -> Option<(&CaHash, &[String])> {
        self.mismatch.get().map(|presented| (&self.pin, presented.as_slice()))
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // Never the leaf: only an authority vouches.
        let authorities = intermediates
            .iter()
            .filter(|one| identity::parse(one).is_some_and(|parsed| parsed.is_ca()));
        let pinned =
            authorities.clone().find(|one| ca::key_hash(one).as_ref() == Some(&self.pin.0));
        let Some(pinned) = pinned else {
            let presented = authorities.filter_map(ca::key_hash).take(MAX_SHOWN).collect();
            // Set already by another connection of the same enrolment: as good.
            let _ = self.mismatch.set(presented);
            return Err(rustls::CertificateError::UnknownIssuer.into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = tls::provider().signature_verification_algorithms;
        verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &roots,
            intermediates,
            now,
            algorithms.all,
        )?;
        verify_server_name(&leaf, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = tls::provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = tls::provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for PinnedVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedVerifier").field("pin", &self.pin).finish_non_exhaustive()
    }
}

/// Hashes named in one error. A stranger chooses how many it presents.
const MAX_SHOWN: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form_of_hash() {
        let digits = "0f".repeat(32);
        assert!(CaHash::parse(&format!("sha256:{digits}")).is_some());
        assert_eq!(
            CaHash::parse(&format!("SHA256:{}", digits.to_uppercase())),
            CaHash::parse(&format!(" sha256:{digits}\n"))
        );
        for bad in [digits.clone(), format!("sha1:{digits}"), format!("sha256:{digits}0")] {
            assert!(CaHash::parse(&bad).is_none(), "{bad}");
        }
        assert!(CaHash::parse("sha256:").is_none());
    }
}
