//! What is published for every cluster, from the configuration and the certificates that are served:
//! the URL and the authorities, checked as a client would check them.

use std::net::IpAddr;
use std::time::SystemTime;

use http::Uri;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::desired::Publication;
use super::metrics::Metrics;
use super::{InventoryConfig, Surroundings};
use crate::pki::tls::{self, Presented, TlsError};
use crate::pki::trust::{self, TrustError};
use crate::pki::{ca, inspect};

/// Where consumers reach the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A URL without path, and without a slash at its end.
    Url(String),
    /// This host, and the port of the user listener.
    Host(String),
    /// The first name of the serving certificate that leads beyond this machine, and the port of the
    /// user listener.
    Certificate,
}

/// Keeps `published` up to date; never returns. What cannot be published is reported, and what was
/// published stays: consumers are better off with yesterday's authority than with none.
pub(super) async fn follow(
    config: &InventoryConfig,
    around: &Surroundings,
    published: &watch::Sender<Option<Publication>>,
    metrics: &Metrics,
) {
    let mut presented = around.presented.clone();
    let mut reported = None;
    loop {
        let served = presented.borrow_and_update().clone();
        let made = make(config, around.port, &served, SystemTime::now()).await;
        metrics.publishable(made.is_ok());
        match made {
            Ok(publication) => {
                reported = None;
                published.send_if_modified(|last| {
                    let changed = last.as_ref() != Some(&publication);
                    if changed {
                        let urls: Vec<_> = publication.entries.iter().map(|(_, url)| url).collect();
                        tracing::info!(?urls, "publishing the hub in ClusterProfiles");
                        *last = Some(publication);
                    }
                    changed
                });
            }
            Err(error) => {
                let error = error.to_string();
                if reported.as_ref() != Some(&error) {
                    tracing::warn!(error, "the hub cannot be published in ClusterProfiles");
                    reported = Some(error);
                }
            }
        }
        if !trust::changed(config.serving_ca.as_deref(), &mut presented).await {
            // The hub is going away, and we with it.
            return std::future::pending().await;
        }
    }
}

async fn make(
    config: &InventoryConfig,
    port: u16,
    presented: &Presented,
    now: SystemTime,
) -> Result<Publication, Unpublishable> {
    let authorities = trust::authorities(config.serving_ca.as_deref(), presented).await?;
    let mut entries = Vec::with_capacity(config.entries.len());
    for (name, address) in &config.entries {
        let url = resolve(address, port, presented)?;
        // Somebody else's authority may belong to a balancer before us, whose certificate we
        // do not see.
        if config.serving_ca.is_none() {
            verify(&url, &authorities, presented, now)?;
        }
        entries.push((name.clone(), url));
    }
    Ok(Publication { entries, ca_pem: authorities.iter().map(ca::pem).collect() })
}

