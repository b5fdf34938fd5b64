//! The API's certificate, and the authority behind it.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::files;
use crate::pki::ca::Authority;
use crate::pki::tls;

/// Loads the authority from `directory`, or makes one (and keeps it there), and issues a serving
/// certificate. Returns the authority too.
pub(super) fn configure(
    directory: Option<&Path>,
    address: IpAddr,
    names: &[String],
) -> Result<(Authority, Arc<rustls::ServerConfig>), String> {
    let authority = authority(directory)?;
    let mut all: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    all.push(address.to_string());
    all.extend_from_slice(names);
    all.sort();
    all.dedup();
    let issued = authority.issue_server(&all, SERVING_LIFE).map_err(|error| error.to_string())?;
    let config =
        tls::server(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), &[b"h2", b"http/1.1"]);
    Ok((authority, config.map_err(|error| error.to_string())?))
}

fn authority(directory: Option<&Path>) -> Result<Authority, String> {
    let create = || Authority::create("miniapi", AUTHORITY_LIFE).map_err(|error| error.to_string());
    let Some(directory) = directory else { return create() };
    let (certificate, key) = (directory.join("api-ca.crt"), directory.join("api-ca.key"));
    if let (Some(certificate), Some(key)) = (files::read(&certificate)?, files::read(&key)?) {
        return Authority::load(&certificate, &key).map_err(|error| error.to_string());
    }
    let authority = create()?;
    files::write_secret(&key, authority.key_pem())?;
    files::write_secret(&certificate, &authority.certificate_pem())?;
    Ok(authority)
}

/// What clients in a real cluster call it, beside the loopback names.
const NAMES: [&str; 6] =
    ["127.0.0.1", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];

const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Issued anew at every start.
const SERVING_LIFE: Duration = Duration::from_secs(365 * 86_400);
