//! Flags of OpenID Connect: upstream's, for one issuer, or a file for several.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::hub::authn::oidc::{
    Algorithm, ClaimMapping, IssuerAuthority, IssuerConfig, Issuers, Url, algorithm,
};

/// Flags of `hub` about callers whom an OpenID Connect issuer vouches for.
#[derive(Debug, Args)]
#[command(next_help_heading = "OpenID Connect")]
pub(super) struct OidcArgs {
    /// Issuer whose tokens are believed, as their `iss` says it
    #[arg(long, env = "CLUSTER_PROXY_OIDC_ISSUER_URL", value_name = "URL", value_parser = Url::parse, requires = "oidc_client_id")]
    oidc_issuer_url: Option<Url>,

    /// Client that tokens must be for (their `aud`)
    #[arg(
        long,
        env = "CLUSTER_PROXY_OIDC_CLIENT_ID",
        value_name = "ID",
        requires = "oidc_issuer_url"
    )]
    oidc_client_id: Option<String>,

    /// Claim that is the user's name
    #[arg(
        long,
        env = "CLUSTER_PROXY_OIDC_USERNAME_CLAIM",
        value_name = "CLAIM",
        default_value = "sub"
    )]
    oidc_username_claim: String,

    /// What is put before it, `-` for nothing [default: the issuer and `#`; nothing for `email`]
    #[arg(long, env = "CLUSTER_PROXY_OIDC_USERNAME_PREFIX", value_name = "PREFIX")]
    oidc_username_prefix: Option<String>,

    /// Claim that is a group, or a list of groups [default: no groups]
    #[arg(long, env = "CLUSTER_PROXY_OIDC_GROUPS_CLAIM", value_name = "CLAIM")]
    oidc_groups_claim: Option<String>,

    /// What is put before each group
    #[arg(
        long,
        env = "CLUSTER_PROXY_OIDC_GROUPS_PREFIX",
        value_name = "PREFIX",
        default_value = "",
        requires = "oidc_groups_claim"
    )]
    oidc_groups_prefix: String,

    /// What no name may begin with, its prefix included; `""` for no such list
    #[arg(
        long,
        env = "CLUSTER_PROXY_OIDC_RESERVED_NAME_PREFIXES",
        value_name = "PREFIX",
        value_delimiter = ',',
        default_value = "system:"
    )]
    oidc_reserved_name_prefixes: Vec<String>,

    /// Authority of the issuer's certificate, PEM [default: those of this machine]
    #[arg(
        long,
        env = "CLUSTER_PROXY_OIDC_CA_FILE",
        value_name = "FILE",
        conflicts_with = "oidc_ca_configmap"
    )]
    oidc_ca_file: Option<PathBuf>,

    /// The same, under `ca.crt` of a ConfigMap of the hub's namespace
    #[arg(long, env = "CLUSTER_PROXY_OIDC_CA_CONFIGMAP", value_name = "NAME")]
    oidc_ca_configmap: Option<String>,

    /// What tokens may be signed with
    #[arg(long, env = "CLUSTER_PROXY_OIDC_SIGNING_ALGS", value_name = "ALGORITHM", value_delimiter = ',', default_value = "RS256", value_parser = algorithm)]
    oidc_signing_algs: Vec<Algorithm>,

    /// A claim that tokens must have, and its value; repeat it, or separate them by commas
    #[arg(long, env = "CLUSTER_PROXY_OIDC_REQUIRED_CLAIM", value_name = "CLAIM=VALUE", value_delimiter = ',', value_parser = claim)]
    oidc_required_claim: Vec<(String, String)>,

    /// Issuers, in a file of the shape of Kubernetes' AuthenticationConfiguration; read again when it
    /// changes
    #[arg(
        long,
        env = "CLUSTER_PROXY_AUTHENTICATION_CONFIG",
        value_name = "FILE",
        conflicts_with = "oidc_issuer_url"
    )]
    authentication_config: Option<PathBuf>,
}

// === impl OidcArgs ===

