//! Flags of those who dial a hub.

use std::path::PathBuf;

use clap::Args;

use crate::egress::{Egress, EgressError, Proxies, Variables};
use crate::pki::tls;

/// How a hub is reached: `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are read from the environment.
#[derive(Debug, Args)]
pub(crate) struct EgressArgs {
    /// Authorities of a proxy that itself speaks TLS (HTTPS_PROXY=https://...) [default: those of this machine]
    ///
    /// HTTPS_PROXY, ALL_PROXY and NO_PROXY are read from the environment; the hub's own TLS passes
    /// through a proxy unopened.
    #[arg(long, env = "CLUSTER_PROXY_PROXY_CA", value_name = "FILE")]
    proxy_ca: Option<PathBuf>,
}

// === impl EgressArgs ===

impl EgressArgs {
    pub(crate) fn read(&self) -> Result<Egress, EgressError> {
        let tls = || {
            let config = match &self.proxy_ca {
                Some(path) => {
                    let unusable = |error: &dyn std::fmt::Display| {
                        EgressError::Config(format!("--proxy-ca {}: {error}", path.display()))
                    };
                    let pem = std::fs::read(path).map_err(|error| unusable(&error))?;
                    Some(tls::upstream(&pem, None, PROTOCOL).map_err(|error| unusable(&error))?)
                }
                None => {
                    tls::public(PROTOCOL).map_err(|error| EgressError::Config(error.to_string()))?
                }
            };
            let none = || {
                EgressError::Config(
                    "this machine has no authorities to verify an https:// proxy by: name them with --proxy-ca"
                        .into(),
                )
            };
            config.ok_or_else(none)
        };
        Proxies::new(&Variables::read(), tls).map(Egress::new)
    }
}

/// `CONNECT` is asked for in HTTP/1.1.
const PROTOCOL: &[&[u8]] = &[b"http/1.1"];
