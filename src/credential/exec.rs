//! What a client asks of a credential plugin, and what it gets. Pure.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::kubernetes::Claims;
use crate::name::{ClusterName, InvalidClusterName};

/// A question, as far as the answer depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Which cluster.
    pub cluster: ClusterName,
    interactive: bool,
}

/// Why there is no question, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Somebody typed the command.
    #[error(
        "{VARIABLE} is not set: kubectl and client-go start this command, by a kubeconfig that `cluster-proxy kubeconfig` writes"
    )]
    NotAsked,
    /// No JSON of an ExecCredential.
    #[error("{VARIABLE} holds no ExecCredential")]
    Unreadable,
    /// Another version, which has other rules.
    #[error(
        "{VARIABLE} has apiVersion {0:?}, and only {API_VERSION} is supported: set it in the kubeconfig's exec entry"
    )]
    Version(String),
    /// The client did not say for which cluster.
    #[error(
        "the client does not say for which cluster: set provideClusterInfo in the kubeconfig's exec entry"
    )]
    NoCluster,
    /// The cluster's entry does not say it.
    #[error(
        "the cluster's entry has no clusterName in its extension client.authentication.k8s.io/exec"
    )]
    NoName,
    /// No name of a cluster.
    #[error("clusterName {0:?} is no cluster's name: {1}")]
    BadName(String, InvalidClusterName),
    /// What was found is no token.
    #[error("what is stored as token is none")]
    NoToken,
    /// It would be refused.
    #[error(
        "the token expired at {0} and has not been renewed: see whether the hub reaches the cluster"
    )]
    Expired(String),
}

// === impl Asked ===

impl Asked {
    /// Reads the value of [`VARIABLE`].
    pub fn read(info: Option<&str>) -> Result<Self, ExecError> {
        let info = info.filter(|info| !info.is_empty()).ok_or(ExecError::NotAsked)?;
        let info: Info = serde_json::from_str(info).map_err(|_| ExecError::Unreadable)?;
        if info.kind != KIND {
            return Err(ExecError::Unreadable);
        }
        if info.api_version != API_VERSION {
            return Err(ExecError::Version(info.api_version));
        }
        let cluster = info.spec.cluster.filter(|cluster| !cluster.server.is_empty());
        let config = cluster.ok_or(ExecError::NoCluster)?.config;
        let name = config.map(|config| config.cluster_name).filter(|name| !name.is_empty());
        let name = name.ok_or(ExecError::NoName)?;
        match ClusterName::parse(&name) {
            Ok(cluster) => Ok(Self { cluster, interactive: info.spec.interactive }),
            Err(problem) => Err(ExecError::BadName(name, problem)),
        }
    }

    /// The line for standard output: `token`, and its end where it says one.
    ///
    /// # Errors
    /// When `token` is none, or its end is before `now`: the client would only be refused.
    pub fn answer(&self, token: &str, now: SystemTime) -> Result<Zeroizing<String>, ExecError> {
        let token = token.trim();
        // Nothing that would split a header (RFC 6750 section 2.1, and a little more).
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ExecError::NoToken);
        }
        let ends = Claims::of(token).expires;
        let ends = ends.and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at)));
        let text = ends.map(|at| humantime::format_rfc3339_seconds(at).to_string());
        if let (Some(ends), Some(text)) = (ends, &text)
            && ends <= now
        {
            return Err(ExecError::Expired(text.clone()));
        }
        let answer = Answer {
            kind: KIND,
            api_version: API_VERSION,
            spec: AnswerSpec { interactive: self.interactive },
            status: Status { expiration_timestamp: text, token },
        };
        let mut line = serde_json::to_string(&answer).map_err(|_| ExecError::NoToken)?;
        line.push('\n');
        Ok(Zeroizing::new(line))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
struct Spec {
    cluster: Option<Cluster>,
    #[serde(default)]
    interactive: bool,
}

