//! Certificate <-> cluster name. Pure.
//!
//! An agent's certificate names its cluster in exactly one subject alternative name, the URI
//! `cluster-proxy://cluster/NAME`. The common name is for people and is never read.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::hash;
use crate::name::ClusterName;

/// What an agent's certificate says, after the chain was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentCertificate {
    /// The one cluster it serves: its only SAN, a URI.
    pub cluster: ClusterName,
    /// SHA-256 of the SubjectPublicKeyInfo, hex.
    pub key_sha256: String,
    /// Serial number, hex.
    pub serial: String,
    /// End of validity.
    pub expires: SystemTime,
}

// === impl AgentCertificate ===

impl AgentCertificate {
    /// Reads the identity from a verified end-entity certificate: exactly one SAN, the URI of a
    /// cluster.
    ///
    /// # Errors
    /// [`IdentityError`] for every other shape: no SAN, two, one that is no URI, a URI of
    /// anything but a cluster.
    pub fn from_der(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let parsed = parse(certificate).ok_or(IdentityError::Malformed)?;
        // An error here is a repeated extension, which RFC 5280 section 4.2 forbids.
        let names = parsed.subject_alternative_name().map_err(|_| IdentityError::Malformed)?;
        let names = names.map_or(&[][..], |extension| &extension.value.general_names);
        let [GeneralName::URI(uri)] = names else {
            return Err(IdentityError::Names(names.len()));
        };
        Ok(Self {
            cluster: cluster_of(uri).ok_or(IdentityError::NotACluster)?,
            key_sha256: hash::sha256_hex(parsed.public_key().raw),
            serial: hash::hex(parsed.raw_serial()),
            expires: time(parsed.validity().not_after),
        })
    }
}

/// The URI that names `cluster` in a certificate.
pub fn uri(cluster: &ClusterName) -> String {
    format!("{PREFIX}{cluster}")
}

/// The cluster that `uri` names, where it names one. One spelling only: no other case, port,
/// query or encoding.
pub fn cluster_of(uri: &str) -> Option<ClusterName> {
    ClusterName::parse(uri.strip_prefix(PREFIX)?).ok()
}

/// Why a verified certificate names no cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not X.509.
    #[error("the certificate cannot be parsed")]
    Malformed,
    /// Not exactly one name, or one that is no URI.
    #[error(
        "an agent's certificate has exactly one subject alternative name, the URI \
         {PREFIX}NAME; this one has {0} names or another kind; join the cluster again"
    )]
    Names(usize),
    /// A URI of something else.
    #[error("the URI in the certificate is not {PREFIX}NAME; join the cluster again")]
    NotACluster,
}

/// Parses one certificate without anything after it.
pub(super) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (rest, parsed) = X509Certificate::from_der(certificate).ok()?;
    rest.is_empty().then_some(parsed)
}

/// A certificate's time; one before 1970 counts as 1970.
pub(super) fn time(at: x509_parser::time::ASN1Time) -> SystemTime {
    let seconds = u64::try_from(at.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Scheme and kind of every identity of ours. The kind leaves room for others, such as a hub
/// replica.
const PREFIX: &str = "cluster-proxy://cluster/";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(names: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "c1");
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
    }

    fn uri_name(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns_name(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    #[test]
    fn exactly_one_name_of_a_cluster() {
        let good = uri_name("cluster-proxy://cluster/c1");
        let read = AgentCertificate::from_der(&certificate(vec![good.clone()])).unwrap();
        assert_eq!(read.cluster.as_str(), "c1");
        assert_eq!(read.key_sha256.len(), 64);

        for (names, error) in [
            (vec![], IdentityError::Names(0)),
            (vec![dns_name("c1")], IdentityError::Names(1)),
            (vec![dns_name("*")], IdentityError::Names(1)),
            (vec![good.clone(), dns_name("c1")], IdentityError::Names(2)),
            (vec![good.clone(), uri_name("cluster-proxy://cluster/c2")], IdentityError::Names(2)),
            (vec![good.clone(), good], IdentityError::Names(2)),
            (vec![uri_name("cluster-proxy://cluster/*")], IdentityError::NotACluster),
            (vec![uri_name("cluster-proxy://hub/c1")], IdentityError::NotACluster),
            (vec![uri_name("cluster-proxy://cluster/c1/")], IdentityError::NotACluster),
            (vec![uri_name("spiffe://cluster/c1")], IdentityError::NotACluster),
        ] {
            assert_eq!(AgentCertificate::from_der(&certificate(names)), Err(error));
        }
    }

    #[test]
    fn bytes_after_the_certificate_are_refused() {
        let good = certificate(vec![uri_name("cluster-proxy://cluster/c1")]);
        assert!(AgentCertificate::from_der(&good).is_ok());
        let longer = CertificateDer::from([good.as_ref(), &[0]].concat());
        assert_eq!(AgentCertificate::from_der(&longer), Err(IdentityError::Malformed));
    }

    proptest! {
        #[test]
        fn one_spelling_per_cluster(text in "(?i)cluster-proxy://cluster/[a-z0-9%.:?#@/-]{0,8}") {
            if let Some(cluster) = cluster_of(&text) {
                prop_assert_eq!(uri(&cluster), text);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(AgentCertificate::from_der(&CertificateDer::from(bytes)).is_err());
        }
    }
}
