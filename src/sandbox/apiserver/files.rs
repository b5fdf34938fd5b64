//! Certificates and keys of a real API server: one authority for everybody who talks there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use zeroize::Zeroizing;

use super::real::RealError;
use crate::kubernetes::Credentials;
use crate::pki::ca::{Authority, Issued};
use crate::state;

/// The files in one folder. The authority and the signing key stay, all else is new at every start.
pub(super) struct Files {
    directory: PathBuf,
    /// The authority, PEM.
    pub(super) ca_pem: Bytes,
    /// Of somebody who may do everything.
    pub(super) admin: Credentials,
}

// === impl Files ===

impl Files {
    /// Makes what is missing in `directory`.
    pub(super) fn make(directory: &Path, node: &str) -> Result<Self, RealError> {
        let path = |name: &str| directory.join(name);
        let failed = |name: &str| {
            let path = path(name);
            move |source| RealError::File { path, source }
        };
        let write = |name: &str, text: &str| {
            state::replace(&path(name), text.as_bytes()).map_err(failed(name))
        };
        let pair = |name: &str, issued: &Issued| {
            write(&format!("{name}.key"), &issued.key_pem)?;
            write(&format!("{name}.crt"), &issued.chain_pem)
        };
        state::private_folder(directory).map_err(failed(""))?;
        let authority = if path("ca.crt").exists() {
            let [certificate, key] = ["ca.crt", "ca.key"]
                .map(|name| std::fs::read_to_string(path(name)).map_err(failed(name)));
            Authority::load(&certificate?, &Zeroizing::new(key?))?
        } else {
            let authority = Authority::create("sandbox", AUTHORITY_LIFE)?;
            write("ca.key", authority.key_pem())?;
            write("ca.crt", &authority.certificate_pem())?;
            authority
        };
        if !path("accounts.key").exists() {
            // As kubeadm makes them. The embedded API server has the other kind that is in use.
            let key = KeyPair::generate_for(&PKCS_RSA_SHA256)
                .map_err(|error| RealError::Key(error.to_string()))?;
            write("accounts.key", &Zeroizing::new(key.serialize_pem()))?;
        }
        let server = |name: &str| {
            let names = ["127.0.0.1", "localhost", name].map(str::to_owned);
            authority.issue_server(&names, LIFE)
        };
        let client = |user: &str, group| authority.issue_client(user, group, LIFE);
        pair("etcd", &server("etcd")?)?;
        pair("apiserver", &server("kubernetes.default.svc")?)?;
        pair("kubelet", &server(node)?)?;
        pair("etcd-client", &client("kube-apiserver", None)?)?;
        pair("kubelet-client", &client("kube-apiserver", None)?)?;
        let admin = client("admin", Some("system:masters"))?;
        // What the fake kubelet does is the work of a scheduler and of controllers as well.
        pair("client", &admin)?;
        Ok(Self {
            directory: directory.to_owned(),
            ca_pem: authority.certificate_pem().into(),
            admin: Credentials::Certificate {
                chain_pem: admin.chain_pem.into(),
                key_pem: Zeroizing::new(admin.key_pem.as_bytes().to_vec()),
            },
        })
    }

    /// Path of a file.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// A folder may be used for years.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Longer than a run.
const LIFE: Duration = Duration::from_secs(365 * 86_400);
