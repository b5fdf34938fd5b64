//! The list of services that clusters show to callers of the hub, and what it says of one. Pure.
//!
//! The format is that of OCM cluster-proxy's ConfigMap of exposed services: each document is a list
//! of entries, all documents count, the first entry that matches decides. `clusters` and
//! `passToken` are ours, and left out they change nothing.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, de};

use crate::hub::followed::of_key;
use crate::hub::policy::is_one_of;
use crate::name::ClusterName;
use crate::tunnel::service::ServiceTarget;

/// What is exposed, ready to decide.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Exposed {
    entries: Vec<Entry>,
}

/// Services that somebody exposes. What is left out stands for everything.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    namespace: Box<str>,
    service: Box<str>,
    port: Option<Box<str>>,
    protocol: Option<Box<str>>,
    clusters: Vec<Box<str>>,
    /// The service sees the token of a caller whom its own cluster knows.
    pub(crate) pass_token: bool,
}

/// Why a text is no such list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListError {
    /// Not even YAML of this shape.
    #[error("{}it is not the YAML or JSON of a list of services: {why}", of_key(.key))]
    Shape {
        /// In a ConfigMap; empty for a file.
        key: String,
        /// What the parser says.
        why: String,
    },
    /// An entry that would not do what it says.
    #[error("{}entry {number}: {why}", of_key(.key))]
    Entry {
        /// In a ConfigMap; empty for a file.
        key: String,
        /// From 1.
        number: usize,
        /// What is wrong.
        why: String,
    },
}

/// As it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    namespace: String,
    service: String,
    port: Option<Port>,
    protocol: Option<String>,
    clusters: Option<Vec<String>>,
    #[serde(default)]
    pass_token: bool,
}

/// `8080`, `"8080"` or `metrics`.
struct Port(String);

// === impl Exposed ===

impl Exposed {
    /// Reads documents, each under its key, in their order.
    pub(crate) fn parse<'a>(
        documents: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ListError> {
        let mut exposed = Self::default();
        for (key, text) in documents {
            let written = serde_saphyr::from_str::<Option<Vec<Written>>>(text);
            let written = written.map_err(|error| {
                let text = error.to_string();
                // The rest shows the place in a picture of several lines.
                let why = text.lines().next().unwrap_or_default().to_owned();
                ListError::Shape { key: key.to_owned(), why }
            })?;
            for (index, written) in written.unwrap_or_default().into_iter().enumerate() {
                written.check().map_err(|why| ListError::Entry {
                    key: key.to_owned(),
                    number: index + 1,
                    why,
                })?;
                exposed.entries.push(written.into());
            }
        }
        Ok(exposed)
    }

    /// How many entries it has.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The first entry for `service` of `cluster`, and its number from 1.
    pub(crate) fn find(
        &self,
        cluster: &ClusterName,
        service: &ServiceTarget,
    ) -> Option<(usize, &Entry)> {
        let mut entries = (1..).zip(&self.entries);
        entries.find(|(_, entry)| entry.matches(cluster, service))
    }
}

// === impl Entry ===

impl Entry {
    /// Every name exactly as it is written, as upstream compares them.
    fn matches(&self, cluster: &ClusterName, service: &ServiceTarget) -> bool {
        let is = |wanted: &Option<Box<str>>, text: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == text)
        };
        *self.namespace == *service.namespace
            && *self.service == *service.name
            && is(&self.port, &service.port.to_string())
            && is(&self.protocol, service.scheme.as_str())
            && (self.clusters.is_empty() || is_one_of(&self.clusters, cluster.as_str()))
    }
}

impl From<Written> for Entry {
    fn from(written: Written) -> Self {
        let clusters = written.clusters.unwrap_or_default();
        Self {
            namespace: written.namespace.into(),
            service: written.service.into(),
            port: written.port.map(|Port(port)| port.into()),
            protocol: written.protocol.map(Into::into),
            clusters: clusters.into_iter().map(String::into_boxed_str).collect(),
            pass_token: written.pass_token,
        }
    }
}

// === impl Written ===

impl Written {
    /// An empty text could be meant for nothing or for everything.
    fn check(&self) -> Result<(), String> {
        let port = self.port.as_ref().map(|Port(port)| port);
        let texts = [
            ("namespace", Some(&self.namespace)),
            ("service", Some(&self.service)),
            ("port", port),
            ("protocol", self.protocol.as_ref()),
        ];
        for (field, text) in texts {
            if text.is_some_and(String::is_empty) {
                return Err(format!("{field} is empty"));
            }
        }
        let Some(clusters) = &self.clusters else { return Ok(()) };
        if clusters.is_empty() {
            return Err("clusters is empty; leave it out for all of them".to_owned());
        }
        for name in clusters {
            let body = name.strip_suffix('*').unwrap_or(name);
            let is_name = body.len() < name.len() || ClusterName::parse(name).is_ok();
            if !is_name || body.contains('*') {
                return Err(format!(
                    "clusters: {name:?} is neither a name nor the beginning of one and \"*\""
                ));
            }
        }
        Ok(())
    }
}

// === impl Port ===

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = Port;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number or the name of a port")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Port, E> {
                Ok(Port(number.to_string()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Port, E> {
                Err(E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Port, E> {
                Ok(Port(text.to_owned()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests;
