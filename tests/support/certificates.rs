//! Certificates of a fake API server.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;

use cluster_proxy::pki::ca::{self, Authority, Issued};

/// Takes client certificates without wanting them, as kube-apiserver does.
pub(crate) fn server(authority: &Authority, issued: &Issued) -> Arc<ServerConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for root in ca::certificates(authority.certificate_pem().as_bytes()).unwrap() {
        roots.add(root).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let chain = ca::certificates(issued.chain_pem.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Certificate and key of a client, PEM.
pub(crate) fn client(authority: &Authority) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    issue(authority, &params)
}

/// Certificate and key of a server whose time is long over, PEM.
pub(crate) fn expired(authority: &Authority, host: &str) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 1, 2);
    issue(authority, &params)
}

fn issue(authority: &Authority, params: &rcgen::CertificateParams) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let ca_key = rcgen::KeyPair::from_pem(authority.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&authority.certificate_pem(), ca_key).unwrap();
    (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
}
