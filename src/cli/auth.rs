//! `cluster-proxy auth check`: what a policy says, without a hub.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;
use serde::Serialize;

use super::{Output, print};
use crate::hub::policy::{self, Wanted};
use crate::name::ClusterName;

/// Flags of `auth`.
#[derive(Debug, Args)]
pub(crate) struct AuthArgs {
    #[command(subcommand)]
    command: AuthCommand,
}

#[derive(Debug, Subcommand)]
enum AuthCommand {
    /// Say whether a policy (`hub --policy`) lets an identity do something, and by which rule. Exits
    /// with 1 where it does not
    Check(CheckArgs),
}

/// As `kubectl auth can-i` asks.
#[derive(Debug, Args)]
struct CheckArgs {
    /// Cluster that is asked
    cluster: ClusterName,

    /// Verb, as in RBAC
    verb: String,

    /// What it is about: `pods`, `pods/log`, `deployments.apps`, or a path such as /version
    what: String,

    /// Namespace of it [default: none, all of the cluster]
    #[arg(short, long, value_name = "NAMESPACE", default_value = "")]
    namespace: String,

    /// Who asks, as clusters know them: cluster:hub:system:serviceaccount:NAMESPACE:NAME
    #[arg(long = "as", value_name = "USER")]
    user: String,

    /// A group of theirs; repeat it
    #[arg(long = "as-group", value_name = "GROUP")]
    groups: Vec<String>,

    /// The policy
    #[arg(long, env = "CLUSTER_PROXY_POLICY", value_name = "FILE")]
    policy: PathBuf,

    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// The answer with `-o json`.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Answer {
    allowed: bool,
    /// Number of the rule, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<usize>,
    /// The same in words.
    reason: String,
}

/// Runs `auth`.
pub(crate) fn run(args: AuthArgs) -> anyhow::Result<ExitCode> {
    let AuthCommand::Check(check) = args.command;
    let answer = check.answer()?;
    print(&match check.output {
        Output::Json => serde_json::to_string_pretty(&answer)? + "\n",
        Output::Table => format!("{}\n", answer.reason),
    })?;
    Ok(if answer.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

// === impl CheckArgs ===

impl CheckArgs {
    fn answer(&self) -> anyhow::Result<Answer> {
        let policy = policy::read(&self.policy)?;
        let method = Method::from_bytes(self.verb.to_ascii_uppercase().as_bytes())?;
        let (what, subresource) = self.what.split_once('/').unwrap_or((&self.what, ""));
        let (resource, group) = what.split_once('.').unwrap_or((what, ""));
        let wanted = if self.what.starts_with('/') {
            Wanted::Path { method: &method, path: &self.what }
        } else {
            let (verb, namespace) = (self.verb.as_str(), self.namespace.as_str());
            Wanted::Resource { verb, group, resource, subresource, namespace }
        };
        let rule = policy.find(&self.user, &self.groups, &self.cluster, wanted);
        let whole = format!("{} {wanted} on cluster {}", self.user, self.cluster);
        let file = self.policy.display();
        let reason = match rule {
            Some(rule) => format!("yes: rule {rule} of {file} lets {whole}"),
            None => format!("no: no rule of {file} lets {whole}"),
        };
        Ok(Answer { allowed: rule.is_some(), rule, reason })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        auth: AuthArgs,
    }

    const POLICY: &str = r#"
rules:
- users: ["cluster:hub:a"]
  clusters: ["edge-*"]
  nonResourceURLs: ["/version"]
- groups: ["cluster:hub:g"]
  clusters: ["edge-1"]
  verbs: [list]
  apiGroups: [apps]
  resources: [deployments, deployments/scale]
  namespaces: [shop]
"#;

    fn check(line: &str) -> Answer {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.yaml");
        std::fs::write(&file, POLICY).unwrap();
        let policy = format!("--policy={}", file.display());
        let words = ["auth", "check"].into_iter().chain(line.split(' ')).chain([policy.as_str()]);
        let AuthCommand::Check(args) = Command::try_parse_from(words).unwrap().auth.command;
        args.answer().unwrap()
    }

    #[test]
    fn the_rule_that_decides_is_named() {
        for (line, rule) in [
            ("edge-1 get /version --as cluster:hub:a", Some(1)),
            ("edge-1 get /healthz --as cluster:hub:a", None),
            ("c1 get /version --as cluster:hub:a", None),
            ("edge-1 list deployments.apps -n shop --as b --as-group cluster:hub:g", Some(2)),
            ("edge-1 list deployments.apps/scale -n shop --as b --as-group cluster:hub:g", Some(2)),
            ("edge-1 list deployments -n shop --as b --as-group cluster:hub:g", None),
            ("edge-1 list deployments.apps --as b --as-group cluster:hub:g", None),
            ("edge-1 list deployments.apps -n shop --as b", None),
            ("edge-1 get deployments.apps -n shop --as b --as-group cluster:hub:g", None),
        ] {
            let answer = check(line);
            assert_eq!((answer.rule, answer.allowed), (rule, rule.is_some()), "{line}");
        }
        let reason = check("edge-1 list deployments.apps -n shop --as b").reason;
        assert!(
            reason.ends_with(
                "lets b list deployments of API group apps in namespace shop on cluster edge-1"
            ),
            "{reason}"
        );
    }
}
