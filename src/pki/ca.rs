//! Authorities: create, load, sign.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, DnsName};
use zeroize::Zeroizing;

use super::identity;
use super::tls::TlsError;
use crate::hash;
use crate::name::ClusterName;

/// A certificate authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    key_pem: Zeroizing<String>,
    expires: SystemTime,
}

/// A certificate chain and its key, PEM.
pub struct Issued {
    /// Leaf first, then the authority.
    pub chain_pem: String,
    /// PKCS#8.
    pub key_pem: Zeroizing<String>,
}

// === impl Authority ===

impl Authority {
    /// Makes a new one (ECDSA P-256). Part of its key's hash is appended to the common name, so
    /// that two generations never have one name: verifiers look issuers up by it.
    pub fn create(common_name: &str, life: Duration) -> Result<Self, TlsError> {
        let key = KeyPair::generate().map_err(failed("make a key"))?;
        let spki_hash = hash::sha256_hex(&key.subject_public_key_info());
        let mut params = params(SystemTime::now(), SystemTime::now() + life)?;
        params.distinguished_name = common(&format!("{common_name} {}", &spki_hash[..8]));
        authority_usage(&mut params);
        let certificate = params.self_signed(&key).map_err(failed("sign an authority"))?;
        Self::load(&certificate.pem(), &Zeroizing::new(key.serialize_pem()))
    }

    /// Loads one; of a bundle, the certificate that belongs to the key is the issuing one.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] when either cannot be parsed, no certificate has this key, or it is
    /// not an authority's.
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, TlsError> {
        let key = KeyPair::from_pem(key_pem).map_err(|_| {
            TlsError::Unusable("the key of the authority is not a PEM private key".into())
        })?;
        let spki = key.subject_public_key_info();
        let certificate = certificates(certificate_pem.as_bytes())?
            .into_iter()
            .find(|der| identity::parse(der).is_some_and(|found| found.public_key().raw == spki))
            .ok_or_else(|| {
                TlsError::Unusable(
                    "no certificate of the authority belongs to its key; restore both from one \
                     backup"
                        .into(),
                )
            })?;
        let expires = {
            let parsed =
                identity::parse(&certificate).filter(|found| found.is_ca()).ok_or_else(|| {
                    TlsError::Unusable("the authority's certificate is not a CA's".into())
                })?;
            identity::time(parsed.validity().not_after)
        };
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(failed("read an authority"))?;
        Ok(Self { issuer, certificate, key_pem: Zeroizing::new(key_pem.to_owned()), expires })
    }

    /// Its certificate.
    pub fn certificate_pem(&self) -> String {
        pem(&self.certificate)
    }

    /// Its key, PKCS#8.
    pub fn key_pem(&self) -> &Zeroizing<String> {
        &self.key_pem
    }

    /// End of its own certificate. Nothing that it signs lives longer.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// Issues a server certificate for DNS names and IP addresses.
    pub fn issue_server(&self, names: &[String], life: Duration) -> Result<Issued, TlsError> {
        let mut params = params(SystemTime::now(), self.end(SystemTime::now() + life))?;
        params.distinguished_name = common("cluster-proxy hub");
        params.subject_alt_names =
            names.iter().map(|name| server_name(name)).collect::<Result<_, _>>()?;
        if names.is_empty() {
            return Err(TlsError::Unusable("a serving certificate needs at least one name".into()));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(&params)
    }

    /// Issues a client certificate as Kubernetes reads them: a user, and the group it is in.
    pub fn issue_client(
        &self,
        user: &str,
        group: Option<&str>,
        life: Duration,
    ) -> Result<Issued, TlsError> {
        let mut params = params(SystemTime::now(), self.end(SystemTime::now() + life))?;
        params.distinguished_name = common(user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&params)
    }

    /// Issues an agent's certificate: `key`, the URI of `cluster`, client authentication, and
    /// nothing else. Valid from a little before `now`, for agents whose clock is behind.
    pub fn issue_agent(
        &self,
        cluster: &ClusterName,
        key: &impl PublicKeyData,
        now: SystemTime,
        life: Duration,
    ) -> Result<CertificateDer<'static>, TlsError> {
        let mut params = params(now, self.end(now + life))?;
        params.distinguished_name = common(cluster.as_str());
        let uri = identity::uri(cluster).try_into().map_err(failed("name a cluster"))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(self.sign(&params, key)?.into())
    }

