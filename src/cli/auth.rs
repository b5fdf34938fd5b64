//! `cluster-proxy auth check`: what a policy, and a list of exposed services, say, without a hub.

use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use http::Method;
use serde::Serialize;

use super::state::{HubServerArgs, hub_namespace};
use super::written::{DelegationArgs, NamesArgs, PolicyArgs, ServiceArgs};
use super::{Output, print};
use crate::hub::Source;
use crate::hub::authn::HubApi;
use crate::hub::followed::read;
use crate::hub::policy::delegation::{Question, Said, review};
use crate::hub::policy::{Policy, Wanted};
use crate::hub::services::{self, Exposed, ServicePath};
use crate::hub::token_review::UserInfo;
use crate::kubernetes::ApiReader;
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

    /// What it is about: `pods`, `pods/log`, `deployments.apps`, or a path such as /version or
    /// /api/v1/namespaces/NS/services/NAME/proxy-service
    what: String,

    /// Namespace of it [default: none, all of the cluster]
    #[arg(short, long, value_name = "NAMESPACE", default_value = "")]
    namespace: String,

    /// Name of it [default: none, all of them]
    #[arg(long, value_name = "NAME", default_value = "")]
    name: String,

    /// Who asks, as clusters know them: cluster:hub:system:serviceaccount:NAMESPACE:NAME
    #[arg(long = "as", value_name = "USER")]
    user: String,

    /// A group of theirs; repeat it
    #[arg(long = "as-group", value_name = "GROUP")]
    groups: Vec<String>,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    delegation: DelegationArgs,

    #[command(flatten)]
    names: NamesArgs,

    #[command(flatten)]
    server: HubServerArgs,

    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,

    #[command(flatten)]
    services: ServiceArgs,
}

/// The answer with `-o json`.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Answer {
    allowed: bool,
    /// Number of the rule, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<usize>,
    /// Key of the ConfigMap that has the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// What the hub's own API server says, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    hub: Option<bool>,
    /// Number of the entry that exposes the service, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<usize>,
    /// The same in words.
    reason: String,
}

