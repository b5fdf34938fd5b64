//! The client of our controllers: objects, watches, server-side apply; and what its errors say.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, Config};
use secrecy::SecretString;

use super::{ApiServer, Credentials, EndpointError};
use crate::pki::ca;

/// A client of `server` under our own credentials there. Dials when it is used; token and CA files
/// are read again as their owner renews them. Needs a Tokio runtime. The `kube` crate builds its TLS
/// configuration, with the same provider as ours.
///
/// # Errors
/// When its address, its CA bundle or our credentials cannot be used.
pub fn client(server: &ApiServer) -> Result<kube::Client, EndpointError> {
    let unusable = |what: &dyn std::fmt::Display| {
        EndpointError::Unusable(format!("{}: {what}", server.authority()))
    };
    let url = format!("https://{}", server.authority());
    let mut config = Config::new(url.parse().map_err(|error| unusable(&error))?);
    let roots = ca::certificates(&server.ca_pem).map_err(|error| unusable(&error))?;
    config.root_cert = Some(roots.into_iter().map(|root| root.to_vec()).collect());
    config.root_cert_file.clone_from(&server.ca_file);
    config.tls_server_name =
        (server.server_name != server.host).then(|| server.server_name.clone());
    config.auth_info = auth_info(&server.credentials);
    kube::Client::try_from(config).map_err(|error| unusable(&error))
}

/// What went wrong, in words for a log line. Holds no body of ours and none of an answer.
pub fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => return format!("{} (HTTP {})", status.message, status.code),
        // The text of a serde error may quote the answer.
        kube::Error::SerdeError(error) => {
            return format!("its answer is malformed at column {}", error.column());
        }
        _ => {}
    }
    // The outermost text only says which layer noticed.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn auth_info(credentials: &Credentials) -> AuthInfo {
    let mut info = AuthInfo::default();
    match credentials {
        Credentials::TokenFile(path) => {
            info.token_file = Some(path.to_string_lossy().into_owned());
        }
        Credentials::Token(token) => info.token = Some(SecretString::from(token.as_str())),
        Credentials::Certificate { chain_pem, key_pem } => {
            info.client_certificate_data = Some(STANDARD.encode(chain_pem));
            info.client_key_data = Some(SecretString::from(STANDARD.encode(key_pem.as_slice())));
        }
    }
    info
}
