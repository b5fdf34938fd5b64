//! What may stand in an agent's certificate signing request. Pure.

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::identity;
use crate::name::ClusterName;

/// A request whose signature was verified and that asks for nothing it cannot have.
#[derive(Debug)]
pub(super) struct SigningRequest {
    /// The only thing that is taken from it.
    pub(super) key: rcgen::SubjectPublicKeyInfo,
}

// === impl SigningRequest ===

impl SigningRequest {
    /// Checks `pem` as a request for `cluster`. The certificate is built from the enrolled name
    /// alone; a request for more is refused all the same, because whoever sends one is either
    /// mistaken about what it will get or up to something.
    pub(super) fn check(pem: &str, cluster: &ClusterName) -> Result<Self, CsrError> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| CsrError::Malformed)?;
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        // Verifies the signature, which is the proof that the sender holds the key.
        let asked = rcgen::CertificateSigningRequestParams::from_der(&der)
            .map_err(|error| match error {
                rcgen::Error::UnsupportedExtension => CsrError::Asks("an unusual extension"),
                _ => CsrError::Signature,
            })?
            .params;
        let own = identity::uri(cluster);
        let foreign = |name: &SanType| !matches!(name, SanType::URI(uri) if uri.as_str() == own);
        if asked.subject_alt_names.iter().any(foreign) {
            return Err(CsrError::Asks("a name that is not its own"));
        }
        let client = [ExtendedKeyUsagePurpose::ClientAuth];
        if asked.extended_key_usages.iter().any(|usage| !client.contains(usage)) {
            return Err(CsrError::Asks("another use than client authentication"));
        }
        if matches!(asked.is_ca, IsCa::Ca(_)) {
            return Err(CsrError::Asks("the powers of an authority"));
        }
        let subject = &request.certification_request_info.subject;
        let own_name = |value: &str| value == cluster.as_str();
        let common = subject.iter_common_name().all(|name| name.as_str().is_ok_and(own_name));
        if subject.iter_attributes().count() > 1
            || subject.iter_attributes().count() != subject.iter_common_name().count()
            || !common
        {
            return Err(CsrError::Asks("a subject that is not its own name"));
        }
        let key = rcgen::SubjectPublicKeyInfo::from_der(
            request.certification_request_info.subject_pki.raw,
        )
        .map_err(|_| CsrError::Key)?;
        if rcgen::PublicKeyData::algorithm(&key) != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(CsrError::Key);
        }
        Ok(Self { key })
    }
}

/// An agent's request: its key and its name.
pub(super) fn request(cluster: &ClusterName, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, cluster.as_str());
    params.subject_alt_names = vec![SanType::URI(identity::uri(cluster).try_into()?)];
    params.serialize_request(key)?.pem()
}

/// Why a signing request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CsrError {
    #[error("the signing request is not PKCS#10 in PEM")]
    Malformed,
    #[error("the signing request is not signed by its own key")]
    Signature,
    #[error("the signing request asks for {0}; an agent gets its enrolled name and nothing else")]
    Asks(&'static str),
    #[error("the key of the signing request is not ECDSA P-256")]
    Key,
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CustomExtension};

    use super::*;

    fn c1() -> ClusterName {
        ClusterName::parse("c1").unwrap()
    }

    fn asking(change: impl FnOnce(&mut CertificateParams)) -> Result<SigningRequest, CsrError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        SigningRequest::check(&params.serialize_request(&key).unwrap().pem().unwrap(), &c1())
    }

    #[test]
    fn its_own_name_or_none() {
        assert!(asking(|_| ()).is_ok());
        let key = KeyPair::generate().unwrap();
        let own = request(&c1(), &key).unwrap();
        assert!(SigningRequest::check(&own, &c1()).is_ok());
        let other = request(&ClusterName::parse("c2").unwrap(), &key).unwrap();
        assert!(matches!(SigningRequest::check(&other, &c1()), Err(CsrError::Asks(_))));
    }

    #[test]
    fn nothing_more() {
        let own = SanType::URI(identity::uri(&c1()).try_into().unwrap());
        let other = SanType::URI("cluster-proxy://cluster/c2".try_into().unwrap());
        let dns = SanType::DnsName("c1".try_into().unwrap());
        let wanted = [
            asking(|params| params.subject_alt_names = vec![other.clone()]),
            asking(|params| params.subject_alt_names = vec![own.clone(), other]),
            asking(|params| params.subject_alt_names = vec![own.clone(), dns]),
            asking(|params| params.distinguished_name.push(DnType::CommonName, "c2")),
            asking(|params| {
                params.distinguished_name.push(DnType::OrganizationName, "system:masters");
            }),
            asking(|params| {
                params.distinguished_name.push(DnType::CommonName, "c1");
                params.distinguished_name.push(DnType::OrganizationName, "system:masters");
            }),
            asking(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            asking(|params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            asking(|params| {
                let policy = CustomExtension::from_oid_content(&[2, 5, 29, 32], vec![0x30, 0]);
                params.custom_extensions = vec![policy];
            }),
        ];
        for (number, outcome) in wanted.iter().enumerate() {
            assert!(matches!(outcome, Err(CsrError::Asks(_))), "{number}: {outcome:?}");
        }
        assert!(asking(|params| params.subject_alt_names = vec![own]).is_ok());
    }

    #[test]
    fn the_signature_is_the_proof() {
        let key = KeyPair::generate().unwrap();
        let good = request(&c1(), &key).unwrap();
        let mut der =
            CertificateSigningRequestDer::from_pem_slice(good.as_bytes()).unwrap().to_vec();
        // The last bytes are the signature's second number.
        *der.last_mut().unwrap() ^= 1;
        let bad = super::super::ca::pem(&der.into()).replace("CERTIFICATE", "CERTIFICATE REQUEST");
        assert_eq!(SigningRequest::check(&bad, &c1()).unwrap_err(), CsrError::Signature);
        assert_eq!(SigningRequest::check("", &c1()).unwrap_err(), CsrError::Malformed);
    }

    #[test]
    fn one_kind_of_key() {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let pem = request(&c1(), &key).unwrap();
        assert_eq!(SigningRequest::check(&pem, &c1()).unwrap_err(), CsrError::Key);
    }
}