/// Runs `auth`.
pub(crate) async fn run(args: AuthArgs) -> anyhow::Result<ExitCode> {
    let AuthCommand::Check(check) = args.command;
    let answer = check.answer().await?;
    print(&match check.output {
        Output::Json => serde_json::to_string_pretty(&answer)? + "\n",
        Output::Table => format!("{}\n", answer.reason),
    })?;
    Ok(if answer.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

// === impl CheckArgs ===

impl CheckArgs {
    async fn answer(&self) -> anyhow::Result<Answer> {
        let api = self.server.server()?.map(ApiReader::new).transpose()?;
        let api = api.as_ref().map(|api| api as &dyn HubApi);
        let source = self.policy.clone().into_source(api.map(|_| hub_namespace(None)))?;
        let delegates = self.delegation.is_asked(api.is_some())?;
        if source == Source::None && !delegates {
            bail!(
                "which policy? Name it with --policy or --policy-configmap; or let the hub's API server say, with --delegate-authorization"
            );
        }
        let policy = match source {
            Source::None => Policy::default(),
            Source::File(_) | Source::ConfigMap { .. } => read(&source, api).await?,
        };
        let ask = api.filter(|_| delegates);
        if let Some(service) = self.service()? {
            let mut answer = self.judged(&policy, &source, self.wanted_of(&service), ask).await?;
            if answer.allowed {
                self.expose(&mut answer, &service, api).await?;
            }
            return Ok(answer);
        }
        let method = Method::from_bytes(self.verb.to_ascii_uppercase().as_bytes())?;
        let (what, subresource) = self.what.split_once('/').unwrap_or((&self.what, ""));
        let (resource, group) = what.split_once('.').unwrap_or((what, ""));
        let wanted = if self.what.starts_with('/') {
            Wanted::Path { method: &method, path: &self.what }
        } else {
            let (verb, namespace) = (self.verb.as_str(), self.namespace.as_str());
            let name = self.name.as_str();
            Wanted::Resource { verb, group, resource, subresource, namespace, name }
        };
        self.judged(&policy, &source, wanted, ask).await
    }

    async fn judged(
        &self,
        policy: &Policy,
        source: &Source,
        wanted: Wanted<'_>,
        ask: Option<&dyn HubApi>,
    ) -> anyhow::Result<Answer> {
        let rule = policy.find(&self.user, &self.groups, &self.cluster, wanted);
        let whole = format!("{} {wanted} on cluster {}", self.user, self.cluster);
        let reason = match &rule {
            Some(rule) => format!("yes: {rule} of {source} lets {whole}"),
            None => format!("no: no rule of {source} lets {whole}"),
        };
        let key = rule.as_ref().map(|rule| rule.key.to_string()).filter(|key| !key.is_empty());
        let rule = rule.map(|rule| rule.number);
        let allowed = rule.is_some();
        let mut answer = Answer { allowed, rule, key, hub: None, entry: None, reason };
        if let Some(api) = ask.filter(|_| !allowed) {
            self.delegate(&mut answer, wanted, api).await?;
        }
        Ok(answer)
    }

    /// What no rule lets, the hub's API server may.
    async fn delegate(
        &self,
        answer: &mut Answer,
        wanted: Wanted<'_>,
        api: &dyn HubApi,
    ) -> anyhow::Result<()> {
        let names = self.names.read()?;
        let username = names.user_of_hub(&self.user);
        let groups = self.groups.iter().map(|group| names.group_of_hub(group)).collect();
        let who = UserInfo { username: username.clone(), groups, ..UserInfo::default() };
        let question = Question::new(who.into(), &self.cluster, wanted);
        let Some(question) = question.filter(|_| !self.user.starts_with("system:")) else {
            return Ok(());
        };
        let said = review(api, &question).await;
        let said = said.map_err(|why| anyhow!("the hub's API server cannot be asked: {why}"))?;
        let Said { allowed, reason, .. } = said;
        (answer.allowed, answer.hub) = (allowed, Some(allowed));
        let words = question.words();
        answer.reason = if allowed {
            format!("yes: the hub's API server lets {username} {words}: {reason}")
        } else {
            format!("{}, and the hub's API server does not let {username} {words}", answer.reason)
        };
        Ok(())
    }

    /// The service that a path names.
    fn service(&self) -> anyhow::Result<Option<ServicePath>> {
        if !self.what.starts_with('/') {
            return Ok(None);
        }
        Ok(services::service(&self.what.parse()?)?)
    }

    /// What the policy is asked about a service.
    fn wanted_of<'a>(&'a self, path: &'a ServicePath) -> Wanted<'a> {
        Wanted::Resource {
            verb: &self.verb,
            group: "",
            resource: "services",
            subresource: "proxy-service",
            namespace: &path.service.namespace,
            name: &path.service.name,
        }
    }

    /// Who may reach a service by the policy, still may not where the list does not have it.
    async fn expose(
        &self,
        answer: &mut Answer,
        path: &ServicePath,
        api: Option<&dyn HubApi>,
    ) -> anyhow::Result<()> {
        let service = &path.service;
        let source = self.services.clone().into_source(api.map(|_| hub_namespace(None)))?;
        if source == Source::None {
            answer.reason += "; whether the hub exposes it, --exposed-services would tell";
            return Ok(());
        }
        let exposed: Exposed = read(&source, api).await?;
        answer.entry = exposed.find(&self.cluster, service).map(|(entry, _)| entry);
        answer.allowed = answer.entry.is_some();
        answer.reason = match answer.entry {
            Some(entry) => {
                format!("{}, and entry {entry} of {source} exposes {service}", answer.reason)
            }
            None => {
                format!("no: no entry of {source} exposes {service} of cluster {}", self.cluster)
            }
        };
        Ok(())
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
- users: ["cluster:hub:s"]
  clusters: ["*"]
  verbs: [get]
  resources: [services/proxy-service]
  namespaces: [shop]
  resourceNames: [web, api]
"#;

    const SERVICES: &str = "
- {namespace: shop, service: web, clusters: [edge-1]}
- {namespace: shop, service: api, port: 8080, protocol: http}
";

    async fn check(line: &str) -> Answer {
        check_with(line, true).await
    }

    async fn check_with(line: &str, list: bool) -> Answer {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.yaml");
        std::fs::write(&file, POLICY).unwrap();
        let policy = format!("--policy={}", file.display());
        let file = folder.path().join("services.yaml");
        std::fs::write(&file, SERVICES).unwrap();
        let services = format!("--exposed-services={}", file.display());
        let files = [policy.as_str()].into_iter().chain(list.then_some(services.as_str()));
        let words = ["auth", "check"].into_iter().chain(line.split(' ')).chain(files);
        let AuthCommand::Check(args) = Command::try_parse_from(words).unwrap().auth.command;
        args.answer().await.unwrap()
    }

    #[tokio::test]
    async fn a_service_needs_a_rule_and_an_entry() {
        let shop = "/api/v1/namespaces/shop/services";
        for (line, rule, entry, says) in [
            (format!("edge-1 get {shop}/web/proxy-service/x"), Some(3), Some(1), "entry 1 of"),
            (format!("c1 get {shop}/http:api:8080/proxy-service"), Some(3), Some(2), "rule 3 of"),
            (
                format!("c1 get {shop}/web/proxy-service/"),
                Some(3),
                None,
                "exposes https:shop/web:443 of cluster c1",
            ),
            (
                format!("c1 get {shop}/api/proxy-service/"),
                Some(3),
                None,
                "exposes https:shop/api:443",
            ),
            (format!("edge-1 create {shop}/web/proxy-service/"), None, None, "no rule of"),
            (format!("edge-1 get {shop}/other/proxy-service/"), None, None, "no rule of"),
            (
                "edge-1 get services/proxy-service -n shop --name web".to_owned(),
                Some(3),
                None,
                "rule 3 of",
            ),
        ] {
            let answer = check(&format!("{line} --as cluster:hub:s")).await;
            assert_eq!((answer.rule, answer.entry), (rule, entry), "{line}: {}", answer.reason);
            let is_path = line.contains(" /");
            assert_eq!(answer.allowed, rule.is_some() && (entry.is_some() || !is_path), "{line}");
            assert!(answer.reason.contains(says), "{line}: {}", answer.reason);
        }
        let line = format!("c1 get {shop}/web/proxy-service/ --as cluster:hub:s");
        let answer = check_with(&line, false).await;
        assert!(answer.allowed && answer.reason.ends_with("--exposed-services would tell"));
    }

    #[tokio::test]
    async fn the_rule_that_decides_is_named() {
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
            let answer = check(line).await;
            assert_eq!((answer.rule, answer.allowed), (rule, rule.is_some()), "{line}");
        }
        let reason = check("edge-1 list deployments.apps -n shop --as b").await.reason;
        assert!(
            reason.ends_with(
                "lets b list deployments of API group apps in namespace shop on cluster edge-1"
            ),
            "{reason}"
        );
    }
}