    /// Vouches for a successor: its name and key, signed by this authority. Those who trust only
    /// this one then accept what the successor signs.
    pub fn cross_sign(&self, successor: &Self) -> Result<CertificateDer<'static>, TlsError> {
        let mut params = params(SystemTime::now(), self.end(successor.expires))?;
        let parsed = identity::parse(&successor.certificate);
        let subject = parsed.as_ref().and_then(|found| found.subject().iter_common_name().next());
        let subject = subject
            .and_then(|name| name.as_str().ok())
            .ok_or_else(|| TlsError::Unusable("the new authority has no common name".into()))?;
        params.distinguished_name = common(subject);
        authority_usage(&mut params);
        Ok(self.sign(&params, successor.issuer.key())?.into())
    }

    fn end(&self, wanted: SystemTime) -> SystemTime {
        wanted.min(self.expires)
    }

    fn issue(&self, params: &CertificateParams) -> Result<Issued, TlsError> {
        let key = KeyPair::generate().map_err(failed("make a key"))?;
        let leaf = self.sign(params, &key)?;
        Ok(Issued {
            chain_pem: leaf.pem() + &self.certificate_pem(),
            key_pem: Zeroizing::new(key.serialize_pem()),
        })
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<Certificate, TlsError> {
        params.signed_by(key, &self.issuer).map_err(failed("sign a certificate"))
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// `sha256:` and the SHA-256 of the certificate's SubjectPublicKeyInfo: what `--ca-hash` pins. It
/// survives a renewal of the authority with the same key.
pub fn key_hash(certificate: &CertificateDer<'_>) -> Option<String> {
    let parsed = identity::parse(certificate)?;
    Some(format!("{HASH_PREFIX}{}", hash::sha256_hex(parsed.public_key().raw)))
}

/// Every certificate of a PEM bundle, at least one.
///
/// # Errors
/// [`TlsError::Unusable`] when one cannot be decoded, or there is none.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TlsError::Unusable("it is not a bundle of PEM certificates".into())),
    }
}

/// PEM of one certificate.
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII: every index is a character boundary.
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem + "-----END CERTIFICATE-----\n"
}

fn params(from: SystemTime, until: SystemTime) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::default();
    params.not_before = (from - CLOCK_SKEW).into();
    params.not_after = until.into();
    // Positive, not zero, and not derived from the key: a renewed certificate needs another.
    let mut serial = rand::random::<[u8; 16]>();
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn authority_usage(params: &mut CertificateParams) {
    // A path length would forbid the cross-signed authority of a rotation.
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
}

fn common(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn server_name(name: &str) -> Result<SanType, TlsError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let plain = name.strip_prefix("*.").unwrap_or(name);
    match (DnsName::try_from(plain), name.try_into()) {
        (Ok(_), Ok(name)) => Ok(SanType::DnsName(name)),
        _ => Err(TlsError::Unusable(format!("{name:?} is neither a DNS name nor an IP address"))),
    }
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> TlsError {
    move |error| TlsError::Unusable(format!("cannot {what}: {error}"))
}

/// Names the hash function of a pin.
pub const HASH_PREFIX: &str = "sha256:";

/// How far a peer's clock may be behind ours.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// RFC 7468 section 2.
const PEM_LINE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn an_authority_survives_its_text_form() {
        let made = Authority::create("test", DAY).unwrap();
        let other = Authority::create("test", DAY).unwrap();
        // A bundle in whose middle the issuing certificate stands.
        let bundle = other.certificate_pem() + &made.certificate_pem();
        let loaded = Authority::load(&bundle, made.key_pem()).unwrap();
        assert_eq!(loaded.certificate_pem(), made.certificate_pem());
        assert!(Authority::load(&other.certificate_pem(), made.key_pem()).is_err());
    }

    #[test]
    fn a_leaf_is_no_authority() {
        let authority = Authority::create("test", DAY).unwrap();
        let leaf = authority.issue_server(&["localhost".into()], DAY).unwrap();
        assert!(Authority::load(&leaf.chain_pem, &leaf.key_pem).is_err());
    }

    #[test]
    fn nothing_outlives_its_authority() {
        let authority = Authority::create("test", DAY).unwrap();
        let key = KeyPair::generate().unwrap();
        let cluster = ClusterName::parse("c1").unwrap();
        let long = authority.issue_agent(&cluster, &key, SystemTime::now(), 9 * DAY).unwrap();
        let read = identity::AgentCertificate::from_der(&long).unwrap();
        assert_eq!(read.expires, authority.expires());
        assert_eq!(read.cluster, cluster);
    }

    #[test]
    fn server_names() {
        let authority = Authority::create("test", DAY).unwrap();
        for good in ["localhost", "hub.example.com", "*.example.com", "127.0.0.1", "::1"] {
            assert!(authority.issue_server(&[good.into()], DAY).is_ok(), "{good}");
        }
        for bad in ["", "*", "a b", "https://hub", "hub:8091", "h\u{fc}b"] {
            assert!(authority.issue_server(&[bad.into()], DAY).is_err(), "{bad}");
        }
        assert!(authority.issue_server(&[], DAY).is_err());
    }

    #[test]
    fn our_pem_is_pem() {
        let authority = Authority::create("test", DAY).unwrap();
        let read = certificates(authority.certificate_pem().as_bytes()).unwrap();
        assert_eq!(read, std::slice::from_ref(&authority.certificate));
        assert!(certificates(b"").is_err());
    }
}
