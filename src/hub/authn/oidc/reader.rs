//! Reading an issuer's keys: its discovery document (OpenID Connect Discovery 1.0 section 4), then
//! the key set that this names. HTTPS alone, no redirect, bounded sizes, one deadline.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use rustls::ClientConfig;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;

use super::config::{IssuerAuthority, IssuerConfig};
use crate::hub::authn::HubApi;
use crate::kubernetes::{DOCUMENTS, PRODUCT, fetch};
use crate::pki::tls;

/// Reads the key set of `issuer`, which is not yet looked at. `hub` is asked for its ConfigMap.
pub(in crate::hub::authn) async fn read(
    issuer: &IssuerConfig,
    hub: Option<&dyn HubApi>,
) -> Result<Bytes, ReadError> {
    tokio::time::timeout(DEADLINE, exchange(issuer, hub)).await.map_err(|_| ReadError::Late)?
}

/// Why an issuer's keys could not be read.
#[derive(Debug, thiserror::Error)]
pub(in crate::hub::authn) enum ReadError {
    /// Nobody can say whether it is the issuer: never a reason to believe somebody else.
    #[error("its authority cannot be used: {0}")]
    Authority(String),
    #[error("{what}: {why}")]
    Unreachable { what: String, why: String },
    #[error("{what} is answered with {status}; redirects are not followed")]
    Status { what: String, status: StatusCode },
    #[error("{0} is no discovery document")]
    NotDiscovery(String),
    /// A document of somebody else would bring somebody else's keys.
    #[error("its discovery document is of the issuer {0:?}")]
    OtherIssuer(String),
    #[error("its jwks_uri {0:?} is no https URL")]
    KeysUrl(String),
    #[error("no answer within {DEADLINE:?}")]
    Late,
}

async fn exchange(issuer: &IssuerConfig, hub: Option<&dyn HubApi>) -> Result<Bytes, ReadError> {
    #[derive(Deserialize)]
    struct Discovery {
        issuer: String,
        jwks_uri: String,
    }
    let tls = configuration(&issuer.authority, hub).await?;
    let at = match &issuer.discovery_url {
        Some(url) => url.as_str().to_owned(),
        None => format!("{}{WELL_KNOWN}", issuer.url.as_str().trim_end_matches('/')),
    };
    let document = get_document(&tls, &at, MAX_DISCOVERY).await?;
    let Discovery { issuer: named, jwks_uri } =
        serde_json::from_slice(&document).map_err(|_| ReadError::NotDiscovery(at))?;
    if named != issuer.url.as_str() {
        return Err(ReadError::OtherIssuer(shortened(&named)));
    }
    get_document(&tls, &jwks_uri, MAX_KEYS).await
}

async fn get_document(
    tls: &Arc<ClientConfig>,
    url: &str,
    limit: usize,
) -> Result<Bytes, ReadError> {
    let what = shortened(url);
    let uri: Uri = url.parse().map_err(|_| ReadError::KeysUrl(what.clone()))?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https"));
    let Some(authority) = authority.filter(|authority| !authority.as_str().contains('@')) else {
        return Err(ReadError::KeysUrl(what));
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, authority.as_str())
        .header(USER_AGENT, PRODUCT)
        .header(ACCEPT, DOCUMENTS)
        .body(Full::default())
        .map_err(|_| ReadError::KeysUrl(what.clone()))?;
    let host = authority.host().trim_matches(['[', ']']);
    let address = (host, authority.port_u16().unwrap_or(443));
    match fetch(tls, address, host, request, limit).await {
        Ok((StatusCode::OK, body)) => Ok(body),
        Ok((status, _)) => Err(ReadError::Status { what, status }),
        Err(why) => Err(ReadError::Unreachable { what, why }),
    }
}

/// Whom to believe, as it is now.
async fn configuration(
    authority: &IssuerAuthority,
    hub: Option<&dyn HubApi>,
) -> Result<Arc<ClientConfig>, ReadError> {
    let pem = match authority {
        IssuerAuthority::System => {
            let system = tls::public(&[ALPN]).map_err(|error| bad(&error))?;
            return system.ok_or_else(|| bad(&"this machine has none"));
        }
        IssuerAuthority::Pem(pem) => pem.clone().into_bytes(),
        IssuerAuthority::File(path) => {
            let file = tokio::fs::File::open(path).await;
            let mut pem = Vec::new();
            let read = match file {
                Ok(file) => file.take(MAX_AUTHORITY).read_to_end(&mut pem).await,
                Err(error) => Err(error),
            };
            read.map_err(|error| bad(&format!("{}: {error}", path.display())))?;
            pem
        }
        IssuerAuthority::ConfigMap { namespace, name } => {
            let hub = hub.ok_or_else(|| bad(&"there is no API server of the hub"))?;
            let what = format!("ConfigMap {namespace}/{name}");
            let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
            let answer = hub.get(&path, MAX_CONFIG_MAP, DEADLINE).await;
            let (status, body) = answer.map_err(|error| bad(&format!("{what}: {error}")))?;
            if status != StatusCode::OK {
                return Err(bad(&format!("{what}: {status}")));
            }
            of_config_map(&body).map_err(|why| bad(&format!("{what}: {why}")))?
        }
    };
    tls::upstream(&pem, None, &[ALPN]).map_err(|error| bad(&error))
}

/// The PEM under `ca.crt`: plain text comes before binary data, as upstream reads it.
fn of_config_map(body: &[u8]) -> Result<Vec<u8>, &'static str> {
    #[derive(Deserialize)]
    struct ConfigMap {
        #[serde(default)]
        data: Key,
        #[serde(default, rename = "binaryData")]
        binary: Key,
    }
    #[derive(Default, Deserialize)]
    struct Key {
        #[serde(rename = "ca.crt")]
        pem: Option<String>,
    }
    let map: ConfigMap = serde_json::from_slice(body).map_err(|_| "it is no ConfigMap")?;
    let pem = match (map.data.pem, map.binary.pem) {
        (Some(pem), _) => pem.into_bytes(),
        (None, Some(pem)) => STANDARD.decode(pem).map_err(|_| "its ca.crt is not base64")?,
        (None, None) => return Err("it has no ca.crt"),
    };
    if pem.is_empty() { Err("its ca.crt is empty") } else { Ok(pem) }
}

fn bad(why: &dyn std::fmt::Display) -> ReadError {
    ReadError::Authority(why.to_string())
}

/// What a log shows of a text that came from outside.
fn shortened(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

const WELL_KNOWN: &str = "/.well-known/openid-configuration";

const ALPN: &[u8] = b"http/1.1";

/// For both documents together; as upstream.
const DEADLINE: Duration = Duration::from_secs(15);

/// Discovery documents have 1 to 4 KiB.
const MAX_DISCOVERY: usize = 64 * 1024;

/// As for the key set of an API server.
const MAX_KEYS: usize = 256 * 1024;

const MAX_AUTHORITY: u64 = 1024 * 1024;

/// No API server keeps a larger object than this.
const MAX_CONFIG_MAP: usize = 2 * 1024 * 1024;

const MAX_SHOWN: usize = 200;

#[cfg(test)]
mod tests;
