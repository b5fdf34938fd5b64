//! The first exchange on a tunnel: versions, capabilities, who is who.
//!
//! Fields that a newer peer adds are ignored, so new facts need no new version; a version stands for
//! a change that an older peer would get wrong.

use bytes::Bytes;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Path of the hello (mode `tunnel`, POST, JSON both ways).
pub const PATH: &str = "/hello";
/// Path of "dial elsewhere, I am leaving" (mode `tunnel`, POST, empty).
pub const LEAVE_PATH: &str = "/leave";
/// Path of "these hubs live now" (mode `tunnel`, POST, JSON of [`Replicas`], empty answer).
pub const REPLICAS_PATH: &str = "/replicas";
/// How an agent answers the hello of a hub process to which it has its tunnels already.
pub const SURPLUS: StatusCode = StatusCode::CONFLICT;
/// Most hub processes that are named to an agent.
pub const MOST_REPLICAS: usize = 64;
/// The wire version this build speaks.
pub const VERSION: u32 = 1;
/// The oldest wire version this build still speaks.
pub const OLDEST_VERSION: u32 = 1;
/// Largest hello, bytes of JSON. Both ends refuse more before reading it.
pub const LIMIT: usize = 32 * 1024;

/// What the hub says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HubHello {
    /// Wire version.
    pub version: u32,
    /// Which hub process this is: agents hold tunnels to every replica.
    pub replica: String,
    /// Every hub process that lives on the same state, this one among them.
    #[serde(default)]
    pub replicas: Vec<String>,
    /// Version of the hub, for logs.
    pub hub_version: String,
    /// The cluster that the hub took from the certificate.
    pub cluster: String,
}

/// What the agent answers. Good for its own cluster only, never for routing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentHello {
    /// Wire version.
    pub version: u32,
    /// Which agent process this is, random per start.
    pub agent: String,
    /// Version of the agent.
    pub agent_version: String,
    /// `gitVersion` of the API server, when it could be read.
    pub api_server_version: Option<String>,
    /// Audiences of the agent's own token (or its `--audience`).
    pub audiences: Vec<String>,
    /// Issuers: of the agent's own token, and its `--issuer`.
    pub issuers: Vec<String>,
}

/// What the hub says when other hub processes on its state come or go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replicas {
    /// As in [`HubHello`].
    pub replicas: Vec<String>,
}

/// Why a hello was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// More than [`LIMIT`].
    #[error("the hello has {0} bytes, more than the {LIMIT} allowed")]
    TooLarge(usize),
    /// Not the JSON of a hello.
    #[error("the hello is not valid: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A text or list is longer than a hello may have, or holds a control character.
    #[error("the hello's {0} is too long or holds a control character")]
    Field(&'static str),
    /// No version in common.
    #[error(
        "the peer speaks version {0} of the tunnel protocol, this build {OLDEST_VERSION} to \
         {VERSION}: upgrade the older side"
    )]
    Version(u32),
}

/// A hello of either side: bounded JSON.
pub trait Hello: Serialize + DeserializeOwned + sealed::Checked {
    /// The JSON, if the other side would accept it.
    fn encode(&self) -> Result<Bytes, HelloError> {
        self.check()?;
        let json = serde_json::to_vec(self)?;
        if json.len() > LIMIT {
            return Err(HelloError::TooLarge(json.len()));
        }
        Ok(json.into())
    }

    /// Reads what the other side sent.
    fn decode(json: &[u8]) -> Result<Self, HelloError> {
        if json.len() > LIMIT {
            return Err(HelloError::TooLarge(json.len()));
        }
        let hello: Self = serde_json::from_slice(json)?;
        hello.check()?;
        Ok(hello)
    }
}

/// The version to speak with a peer whose hello named `theirs`: the newest of both. Each side offers
/// its newest, and the agent answers with the result, so both compute the same.
pub fn negotiate(theirs: u32) -> Result<u32, HelloError> {
    if theirs < OLDEST_VERSION { Err(HelloError::Version(theirs)) } else { Ok(theirs.min(VERSION)) }
}

// === impl Hello ===

impl Hello for HubHello {}
impl Hello for AgentHello {}
impl Hello for Replicas {}

mod sealed {
    use super::HelloError;

    /// The bounds of each field.
    pub trait Checked: Sized {
        fn check(&self) -> Result<(), HelloError>;
    }
}

impl sealed::Checked for HubHello {
    fn check(&self) -> Result<(), HelloError> {
        text("replica", &self.replica)?;
        list("replicas", &self.replicas, MOST_REPLICAS)?;
        text("hubVersion", &self.hub_version)?;
        text("cluster", &self.cluster)
    }
}

