//! The issuers in force, each with its keys.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;

use super::claims::{self, Person};
use super::config::IssuerConfig;
use crate::hub::authn::Refusal;
use crate::hub::authn::key_sets::{KeySet, Signer, next_generation};
use crate::hub::authn::ownership::Owner;
use crate::hub::authn::token::{Unverified, strict_object};

/// All of them. Immutable, replaced whole when the configuration changes.
pub(in crate::hub::authn) struct IssuerSets {
    generation: u64,
    issuers: Vec<Arc<IssuerSet>>,
}

/// One of them.
pub(in crate::hub::authn) struct IssuerSet {
    /// How its claims become names.
    pub(in crate::hub::authn) config: IssuerConfig,
    /// Its keys.
    pub(in crate::hub::authn) keys: Arc<KeySet>,
}

/// What the issuers say of a token.
pub(in crate::hub::authn) enum Vouched {
    /// A key of one of them signed it, and its claims decide.
    Decided(Result<Person, Refusal>),
    /// A key has the id that it names, and did not sign it.
    Forged,
    /// Nobody knows it.
    Unknown,
}

// === impl IssuerSets ===

impl IssuerSets {
    /// What `configs` want, with the keys that `before` knows already.
    pub(in crate::hub::authn) fn new(configs: &[IssuerConfig], before: Option<&Self>) -> Self {
        let set = |config: &IssuerConfig| {
            let known = before.and_then(|before| before.at(config));
            let owner = || Owner::Reserved(format!("{OIDC}{}", config.url));
            let keys = known.map_or_else(|| Arc::new(KeySet::new(owner())), |set| set.keys.clone());
            Arc::new(IssuerSet { config: config.clone(), keys })
        };
        Self { generation: next_generation(), issuers: configs.iter().map(set).collect() }
    }

    /// Who vouches for `token`, by the keys as they are.
    pub(in crate::hub::authn) fn judge(&self, token: &Unverified<'_>, now: SystemTime) -> Vouched {
        let mut judged = Vouched::Unknown;
        for issuer in &self.issuers {
            match issuer.keys.snapshot().signer(token, now) {
                Signer::Key(_) => match issuer.decide(token, now) {
                    // Another issuer may sign with the same key.
                    Err(Refusal::Issuer) => judged = Vouched::Decided(Err(Refusal::Issuer)),
                    decided => return Vouched::Decided(decided),
                },
                Signer::Forged if matches!(judged, Vouched::Unknown) => judged = Vouched::Forged,
                Signer::Forged | Signer::Unknown => {}
            }
        }
        judged
    }

    /// Moves whenever a token could be judged otherwise than before.
    pub(in crate::hub::authn) fn generation(&self) -> u64 {
        let keys = self.issuers.iter().map(|issuer| issuer.keys.snapshot().generation);
        // Every number is used once, and later ones are larger.
        keys.chain([self.generation]).max().unwrap_or_default()
    }

    /// The keys of the issuer that a token claims to be of, which nobody has verified: good enough
    /// to know who could be asked about it, and whose outage could be its.
    pub(in crate::hub::authn) fn claimed(&self, token: &Unverified<'_>) -> Option<Arc<KeySet>> {
        #[derive(Deserialize)]
        struct Claim {
            iss: String,
        }
        if self.issuers.is_empty() {
            return None;
        }
        let Claim { iss } = strict_object(&token.payload)?;
        let issuer = self.issuers.iter().find(|issuer| issuer.config.url.as_str() == iss);
        issuer.map(|issuer| issuer.keys.clone())
    }

    /// The keys of each.
    pub(in crate::hub::authn) fn keys(&self) -> impl Iterator<Item = &Arc<KeySet>> {
        self.issuers.iter().map(|issuer| &issuer.keys)
    }

    /// The issuer whose keys these are; none once it is no longer configured.
    pub(in crate::hub::authn) fn of(&self, keys: &KeySet) -> Option<&Arc<IssuerSet>> {
        self.issuers.iter().find(|issuer| std::ptr::eq(&*issuer.keys, keys))
    }

    /// The issuer whose keys are read in the same way.
    fn at(&self, config: &IssuerConfig) -> Option<&Arc<IssuerSet>> {
        self.issuers.iter().find(|known| {
            let known = &known.config;
            (&known.url, &known.discovery_url, &known.authority)
                == (&config.url, &config.discovery_url, &config.authority)
        })
    }
}

// === impl IssuerSet ===

impl IssuerSet {
    fn decide(&self, token: &Unverified<'_>, now: SystemTime) -> Result<Person, Refusal> {
        if !self.config.algorithms.contains(&token.algorithm) {
            return Err(Refusal::Algorithm);
        }
        claims::check(&token.payload, &self.config, now)
    }
}

/// How the owner of an issuer's keys begins.
const OIDC: &str = "oidc/";
