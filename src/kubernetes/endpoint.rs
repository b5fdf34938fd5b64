//! Where an API server is, from a kubeconfig or from the pod's environment.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use zeroize::Zeroizing;

use super::kubeconfig;

/// One API server and our credentials there.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiServer {
    /// Host to dial (name or address, an IPv6 address without brackets).
    pub host: String,
    /// Port to dial.
    pub port: u16,
    /// Name to verify in its certificate.
    pub server_name: String,
    /// CA bundle, PEM.
    pub ca_pem: Bytes,
    /// The file that `ca_pem` came from, where its owner may replace it under us.
    pub ca_file: Option<PathBuf>,
    /// Our credentials.
    pub credentials: Credentials,
}

/// How we prove who we are.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A token in a file that its owner renews; read again at least once a minute.
    TokenFile(PathBuf),
    /// A fixed token.
    Token(Zeroizing<String>),
    /// A client certificate and key, PEM.
    Certificate {
        /// Chain.
        chain_pem: Bytes,
        /// Key.
        key_pem: Zeroizing<Vec<u8>>,
    },
}

// === impl ApiServer ===

impl ApiServer {
    /// From a kubeconfig's context (current context when `None`). Relative paths in it are relative
    /// to its folder, as kubectl reads them. Refuses what would weaken or widen us:
    /// `insecure-skip-tls-verify`, exec and other plugins, passwords, impersonation, proxies.
    pub fn from_kubeconfig(path: &Path, context: Option<&str>) -> Result<Self, EndpointError> {
        let text = read_bounded(path, MAX_KUBECONFIG).map_err(|error| {
            EndpointError::Unusable(format!("cannot read kubeconfig {}: {error}", path.display()))
        })?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        kubeconfig::parse(&Zeroizing::new(text), folder, context).map_err(|problem| {
            EndpointError::Unusable(format!("kubeconfig {}: {problem}", path.display()))
        })
    }

    /// From the pod's ServiceAccount and environment.
    pub fn in_cluster() -> Result<Self, EndpointError> {
        let host = std::env::var(HOST_VARIABLE).ok();
        let port = std::env::var(PORT_VARIABLE).ok();
        Self::from_pod(host.as_deref(), port.as_deref(), Path::new(SERVICE_ACCOUNT))
    }

    fn from_pod(
        host: Option<&str>,
        port: Option<&str>,
        folder: &Path,
    ) -> Result<Self, EndpointError> {
        let (Some(host), Some(port)) = (host, port) else {
            return Err(EndpointError::Unusable(format!(
                "not in a pod ({HOST_VARIABLE} and {PORT_VARIABLE} are not set): name a kubeconfig with --kubeconfig"
            )));
        };
        let port = port.parse().map_err(|_| {
            EndpointError::Unusable(format!("{PORT_VARIABLE} is not a port: {port:?}"))
        })?;
        let token_file = folder.join("token");
        let ca_file = folder.join("ca.crt");
        let unreadable = |file: &Path, error: std::io::Error| {
            EndpointError::Unusable(format!(
                "cannot read {}: {error}; the pod needs automountServiceAccountToken",
                file.display()
            ))
        };
        let ca_pem =
            read_bounded(&ca_file, MAX_CREDENTIAL).map_err(|error| unreadable(&ca_file, error))?;
        std::fs::metadata(&token_file).map_err(|error| unreadable(&token_file, error))?;
        Ok(Self {
            host: host.to_owned(),
            port,
            server_name: host.to_owned(),
            ca_pem: ca_pem.into(),
            ca_file: Some(ca_file),
            credentials: Credentials::TokenFile(token_file),
        })
    }

    /// `host:port` as it stands in a URL and in `Host`.
    pub fn authority(&self) -> String {
        match self.host.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("server_name", &self.server_name)
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

// === impl Credentials ===

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TokenFile(path) => f.debug_tuple("TokenFile").field(path).finish(),
            Self::Token(_) => f.write_str("Token"),
            Self::Certificate { .. } => f.write_str("Certificate"),
        }
    }
}

/// The namespace of the pod that this process runs in; `None` outside of one.
pub fn pod_namespace() -> Option<String> {
    let file = Path::new(SERVICE_ACCOUNT).join("namespace");
    let text = String::from_utf8(read_bounded(&file, MAX_NAME).ok()?).ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Why no API server could be found.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Not readable or not usable: names file and remedy.
    #[error("{0}")]
    Unusable(String),
}

/// Reads a whole file, and not a byte more than `limit`.
pub fn read_bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            format!("larger than {limit} bytes"),
        ));
    }
    Ok(content)
}

/// A kubeconfig of a few hundred clusters with inline certificates stays well below.
const MAX_KUBECONFIG: u64 = 4 << 20;

/// Certificates, keys and tokens: a CA bundle of a hundred certificates fits.
pub(super) const MAX_CREDENTIAL: u64 = 1 << 20;

/// Of an object (RFC 1123).
const MAX_NAME: u64 = 253;

/// Where the kubelet mounts the pod's ServiceAccount.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const HOST_VARIABLE: &str = "KUBERNETES_SERVICE_HOST";
const PORT_VARIABLE: &str = "KUBERNETES_SERVICE_PORT";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_finds_its_api_server() {
        let folder = tempfile::tempdir().unwrap();
        let in_pod = || ApiServer::from_pod(Some("fd00::1"), Some("443"), folder.path());
        std::fs::write(folder.path().join("ca.crt"), "bundle").unwrap();
        assert!(in_pod().unwrap_err().to_string().contains("automountServiceAccountToken"));
        std::fs::write(folder.path().join("token"), "t").unwrap();
        let server = in_pod().unwrap();
        assert_eq!(server.authority(), "[fd00::1]:443");
        assert_eq!(&server.ca_pem[..], b"bundle");
        let error = ApiServer::from_pod(None, Some("443"), folder.path()).unwrap_err();
        assert!(error.to_string().contains("--kubeconfig"), "{error}");
        assert!(ApiServer::from_pod(Some("h"), Some("https"), folder.path()).is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        let server = ApiServer {
            host: "h".into(),
            port: 1,
            server_name: "h".into(),
            ca_pem: Bytes::new(),
            ca_file: None,
            credentials: Credentials::Token(Zeroizing::new("hunter2".into())),
        };
        assert!(!format!("{server:?}").contains("hunter2"));
    }

    #[test]
    fn a_file_above_the_limit_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "12345").unwrap();
        assert_eq!(read_bounded(file.path(), 5).unwrap(), b"12345");
        assert!(read_bounded(file.path(), 4).is_err());
    }
}