impl OidcArgs {
    /// Whose tokens are believed. `namespace`: the hub's, where it has an API server.
    pub(super) fn into_issuers(self, namespace: Option<String>) -> anyhow::Result<Issuers> {
        if let Some(file) = self.authentication_config {
            let issuers = Issuers::of_file(&file);
            return issuers.with_context(|| format!("--authentication-config {}", file.display()));
        }
        let (Some(url), Some(client)) = (self.oidc_issuer_url, self.oidc_client_id) else {
            return Ok(Issuers::default());
        };
        let authority = match (self.oidc_ca_file, self.oidc_ca_configmap, namespace) {
            (Some(file), ..) => IssuerAuthority::File(file),
            (None, Some(name), Some(namespace)) => IssuerAuthority::ConfigMap { namespace, name },
            (None, Some(_), None) => bail!(
                "--oidc-ca-configmap: there is no API server of the hub: name one with --hub-kubeconfig"
            ),
            (None, None, _) => IssuerAuthority::System,
        };
        let prefix = self.oidc_username_prefix.as_deref();
        let username = ClaimMapping::username(&self.oidc_username_claim, prefix, &url);
        let groups_prefix = self.oidc_groups_prefix;
        let groups = self.oidc_groups_claim;
        let mut reserved = self.oidc_reserved_name_prefixes;
        if reserved.len() == 1 && reserved[0].is_empty() {
            reserved.clear();
        }
        let issuer = IssuerConfig {
            authority,
            algorithms: self.oidc_signing_algs,
            username,
            groups: groups.map(|claim| ClaimMapping { claim, prefix: groups_prefix }),
            required: self.oidc_required_claim,
            reserved,
            ..IssuerConfig::new(url, vec![client])
        };
        if let Some(problem) = issuer.problem() {
            bail!("--oidc-*: {problem}");
        }
        Ok(Issuers::of(vec![issuer]))
    }
}

fn claim(value: &str) -> Result<(String, String), String> {
    let pair = value.split_once('=').filter(|(claim, _)| !claim.is_empty());
    let (claim, value) = pair.ok_or_else(|| format!("{value:?} is not CLAIM=VALUE"))?;
    Ok((claim.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        oidc: OidcArgs,
    }

    fn issuers(flags: &[&str]) -> Result<Vec<IssuerConfig>, String> {
        let flags = std::iter::once(&"hub").chain(flags);
        let command = Command::try_parse_from(flags).map_err(|error| error.to_string())?;
        let issuers = command.oidc.into_issuers(None).map_err(|error| format!("{error:#}"))?;
        Ok(issuers.configs().to_vec())
    }

    const ISSUER: [&str; 4] =
        ["--oidc-issuer-url", "https://id.example", "--oidc-client-id", "kubernetes"];

    #[test]
    fn upstreams_flags_and_their_defaults() {
        assert_eq!(issuers(&[]).unwrap(), []);
        let url = Url::parse("https://id.example").unwrap();
        let plain = IssuerConfig::new(url, vec!["kubernetes".to_owned()]);
        assert_eq!(issuers(&ISSUER).unwrap(), [plain]);

        let more = [
            "--oidc-username-claim=email",
            "--oidc-username-prefix=oidc:",
            "--oidc-groups-claim=groups",
            "--oidc-groups-prefix=oidc:",
            "--oidc-reserved-name-prefixes=",
            "--oidc-ca-file=ca.crt",
            "--oidc-signing-algs=RS256,ES256",
            "--oidc-required-claim=hd=example.com",
            "--oidc-required-claim=a=b=c",
        ];
        let all = issuers(&[&ISSUER[..], &more].concat()).unwrap().remove(0);
        assert_eq!((&*all.username.claim, &*all.username.prefix), ("email", "oidc:"));
        assert_eq!(all.groups.unwrap().prefix, "oidc:");
        assert!(all.reserved.is_empty());
        assert_eq!(all.authority, IssuerAuthority::File("ca.crt".into()));
        assert_eq!(all.algorithms, [Algorithm::RS256, Algorithm::ES256]);
        assert_eq!(all.required[1], ("a".to_owned(), "b=c".to_owned()));
    }

    #[test]
    fn halves_and_contradictions_are_refused() {
        let with = |more: &str| issuers(&[&ISSUER[..], &[more]].concat());
        for bad in [
            &["--oidc-issuer-url=https://id.example"][..],
            &["--oidc-client-id=x"],
            &["--oidc-issuer-url=http://id.example", "--oidc-client-id=x"],
            &["--oidc-issuer-url=https://id.example", "--oidc-client-id="],
        ] {
            assert!(issuers(bad).is_err(), "{bad:?}");
        }
        for bad in [
            "--oidc-groups-prefix=x",
            "--oidc-signing-algs=HS256",
            "--oidc-signing-algs=none",
            "--oidc-reserved-name-prefixes=system:,",
            "--oidc-required-claim=x",
            "--oidc-required-claim==x",
            "--oidc-ca-configmap=ca",
            "--authentication-config=file",
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
        assert!(with("--oidc-required-claim=x=").is_ok());
    }
}