#[derive(Deserialize)]
struct Cluster {
    #[serde(default)]
    server: String,
    config: Option<Config>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    cluster_name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    kind: &'static str,
    api_version: &'static str,
    spec: AnswerSpec,
    status: Status<'a>,
}

#[derive(Serialize)]
struct AnswerSpec {
    interactive: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_timestamp: Option<String>,
    token: &'a str,
}

/// Where clients put the question.
pub const VARIABLE: &str = "KUBERNETES_EXEC_INFO";
/// The version that is spoken; the beta has no `interactiveMode`.
pub const API_VERSION: &str = "client.authentication.k8s.io/v1";
const KIND: &str = "ExecCredential";

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    /// As client-go writes it.
    const QUESTION: &str = r#"{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{"cluster":{"server":"https://HOST:9092/cluster1","certificate-authority-data":"QUFB","config":{"clusterName":"cluster1"}},"interactive":false}}"#;

    #[test]
    fn the_exchange_to_the_byte() {
        let asked = Asked::read(Some(QUESTION)).unwrap();
        assert_eq!(asked.cluster.as_str(), "cluster1");
        // A token without an end: the line of upstream's own plugin.
        assert_eq!(
            &*asked.answer("opaque\n", SystemTime::now()).unwrap(),
            "{\"kind\":\"ExecCredential\",\"apiVersion\":\"client.authentication.k8s.io/v1\",\
             \"spec\":{\"interactive\":false},\"status\":{\"token\":\"opaque\"}}\n"
        );
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(r#"{"exp":1900000000}"#));
        assert_eq!(
            *asked.answer(&token, SystemTime::UNIX_EPOCH).unwrap(),
            format!(
                "{{\"kind\":\"ExecCredential\",\"apiVersion\":\"client.authentication.k8s.io/v1\",\
                 \"spec\":{{\"interactive\":false}},\"status\":{{\
                 \"expirationTimestamp\":\"2030-03-17T17:46:40Z\",\"token\":\"{token}\"}}}}\n"
            )
        );
        // An end that no text can name is as good as none.
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(r#"{"exp":253402300800}"#));
        let answer = asked.answer(&token, SystemTime::now()).unwrap();
        assert!(!answer.contains("expirationTimestamp"), "{}", *answer);
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(r#"{"exp":1900000000}"#));
        let late = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let error = asked.answer(&token, late).unwrap_err().to_string();
        assert!(error.contains("2030-03-17T17:46:40Z") && !error.contains(&token), "{error}");
    }

    #[test]
    fn a_token_is_one_word() {
        let asked = Asked::read(Some(QUESTION)).unwrap();
        for (token, works) in [
            ("a.b.c", true),
            ("", false),
            (" \n", false),
            ("a b", false),
            ("a\nb", false),
            ("\u{e9}", false),
        ] {
            assert_eq!(asked.answer(token, SystemTime::now()).is_ok(), works, "{token:?}");
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let without = |part: &str, other: &str| {
            assert!(QUESTION.contains(part), "{part}");
            Asked::read(Some(&QUESTION.replace(part, other))).unwrap_err().to_string()
        };
        assert!(Asked::read(None).unwrap_err().to_string().contains("is not set"));
        assert!(Asked::read(Some("")).unwrap_err().to_string().contains("is not set"));
        assert!(Asked::read(Some("{")).unwrap_err().to_string().contains("no ExecCredential"));
        assert!(without("ExecCredential", "Pod").contains("no ExecCredential"));
        assert!(without("k8s.io/v1\"", "k8s.io/v1beta1\"").contains("v1beta1"));
        assert!(
            without("\"apiVersion\"", "\"x\"").contains("only client.authentication.k8s.io/v1")
        );
        assert!(without("\"cluster\"", "\"x\"").contains("provideClusterInfo"));
        assert!(without("https://HOST:9092/cluster1", "").contains("provideClusterInfo"));
        assert!(without("\"config\"", "\"x\"").contains("no clusterName"));
        assert!(without("clusterName", "x").contains("no clusterName"));
        assert!(without("\"cluster1\"", "\"../c\"").contains("is no cluster's name"));
    }
}
