//! Names that are parsed once, at the edge, and trusted after.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of an enrolled cluster, and the first segment of every request path.
///
/// One grammar everywhere, a DNS label (RFC 1123): `[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?`. No case
/// folding and no IDNA: two spellings never mean one cluster.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(Arc<str>);

// === impl ClusterName ===

impl ClusterName {
    /// Parses `name`, or says why it is not a cluster name.
    pub fn parse(name: &str) -> Result<Self, InvalidClusterName> {
        let bytes = name.as_bytes();
        let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
            return Err(InvalidClusterName::Empty);
        };
        if bytes.len() > MAX_LENGTH {
            return Err(InvalidClusterName::TooLong(bytes.len()));
        }
        let inner = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if *first == b'-' || *last == b'-' || !bytes.iter().all(inner) {
            return Err(InvalidClusterName::Grammar);
        }
        if RESERVED.contains(&name) {
            return Err(InvalidClusterName::Reserved);
        }
        Ok(Self(name.into()))
    }

    /// What stands for the hub itself where requests are told apart by cluster. No text is parsed to
    /// it, so that no cluster has it.
    pub fn of_hub() -> Self {
        Self("_hub".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for ClusterName {
    type Err = InvalidClusterName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

impl TryFrom<String> for ClusterName {
    type Error = InvalidClusterName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::parse(&name)
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.as_str().to_owned()
    }
}

/// Why a text is not a [`ClusterName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClusterName {
    /// Nothing was given.
    #[error("a cluster name cannot be empty")]
    Empty,
    /// Longer than a DNS label.
    #[error("a cluster name has at most {MAX_LENGTH} characters, this one has {0}")]
    TooLong(usize),
    /// A character, or a place of one, that the grammar does not have.
    #[error(
        "a cluster name is made of a-z, 0-9 and '-', and starts and ends with a letter or digit"
    )]
    Grammar,
    /// A name that looks like an endpoint of ours or of a Kubernetes API.
    #[error("this name is reserved: it would read like an endpoint, not like a cluster")]
    Reserved,
}

/// The longest DNS label (RFC 1035 section 2.3.4).
const MAX_LENGTH: usize = 63;

/// First path segments that people and probes expect to be something else.
const RESERVED: [&str; 9] =
    ["api", "apis", "healthz", "livez", "metrics", "openapi", "openid", "readyz", "version"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_grammar() {
        for good in ["a", "c1", "edge-7", "0", &"x".repeat(63)] {
            assert_eq!(ClusterName::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "a-",
            "C1",
            "c1.",
            "c1 ",
            "c_1",
            "cl\u{131}",
            "ｃ1",
            ".",
            "..",
            "_fleet",
            "a/b",
            "a%00",
        ] {
            assert!(ClusterName::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(ClusterName::parse(&"x".repeat(64)), Err(InvalidClusterName::TooLong(64)));
        assert_eq!(ClusterName::parse("metrics"), Err(InvalidClusterName::Reserved));
    }
}