impl sealed::Checked for AgentHello {
    fn check(&self) -> Result<(), HelloError> {
        text("agent", &self.agent)?;
        text("agentVersion", &self.agent_version)?;
        text("apiServerVersion", self.api_server_version.as_deref().unwrap_or_default())?;
        list("audiences", &self.audiences, LIST_LIMIT)?;
        list("issuers", &self.issuers, LIST_LIMIT)
    }
}

impl sealed::Checked for Replicas {
    fn check(&self) -> Result<(), HelloError> {
        list("replicas", &self.replicas, MOST_REPLICAS)
    }
}

/// These texts reach logs and conditions, so a control character is refused rather than escaped.
fn text(field: &'static str, value: &str) -> Result<(), HelloError> {
    if value.len() > TEXT_LIMIT || value.chars().any(char::is_control) {
        return Err(HelloError::Field(field));
    }
    Ok(())
}

fn list(field: &'static str, values: &[String], most: usize) -> Result<(), HelloError> {
    if values.len() > most {
        return Err(HelloError::Field(field));
    }
    values.iter().try_for_each(|value| text(field, value))
}

/// Longest text, bytes: an issuer is a URL, everything else is shorter.
const TEXT_LIMIT: usize = 512;

/// Most audiences, and most issuers.
const LIST_LIMIT: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn agent() -> AgentHello {
        AgentHello {
            version: VERSION,
            agent: "a-1".to_owned(),
            agent_version: "0.1.0".to_owned(),
            api_server_version: None,
            audiences: vec!["https://kubernetes.default.svc".to_owned()],
            issuers: Vec::new(),
        }
    }

    #[test]
    fn versions_meet_or_refuse() {
        assert_eq!(negotiate(VERSION).unwrap(), VERSION);
        assert_eq!(negotiate(u32::MAX).unwrap(), VERSION);
        assert!(matches!(negotiate(OLDEST_VERSION - 1), Err(HelloError::Version(0))));
    }

    #[test]
    fn bounds_hold_both_ways() {
        let with = |change: &dyn Fn(&mut AgentHello)| {
            let mut hello = agent();
            change(&mut hello);
            let json = serde_json::to_vec(&hello).unwrap();
            let (encoded, decoded) = (hello.encode().is_ok(), AgentHello::decode(&json).is_ok());
            assert_eq!(encoded, decoded);
            decoded
        };
        assert!(with(&|hello| hello.agent = "a".repeat(TEXT_LIMIT)));
        assert!(!with(&|hello| hello.agent = "a".repeat(TEXT_LIMIT + 1)));
        assert!(with(&|hello| hello.issuers = vec![String::new(); LIST_LIMIT]));
        assert!(!with(&|hello| hello.issuers = vec![String::new(); LIST_LIMIT + 1]));
        assert!(!with(&|hello| hello.audiences = vec!["line\nbreak".to_owned()]));
        assert!(!with(&|hello| hello.api_server_version = Some("\u{1b}[2J".to_owned())));
    }

    #[test]
    fn size_is_judged_before_the_json() {
        let mut json = agent().encode().unwrap().to_vec();
        json.resize(LIMIT, b' ');
        assert!(AgentHello::decode(&json).is_ok());
        json.push(b' ');
        assert!(matches!(AgentHello::decode(&json), Err(HelloError::TooLarge(_))));
    }

    #[test]
    fn facts_of_a_newer_peer_are_ignored() {
        let json = br#"{"version":2,"replica":"r","hubVersion":"9","cluster":"c","later":[1]}"#;
        assert_eq!(HubHello::decode(json).unwrap().replica, "r");
    }

    proptest! {
        #[test]
        fn hellos_round_trip(
            version in any::<u32>(),
            words in proptest::collection::vec("[^\\p{Cc}]{0,40}", 5),
            api_server_version in proptest::option::of("[ -~]{0,40}"),
        ) {
            let [agent, agent_version, replica, hub_version, cluster] = words.try_into().unwrap();
            let audiences = vec![agent.clone(), replica.clone()];
            let replicas = vec![replica.clone(), cluster.clone()];
            let hub = HubHello { version, replica, replicas, hub_version, cluster };
            prop_assert_eq!(&HubHello::decode(&hub.encode().unwrap()).unwrap(), &hub);
            let issuers = audiences.clone();
            let agent =
                AgentHello { version, agent, agent_version, api_server_version, audiences, issuers };
            prop_assert_eq!(&AgentHello::decode(&agent.encode().unwrap()).unwrap(), &agent);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (HubHello::decode(&bytes), AgentHello::decode(&bytes));
        }

        #[test]
        fn no_cut_hello_is_accepted(cut in 0_usize..1_000) {
            let json = agent().encode().unwrap();
            prop_assert!(AgentHello::decode(&json[..cut % json.len()]).is_err());
        }
    }
}