fn verify(
    url: &str,
    authorities: &[CertificateDer<'static>],
    presented: &Presented,
    now: SystemTime,
) -> Result<(), Unpublishable> {
    let uri: Option<Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    tls::verify_server(&presented.chain, authorities, host, now)
        .map_err(|source| Unpublishable::Unverifiable { url: url.to_owned(), source })
}

/// The URL of an address.
fn resolve(address: &Address, port: u16, presented: &Presented) -> Result<String, Unpublishable> {
    let host = match address {
        Address::Url(url) => return Ok(url.clone()),
        Address::Host(host) => host.clone(),
        Address::Certificate => {
            let names = presented.chain.first().and_then(inspect::names).unwrap_or_default();
            let found = names.into_iter().find(|name| leads_beyond(name));
            found.ok_or(Unpublishable::NoName)?
        }
    };
    Ok(match host.parse() {
        Ok(IpAddr::V6(address)) => format!("https://[{address}]:{port}"),
        _ => format!("https://{host}:{port}"),
    })
}

/// Whether a name of a certificate is one by which others reach this machine.
fn leads_beyond(name: &str) -> bool {
    match name.parse::<IpAddr>() {
        Ok(address) => !address.is_loopback(),
        Err(_) => name != "localhost" && !name.contains(['*', '/']),
    }
}

/// Why nothing can be published.
#[derive(Debug, thiserror::Error)]
enum Unpublishable {
    /// Nothing to verify it by.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Only loopback names.
    #[error(
        "the serving certificate has no name that leads beyond this machine: name the URL with --publish-url"
    )]
    NoName,
    /// Clients would refuse what they find there.
    #[error(
        "clients of {url} would refuse the hub's certificate: {source}; add the name with `pki issue --name`, or change --publish-url"
    )]
    Unverifiable {
        /// What would be published.
        url: String,
        /// What a client would say.
        source: TlsError,
    },
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pki::ca::Authority;

    const DAY: Duration = Duration::from_secs(86_400);

    struct World {
        authority: Authority,
        presented: Presented,
    }

    impl World {
        fn new(names: &[&str]) -> Self {
            let authority = Authority::create("serving", DAY).unwrap();
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let issued = authority.issue_server(&names, DAY).unwrap();
            let authorities = ca::certificates(authority.certificate_pem().as_bytes()).unwrap();
            let chain = ca::certificates(issued.chain_pem.as_bytes()).unwrap();
            Self { authority, presented: Presented { chain, authorities } }
        }

        async fn make(&self, config: &InventoryConfig) -> Result<Publication, String> {
            let made = make(config, 9092, &self.presented, SystemTime::now()).await;
            made.map_err(|error| error.to_string())
        }
    }

    fn config(address: Address) -> InventoryConfig {
        InventoryConfig {
            manager: "m".to_owned(),
            entries: vec![("e".to_owned(), address)],
            serving_ca: None,
            path_condition: false,
        }
    }

    #[tokio::test]
    async fn the_first_name_that_leads_beyond_this_machine() {
        for (names, url) in [
            (
                &["localhost", "127.0.0.1", "hub.example.com"][..],
                Some("https://hub.example.com:9092"),
            ),
            (&["*.example.com", "fd00::1"], Some("https://[fd00::1]:9092")),
            (&["10.0.0.1", "hub"], Some("https://10.0.0.1:9092")),
            (&["localhost", "::1"], None),
        ] {
            let made = World::new(names).make(&config(Address::Certificate)).await;
            let made = made.map(|publication| publication.entries[0].1.clone());
            assert_eq!(made.as_deref().ok(), url, "{names:?}: {made:?}");
        }
    }

    #[tokio::test]
    async fn what_clients_would_refuse_is_not_published() {
        let world = World::new(&["hub.example.com"]);
        let good = config(Address::Url("https://hub.example.com:1".to_owned()));
        let made = world.make(&good).await.unwrap();
        assert_eq!(made.ca_pem, world.authority.certificate_pem(), "the authority, never the leaf");
        let other = world.make(&config(Address::Host("other".to_owned()))).await.unwrap_err();
        assert!(other.contains("https://other:9092") && other.contains("--publish-url"), "{other}");

        // An operator's certificate: by another authority, and without one.
        let mut stranger = World::new(&["hub.example.com"]);
        stranger.presented.authorities = world.presented.authorities.clone();
        assert!(stranger.make(&good).await.unwrap_err().contains("would refuse"));
        stranger.presented.authorities.clear();
        assert!(stranger.make(&good).await.unwrap_err().contains("--serving-ca"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        let with_file = InventoryConfig { serving_ca: Some(file.clone()), ..good };
        assert!(stranger.make(&with_file).await.unwrap_err().contains("--serving-ca: cannot use"));
        std::fs::write(&file, ca::pem(&stranger.presented.chain[0])).unwrap();
        assert!(
            stranger.make(&with_file).await.unwrap_err().contains("no authority's certificate")
        );
        let chain: String = stranger.presented.chain.iter().map(ca::pem).collect();
        std::fs::write(&file, chain).unwrap();
        let made = stranger.make(&with_file).await.unwrap();
        assert_eq!(made.ca_pem, stranger.authority.certificate_pem(), "the leaf is left out");
    }

    #[tokio::test]
    async fn a_rotation_has_both_authorities_in_one_order() {
        let (old, mut world) = (World::new(&["hub"]), World::new(&["hub"]));
        let old = old.presented.authorities[0].clone();
        world.presented.authorities.extend([old.clone(), old.clone()]);
        let made = world.make(&config(Address::Certificate)).await.unwrap();
        assert_eq!(made.ca_pem, world.authority.certificate_pem() + &ca::pem(&old));
    }
}
