//! What a certificate says, for people and for tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::extensions::GeneralName;

use super::tls::TlsError;
use super::{ca, identity};

/// One certificate in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Distinguished name.
    pub subject: String,
    /// Distinguished name of the one who signed it.
    pub issuer: String,
    /// DNS names, IP addresses and URIs.
    pub names: Vec<String>,
    /// Whether it is an authority's.
    pub authority: bool,
    /// `sha256:` and the hash of its public key: for an authority, what `--ca-hash` takes.
    pub key_hash: String,
    /// Start of validity, RFC 3339.
    pub not_before: String,
    /// End of validity, RFC 3339.
    pub not_after: String,
    /// Whole days until the end, negative after it.
    pub days_left: i64,
}

/// Summaries of every certificate in a PEM bundle, as of `now`.
pub fn summaries(pem: &[u8], now: SystemTime) -> Result<Vec<Summary>, TlsError> {
    ca::certificates(pem)?.iter().map(|certificate| summary(certificate, now)).collect()
}

/// DNS names, IP addresses and URIs of a certificate; `None` when it cannot be parsed.
pub fn names(certificate: &CertificateDer<'_>) -> Option<Vec<String>> {
    let parsed = identity::parse(certificate)?;
    let names = parsed.subject_alternative_name().ok()?;
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    Some(names.iter().map(name).collect())
}

/// Whether a certificate is an authority's.
pub fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    identity::parse(certificate).is_some_and(|parsed| parsed.is_ca())
}

fn summary(certificate: &CertificateDer<'_>, now: SystemTime) -> Result<Summary, TlsError> {
    let unusable = || TlsError::Unusable("it holds something that is not a certificate".into());
    let parsed = identity::parse(certificate).ok_or_else(unusable)?;
    let (from, until) = (parsed.validity().not_before, parsed.validity().not_after);
    let left = until.timestamp() - i64::try_from(crate::state::seconds(now)).unwrap_or(i64::MAX);
    Ok(Summary {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        names: names(certificate).ok_or_else(unusable)?,
        authority: parsed.is_ca(),
        key_hash: ca::key_hash(certificate).ok_or_else(unusable)?,
        not_before: humantime::format_rfc3339_seconds(identity::time(from)).to_string(),
        not_after: humantime::format_rfc3339_seconds(identity::time(until)).to_string(),
        days_left: left.div_euclid(86_400),
    })
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => {
            if let Ok(four) = <[u8; 4]>::try_from(*bytes) {
                IpAddr::V4(Ipv4Addr::from(four)).to_string()
            } else if let Ok(sixteen) = <[u8; 16]>::try_from(*bytes) {
                IpAddr::V6(Ipv6Addr::from(sixteen)).to_string()
            } else {
                format!("{name:?}")
            }
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_chain_in_words() {
        let authority = ca::Authority::create("test", Duration::from_secs(10 * 86_400)).unwrap();
        let all = ["localhost".to_owned(), "::1".into(), "10.0.0.1".into()];
        let issued = authority.issue_server(&all, Duration::from_secs(86_400)).unwrap();
        let later = SystemTime::now() + Duration::from_secs(60 * 3600);
        let read = summaries(issued.chain_pem.as_bytes(), later).unwrap();
        let [leaf, root] = &read[..] else { panic!("{read:?}") };
        assert_eq!(leaf.names, all);
        assert_eq!((leaf.authority, root.authority), (false, true));
        assert_eq!(leaf.days_left, -2, "{leaf:?}");
        assert_eq!(root.days_left, 7, "{root:?}");
        assert_eq!(leaf.issuer, root.subject);
        assert!(root.key_hash.starts_with(ca::HASH_PREFIX));
    }
}
